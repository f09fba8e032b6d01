"""What the head says of nodes that are missing, or have too few GPUs, on a real Ray with one node of one GPU."""

from collections.abc import Iterator

import pytest
import ray

from recipe.holderpo.config.errors import ConfigError
from recipe.holderpo.launch.cluster import wait_for_nodes
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
