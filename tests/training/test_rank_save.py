"""A rank's part of a checkpoint is a copy, written in the background where there is memory for it.

test_reshard.py has it with verl's real engine, and training going on meanwhile."""

import threading
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import psutil
import pytest
import torch
from verl.utils.checkpoint import fsdp_checkpoint_manager

from recipe.holderpo.fault_tolerance.checkpoint import hash_files
from recipe.holderpo.training import rank_save
from recipe.holderpo.training.rank_save import RankSave, SavedPart, available_memory, copy_of, size_of


def state() -> dict[str, Any]:
    weight = torch.arange(6.0).reshape(2, 3)
    return {"embedding": weight, "head": weight, "steps": [torch.tensor(3), 3], "nothing": None, "empty": torch.ones(0)}


def saved_by(save: RankSave, folder: Path, value: Any) -> SavedPart:
    """A save of verl's manager, which writes the value to folder/model.pt."""
    save.save(
        lambda: fsdp_checkpoint_manager.torch.save(value, str(folder / "model.pt")), lambda: [folder / "model.pt"]
    )
    while (part := save.part()) is None:
        pass
    return part


def test_a_copy_shares_memory_where_the_state_does_and_with_nothing_else() -> None:
    value = state()
    made = copy_of(value)
    value["embedding"] += 1
    value["steps"][0] += 1
    assert torch.equal(made["head"], torch.arange(6.0).reshape(2, 3)) and made["steps"] == [torch.tensor(3), 3]
    assert made["embedding"].data_ptr() == made["head"].data_ptr() != value["head"].data_ptr()
    assert made["nothing"] is None and made["empty"].shape == (0,)
    assert size_of(value) == 2 * 6 * 4 + 8


def test_a_copy_is_of_the_same_kind() -> None:
    class Pair(NamedTuple):
        first: torch.Tensor
        second: int

    weights: Any = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)).state_dict()
    made = copy_of(weights)
    assert made._metadata == weights._metadata and made.keys() == weights.keys()
    pair, counts = copy_of([Pair(torch.ones(1), 2), defaultdict(list, {1: [torch.ones(2)]})])
    assert isinstance(pair, Pair) and pair.second == 2 and counts[1][0].tolist() == [1, 1] and counts[2] == []


@pytest.mark.parametrize(
    ("in_background", "free", "copied"), [(True, 225, True), (True, 223, False), (False, 900, False)]
)
def test_where_there_is_memory_for_the_copies_of_all_ranks_a_thread_writes(
    in_background: bool, free: int, copied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two ranks' 56 bytes are at most half of 224 ..."""
    monkeypatch.setattr(rank_save, "available_memory", lambda: free)
    threads = set[str]()
    save = torch.save

    def noted(*arguments: Any) -> None:
        threads.add(threading.current_thread().name)
        save(*arguments)

    monkeypatch.setattr(torch, "save", noted)
    part = saved_by(RankSave(in_background, ranks_here=2), tmp_path, state())
    assert part == SavedPart(hash_files([tmp_path / "model.pt"]), copied=copied)
    assert [name.startswith("save") for name in threads] == [copied]
    got = torch.load(tmp_path / "model.pt")
    assert torch.equal(got["head"], state()["head"]) and got["steps"] == [torch.tensor(3), 3]
    assert fsdp_checkpoint_manager.torch is torch, "verl's manager is as it was"


@pytest.mark.parametrize("in_background", [False, True])
def test_a_disk_that_cannot_be_written_to(in_background: bool, tmp_path: Path) -> None:
    """The thread's error is the part's; the save's own is raised, too, since verl's ranks wait for each other in it."""
    save = RankSave(in_background, ranks_here=1)
    if in_background:
        part = saved_by(save, tmp_path / "none", state())
    else:
        with pytest.raises(RuntimeError):
            saved_by(save, tmp_path / "none", state())
        found = save.part()
        assert found is not None
        part = found
    assert part.error is not None and part.error.startswith("RuntimeError: Parent directory ") and part.files == {}
    assert saved_by(save, tmp_path, state()).error is None, "and the next one is another"


def gib(number: float) -> str:
    return str(int(number * 2**30))


def at(group: str, limit: str, used: str, counts: str) -> dict[str, str]:
    """A group's files, in version 2."""
    folder = f"{group}/" if group else ""
    return {f"{folder}memory.max": limit, f"{folder}memory.current": used, f"{folder}memory.stat": counts}


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, 8.0),
        (at("user.slice/job", "max", gib(3), "inactive_file 0"), 8.0),
        (at("user.slice/job", gib(4), gib(3), "anon 5\ninactive_file " + gib(1.5)), 2.5),
        (at("user.slice", gib(4), gib(3), "anon 5\ninactive_file 0"), 1.0),
        (at("", gib(4), gib(2), "inactive_file 0"), 2.0),
        (at("user.slice/job", gib(64), gib(3), "inactive_file 0"), 8.0),
        (
            {
                "memory/slurm/job_1/memory.limit_in_bytes": gib(4),
                "memory/slurm/job_1/memory.usage_in_bytes": gib(1),
                "memory/slurm/job_1/memory.stat": "inactive_file 7\ntotal_inactive_file " + gib(0.5),
            },
            3.5,
        ),
    ],
)
def test_what_is_free_in_a_container(
    files: dict[str, str], free: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    available: Callable[[], Any] = lambda: SimpleNamespace(available=8 * 2**30)  # noqa: E731
    monkeypatch.setattr(psutil, "virtual_memory", available)
    monkeypatch.setattr(rank_save, "CGROUP", tmp_path)
    monkeypatch.setattr(rank_save, "PROC", tmp_path / "cgroup")
    (tmp_path / "cgroup").write_text("4:memory:/slurm/job_1\n3:cpu,cpuacct:/slurm\n0::/user.slice/job\n")
    for folder in ("memory/slurm/job_1", "user.slice/job"):
        (tmp_path / folder).mkdir(parents=True)
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n")
    assert available_memory() == free * 2**30
