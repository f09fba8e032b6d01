"""Checkpoints that are whole or not there at all.

verl writes the files of `global_step_N`; `commit` then writes their sizes and hashes into `manifest.json` by one rename.
A folder without that file is no checkpoint, whatever else it holds, and one whose files differ from it is a damaged one.
Only the standard library is imported.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe.holderpo import atomic
from recipe.holderpo.atomic import wait_for_disk

MANIFEST = "manifest.json"
FORMAT = 1
PREFIX = "global_step_"
HASH_THREADS = 8  # hashing releases the GIL


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint. `manifest` has what `commit` was given, and "files"."""

    folder: Path
    step: int
    manifest: dict[str, Any]


class Damaged(ValueError):
    """A folder that is no whole checkpoint; the message says what is wrong with it."""


def commit(folder: Path, contents: dict[str, Any]) -> None:
    """Make the folder a checkpoint: its files reach the disk, then its manifest appears, in one step.

    Args:
        contents: JSON values that are kept in the manifest beside format and files.

    Raises:
        OSError: a file cannot be read or written; the folder is then no checkpoint.
    """
    files = sorted(_files(folder))
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        entries = dict(zip((str(file.relative_to(folder)) for file in files), pool.map(_entry, files), strict=True))
    for directory in {file.parent for file in files} | {folder}:
        wait_for_disk(directory)
    manifest = {"format": FORMAT, **contents, "files": entries}
    atomic.write_text(folder / MANIFEST, json.dumps(manifest | {"sha256": _own_hash(manifest)}, indent=1), sync=True)
    wait_for_disk(folder.parent)


def verify(folder: Path) -> Checkpoint:
    """The checkpoint in the folder, after all its files have been compared with its manifest.

    Raises:
        Damaged: what is wrong.
    """
    if folder not in step_folders(folder.parent):
        raise Damaged(f"{folder} is no folder {PREFIX}N")
    manifest = read_manifest(folder)
    entries = manifest["files"]
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        for problem in pool.map(lambda name: _problem(folder / name, entries[name]), entries):
            if problem:
                raise Damaged(problem)
    return Checkpoint(folder, step_of(folder), manifest)


def newest_whole(root: Path, before: float = math.inf) -> tuple[Checkpoint | None, list[str]]:
    """The whole checkpoint of the highest step below `before`, and why each newer folder was passed over."""
    passed_over = list[str]()
    for folder in step_folders(root):
        if step_of(folder) >= before:
            passed_over.append(f"{folder.name}: not before step {before:.0f}")
            continue
        try:
            return verify(folder), passed_over
        except Damaged as error:
            passed_over.append(f"{folder.name}: {error}")
    return None, passed_over


def step_folders(root: Path) -> list[Path]:
    """Folders global_step_N, the highest N first, whole or not."""
    found = [path for path in root.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdecimal() and path.is_dir()]
    return sorted(found, key=step_of, reverse=True)


def step_of(folder: Path) -> int:
    return int(folder.name.removeprefix(PREFIX))


def committed(folder: Path) -> bool:
    return (folder / MANIFEST).exists()


def remove(folder: Path) -> None:
    """Delete a folder; its manifest goes first, so that it is never a checkpoint with files missing."""
    if folder.exists():
        (folder / MANIFEST).unlink(missing_ok=True)
        wait_for_disk(folder)
        shutil.rmtree(folder)


def retain(root: Path, newest: int, keep: int) -> None:
    """Delete what is not among the `keep` newest checkpoints up to step `newest`, which has just been committed.

    Later steps are of a line that was given up when the run went back; folders without a manifest, of saves that were cut
    off.
    """
    kept = [folder for folder in step_folders(root) if committed(folder) and step_of(folder) <= newest][:keep]
    for folder in step_folders(root):
        if folder not in kept:
            remove(folder)


def forget_from(root: Path, step: float) -> None:
    """Delete the checkpoints of this step and later ones: the run has gone back before them."""
    for folder in step_folders(root):
        if step_of(folder) >= step:
            remove(folder)


def _files(folder: Path) -> Iterator[Path]:
    manifest = {folder / MANIFEST, atomic.part_of(folder / MANIFEST)}
    return (path for path in folder.rglob("*") if path.is_file() and path not in manifest)


def _entry(file: Path) -> dict[str, Any]:
    wait_for_disk(file)
    return {"bytes": file.stat().st_size, "sha256": _sha256(file)}


def _sha256(file: Path) -> str:
    digest, buffer = hashlib.sha256(), memoryview(bytearray(1 << 20))
    with file.open("rb", buffering=0) as stream:
        while read := stream.readinto(buffer):
            digest.update(buffer[:read])
    return digest.hexdigest()


def _own_hash(manifest: dict[str, Any]) -> str:
    """Of all that is in a manifest but this."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _problem(file: Path, entry: dict[str, Any]) -> str | None:
    try:
        size = file.stat().st_size
        if size != entry["bytes"]:
            return f"{file.name} has {size} bytes instead of {entry['bytes']}"
        return None if _sha256(file) == entry["sha256"] else f"{file.name} has other content than was saved"
    except FileNotFoundError:
        return f"{file.name} is missing"
    except OSError as error:
        return f"{file.name} cannot be read: {error.strerror}"


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest, compared with its own hash alone. Raises Damaged."""
    try:
        text = (folder / MANIFEST).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise Damaged("it was never finished (no manifest)") from None
    except (OSError, UnicodeDecodeError) as error:
        raise Damaged(f"its manifest cannot be read: {error}") from None
    try:
        manifest = json.loads(text)
        whole = manifest.pop("sha256") == _own_hash(manifest)
    except (ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise Damaged("its manifest has other content than was saved")
    if manifest["format"] != FORMAT:
        raise Damaged(f"its manifest has format {manifest['format']}; this version reads {FORMAT}")
    return dict(manifest)
