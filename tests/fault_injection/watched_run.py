"""A run of the command that is watched from outside: what it starts, how far it is, what it says and what it leaves."""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from recipe.holderpo.fault_tolerance.checkpoint import committed, step_folder, step_folders, step_of
from recipe.holderpo.report.record import METRICS_FILE, last_step, read_metrics

ROOT = Path(__file__).parents[2]
STARTUP = Path(__file__).with_name("startup")
PATIENCE_SECONDS = 1200  # a last resort, for a run that hangs
HEAD, OTHER = "127.0.0.2", "127.0.0.3"
SEMAPHORE = "sem.mp-"  # how Python names those of multiprocessing
# Metrics that the same training has again, whatever happened on the way; others are times or memory.
TRAINED = ("holder/", "actor/", "critic/", "response_length/", "group/")


def environment(base: Path) -> dict[str, str]:
    """What a run needs to leave its traces in `base` (at most 15 characters) alone, and to start beside other processes."""
    return {
        "RAY_TMPDIR": str(base),
        "TMPDIR": str(base),
        "TORCHINDUCTOR_CACHE_DIR": f"/tmp/torchinductor_{getpass.getuser()}",  # else in TMPDIR, and compiled at each start
        "RAY_worker_niceness": "0",  # Ray's 15 leaves its workers 3 % of a core that another process wants
        "RAY_worker_register_timeout_seconds": "600",
        "PYTHONPATH": os.pathsep.join([str(STARTUP), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }


def shared_memory() -> dict[str, int]:
    """Names in /dev/shm, and their inodes."""
    found = {}
    for path in Path("/dev/shm").iterdir():
        with suppress(FileNotFoundError):
            found[path.name] = path.stat().st_ino
    return found


def used_inodes(pid: int | str) -> set[int]:
    """Inodes of what a process has mapped or open; none of one that is gone, or another user's. (The path that it has mapped
    does not tell: glibc maps a semaphore under another name before it has its own.)"""
    process, found = Path(f"/proc/{pid}"), set[int]()
    with suppress(OSError):
        found |= {int(line.split(maxsplit=5)[4]) for line in (process / "maps").read_text().splitlines()}
        for descriptor in (process / "fd").iterdir():
            with suppress(OSError):
                found.add(descriptor.stat().st_ino)
    return found


def unused_shared_memory() -> set[str]:
    """Names in /dev/shm that no process which can be seen from here has mapped or open."""
    found = shared_memory()
    used = (
        set[int]().union(*(used_inodes(process.name) for process in Path("/proc").glob("[0-9]*"))) if found else set()
    )
    return {name for name, inode in found.items() if inode not in used}


def free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


@dataclass
class Run:
    """The command in a folder of its own, and everything that was ever seen below it."""

    folder: Path
    overrides: Sequence[str]
    prefix: Sequence[str] = ()
    """Before the command: what mounts a small disk, for instance."""
    process: "subprocess.Popen[bytes] | None" = None
    seen: set[psutil.Process] = field(default_factory=set)
    base: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="r", dir="/tmp")))
    """Where the run's temporary folder is made. A short path, for sockets."""
    there: set[str] = field(default_factory=lambda: {*shared_memory()})
    semaphores: dict[str, str] = field(default_factory=dict)
    """Names of Python's semaphores in /dev/shm that a process of the run has mapped, and that process."""

    @property
    def run_dir(self) -> Path:
        return self.folder / "run"

    @property
    def said(self) -> str:
        """All that the command has printed, in all its starts."""
        return (self.folder / "said.txt").read_text() if (self.folder / "said.txt").exists() else ""

    def records(self) -> list[dict[str, float]]:
        file = self.run_dir / METRICS_FILE
        return read_metrics(file) if file.exists() else []

    def start(self, variables: Mapping[str, str] = {}) -> None:
        self.process = self.spawn("recipe.holderpo.main", variables)

    def spawn(self, module: str, variables: Mapping[str, str], said: str = "said.txt") -> "subprocess.Popen[bytes]":
        command = [*self.prefix, sys.executable, "-m", module, *self.overrides]
        with (self.folder / said).open("ab") as file:
            return subprocess.Popen(
                [*command, f"run_dir={self.run_dir}", "run=faults"],
                cwd=ROOT,
                env={**os.environ, **environment(self.base), **variables},
                stdout=file,
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
        names = {name: inode for name, inode in shared_memory().items() if name.startswith(SEMAPHORE)}
        if new := names.keys() - self.there - self.semaphores.keys():
            for process in self.seen:
                used = used_inodes(process.pid)
                with suppress(psutil.NoSuchProcess):
                    self.semaphores |= {name: " ".join(process.cmdline())[:60] for name in new if names[name] in used}

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
        """Kill all that is left of it, and delete its temporary files."""
        for process in [*self.below(""), *self.started()]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for process in self.started():
            process.wait()
        shutil.rmtree(self.base, ignore_errors=True)

    def last_step(self) -> int:
        return last_step(self.run_dir / METRICS_FILE)

    def left_over(self, seconds: float = 300.0) -> list[str]:
        """What the run left and is still there so long after its end: processes, temporary files, shared memory that was not
        there before and that no process uses all the while, and in its own folder requests and halves of checkpoints.
        Of semaphores, whose names do not tell whose they are, those which one of its processes was seen to use.

        Ray's agents need half a minute, on an idle machine, to see that their node is gone."""

        def unused() -> set[str]:
            names = unused_shared_memory() - self.there
            return {name for name in names if name in self.semaphores or not name.startswith(SEMAPHORE)}

        deadline, memory = time.monotonic() + seconds, unused()
        while (alive := self.alive()) or memory:
            if time.monotonic() > deadline:
                break
            time.sleep(0.2)
            memory &= unused()
        found = [f"process {title}" for title in alive]
        found += [f"/dev/shm/{name} {self.semaphores.get(name, '')}".rstrip() for name in sorted(memory)]
        found += [str(path) for path in self.base.iterdir()] if self.base.exists() else []  # `end` deletes it
        found += [f"{folder.name} without manifest" for folder in self.checkpoints() if not committed(folder)]
        return found + [name for name in ("stop",) if (self.run_dir / name).exists()]

    def alive(self) -> list[str]:
        """The beginning of the command line of every process of the run that has not ended."""
        found = []
        for process in self.seen:
            with suppress(psutil.NoSuchProcess):
                if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.cmdline())[:60])
        return found

    def checkpoints(self) -> list[Path]:
        return step_folders(self.run_dir / "checkpoints")

    def has_saved(self, step: int) -> bool:
        """Whether the checkpoint of this step, which is written while the next one is trained, is complete."""
        return committed(step_folder(self.run_dir / "checkpoints", step))


