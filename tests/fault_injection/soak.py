"""A long run of the smallest model with faults at random: does anything grow?

    PYTHONPATH=tests .venv/bin/python -m fault_injection.soak --steps 500 --faults 8

Kills a random process of the run at random steps, starts the command again whenever it ends, and samples what the run holds
every two seconds. Growth is the least-squares slope over the steps since the last start (its first 20 steps, of warm-up, left
out), for all starts together; for what outlives a start (disk, temporary files, shared memory), over the whole run.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import psutil

from fault_injection.faults import FAULTS, kill
from fault_injection.smallest_run import smallest_run
from fault_injection.watched_run import PATIENCE_SECONDS, Run

SAMPLE_SECONDS = 2.0
WARM_UP_STEPS = 20
KILLS = [fault for fault in FAULTS if isinstance(fault.aim, partial) and fault.aim.func is kill and not fault.saving]
WITHIN_START = ("memory, MiB", "open files", "processes")
OVER_ALL = ("shared memory, names", "temporary files, MiB", "run's folder, MiB")


def sample(run: Run) -> dict[str, float]:
    """What the run holds now. Memory is the sum of resident sizes without shared pages counted twice (PSS)."""
    run.look()
    memory = files = processes = 0.0
    for process in run.seen:
        try:
            if process.is_running():
                memory += process.memory_full_info().pss
                files += process.num_fds()
                processes += 1
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return {
        "memory, MiB": memory / 2**20,
        "open files": files,
        "processes": processes,
        "shared memory, names": float(len(list(Path("/dev/shm").iterdir()))),
        "temporary files, MiB": sum(size(path) for path in Path("/tmp").glob("holderpo-*")) / 2**20,
        "run's folder, MiB": size(run.run_dir) / 2**20,
    }


def size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:  # it has just gone
            continue
    return total


def slope(steps: Sequence[float], values: Sequence[float], groups: Sequence[int]) -> float:
    """Least-squares slope of values over steps, each group about a level of its own."""
    x, y, g = (np.array(v, float) for v in (steps, values, groups))
    for group in set(groups):
        x[g == group] -= x[g == group].mean()
        y[g == group] -= y[g == group].mean()
    return float((x * y).sum() / max((x * x).sum(), 1e-12))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--faults", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="soak", dir="/tmp") as name:
        settings = [f"trainer.total_training_steps={arguments.steps}", "trainer.save_freq=10", "restarts=100"]
        run = Run(Path(name), [*smallest_run(Path(name)), *settings])
        strikes = sorted(rng.sample(range(WARM_UP_STEPS, arguments.steps), arguments.faults))
        rows, starts = soak(run, strikes, rng)
        report(rows)
        left = run.left_over()
        print(f"{arguments.steps} steps, {arguments.faults} faults, {starts} starts; left over: {left or 'nothing'}")
        shutil.rmtree(run.run_dir)
    sys.exit(bool(left))


def soak(run: Run, strikes: list[int], rng: random.Random) -> tuple[list[dict[str, float]], int]:
    """Run to the end; the samples, with "step", "since" (steps since the last start) and "start" (its number)."""
    rows: list[dict[str, float]] = []
    starts, most, began, status = 0, 1 + len(strikes) + 1, 0, None
    moved = time.monotonic()
    while status != 0:
        if run.process is None or status is not None:
            run.start()
            starts += 1
            assert starts <= most, run.said[-3000:]
        went_on = run.said.count("resuming from step") + starts
        step = run.last_step()
        if not rows or went_on != rows[-1]["start"]:
            began = step
        if not rows or step != rows[-1]["step"]:
            moved = time.monotonic()
        assert time.monotonic() - moved < PATIENCE_SECONDS, run.said[-3000:]
        rows.append({"step": step, "since": step - began, "start": went_on, **sample(run)})
        if strikes and step >= strikes[0] and step > began:  # not while it starts
            strikes.pop(0)
            fault = rng.choice(KILLS)
            time.sleep(rng.uniform(0, 1))
            print(f"step {step}: {fault.name}", flush=True)
            assert fault.aim is not None
            fault.aim(run)()
        time.sleep(SAMPLE_SECONDS)
        assert run.process is not None
        status = run.process.poll()
    return rows, starts


def report(rows: list[dict[str, float]]) -> None:
    warm = [row for row in rows if row["since"] >= WARM_UP_STEPS]
    print(f"{'':24}{'median':>12}{'highest':>12}{'growth in 100 steps':>22}")
    for name in (*WITHIN_START, *OVER_ALL):
        groups = [int(row["start"]) if name in WITHIN_START else 0 for row in warm]
        values = [row[name] for row in warm]
        growth = 100 * slope([row["step"] for row in warm], values, groups)
        print(f"{name:24}{np.median(values):>12.1f}{max(values):>12.1f}{growth:>22.2f}")


if __name__ == "__main__":
    main()
