"""ALFWorld's environments: the fast one against ALFWorld's own, steps per second over Ray workers, memory over many episodes.

    .venv/bin/python benchmarks/environments.py                       # all three
    .venv/bin/python benchmarks/environments.py --part workers --size full

Each comparison interleaves the two and reports medians.
"""

import argparse
import asyncio
import logging
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

import ray

from recipe.holderpo.tasks.alfworld.environment import FastEnvironment, plain_environment, prepare
from recipe.holderpo.tasks.alfworld.games import game_files, generate
from recipe.holderpo.tasks.alfworld.rooms import SIZES
from recipe.holderpo.tasks.alfworld.workers import EnvironmentPool

PARTS = ("fast", "workers", "memory")
STEPS = 20  # of an episode here
GAMES = 12


def milliseconds(function, *arguments):  # type: ignore[no-untyped-def]
    start = time.perf_counter()
    result = function(*arguments)
    return 1000 * (time.perf_counter() - start), result


def compare(files: list[Path]) -> dict[str, float]:
    """Median milliseconds of load, reset and step in both, the same commands in turn; every observation must be equal."""
    times: dict[str, list[float]] = {}
    fast = FastEnvironment()
    for file in files:
        plain, arguments = plain_environment(), sys.argv
        took, _ = milliseconds(plain.load, str(file))
        times.setdefault("plain load", []).append(took)
        took, _ = milliseconds(prepare, file)
        times.setdefault("fast load", []).append(took)
        for episode in range(2):
            draw = random.Random(episode)
            took, state = milliseconds(plain.reset)
            times.setdefault("plain reset", []).append(took)
            took, seen = milliseconds(fast.reset, file)
            times.setdefault("fast reset", []).append(took)
            for _ in range(STEPS):
                command = draw.choice(seen.admissible_commands)
                took, (state, _, _) = milliseconds(plain.step, command)
                times.setdefault("plain step", []).append(took)
                took, seen = milliseconds(fast.step, command)
                times.setdefault("fast step", []).append(took)
                assert (seen.text, list(seen.admissible_commands)) == (state.feedback, state["admissible_commands"])
        sys.argv = arguments
    return {name: statistics.median(values) for name, values in times.items()}


async def steps_per_second(files: list[Path], workers: int, episodes: int) -> float:
    """Random play of `episodes` at once, over and over for some seconds after a first round."""
    pool = EnvironmentPool(workers, -(-episodes // workers), timeout=600)
    done = 0

    async def play(number: int, until: float) -> None:
        nonlocal done
        draw, first = random.Random(number), True
        while first or time.monotonic() < until:
            episode = await pool.start(str(files[(number + done) % len(files)]))
            for _ in range(STEPS):
                await episode.step(draw.choice(episode.observation.admissible_commands))
                done += 1
            await episode.close()
            first = False

    await asyncio.gather(*(play(i, 0) for i in range(episodes)))
    done, start = 0, time.monotonic()
    await asyncio.gather(*(play(i, start + 15) for i in range(episodes)))
    rate = done / (time.monotonic() - start)
    for worker in pool._workers:
        ray.kill(worker.actor)
    return rate


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append", help="default: all")
    parser.add_argument("--size", choices=sorted(SIZES), default="tiny", help="for workers and memory")
    parser.add_argument("--episodes", type=int, default=10_000, help="for memory")
    arguments = parser.parse_args()
    parts = arguments.part or PARTS
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for size in SIZES if "fast" in parts else [arguments.size]:
            counts = {"train": GAMES, "valid_seen": 1, "valid_unseen": 1}
            generate(Path(folder) / size, size, counts, seed=1, processes=os.cpu_count() or 1)
            files[size] = game_files(Path(folder) / size, "train")
        if "fast" in parts:
            for size, games in files.items():
                medians = compare(games)
                cells = ", ".join(
                    f"{what} {medians[f'plain {what}']:.1f} -> {medians[f'fast {what}']:.1f} ms"
                    for what in ("load", "reset", "step")
                )
                print(f"{size}: plain -> fast: {cells}", flush=True)
        if "workers" in parts:
            logging.disable(logging.WARNING)
            ray.init(address="local", num_cpus=16, include_dashboard=False, log_to_driver=False)
            for workers in (1, 4, 16):
                rate = asyncio.run(steps_per_second(files[arguments.size], workers, episodes=32))
                print(f"{arguments.size}: {workers:2} workers, 32 episodes at once: {rate:.0f} steps/s", flush=True)
            ray.shutdown()
        if "memory" in parts:
            environment, games = FastEnvironment(), files[arguments.size]
            for episode in range(arguments.episodes + 1):
                if episode % 100 == 0:
                    prepare.cache_clear()  # as among thousands of games, each is prepared again and again
                seen = environment.reset(games[episode % len(games)])
                environment.step(seen.admissible_commands[episode % len(seen.admissible_commands)])
                if episode in (100, 1000, arguments.episodes):
                    print(f"{arguments.size}: {resident_mb():.0f} MB after {episode} episodes", flush=True)


if __name__ == "__main__":
    main()