@dataclass
class TwoNodeRun(Run):
    """The launcher at two addresses of this machine, a Ray node with one rank each; what ends on one is ended on both."""

    other: "subprocess.Popen[bytes] | None" = None

    port: int = field(default_factory=lambda: free_port(HEAD))

    def start(self, variables: Mapping[str, str] = {}) -> None:
        self.other = self.node(1, variables)
        self.process = self.node(0, variables)

    def node(self, rank: int, variables: Mapping[str, str] = {}, said: str = "said.txt") -> "subprocess.Popen[bytes]":
        of_node = {
            "NNODES": "2", "HEAD_ADDR": HEAD, "RAY_PORT": str(self.port), "NODE_WAIT_S": str(PATIENCE_SECONDS),
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"), "NODE_RANK": str(rank), "NODE_ADDR": (HEAD, OTHER)[rank],
        }  # fmt: skip
        return self.spawn("recipe.holderpo.launch", {**of_node, **variables}, said)

    def started(self) -> list["subprocess.Popen[bytes]"]:
        return super().started() + ([self.other] if self.other is not None else [])

    def wait(self) -> int:
        status = super().wait()
        assert self.other is not None
        self.other.send_signal(signal.SIGINT)
        self.other.wait(timeout=PATIENCE_SECONDS)
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
