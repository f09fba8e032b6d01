"""SIGTERM, which Slurm and Kubernetes send some time before they kill: the run saves and ends with a status of its own.

The signal reaches the driver; the trainer is an actor on any node, so the request goes through a file in the run's folder,
which is on a disk that all nodes share. It is looked for once a step.
"""

import os
import signal
import threading
from pathlib import Path
from types import FrameType

STATUS = 75  # EX_TEMPFAIL of sysexits.h: the same command again goes on
REQUEST = "stop"


class Stopped(Exception):
    """Raised in the trainer after the checkpoint of the step at which it was asked to stop."""


def requested(run_dir: str | Path) -> bool:
    return (Path(run_dir) / REQUEST).exists()


class Notice:
    """While in the `with` block, SIGTERM asks the trainer to stop; if it has not within `grace_s`, KeyboardInterrupt is
    raised in the main thread."""

    def __init__(self, run_dir: str | Path, grace_s: float):
        self.request = Path(run_dir) / REQUEST
        self.given = False
        self.timer = threading.Timer(grace_s, os.kill, (os.getpid(), signal.SIGINT))
        self.timer.daemon = True

    def __enter__(self) -> "Notice":
        self.request.unlink(missing_ok=True)  # of a run that was killed before it could take notice
        self.before = signal.getsignal(signal.SIGTERM)
        self.listen()
        return self

    def listen(self) -> None:
        """To be called again after `ray.init`, which takes the signal for itself."""
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, _signal: int, _frame: FrameType | None) -> None:
        if not self.given:
            self.given = True
            self.request.touch()
            self.timer.start()

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, self.before)
        self.timer.cancel()
        self.request.unlink(missing_ok=True)
