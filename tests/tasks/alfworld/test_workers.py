"""Environment workers on a real Ray: a lost worker costs nothing, a game that breaks its worker costs itself."""

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest
import ray

from recipe.holderpo.tasks.alfworld.environment import FastEnvironment, Observation
from recipe.holderpo.tasks.alfworld.workers import EnvironmentPool, EpisodeLost

pytestmark = pytest.mark.usefixtures("ray_cluster")


def alone(game: Path, commands: list[str]) -> list[Observation]:
    """What an undisturbed environment says."""
    environment = FastEnvironment()
    return [environment.reset(game), *(environment.step(command) for command in commands)]


def walk(game: Path) -> list[str]:
    return list(json.loads(game.read_text())["walkthrough"])


def kill_worker(pool: EnvironmentPool, index: int) -> None:
    pid = ray.get(pool._workers[index].actor.pid.remote())
    os.kill(pid, signal.SIGKILL)


def test_concurrent_episodes_are_those_played_alone(train_games: list[Path]) -> None:
    async def play(pool: EnvironmentPool, game: Path) -> list[Observation]:
        episode = await pool.start(str(game))
        seen = [episode.observation]
        for command in walk(game):
            seen.append(await episode.step(command))
        await episode.close()
        return seen

    async def run() -> None:
        pool = EnvironmentPool(workers=2, episodes_per_worker=3, timeout=600)
        games = [*train_games[:5], *train_games[:5], train_games[0]]  # more than there are places; some the same
        for game, seen in zip(games, await asyncio.gather(*(play(pool, game) for game in games)), strict=True):
            assert seen == alone(game, walk(game)) and seen[-1].won
        assert [worker.episodes for worker in pool._workers] == [0, 0] and pool.workers_lost == 0

    asyncio.run(run())


def test_killed_workers_are_replaced_and_no_episode_notices(train_games: list[Path]) -> None:
    async def run() -> None:
        pool = EnvironmentPool(workers=2, episodes_per_worker=4, timeout=600)
        games = train_games[:6]
        episodes = [await pool.start(str(game)) for game in games]
        for episode, game in zip(episodes, games, strict=True):
            await episode.step(walk(game)[0])
        kill_worker(pool, 0)
        kill_worker(pool, 1)
        for episode, game in zip(episodes, games, strict=True):
            seen = [await episode.step(command) for command in walk(game)[1:]]
            assert seen == alone(game, walk(game))[2:] and seen[-1].won
            await episode.close()
        assert pool.workers_lost == 2

    asyncio.run(run())


def test_a_game_that_breaks_its_worker_costs_itself(train_games: list[Path], tmp_path: Path) -> None:
    async def run() -> None:
        pool = EnvironmentPool(workers=1, episodes_per_worker=4, timeout=600)
        healthy = await pool.start(str(train_games[0]))
        await healthy.step(walk(train_games[0])[0])
        fifo = tmp_path / "game.tw-pddl"
        os.mkfifo(fifo)  # whoever reads this hangs
        pool.timeout = 2
        with pytest.raises(EpisodeLost, match="no answer in 2 s"):
            await pool.start(str(fifo))
        assert pool.workers_lost == 2
        pool.timeout = 600  # an import on a busy machine takes longer than 2 s
        seen = [await healthy.step(command) for command in walk(train_games[0])[1:]]
        assert seen[-1].won
        await healthy.close()
        assert pool._places._value == 4

    asyncio.run(run())


def test_an_unreadable_game_costs_itself_and_no_worker(tmp_path: Path) -> None:
    async def run() -> None:
        pool = EnvironmentPool(workers=1, episodes_per_worker=1, timeout=600)
        with pytest.raises(EpisodeLost, match="FileNotFoundError"):
            await pool.start(str(tmp_path / "none.tw-pddl"))
        assert (pool.workers_lost, pool._places._value) == (0, 1)

    asyncio.run(run())
