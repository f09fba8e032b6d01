"""The process that trains, as the launcher starts it."""

import subprocess
import sys
from collections.abc import Sequence

from recipe.holderpo.fault_tolerance.signals import wait_forwarding


def drive(overrides: Sequence[str], environment: dict[str, str]) -> tuple[int, bool]:
    """Run the driver. Signals are passed on to it: it stops in its own way.

    Returns:
        its exit status, and whether there was such a signal.
    """
    command = [sys.executable, "-m", "recipe.holderpo.main", *overrides]
    # In a session of its own, so that Ctrl-C at a terminal reaches it once, from here.
    with subprocess.Popen(command, env=environment, start_new_session=True) as driver:
        return wait_forwarding(driver)
