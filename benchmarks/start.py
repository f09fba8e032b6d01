"""Seconds from the command to the first step's metrics, and processor seconds of the machine until then.

    PYTHONPATH=tests .venv/bin/python -m benchmarks.start [--rounds 3]

A round starts the smallest run of the real stack (the tests') as `fork_workers=true` and `=false` have it, and verl's own
`python -m verl.trainer.main_ppo` with the same settings and verl's own loss, one after another. On an otherwise idle machine.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import psutil
from fault_injection.smallest_run import smallest_run, verls_own_command
from fault_injection.watched_run import ROOT, environment

from recipe.holderpo.report.record import METRICS_FILE

ONE_STEP = ["algo=grpo", "trainer.total_training_steps=1"]


def commands(overrides: Sequence[str], folder: Path) -> dict[str, tuple[list[str], dict[str, str], Path]]:
    """Each command, its environment variables, and the file that has the first step's metrics."""
    found: dict[str, tuple[list[str], dict[str, str], Path]] = {}
    for value in ("true", "false"):
        run_dir = folder / value
        command = ["recipe.holderpo.main", *overrides, f"fork_workers={value}", f"run_dir={run_dir}"]
        found[f"fork_workers={value}"] = command, {}, run_dir / METRICS_FILE
    return found | {"verl's main_ppo": (*verls_own_command(overrides, folder), folder / "log.jsonl")}


def processor_seconds() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.system + times.nice)


def measure(arguments: Sequence[str], variables: dict[str, str], metrics: Path, folder: Path) -> tuple[float, float]:
    """Seconds, and processor seconds, until the file has a line; the command is waited for.

    Raises:
        RuntimeError: it ended without one.
    """
    base = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))
    began, used = time.monotonic(), processor_seconds()
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            env=os.environ | environment(base) | variables,
            stdout=output,
            stderr=output,
        )
    while not (metrics.exists() and metrics.stat().st_size):
        if process.poll() is not None:
            raise RuntimeError(f"{arguments[0]} ended with status {process.returncode}: {folder / 'output'}")
        time.sleep(0.05)
    measured = time.monotonic() - began, processor_seconds() - used
    process.wait()
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    overrides = [*smallest_run(Path(tempfile.mkdtemp())), *ONE_STEP]
    measured: dict[str, list[tuple[float, float]]] = {}
    for number in range(rounds + 1):  # the first one warms the disk's cache and torch.compile's
        folder = Path(tempfile.mkdtemp())
        for name, (arguments, variables, metrics) in commands(overrides, folder).items():
            seconds = measure(arguments, variables, metrics, folder)
            print(f"round {number}, {name}: {seconds[0]:.1f} s, {seconds[1]:.1f} processor seconds", flush=True)
            if number:
                measured.setdefault(name, []).append(seconds)
    medians = {name: [median(column) for column in zip(*values, strict=True)] for name, values in measured.items()}
    wall, processor = medians["verl's main_ppo"]
    print(f"\n{'medians of ' + str(rounds):20}  to the first step  ratio  processor seconds  ratio")
    for name, (seconds, used) in medians.items():
        print(f"{name:20}  {seconds:15.1f} s  {seconds / wall:5.2f}  {used:15.1f} s  {used / processor:5.2f}")


if __name__ == "__main__":
    main()
