"""A process that is gone is noticed, on a real Ray, whatever is being waited for; one that is busy is left in peace."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, RayTaskError

from recipe.holderpo.fault_tolerance.liveness import check_alive, liveness_checks
from recipe.holderpo.report.finished import note_finished

pytestmark = pytest.mark.usefixtures("cluster")

FOR_EVER = 3600.0  # seconds: longer than any test may take


@ray.remote(num_cpus=0)
class Worker:
    engine: Any = None

    def pid(self) -> int:
        return os.getpid()

    def work(self, seconds: float) -> None:
        time.sleep(seconds)

    def finish(self) -> None:
        note_finished()

    def lose_engine(self) -> None:
        self.engine = SimpleNamespace(errored=True, dead_error=RuntimeError("the engine"))


@pytest.fixture
def workers() -> list[ActorHandle]:
    workers = [Worker.remote() for _ in range(3)]  # type: ignore[attr-defined]
    ray.get([worker.pid.remote() for worker in workers])
    return workers


def kill(worker: ActorHandle) -> None:
    os.kill(ray.get(worker.pid.remote()), signal.SIGKILL)


async def in_a_coroutine(worker: ActorHandle) -> None:
    ray.get(worker.work.remote(FOR_EVER))  # as verl does


WAITS: dict[str, Callable[[ActorHandle], object]] = {
    "a call": lambda worker: ray.get(worker.work.remote(FOR_EVER)),
    "a call in a coroutine": lambda worker: asyncio.run(in_a_coroutine(worker)),
    "a lock": lambda _: threading.Event().wait(FOR_EVER),
    "time": lambda _: time.sleep(FOR_EVER),
}


@pytest.mark.parametrize("waiting_for", WAITS)
def test_a_lost_process_ends_every_kind_of_waiting(workers: list[ActorHandle], waiting_for: str) -> None:
    kill(workers[1])
    with pytest.raises(ActorDiedError) as error, liveness_checks(lambda: workers[:2], every=0.1):
        WAITS[waiting_for](workers[2])
    assert isinstance(error.value.__cause__, KeyboardInterrupt)


def test_one_that_waits_for_the_lost_one_does_not_hide_it(workers: list[ActorHandle]) -> None:
    """All have answered before; then one is busy without end, and another dies."""
    with pytest.raises(ActorDiedError), liveness_checks(lambda: workers, every=0.1):
        time.sleep(2)
        waiting = workers[0].work.remote(FOR_EVER)
        time.sleep(1)
        kill(workers[1])
        ray.get(waiting)


def test_an_interrupt_that_was_swallowed_comes_again(
    workers: list[ActorHandle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recipe.holderpo.fault_tolerance.signals.INTERRUPT_AGAIN_SECONDS", 0.2)
    kill(workers[1])
    with pytest.raises(ActorDiedError), liveness_checks(lambda: workers, every=0.1):
        with pytest.raises(KeyboardInterrupt):
            time.sleep(FOR_EVER)
        time.sleep(FOR_EVER)


def test_a_dead_engine_is_a_loss_of_its_server(workers: list[ActorHandle]) -> None:
    check_alive(workers, seconds=30)
    workers[1].lose_engine.remote()
    with pytest.raises(RayTaskError, match="the engine"):
        check_alive(workers, seconds=30)


def test_a_busy_one_is_not_lost(workers: list[ActorHandle]) -> None:
    workers[0].work.remote(FOR_EVER)
    with liveness_checks(lambda: workers, every=0.1):
        time.sleep(2)
    check_alive(workers, seconds=0.2)
    ray.kill(workers[0])


@pytest.mark.timeout(120)  # a last resort: what is not passed on would be waited for without end
def test_what_each_has_finished_is_passed_on(workers: list[ActorHandle]) -> None:
    noted = []
    with liveness_checks(lambda: workers, lambda process, value: noted.append((process, value)), every=0.1):
        while len(noted) < 6:
            time.sleep(0.1)
        ray.get(workers[1].finish.remote())
        while (workers[1], (1, 0)) not in noted:
            time.sleep(0.1)
    assert {process for process, _ in noted} == {*workers} and (workers[0], (0, 0)) in noted


def test_after_it_nothing_is_interrupted(workers: list[ActorHandle]) -> None:
    with liveness_checks(lambda: workers, every=0.01):
        time.sleep(0.1)
    kill(workers[1])
    time.sleep(1)
    os.kill(os.getpid(), signal.SIGUSR1)  # too late: of no effect


def test_an_interrupt_from_elsewhere_stays_one(workers: list[ActorHandle]) -> None:
    with pytest.raises(KeyboardInterrupt), liveness_checks(lambda: workers):
        raise KeyboardInterrupt
