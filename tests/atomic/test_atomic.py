"""A file or folder is complete or absent: after errors, after a kill, and with several processes at once."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from recipe.holderpo import atomic

ROOT = Path(__file__).parents[2]


def test_a_text_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "table.txt"
    for text in ("old", "κ ± 1\n"):
        atomic.write_text(path, text)
        assert path.read_bytes() == text.encode("utf-8")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_error_while_writing_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "data.parquet"
    path.write_text("old")
    with pytest.raises(error), atomic.new_file(path) as part:
        part.write_text("half")
        raise error
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_synced_means_content_first_then_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def logged_fsync(descriptor: int) -> None:
        calls.append("fsync " + os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def logged_replace(old: Path, new: Path) -> None:
        calls.append(f"{old.name} -> {new.name}")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", logged_fsync)
    monkeypatch.setattr(os, "replace", logged_replace)
    folder = tmp_path / "run"
    folder.mkdir()
    atomic.write_text(folder / "a", "text", sync=True)
    assert calls == ["fsync a.part", "a.part -> a", "fsync run"]
    calls.clear()
    atomic.write_text(folder / "a", "text")
    assert calls == ["a.part -> a"]


@pytest.mark.parametrize("make", ["new_file", "new_folder"])
def test_a_killed_process_leaves_the_old_one_and_a_part(tmp_path: Path, make: str) -> None:
    target = tmp_path / "x"
    if make == "new_folder":
        target.mkdir()
    (target / "content" if make == "new_folder" else target).write_text("old")
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom recipe.holderpo import atomic\n"
        "with getattr(atomic, sys.argv[1])(Path(sys.argv[2])) as new:\n"
        "    (new / 'content' if new.is_dir() else new).write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, make, str(target)], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (target / "content" if make == "new_folder" else target).read_text() == "old"
    (left,) = [path for path in tmp_path.iterdir() if path != target]
    assert left.name.startswith("x.") and left.name.endswith(".part")
    if make == "new_file":  # the next writer overwrites what was left
        atomic.write_text(target, "new")
        assert target.read_text() == "new" and list(tmp_path.iterdir()) == [target]


def _fill(folder: Path, text: str, replace: bool = False) -> None:
    with atomic.new_folder(folder, replace=replace) as new:
        assert list(new.iterdir()) == [] and not (replace ^ folder.exists())
        (new / "content").write_text(text)


def test_a_new_folder_is_filled_elsewhere_and_readable_by_the_group(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        _fill(tmp_path / "cache" / "x", "one")
    finally:
        os.umask(mask)
    assert (tmp_path / "cache" / "x").stat().st_mode & 0o777 == 0o750
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["x"]


def test_a_folder_that_is_there_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    _fill(folder, "one")
    (folder / "stale").touch()
    with pytest.raises(FileExistsError, match="x"), atomic.new_folder(folder) as new:
        (new / "content").write_text("two")
    assert (folder / "content").read_text() == "one" and list(tmp_path.iterdir()) == [folder]
    _fill(folder, "two", replace=True)
    assert [path.name for path in folder.iterdir()] == ["content"] and (folder / "content").read_text() == "two"
    assert list(tmp_path.iterdir()) == [folder]


def test_an_error_while_filling_leaves_the_old_folder(tmp_path: Path) -> None:
    _fill(tmp_path / "x", "one")
    with pytest.raises(KeyboardInterrupt), atomic.new_folder(tmp_path / "x", replace=True) as new:
        (new / "content").write_text("half")
        raise KeyboardInterrupt
    assert (tmp_path / "x" / "content").read_text() == "one" and list(tmp_path.iterdir()) == [tmp_path / "x"]


def test_the_first_of_two_processes_to_finish_makes_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    with pytest.raises(FileExistsError), atomic.new_folder(folder) as slow:
        (slow / "content").write_text("slow")
        _fill(folder, "fast")
    assert (folder / "content").read_text() == "fast" and list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    ("text", "lines"),
    [(b"", []), (b"a\nb\n", [b"a", b"b"]), (b"a\n\nb", [b"a", b""]), (b"a", []), (b"a\rb\xff\n", [b"a\rb\xff"])],
)
def test_a_line_without_its_end_is_not_there(tmp_path: Path, text: bytes, lines: list[bytes]) -> None:
    (tmp_path / "x").write_bytes(text)
    assert atomic.complete_lines(tmp_path / "x") == lines


def test_only_the_standard_library_is_imported() -> None:
    code = (
        "import sys, recipe.holderpo.atomic as _\n"
        "print({m.split('.')[0] for m in sys.modules} - set(sys.stdlib_module_names) - {'recipe', '__main__'})"
    )
    command = [sys.executable, "-S", "-c", code]  # -S: without what .pth files of installed packages import
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip() == "set()"
