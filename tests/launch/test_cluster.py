"""What the head says of nodes that are missing, or have too few GPUs, on a real Ray with one node of one GPU."""

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
import ray

from recipe.holderpo.config.errors import ConfigError
from recipe.holderpo.fault_tolerance.signals import ExitStatus, exit_on_sigterm
from recipe.holderpo.launch.cluster import attach_to_head, wait_for_nodes
from recipe.holderpo.launch.settings import Node


@pytest.fixture(scope="module", autouse=True)
def one_node() -> Iterator[None]:
    ray.init(address="local", num_cpus=1, num_gpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def test_all_are_there() -> None:
    wait_for_nodes(Node(nodes=1), gpus=1)


def test_a_node_that_never_comes_is_named() -> None:
    with pytest.raises(ConfigError, match=r"NNODES is 2; after 1 s 1 joined \(.*\), 1 did not: are they started"):
        wait_for_nodes(Node(nodes=2, wait_s=1.0), gpus=1)


def test_a_node_with_too_few_gpus_is_named_at_once() -> None:
    with pytest.raises(
        ConfigError, match=r"trainer\.n_gpus_per_node is 2; node .* has 1: every node must have as many"
    ):
        wait_for_nodes(Node(nodes=2, wait_s=10**6), gpus=2)


@pytest.fixture
def ray_start() -> Iterator["subprocess.Popen[str]"]:
    """The head's `ray start --block`, which goes on until it is killed."""
    command = [sys.executable, "-c", "import time; time.sleep(3600)"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def test_a_head_whose_ray_has_ended_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash at its start on a busy machine, for instance, after its port had answered."""
    monkeypatch.setattr(ray, "init", Starting(10**6).init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    before = signal.getsignal(signal.SIGTERM)
    command = [sys.executable, "-c", "print('raylet crashed')"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as ended:
        ended.wait()
        with pytest.raises(ConfigError, match=r"head did not start on 127.0.0.2:6379: raylet crashed"):
            attach_to_head(Node(nodes=2, address="127.0.0.2", wait_s=10**6), ended)
    signal.signal(signal.SIGTERM, before)


class Starting:
    """`ray.init` of a head that takes its time: it fails so many times, and leaves a handler of its own for SIGTERM."""

    def __init__(self, failures: int):
        self.left = failures

    def init(self, **_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.left -= 1
        if self.left >= 0:
            raise ConnectionError("Failed to connect\nto Ray cluster")


@pytest.mark.parametrize("failures", [0, 3])
def test_a_head_that_is_slow_to_start_is_asked_again(
    failures: int, ray_start: "subprocess.Popen[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    starting, before = Starting(failures), signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(ray, "init", starting.init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr("recipe.holderpo.launch.cluster.POLL_SECONDS", 0.0)
    exit_on_sigterm()
    own = signal.getsignal(signal.SIGTERM)
    try:
        attach_to_head(Node(nodes=2, address="127.0.0.2", wait_s=10**6), ray_start)
        assert starting.left == -1
        assert signal.getsignal(signal.SIGTERM) is own
        with pytest.raises(ConfigError, match=r"cannot be used after 0 s: Failed to connect to Ray cluster"):
            starting.left = 10**6
            attach_to_head(Node(nodes=2, address="127.0.0.2", wait_s=0.0), ray_start)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_sigterm_while_ray_starts_ends_with_our_status(
    ray_start: "subprocess.Popen[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**_: object) -> None:
        raise SystemExit(signal.SIGTERM)  # as Ray's own handler

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(SystemExit) as ended:
        attach_to_head(Node(nodes=2, address="127.0.0.2", wait_s=10**6), ray_start)
    assert ended.value.code == ExitStatus.STOPPED
