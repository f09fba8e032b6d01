"""A checkpoint of N ranks on M: bit for bit the same state, through verl's real FSDP2 engine on gloo; and shards alone."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.distributed.tensor import Replicate, Shard

from recipe.holderpo.embedded.tiny_model import TinyModelConfig, build_model, build_tokenizer
from recipe.holderpo.training.reshard import joined, ranks_of

ROOT = Path(__file__).parents[2]
RANKS = (1, 2, 4)


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where engine_checkpoint.py has written its states."""
    folder = tmp_path_factory.mktemp("reshard")
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder / "model")
    # 3 heads of 14: no size is a multiple of 4, so that shards are uneven and the last one of some tensors is empty.
    small = TinyModelConfig(hidden_size=42, intermediate_size=46, num_layers=1, num_heads=3)
    build_model(small, tokenizer, seed=1).save_pretrained(folder / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = str(Path(__file__).with_name("engine_checkpoint.py"))
    done = subprocess.run(
        [sys.executable, script, str(folder / "model"), str(folder), str(port)],
        env=os.environ | {"VERL_PLATFORM": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def assert_same(expected: Any, got: Any, where: str, rtol: float = 0.0, atol: float = 0.0) -> None:
    if isinstance(expected, torch.Tensor):
        torch.testing.assert_close(got, expected, rtol=rtol, atol=atol, msg=lambda message: f"{where}: {message}")
    elif isinstance(expected, dict):
        assert expected.keys() == got.keys(), where
        for key in expected:
            assert_same(expected[key], got[key], f"{where}.{key}", rtol, atol)
    else:
        assert expected == got, where


@pytest.mark.stack
@pytest.mark.parametrize("loaded", ["by_verl", *(f"on_{ranks}" for ranks in RANKS)])
@pytest.mark.parametrize("saved", RANKS)
def test_weights_moments_and_rate_are_those_that_were_saved(states: Path, saved: int, loaded: str) -> None:
    """And written, by a thread, after the next update."""
    expected, next_expected = torch.load(states / f"saved_{saved}.pt")
    got, next_got = torch.load(states / f"{saved}_{loaded}.pt")
    assert expected["rate"]["last_epoch"] == 3 and len(expected["optimizer"]) == 14
    assert all(moments["exp_avg"].abs().max() > 0 for moments in expected["optimizer"].values())
    assert_same(expected, got, "state")
    # The next update is the same to rounding: Adam's direction moves by as much as a gradient that is all rounding.
    assert_same(next_expected["model"], next_got["model"], "after an update", rtol=1e-4, atol=2e-5)
    moved = max((expected["model"][name] - next_expected["model"][name]).abs().max() for name in expected["model"])
    assert moved > 3e-4, "the update must move weights by far more than the difference allowed"


def shard(local: torch.Tensor, mesh: torch.Tensor, *placements: Shard | Replicate) -> Any:
    return SimpleNamespace(to_local=lambda: local, device_mesh=SimpleNamespace(mesh=mesh), placements=placements)


def test_shards_of_groups_with_replicas() -> None:
    """Rank 3 holds the second part of the second replica: HSDP's mesh of (replicas, shards)."""
    whole = torch.arange(35.0).reshape(7, 5)
    mesh = torch.arange(4).reshape(2, 2)
    parts = whole.chunk(2)
    shards = [shard(parts[rank % 2], mesh, Replicate(), Shard(0)) for rank in range(4)]
    assert torch.equal(joined(shards), whole)
    columns = whole.chunk(2, dim=1)
    assert torch.equal(joined([shard(columns[rank % 2], mesh, Replicate(), Shard(1)) for rank in range(4)]), whole)
    assert torch.equal(joined([shard(whole, mesh, Replicate(), Replicate())] * 4), whole)


def test_other_divisions_are_refused() -> None:
    mesh = torch.arange(4).reshape(2, 2)
    with pytest.raises(ValueError, match="at most one dimension"):
        joined([shard(torch.zeros(1), mesh, Shard(0), Shard(1))] * 4)


def test_the_number_of_ranks_is_in_the_names(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no model_world_size"):
        ranks_of(tmp_path)
    (tmp_path / "model_world_size_12_rank_0.pt").touch()
    assert ranks_of(tmp_path) == 12
