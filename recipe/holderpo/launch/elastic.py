"""A run that goes on with the nodes that are left, down to MIN_NODES, and takes in those that come back.

The driver runs on as many nodes as there are and divide the batches. When it ends by an error and nodes are gone, it is
started again on the others, and resumes from the last checkpoint. When there are more than it uses, it is asked to stop,
which saves the step in progress, and is started on all of them.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from recipe.holderpo.config.errors import ConfigError
from recipe.holderpo.fault_tolerance.attach import attach
from recipe.holderpo.fault_tolerance.signals import STOP_REQUEST, ExitStatus, exit_on_sigterm
from recipe.holderpo.launch import driver
from recipe.holderpo.launch.settings import Node

POLL_SECONDS, JOIN_SECONDS = 2.0, 30.0
SETTLE_SECONDS = 60.0
"""For Ray to notice that a node is gone: its health checks take some 20 s."""

Count = Callable[[], int]


@contextmanager
def counting_nodes(address: str, most: int) -> Iterator[Count]:
    """Attach to the cluster; yields what counts the nodes that are there, `most` at most: one that has been replaced may
    still be on Ray's books."""
    import ray

    attach(address)
    try:
        yield lambda: min(sum(node["Alive"] for node in ray.nodes()), most)
    finally:
        ray.shutdown()


def usable(nodes: int, least: int, overrides: Sequence[str]) -> int:
    """The most nodes, at most `nodes`, over which the batches can be divided; 0 where it would be fewer than `least`."""
    from recipe.holderpo.config.checks import check_config
    from recipe.holderpo.config.compose import compose_config

    for count in range(nodes, least - 1, -1):
        try:
            check_config(compose_config([*overrides, f"trainer.nnodes={count}"]))
            return count
        except ConfigError as error:
            print(f"{count} nodes cannot be used: {error.lines[0]}", file=sys.stderr, flush=True)
    return 0


def drive(
    node: Node,
    count: Count,
    overrides: Sequence[str],
    attach: Sequence[str],
    environment: dict[str, str],
    run_dir: Path,
) -> int:
    """Run the driver to its end, on whatever nodes there are; its exit status.

    Raises:
        ConfigError: fewer than `node.least` nodes are left, or can be used, for `node.wait_s` seconds.
    """
    while True:
        there, used = _wait_for_usable(node, count, overrides)
        print(f"the run is on {used} of {node.nodes} nodes", flush=True)
        more = _Grows(run_dir, count, partial(usable, least=used + 1, overrides=overrides), there)
        status, signalled = driver.drive([*overrides, f"trainer.nnodes={used}", *attach], environment)
        exit_on_sigterm()
        if more.asked_to_stop() and status == ExitStatus.STOPPED and not signalled:
            continue
        if status in [*ExitStatus] or signalled or not _is_lost(count, there):
            return status
        print(f"a node is gone: {count()} are left", flush=True)


def _wait_for_usable(node: Node, count: Count, overrides: Sequence[str]) -> tuple[int, int]:
    """The nodes that are there, and how many of them the run can use."""
    deadline, seen = time.monotonic() + node.wait_s, -1
    while True:
        there = count()
        if there != seen and (found := usable(there, node.least, overrides)):
            return there, found
        seen = there
        if time.monotonic() > deadline:
            raise ConfigError(f"MIN_NODES is {node.least}; after {node.wait_s:.0f} s {there} nodes are there")
        time.sleep(POLL_SECONDS)


def _is_lost(count: Count, there: int) -> bool:
    """Whether one of the nodes that were there is gone; Ray may not have noticed yet."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while count() >= there:
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


class _Grows:
    """Watches, in a thread, for further nodes, and asks the run to stop when it could use them: without SIGTERM, which would
    end it after `stop_grace_s`."""

    def __init__(self, run_dir: Path, count: Count, usable_of: Callable[[int], int], seen: int) -> None:
        self._asked, self._done = False, threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(run_dir, count, usable_of, seen), daemon=True)
        self._thread.start()

    def _watch(self, run_dir: Path, count: Count, usable_of: Callable[[int], int], seen: int) -> None:
        while not self._done.wait(POLL_SECONDS):
            try:
                there = count()
                if not self._asked and there > seen and usable_of(there):
                    print(f"{there} nodes are there: the run saves and goes on with them", flush=True)
                    self._asked = True
                if self._asked:
                    (run_dir / STOP_REQUEST).touch()  # a driver that is just starting deletes it
                seen = there
            except Exception as error:  # of Ray's GCS, or the disk: perhaps only for a moment
                print(f"nodes cannot be counted: {error}", file=sys.stderr, flush=True)

    def asked_to_stop(self) -> bool:
        self._done.set()
        self._thread.join(timeout=JOIN_SECONDS)
        return self._asked
