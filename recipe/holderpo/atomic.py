"""Files and folders that are complete or absent, however the process that writes them ends.

Each is written under another name that ends in `.part`, in the same folder, and renamed when it is complete. An error
deletes the unfinished one; a process that is killed leaves it, and it can be deleted. Lines that are appended are complete
once they end in a newline. Only the standard library is imported.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PART = ".part"


def part_of(path: Path) -> Path:
    """Where `new_file` and `write_text` write what becomes `path`."""
    return path.with_name(path.name + PART)


@contextmanager
def new_file(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """Yields the path to write to; at the end of the block what was written there replaces `path`.

    An error in the block leaves `path` as it was. One process at a time may write a path.

    Args:
        path: in a folder that exists.
        sync: wait until content and name are on disk, so that not even a power failure leaves part of the file.
    """
    part = part_of(path)
    try:
        yield part
        if sync:
            wait_for_disk(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    if sync:
        wait_for_disk(path.parent)


def write_text(path: Path, text: str, *, sync: bool = False) -> None:
    """`new_file` with a text, in UTF-8."""
    with new_file(path, sync=sync) as part:
        part.write_text(text, encoding="utf-8")


@contextmanager
def new_folder(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yields an empty folder to fill, which becomes `folder` at the end of the block; parents are made.

    An error in the block leaves `folder` as it was. Several processes may make the same folder: the first one to finish
    does.

    Args:
        folder: where the result will be.
        replace: whether a folder that is there at the end of the block is replaced as a whole.

    Raises:
        FileExistsError: another process was faster, or the folder was there before and `replace` is false.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=PART, dir=folder.parent))
    try:
        new = work / "new"
        new.mkdir()  # with the user's umask; `work` itself is for its owner alone
        yield new
        if replace and folder.exists():
            os.rename(folder, work / "old")
        try:
            os.rename(new, folder)
        except OSError as error:
            if error.errno == errno.ENOTEMPTY:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(folder)) from None
            raise
    finally:
        shutil.rmtree(work)


def complete_lines(path: Path) -> list[bytes]:
    """Lines of a file that is appended to. A last one without a newline, which a killed process left, is not.

    They are not decoded: one that is damaged must not take the others with it."""
    *lines, _unfinished = path.read_bytes().split(b"\n")
    return lines


def wait_for_disk(path: Path) -> None:
    """Return when a file's content, or a folder's list of names, is on disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
