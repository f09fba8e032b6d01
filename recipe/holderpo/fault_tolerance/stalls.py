"""Ends a run that is stuck. The driver reads what the trainer reports of its progress (progress.py); the trainer's own
process, or the disk, may be what is stuck."""

import math
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TextIO

import psutil

from recipe.holderpo.config.settings import StallSettings
from recipe.holderpo.fault_tolerance import stacks
from recipe.holderpo.fault_tolerance.console import Stream
from recipe.holderpo.fault_tolerance.progress import PROGRESS_FILE, SAVE, START, SUSPENDED_SECONDS, Status, read_status
from recipe.holderpo.fault_tolerance.signals import main_thread_interrupt

STALLS = "stalls"
LOOK_EVERY_SECONDS = 1.0
PART_OF_GRACE, STOPPING_MEDIANS = 0.2, 3.0
"""After SIGTERM a run is stuck after this part of `stop_grace_s`, or so many times as long as its phase takes."""
NODE_SECONDS = 60.0
"""For another node to write its processes' stacks."""
DISK_SECONDS = 60.0
"""For the disk of the run's folder to answer."""


class Stalled(Exception):
    """Raised where the driver waits for a run that is stuck. `stopping`: SIGTERM had asked it to stop."""

    def __init__(self, message: str, stopping: bool = False) -> None:
        super().__init__(message)
        self.stopping = stopping


@dataclass
class Look:
    """What was last seen of a run, and when: seconds of this process's clock."""

    status: Status | None
    written: int
    fresh: float


def why_stuck(look: Look, settings: StallSettings, now: float, grace_s: float | None = None) -> str | None:
    """In words; None: the run is not stuck, as far as can be seen.

    Args:
        grace_s: of a run that SIGTERM has asked to stop, which is waited for less long.
    """
    if settings.floor_s is None:
        return None
    silent, status = now - look.fresh, look.status
    if status is None:
        over = silent > settings.start_s
        return (
            f"no trainer {silent:.0f} s after the start of Ray (stall.start_s={settings.start_s:g})" if over else None
        )
    # A save is what the run stops with; what is left of it may be a wait for the disk, and hashing.
    saves = status.phase == SAVE
    soon = math.inf if grace_s is None or saves else PART_OF_GRACE * grace_s
    if silent > min(settings.floor_s, soon):
        return f"the trainer's process has reported nothing for {silent:.0f} s (the last: step {status.step}, {status.phase})"
    limit = status.limit_s or settings.floor_s
    if status.phase != START:
        limit = min(limit, max(soon, STOPPING_MEDIANS * (status.median_s or 0.0)))
    if status.seconds > limit:
        took = "" if status.median_s is None else f", which otherwise takes {status.median_s:.0f} s"
        return f"step {status.step} has made no progress for {status.seconds:.0f} s in {status.phase}{took}"
    return None


