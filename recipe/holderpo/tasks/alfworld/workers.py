"""Environments as Ray actors: many episodes in each, and a lost process costs nobody but the episode that broke it.

An environment is deterministic, so an episode is its game and its commands. When a worker dies, or does not answer in time
and is killed, each of its episodes plays its commands again on another worker and continues. One that loses a second worker
while its own call is running is given up (`EpisodeLost`): it is the likely cause.
"""

import asyncio
import logging
import os
from itertools import count
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from recipe.holderpo.tasks.alfworld.environment import FastEnvironment, Observation

logger = logging.getLogger(__name__)

WORKER_CPUS = 0.25  # what Ray books for a worker; an agent waits for its model most of the time
START_SECONDS = 600
MAX_BREAKS = 2  # workers that one episode may lose during its own calls


class EpisodeLost(Exception):
    """The environment of one episode broke and could not be brought back."""


class EnvironmentHost:
    """The episodes of one process. Environments are used again and again, so memory depends on how many run at once."""

    def __init__(self) -> None:
        self._free: list[FastEnvironment] = []
        self._running: dict[int, FastEnvironment] = {}

    def reset(self, episode: int, game_file: str) -> Observation:
        """Begin an episode."""
        environment = self._free.pop() if self._free else FastEnvironment()
        self._running[episode] = environment
        return environment.reset(Path(game_file))

    def step(self, episode: int, command: str) -> Observation:
        """Give a command in a running episode."""
        return self._running[episode].step(command)

    def close(self, episode: int) -> None:
        """End an episode; one that is unknown (its worker was replaced) is none of ours."""
        environment = self._running.pop(episode, None)
        if environment is not None:
            self._free.append(environment)

    def pid(self) -> int:
        """The process id."""
        return os.getpid()


class _Worker:
    """An actor, the lock that keeps its calls one at a time (so that it is known whose call was running), and its load."""

    def __init__(self) -> None:
        self.actor: Any = ray.remote(num_cpus=WORKER_CPUS)(EnvironmentHost).remote()
        self.lock = asyncio.Lock()
        self.episodes = 0
        self.alive = True
        self._starting: Any = self.actor.pid.remote()

    async def started(self) -> None:
        """Wait until the process is there, which is not the episode's time.

        Raises:
            TimeoutError: Ray has no CPU for it.
        """
        if self._starting is None:
            return
        starting, self._starting = self._starting, None
        try:
            await asyncio.wait_for(starting, START_SECONDS)
        except TimeoutError:
            raise TimeoutError(
                f"an environment worker did not start in {START_SECONDS} s: Ray has no CPU for it"
            ) from None
        except RayError:  # died while starting; the call that follows says so
            pass


class EnvironmentPool:
    """A fixed number of workers for the agent loops of one process.

    Args:
        workers: Ray actors.
        episodes_per_worker: at most so many episodes at once in each; further ones wait.
        timeout: seconds for one call (a game's first reset translates its planning problem); a worker that takes longer is
            killed.
    """

    def __init__(self, workers: int, episodes_per_worker: int, timeout: float):
        self.timeout = timeout
        self.workers_lost = 0
        self.episodes_lost = 0  # counted by the agent loop, which loses some for its own reasons
        self._workers = [_Worker() for _ in range(workers)]
        self._places = asyncio.Semaphore(workers * episodes_per_worker)
        self._numbers = count()

    async def start(self, game_file: str) -> "Episode":
        """Begin an episode of a game as soon as there is a place.

        Raises:
            EpisodeLost: the game breaks its worker.
        """
        await self._places.acquire()
        episode = Episode(self, next(self._numbers), game_file)
        try:
            await episode._replay()
        except BaseException:
            await episode.close()
            raise
        return episode

    def least_loaded(self) -> _Worker:
        return min(self._workers, key=lambda worker: worker.episodes)

    def replace(self, worker: _Worker) -> None:
        """Put a new worker in the place of a lost one."""
        if worker.alive:
            worker.alive = False
            self.workers_lost += 1
            ray.kill(worker.actor, no_restart=True)
            self._workers[self._workers.index(worker)] = _Worker()


class Episode:
    """One episode: `observation` is the newest, `commands` are those given so far."""

    observation: Observation

    def __init__(self, pool: EnvironmentPool, number: int, game_file: str):
        self.commands: list[str] = []
        self._pool, self._number, self._game_file = pool, number, game_file
        self._worker: _Worker | None = None
        self._breaks = 0

    async def step(self, command: str) -> Observation:
        """Give a command.

        Raises:
            EpisodeLost: the environment broke, twice, or did not come back to where it was.
        """
        while True:
            try:
                self.observation = await self._call("step", command)
                break
            except _WorkerGone:
                before = self.observation
                await self._replay()
                if self.observation != before:
                    raise self._lost("its commands led elsewhere when they were played again") from None
        self.commands.append(command)
        return self.observation

    async def close(self) -> None:
        """Give the episode's place back."""
        self._pool._places.release()
        worker = self._leave()
        if worker is not None and worker.alive:
            worker.actor.close.remote(self._number)

    async def _replay(self) -> None:
        """Bring the episode to where it is, on the worker that has the least to do."""
        while True:
            self._leave()
            self._worker = self._pool.least_loaded()
            self._worker.episodes += 1
            try:
                observation = await self._call("reset", self._game_file)
                for command in self.commands:
                    observation = await self._call("step", command)
            except _WorkerGone:
                continue
            self.observation = observation
            return

    async def _call(self, method: str, argument: str) -> Observation:
        worker = self._worker
        assert worker is not None, "an episode has a worker from its first reset on"
        async with worker.lock:
            if not worker.alive:
                raise _WorkerGone
            await worker.started()
            call = getattr(worker.actor, method).remote(self._number, argument)
            try:
                return await asyncio.wait_for(call, self._pool.timeout)
            except RayTaskError as error:  # an exception in the environment; the process is well
                raise self._lost(f"{method}({argument!r}): {error.cause!r}") from error
            except (TimeoutError, RayError) as error:
                self._pool.replace(worker)
                self._breaks += 1
                reason = "died" if isinstance(error, RayError) else f"gave no answer in {self._pool.timeout:g} s"
                logger.warning("environment worker %s during %s(%r) of %s", reason, method, argument, self._game_file)
                if self._breaks >= MAX_BREAKS:
                    raise self._lost(f"a second worker {reason} during {method}({argument!r})") from None
                raise _WorkerGone from None

    def _leave(self) -> _Worker | None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.episodes -= 1
        return worker

    def _lost(self, why: str) -> EpisodeLost:
        return EpisodeLost(f"{self._game_file}: {why}")


class _WorkerGone(Exception):
    """The episode's worker is no more; play the commands again elsewhere."""
