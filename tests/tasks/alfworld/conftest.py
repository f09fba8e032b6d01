"""A few generated games, made once a test session."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from recipe.holderpo.tasks.alfworld.games import game_files, generate

COUNTS = {"train": 12, "valid_seen": 6, "valid_unseen": 6}


@pytest.fixture(scope="session")
def games(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tiny games: two of each task type in train, one in the other splits."""
    folder = tmp_path_factory.mktemp("games")
    generate(folder, "tiny", COUNTS, seed=7, processes=2)
    return folder


@pytest.fixture(scope="session")
def train_games(games: Path) -> list[Path]:
    return game_files(games, "train")


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """A Ray of its own for the environment workers."""
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
