"""A run of the command that is watched from outside: what it starts, how far it is, what it says and what it leaves."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from recipe.holderpo.fault_tolerance.checkpoint import committed, step_folders, step_of
from recipe.holderpo.report.record import METRICS_FILE, last_step

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 300
HEAD, OTHER = "127.0.0.2", "127.0.0.3"
# Metrics that the same training has again, whatever happened on the way; others are times or memory.
TRAINED = ("holder/", "actor/", "critic/", "response_length/", "group/")


def temporary_files() -> list[Path]:
    return [*Path("/dev/shm").iterdir(), *Path("/tmp").iterdir(), *Path("/tmp/ray").glob("*")]


@dataclass
class Run:
    """The command in a folder of its own, and everything that was ever seen below it."""

    folder: Path
    overrides: Sequence[str]
    prefix: Sequence[str] = ()
    """Before the command: what mounts a small disk, for instance."""
    process: "subprocess.Popen[bytes] | None" = None
    seen: set[psutil.Process] = field(default_factory=set)
    there: set[Path] = field(default_factory=lambda: set(temporary_files()))

    @property
    def run_dir(self) -> Path:
        return self.folder / "run"

    @property
    def said(self) -> str:
        return (self.folder / "said.txt").read_text() if (self.folder / "said.txt").exists() else ""

    def start(self, environment: Mapping[str, str] = {}) -> None:
        self.process = self.spawn("recipe.holderpo.main", environment)

    def spawn(self, module: str, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
        command = [*self.prefix, sys.executable, "-m", module, *self.overrides]
        with (self.folder / "said.txt").open("ab") as said:
            return subprocess.Popen(
                [*command, f"run_dir={self.run_dir}", "run=faults"],
                cwd=ROOT,
                env=os.environ | environment,
                stdout=said,
                stderr=subprocess.STDOUT,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
            )

    def wait_until(self, true: Callable[[], bool], every: float = 0.2) -> bool:
        """Until `true()`; False if the command ends before."""
        assert self.process is not None
        deadline, looked = time.monotonic() + PATIENCE_SECONDS, 0.0
        while not true():
            if self.process.poll() is not None:
                return False
            if time.monotonic() - looked > 1:
                self.look()
                looked = time.monotonic()
            if time.monotonic() > deadline:
                raise TimeoutError(f"{PATIENCE_SECONDS} s without what was waited for: {self.said[-500:]}")
            time.sleep(every)
        return True

    def wait(self) -> int:
        self.wait_until(lambda: False)
        assert self.process is not None
        return self.process.returncode

    def started(self) -> list["subprocess.Popen[bytes]"]:
        return [self.process] if self.process is not None else []

    def look(self) -> None:
        for process in self.started():
            with suppress(psutil.NoSuchProcess):
                self.seen |= {*psutil.Process(process.pid).children(recursive=True)}

    def below(self, title: str) -> list[psutil.Process]:
        """Processes of the run by a part of their command line."""
        self.look()
        found = []
        for process in self.seen:
            try:
                if process.is_running() and title in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found

    def end(self) -> None:
        """Kill all that is left of it."""
        for process in [*self.below(""), *self.started()]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for process in self.started():
            process.wait()

    def last_step(self) -> int:
        return last_step(self.run_dir / METRICS_FILE)

    def left_over(self, seconds: float = 60.0) -> list[str]:
        """What is still there so long after the end: Ray's agents need half a minute to see that their node is gone."""
        deadline = time.monotonic() + seconds
        while alive := [p for p in self.seen if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]:
            if time.monotonic() > deadline:
                break
            time.sleep(0.2)
        found = [f"process {' '.join(p.cmdline())[:60]}" for p in alive]
        found += [str(path) for path in set(temporary_files()) - self.there]
        found += [f"{folder.name} without manifest" for folder in self.checkpoints() if not committed(folder)]
        return found + [name for name in ("stop",) if (self.run_dir / name).exists()]

    def checkpoints(self) -> list[Path]:
        return step_folders(self.run_dir / "checkpoints")


@dataclass
class TwoNodeRun(Run):
    """The launcher at two addresses of this machine, a Ray node with one rank each; what ends on one is ended on both."""

    other: "subprocess.Popen[bytes] | None" = None

    def start(self, environment: Mapping[str, str] = {}) -> None:
        common = {
            "NNODES": "2", "HEAD_ADDR": HEAD, "RAY_PORT": "6398", "NODE_WAIT_S": "200",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"), **environment,
        }  # fmt: skip
        self.other = self.spawn("recipe.holderpo.launch", common | {"NODE_RANK": "1", "NODE_ADDR": OTHER})
        self.process = self.spawn("recipe.holderpo.launch", common | {"NODE_RANK": "0", "NODE_ADDR": HEAD})

    def started(self) -> list["subprocess.Popen[bytes]"]:
        return super().started() + ([self.other] if self.other is not None else [])

    def wait(self) -> int:
        status = super().wait()
        assert self.other is not None
        self.other.send_signal(signal.SIGINT)
        self.other.wait(timeout=60)
        return status


def copied(reference: Run, folder: Path, last: int) -> Run:
    """A run as the reference was when it had just saved the checkpoint of step `last`."""
    run = type(reference)(folder, reference.overrides)
    shutil.copytree(reference.run_dir, run.run_dir)
    for checkpoint in run.checkpoints():
        if step_of(checkpoint) > last:
            shutil.rmtree(checkpoint)
    lines = (run.run_dir / METRICS_FILE).read_text().splitlines(keepends=True)
    (run.run_dir / METRICS_FILE).write_text("".join(lines[:last]))
    return run


def differences(expected: list[dict[str, float]], got: list[dict[str, float]]) -> list[str]:
    """Where two records are not of the same training; up to the order of float32 sums."""
    if [r["step"] for r in expected] != [r["step"] for r in got]:
        return [f"steps {[int(r['step']) for r in got]}"]
    return [
        f"step {a['step']:.0f}: {key} is {b.get(key)}, was {a[key]}"
        for a, b in zip(expected, got, strict=True)
        for key in a
        if key.startswith(TRAINED) and "perf" not in key and not _close(a[key], b.get(key, float("nan")))
    ]


def _close(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-6 + 1e-4 * abs(a)
