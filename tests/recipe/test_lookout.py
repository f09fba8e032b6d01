"""A process that is gone is noticed, on a real Ray, whatever is being waited for; one that is busy is left in peace."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable

import pytest
import ray
from ray.exceptions import ActorDiedError

from recipe.holderpo.lookout import check, lookout

pytestmark = pytest.mark.usefixtures("cluster")


@ray.remote(num_cpus=0)
class Worker:
    def pid(self) -> int:
        return os.getpid()

    def work(self, seconds: float) -> None:
        time.sleep(seconds)


@pytest.fixture
def workers() -> list[ray.actor.ActorHandle]:
    workers = [Worker.remote() for _ in range(3)]  # type: ignore[attr-defined]
    ray.get([worker.pid.remote() for worker in workers])
    return workers


def asked(workers: list[ray.actor.ActorHandle]) -> list[ray.ObjectRef]:
    return [worker.__ray_ready__.remote() for worker in workers]


def kill(worker: ray.actor.ActorHandle) -> None:
    os.kill(ray.get(worker.pid.remote()), signal.SIGKILL)


async def in_a_coroutine(worker: ray.actor.ActorHandle) -> None:
    ray.get(worker.work.remote(60))  # as verl does


WAITS: dict[str, Callable[[ray.actor.ActorHandle], object]] = {
    "a call": lambda worker: ray.get(worker.work.remote(60)),
    "a call in a coroutine": lambda worker: asyncio.run(in_a_coroutine(worker)),
    "a lock": lambda _: threading.Event().wait(60),
    "time": lambda _: time.sleep(60),
}


@pytest.mark.parametrize("waiting_for", WAITS)
def test_a_lost_process_ends_every_kind_of_waiting(workers: list[ray.actor.ActorHandle], waiting_for: str) -> None:
    kill(workers[1])
    begun = time.monotonic()
    with pytest.raises(ActorDiedError) as error, lookout(lambda: asked(workers[:2]), every=0.1):
        WAITS[waiting_for](workers[2])
    assert time.monotonic() - begun < 30
    assert isinstance(error.value.__cause__, KeyboardInterrupt)


def test_a_busy_one_is_not_lost_and_is_not_asked_twice(workers: list[ray.actor.ActorHandle]) -> None:
    questions: list[int] = []

    def ask() -> list[ray.ObjectRef]:
        questions.append(0)
        return asked(workers)

    busy = workers[0].work.remote(3)
    with lookout(ask, every=0.01):
        time.sleep(2)
        assert len(questions) == 1
        ray.get(busy)
        time.sleep(0.5)
        assert len(questions) > 1


def test_after_it_nothing_is_interrupted(workers: list[ray.actor.ActorHandle]) -> None:
    with lookout(lambda: asked(workers), every=0.01):
        time.sleep(0.1)
    kill(workers[1])
    time.sleep(1)
    os.kill(os.getpid(), signal.SIGUSR1)  # too late: of no effect


def test_an_interrupt_from_elsewhere_stays_one(workers: list[ray.actor.ActorHandle]) -> None:
    with pytest.raises(KeyboardInterrupt), lookout(lambda: asked(workers)):
        raise KeyboardInterrupt


def test_check(workers: list[ray.actor.ActorHandle]) -> None:
    check(lambda: asked(workers), seconds=30)
    kill(workers[1])
    with pytest.raises(ActorDiedError):
        check(lambda: asked(workers), seconds=30)
