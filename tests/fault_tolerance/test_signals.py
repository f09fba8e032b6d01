"""SIGTERM becomes a request in the run's folder, and an interrupt if the trainer does not stop."""

import os
import signal
import time
from pathlib import Path

import pytest

from recipe.holderpo.fault_tolerance.signals import StopRequest, interrupt_on_sigint, stop_requested


def test_sigterm_asks_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "stop").touch()  # of a run that was killed
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest(tmp_path, grace_s=60) as stop:
        assert not stop_requested(tmp_path)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # ray.init takes it
        stop.listen()
        for _ in range(2):  # Slurm may send it twice
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop_requested(tmp_path)
    assert not stop_requested(tmp_path) and signal.getsignal(signal.SIGTERM) is before
    assert list(tmp_path.iterdir()) == []


def test_after_the_grace_it_is_an_interrupt(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    interrupt_on_sigint()  # as the command does: the jobs that a shell starts in the background ignore it
    try:
        with pytest.raises(KeyboardInterrupt), StopRequest(tmp_path, grace_s=0.2):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(3600)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not stop_requested(tmp_path)


def test_no_interrupt_comes_after_the_end(tmp_path: Path) -> None:
    with StopRequest(tmp_path, grace_s=0.2):
        os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.4)
