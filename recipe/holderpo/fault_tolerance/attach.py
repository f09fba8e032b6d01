"""Ray in a process that trains nothing: attached to a cluster that is there already."""

import signal
import sys

from recipe.holderpo.fault_tolerance.signals import ExitStatus


def attach(address: str) -> None:
    """`ray.init` to a cluster, quietly. SIGTERM is answered as before: Ray replaces the handler before it is done.

    Raises:
        ConnectionError, RuntimeError, RayError: the cluster cannot be used; which of them depends on how far it is.
        SystemExit: SIGTERM came meanwhile.
    """
    import ray

    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except SystemExit:  # Ray's handler
        sys.exit(ExitStatus.STOPPED)
    finally:
        signal.signal(signal.SIGTERM, handler)
