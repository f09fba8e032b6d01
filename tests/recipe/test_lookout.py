"""A process that is gone is noticed, on a real Ray; one that is busy is left in peace."""

import os
import signal
import time

import pytest
import ray
from ray.exceptions import ActorDiedError

from recipe.holderpo.lookout import Lookout

pytestmark = pytest.mark.usefixtures("cluster")


@ray.remote(num_cpus=0)
class Worker:
    def pid(self) -> int:
        return os.getpid()

    def work(self, seconds: float) -> None:
        time.sleep(seconds)


@pytest.fixture
def workers() -> list[ray.actor.ActorHandle]:
    return [Worker.remote() for _ in range(2)]  # type: ignore[attr-defined]


def lookout(workers: list[ray.actor.ActorHandle], every: float = 0.0) -> Lookout:
    return Lookout(lambda: [worker.__ray_ready__.remote() for worker in workers], every)


def test_a_lost_process_is_noticed_without_waiting(workers: list[ray.actor.ActorHandle]) -> None:
    watch = lookout(workers)
    watch.look(wait=30)
    watch.look()
    os.kill(ray.get(workers[1].pid.remote()), signal.SIGKILL)
    with pytest.raises(ActorDiedError):
        for _ in range(300):
            watch.look()
            time.sleep(0.1)


def test_a_busy_one_is_not_lost_and_is_not_asked_twice(workers: list[ray.actor.ActorHandle]) -> None:
    asked: list[int] = []

    def ask() -> list[ray.ObjectRef]:
        asked.append(0)
        return [worker.__ray_ready__.remote() for worker in workers]

    watch = Lookout(ask, every=0.0)
    ray.get([worker.pid.remote() for worker in workers])
    busy = workers[0].work.remote(3)
    begun = time.monotonic()
    while time.monotonic() - begun < 2:
        watch.look()
        time.sleep(0.01)
    assert len(asked) == 1
    ray.get(busy)
    watch.look(wait=30)


def test_it_asks_only_now_and_then(workers: list[ray.actor.ActorHandle]) -> None:
    asked: list[int] = []

    def ask() -> list[ray.ObjectRef]:
        asked.append(0)
        return []

    watch = Lookout(ask, every=60)
    for _ in range(100):
        watch.look()
    assert asked == []