@contextmanager
def stall_checks(
    run_dir: Path,
    settings: StallSettings,
    stopping: Callable[[], bool],
    grace_s: float,
    keep: Callable[[], Collection[int]] = tuple,
    own_ray: bool = True,
) -> Iterator[None]:
    """Look at the run's progress every second, in a thread, and when it is stuck, end whatever the main thread waits for.

    To be entered in the main thread, before Ray starts.

    Args:
        stopping: whether SIGTERM has asked the run to stop, which it should within `grace_s` seconds.
        keep: ids of processes that are not to be killed.
        own_ray: whether Ray's processes are this one's; those of a cluster, it ends itself.

    Raises:
        Stalled: what is stuck, and where the stacks of the run's processes are.
    """
    stalled: list[Stalled] = []
    done = threading.Event()
    (run_dir / PROGRESS_FILE).unlink(missing_ok=True)
    look, console = Look(None, 0, time.monotonic()), sys.stderr

    def read() -> None:  # in a thread of its own: the disk may not answer
        while not done.wait(LOOK_EVERY_SECONDS):
            try:
                status, written = read_status(run_dir)
            except (OSError, ValueError):  # replaced by another node while it was read
                continue
            if status is not None and (written != look.written or status != look.status):
                look.status, look.written, look.fresh = status, written, time.monotonic()

    def watch(interrupt: Callable[[], None]) -> None:
        said, before = False, time.monotonic()
        while not done.wait(LOOK_EVERY_SECONDS):
            before, pause = time.monotonic(), time.monotonic() - before
            if pause > SUSPENDED_SECONDS:  # this process was suspended, and the others may have been
                look.fresh += pause
            is_stopping = stopping()
            if is_stopping and not said:
                said = True
                with suppress(OSError):  # a terminal that has been closed
                    print(_asked_to_stop(look), file=console, flush=True)
            if (why := why_stuck(look, settings, time.monotonic(), grace_s if is_stopping else None)) is not None:
                message = _with_stacks(why, run_dir, console)
                if not own_ray:
                    _within(2 * NODE_SECONDS, partial(_write_other_nodes, run_dir / STALLS))
                if done.is_set():
                    return  # it has ended meanwhile, by itself; what runs now is another start
                stalled.append(Stalled(message, is_stopping))
                if own_ray:
                    end_processes(keep())
                return interrupt()

    try:
        with main_thread_interrupt() as interrupt:
            threading.Thread(target=read, name="progress", daemon=True).start()
            threading.Thread(target=watch, args=(interrupt,), name="stalls", daemon=True).start()
            yield
    except BaseException as error:
        if stalled:
            raise stalled[0] from error
        raise
    finally:
        done.set()


def _asked_to_stop(look: Look) -> str:
    if look.status is None or look.status.phase == START:
        return "SIGTERM: nothing has been trained yet"
    return f"SIGTERM: the run ends when step {look.status.step} (now in {look.status.phase}) is finished and saved"


def _with_stacks(why: str, run_dir: Path, console: TextIO) -> str:
    """Write the stacks of all processes of the run on this node; the message of `Stalled`.

    Where the disk does not answer, nothing is left to do for this process: it ends here."""
    found = stacks.stacks(stacks.processes_of_run())
    trouble = [str(one) for one in found if one.trouble is not None]
    folder = run_dir / STALLS / time.strftime("%Y%m%d-%H%M%S")
    errors: list[str] = []

    def write() -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{socket.gethostname()}.txt").write_text(stacks.report(found))
        except OSError as error:
            errors.append(error.strerror or str(error))

    message = f"stuck: {why}" + (f"; {', '.join(trouble[:3])}" if trouble else "")
    if not _within(DISK_SECONDS, write):
        print(f"error: {message}; and {run_dir} does not answer: nothing can be saved or read there", file=console)
        if isinstance(console, Stream):
            console.writer.drain()
        end_processes()
        os._exit(1)
    return f"{message}; stacks: {f'not written ({errors[0]})' if errors else folder}"


def _within(seconds: float, work: Callable[[], None]) -> bool:
    """Whether the work, in a thread of its own, was done in so many seconds."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


def _write_other_nodes(stalls: Path) -> None:
    """Beside this node's stacks, those of the others: ADDRESS.txt. Where Ray's GCS is what is stuck, this does not return."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if not ray.is_initialized():  # stuck before it was; to ask would start one
        return
    own, folder = ray.get_runtime_context().get_node_id(), max(stalls.iterdir())
    nodes = {
        node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"] and node["NodeID"] != own
    }
    calls = {
        ray.remote(num_cpus=0)(_report_here)
        .options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
        .remote(): address
        for node, address in nodes.items()
    }
    if calls:
        answered, _ = ray.wait([*calls], num_returns=len(calls), timeout=NODE_SECONDS)
        for call, address in calls.items():
            try:
                text = ray.get(call) if call in answered else f"{address} does not answer\n"
            except Exception as error:  # of that node alone
                text = f"{address}: {error}\n"
            (folder / f"{address}.txt").write_text(text)


def _report_here() -> str:
    return stacks.report(stacks.stacks(stacks.processes_of_run()))


def end_processes(keep: Collection[int] = ()) -> None:
    """Kill what this process has started, and what that has: a stopped one ends by no other signal."""
    for process in psutil.Process().children(recursive=True):
        if process.pid not in keep:
            try:
                process.kill()
            except psutil.Error:
                continue
