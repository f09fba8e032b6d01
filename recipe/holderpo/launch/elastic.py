"""A run that goes on with the nodes that are left, down to MIN_NODES, and takes in those that come back.

The driver runs on as many nodes as there are and divide the batches. When it ends by an error and nodes are gone, it is
started again on the others, and resumes from the last checkpoint. When there are more than it uses, it is asked to stop,
which saves the step in progress, and is started on all of them.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from recipe.holderpo.config.errors import ConfigError
from recipe.holderpo.fault_tolerance.signals import ExitStatus, exit_on_sigterm, wait_forwarding
from recipe.holderpo.launch.settings import Node

POLL_SECONDS = 2.0
SETTLE_SECONDS = 60.0
"""For Ray to notice that a node is gone: its health checks take some 20 s."""

Count = Callable[[], int]


@contextmanager
def counting_nodes(address: str) -> Iterator[Count]:
    """Attach to the cluster; yields what counts the nodes that are there."""
    import ray

    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    exit_on_sigterm()  # `ray.init` has replaced the handler
    try:
        yield lambda: sum(node["Alive"] for node in ray.nodes())
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
    node: Node, count: Count, overrides: Sequence[str], attach: Sequence[str], environment: dict[str, str]
) -> int:
    """Run the driver to its end, on whatever nodes there are; its exit status.

    Raises:
        ConfigError: fewer than `node.least` nodes are left, or can be used, for `node.wait_s` seconds.
    """
    while True:
        used = _wait_for_usable(node, count, overrides)
        command = [sys.executable, "-m", "recipe.holderpo.main", *overrides, f"trainer.nnodes={used}", *attach]
        print(f"the run is on {used} of {node.nodes} nodes", flush=True)
        with subprocess.Popen(command, env=environment, start_new_session=True) as driver:
            more = _Grows(driver, count, partial(usable, least=used + 1, overrides=overrides), used)
            status = wait_forwarding(driver)
        grown = more.stop()
        if status == ExitStatus.STOPPED and grown:
            continue
        if status in [*ExitStatus] or not _is_lost(count, used):
            return status
        print(f"a node is gone: {count()} are left", flush=True)


def _wait_for_usable(node: Node, count: Count, overrides: Sequence[str]) -> int:
    deadline, seen = time.monotonic() + node.wait_s, -1
    while True:
        there = count()
        if there != seen and (found := usable(min(there, node.nodes), node.least, overrides)):
            return found
        seen = there
        if time.monotonic() > deadline:
            raise ConfigError(f"MIN_NODES is {node.least}; after {node.wait_s:.0f} s {there} nodes are there")
        time.sleep(POLL_SECONDS)


def _is_lost(count: Count, used: int) -> bool:
    """Whether a node is gone; Ray may not have noticed yet."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while count() >= used:
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


class _Grows:
    """Watches, in a thread, for nodes that the driver does not use, and asks it to stop when it could use them."""

    def __init__(
        self, driver: "subprocess.Popen[bytes]", count: Count, usable_of: Callable[[int], int], used: int
    ) -> None:
        self.asked, self._done = False, threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(driver, count, usable_of, used), daemon=True)
        self._thread.start()

    def _watch(
        self, driver: "subprocess.Popen[bytes]", count: Count, usable_of: Callable[[int], int], seen: int
    ) -> None:
        while not self._done.wait(POLL_SECONDS):
            there = count()
            if there > seen and usable_of(there):
                print(f"{there} nodes are there: the run saves and goes on with them", flush=True)
                self.asked = True
                os.kill(driver.pid, signal.SIGTERM)
                return
            seen = there

    def stop(self) -> bool:
        """Whether it has asked."""
        self._done.set()
        self._thread.join()
        return self.asked
