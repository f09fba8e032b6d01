"""A cached folder is built once, replaced when its settings change, and never half there."""

import os
from pathlib import Path

import pytest

from recipe.holderpo.embedded.cache import cached_folder


def _writer(text: str):
    return lambda folder: (folder / "content").write_text(text)


def _forbidden(folder: Path) -> None:
    raise AssertionError("built again")


def test_same_settings_build_once(tmp_path: Path) -> None:
    folder = cached_folder(tmp_path / "cache" / "x", {"steps": 1, "lr": 0.1}, _writer("one"))
    before = {path: os.stat(path).st_mtime_ns for path in (folder, folder / "content", folder / "settings.json")}
    assert cached_folder(folder, {"lr": 0.1, "steps": 1}, _forbidden) == folder
    assert before == {path: os.stat(path).st_mtime_ns for path in before}


def test_other_settings_replace_the_folder(tmp_path: Path) -> None:
    folder = cached_folder(tmp_path / "x", {"steps": 1}, _writer("one"))
    (folder / "stale").touch()
    cached_folder(folder, {"steps": 2}, _writer("two"))
    assert (folder / "content").read_text() == "two"
    assert not (folder / "stale").exists()
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interrupted_build_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def build(folder: Path) -> None:
        (folder / "content").write_text("half")
        raise error

    with pytest.raises(error):
        cached_folder(tmp_path / "x", {}, build)
    assert list(tmp_path.iterdir()) == []


def test_interrupted_rebuild_keeps_the_old_folder(tmp_path: Path) -> None:
    folder = cached_folder(tmp_path / "x", {"steps": 1}, _writer("one"))
    with pytest.raises(AssertionError, match="built again"):
        cached_folder(folder, {"steps": 2}, _forbidden)
    assert (folder / "content").read_text() == "one"
    cached_folder(folder, {"steps": 1}, _forbidden)


def test_another_process_was_faster(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        cached_folder(tmp_path / "x", {"steps": 1}, _writer("theirs"))
        (folder / "content").write_text("ours")

    folder = cached_folder(tmp_path / "x", {"steps": 1}, build)
    assert (folder / "content").read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [folder]


def test_another_process_was_faster_with_other_settings(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        cached_folder(tmp_path / "x", {"steps": 2}, _writer("theirs"))

    with pytest.raises(FileExistsError, match="x"):
        cached_folder(tmp_path / "x", {"steps": 1}, build)
    assert (tmp_path / "x" / "content").read_text() == "theirs" and list(tmp_path.iterdir()) == [tmp_path / "x"]
