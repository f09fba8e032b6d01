"""A head whose Ray ends at its start, as on a busy machine, is started again."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from recipe.holderpo.launch import __main__ as launch
from recipe.holderpo.launch import cluster
from recipe.holderpo.launch.compare import free_port
from recipe.holderpo.launch.settings import Node
from recipe.holderpo.startup.server import ADDRESS, ForkServer

ENDS = [sys.executable, "-c", "print('the current node timed out during startup')"]
GOES_ON = [sys.executable, "-c", "import time; time.sleep(3600)"]


class Starts:
    """`ray start` that ends so many times by itself; what is running and how many there have been."""

    def __init__(self, failures: int):
        self.left, self.count, self.running = failures, 0, list[subprocess.Popen[str]]()
        self.servers = list[str | None]()

    @contextmanager
    def ray_node(
        self, _: Node, resources: object, environment: dict[str, str], folder: Path
    ) -> Iterator["subprocess.Popen[str]"]:
        self.servers.append(environment.get(ADDRESS))
        self.count += 1
        self.left -= 1
        with subprocess.Popen(ENDS if self.left >= 0 else GOES_ON, stdout=subprocess.PIPE, text=True) as process:
            if self.left >= 0:
                process.wait()
            self.running.append(process)
            try:
                yield process
            finally:
                self.running.remove(process)
                process.kill()


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DictConfig:
    for name in ("TMPDIR", "RAY_TMPDIR"):  # `temporary_folder` sets them
        monkeypatch.setenv(name, "/tmp")
    for name in ("TORCHINDUCTOR_CACHE_DIR", "RAY_AUTH_MODE"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "f" * 64)
    monkeypatch.setattr(launch, "wait_for_all", lambda node, _, ray_start: cluster.check_running(node, ray_start))
    trainer = {"n_gpus_per_node": 1, "device": "cpu"}
    ray_init = {"ray_init": {"num_cpus": 1}}
    return OmegaConf.create(
        {"run_dir": str(tmp_path), "trainer": trainer, "ray_kwargs": ray_init, "fork_workers": False}
    )


@pytest.mark.parametrize("failures", [0, cluster.STARTS - 1])
def test_it_is_started_again(failures: int, config: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = Starts(failures)
    monkeypatch.setattr(cluster, "ray_node", starts.ray_node)
    monkeypatch.setattr(cluster, "wait_for_head", cluster.check_running)
    node = Node(address="127.0.0.1", port=free_port("127.0.0.1"))
    with launch.ray_head(node, config) as (_, attach):
        assert starts.count == failures + 1 and len(starts.running) == 1, "one is left, the one that goes on"
        assert attach[0] == f"++ray_kwargs.ray_init.address=127.0.0.1:{node.port}"
    assert starts.running == [] and starts.servers == [None] * (failures + 1)


def test_each_start_has_a_process_to_fork_from_of_its_own(config: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = Starts(cluster.STARTS - 1)
    monkeypatch.setattr(cluster, "ray_node", starts.ray_node)
    monkeypatch.setattr(cluster, "wait_for_head", cluster.check_running)
    monkeypatch.setattr(ForkServer, "COMMAND", (sys.executable, "-c", "import sys; sys.stdin.read()"))
    config.fork_workers = True
    with launch.ray_head(Node(address="127.0.0.1", port=free_port("127.0.0.1")), config) as (environment, _):
        assert len({*starts.servers}) == cluster.STARTS and environment[ADDRESS] == starts.servers[-1]
        assert [Path(str(server)).parent.exists() for server in starts.servers] == [False, False, True]
    assert not Path(str(starts.servers[-1])).parent.exists()


def test_but_not_for_ever(config: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = Starts(10**6)
    monkeypatch.setattr(cluster, "ray_node", starts.ray_node)
    monkeypatch.setattr(cluster, "wait_for_head", cluster.check_running)
    refused = pytest.raises(cluster.HeadEnded, match="current node timed out during startup")
    with refused, launch.ray_head(Node(address="127.0.0.1", port=free_port("127.0.0.1")), config):
        pass
    assert starts.count == cluster.STARTS and starts.running == []
