"""A checkpoint is whole or not there, whatever happens to its files."""

import hashlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recipe.holderpo.fault_tolerance import checkpoint
from recipe.holderpo.fault_tolerance.checkpoint import (
    MANIFEST,
    CorruptCheckpoint,
    commit,
    committed,
    hash_files,
    newest_complete,
    prune,
    step_folders,
    verify,
)

FILES = {"actor/model.pt": b"weights" * 100, "actor/optim.pt": b"moments" * 50, "data.pt": b"position"}


def save(root: Path, step: int, **contents: object) -> Path:
    folder = root / f"global_step_{step}"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    commit(folder, {"step": step, **contents})
    return folder


def test_a_committed_folder_is_whole_and_says_what_it_was_given(tmp_path: Path) -> None:
    found = verify(save(tmp_path, 30, p=0.5))
    assert found.step == 30 and found.manifest["p"] == 0.5
    assert {name: entry["bytes"] for name, entry in found.manifest["files"].items()} == {
        name: len(content) for name, content in FILES.items()
    }


@given(data=st.data())
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_flipped_bit_truncation_or_missing_file_is_found(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("damage")
    save(root, 1)
    folder = save(root, 2)
    victim = folder / data.draw(st.sampled_from([*FILES, MANIFEST]))
    content = bytearray(victim.read_bytes())
    where = data.draw(st.integers(0, len(content) - 1))
    damage = data.draw(st.sampled_from(["flip", "truncate", "delete", "append"]))
    if damage == "flip":
        content[where] ^= 1 << data.draw(st.integers(0, 7))
    elif damage == "truncate":
        del content[where:]
    elif damage == "append":
        content += b"x"
    if damage == "delete":
        victim.unlink()
    else:
        victim.write_bytes(content)
    with pytest.raises(CorruptCheckpoint):
        verify(folder)
    found, skipped = newest_complete(root)
    assert found is not None and found.step == 1
    (line,) = skipped
    assert line.startswith("global_step_2: ")
    assert victim.name in line or victim.name == MANIFEST


@pytest.mark.parametrize("call", ["replace", "fsync", "write_text"])
def test_a_commit_that_is_cut_off_anywhere_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Killed before, in and after each of its system calls: either there is no manifest, or all is there."""
    save(tmp_path, 1)
    for stop_at in range(100):
        calls = 0
        owner = Path if call == "write_text" else os
        original = getattr(owner, call)

        def counted(*args: object, stop_at: int = stop_at, original: object = original, **kwargs: object) -> object:
            nonlocal calls
            calls += 1
            if calls > stop_at:
                raise KeyboardInterrupt
            return original(*args, **kwargs)  # type: ignore[operator]

        with monkeypatch.context() as patched:
            patched.setattr(owner, call, counted)
            try:
                save(tmp_path, 2)
                done = True
            except KeyboardInterrupt:
                done = False
        found, _ = newest_complete(tmp_path)
        assert found is not None and found.step == (2 if (tmp_path / "global_step_2" / MANIFEST).exists() else 1)
        if done:
            assert found.step == 2 and stop_at > 0
            return
        checkpoint.remove(tmp_path / "global_step_2")
    raise AssertionError("never finished")


def test_a_manifest_that_a_killed_commit_left_unfinished_is_no_file_of_the_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "global_step_2"
    folder.mkdir()
    (folder / f"{MANIFEST}.part").write_text("{")
    save(tmp_path, 2)
    assert verify(folder).manifest["files"].keys() == FILES.keys()
    assert not (folder / f"{MANIFEST}.part").exists()


def test_retention_counts_committed_ones_and_clears_what_was_cut_off(tmp_path: Path) -> None:
    for step in (10, 20, 30, 9, 100):
        save(tmp_path, step)
    (tmp_path / "global_step_40" / "actor").mkdir(parents=True)
    (tmp_path / "global_step_latest").mkdir()
    (tmp_path / "notes").write_text("mine")
    prune(tmp_path, newest=100, keep=9)
    assert [f.name for f in step_folders(tmp_path)] == [f"global_step_{n}" for n in (100, 30, 20, 10, 9)]
    prune(tmp_path, newest=30, keep=2)  # the run has gone back to 20, and on
    left = sorted(p.name for p in tmp_path.iterdir())
    assert left == ["global_step_20", "global_step_30", "global_step_latest", "notes"]


def test_a_folder_of_another_name_is_no_checkpoint(tmp_path: Path) -> None:
    folder = save(tmp_path, 1).rename(tmp_path / "best")
    with pytest.raises(CorruptCheckpoint, match="best is no folder global_step_N"):
        verify(folder)
    with pytest.raises(CorruptCheckpoint, match="is no folder global_step_N"):
        verify(tmp_path / "global_step_2")


def test_a_removal_that_is_cut_off_leaves_no_half_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(tmp_path, 1)

    def cut_off(path: Path) -> None:
        (path / "data.pt").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.shutil, "rmtree", cut_off)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.remove(folder)
    assert newest_complete(tmp_path) == (None, ["global_step_1: it was never finished (no manifest)"])


def test_another_format_is_named(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    manifest = json.loads((folder / MANIFEST).read_text()) | {"format": 99}
    del manifest["sha256"]
    (folder / MANIFEST).write_text(json.dumps(manifest | {"sha256": checkpoint._own_hash(manifest)}))
    with pytest.raises(CorruptCheckpoint, match="format 99; this version reads 2"):
        verify(folder)


def test_what_was_hashed_where_it_was_written_is_not_read_again(tmp_path: Path) -> None:
    folder = tmp_path / "global_step_1"
    folder.mkdir()
    for name in ("a.pt", "b.pt"):
        (folder / name).write_bytes(name.encode() * 100)
    hashed = hash_files([folder / "a.pt"])
    assert hashed == {str(folder / "a.pt"): {"bytes": 400, "sha256": hashlib.sha256(b"a.pt" * 100).hexdigest()}}
    (folder / "a.pt").write_bytes(b"b.pt" * 100)  # as many bytes, so that only reading it again would show it
    commit(folder, {"step": 1}, hashed)
    with pytest.raises(CorruptCheckpoint, match=r"a\.pt has other content than was saved"):
        verify(folder)
    (folder / "a.pt").write_bytes(b"a.pt" * 100)
    assert verify(folder).manifest["files"]["b.pt"]["sha256"] == hashlib.sha256(b"b.pt" * 100).hexdigest()


def test_a_file_that_is_shorter_here_than_where_it_was_written_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "global_step_1"
    folder.mkdir()
    (folder / "a.pt").write_bytes(b"12")
    hashed = {str(folder / "a.pt"): {"bytes": 3, "sha256": ""}}
    with pytest.raises(OSError, match="has 2 bytes here, and 3 where it was written: do all nodes see the same disk"):
        commit(folder, {"step": 1}, hashed)
    assert not committed(folder)
