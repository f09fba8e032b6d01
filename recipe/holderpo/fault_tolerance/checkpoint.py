"""Checkpoints that are complete or not there at all.

verl writes the files of `global_step_N`; `commit` then writes their sizes and hashes into `manifest.json` by one rename.
A folder without that file is no checkpoint, whatever else it holds, and one whose files differ from it is a corrupt one.
Only the standard library is imported.
"""

import hashlib
import json
import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe.holderpo import atomic
from recipe.holderpo.atomic import wait_for_disk

MANIFEST = "manifest.json"
FORMAT = 2
PREFIX = "global_step_"
HASH_THREADS = 8  # hashing releases the GIL
ENDING_SECONDS, POLL_SECONDS = 10.0, 0.1
DELETED = ".deleted"

Entry = dict[str, Any]
"""A file in a manifest: {"bytes", "sha256"}."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint. `manifest` has what `commit` was given, and "files"."""

    folder: Path
    step: int
    manifest: dict[str, Any]


class CorruptCheckpoint(ValueError):
    """A folder that is no complete checkpoint; the message says what is wrong with it."""


def commit(folder: Path, contents: dict[str, Any], hashed: Mapping[str, Entry] | None = None) -> None:
    """Make the folder a checkpoint: its files reach the disk, then its manifest appears, in one step.

    Args:
        contents: JSON values that are kept in the manifest beside format and files.
        hashed: what `hash_files` has said of some of the files, by path, where they were written.

    Raises:
        OSError: a file cannot be read or written, or has another size here than where it was written; the folder is then no
            checkpoint.
    """
    files, known = sorted(_files(folder)), hashed or {}
    for file in files:
        if str(file) in known and file.stat().st_size != known[str(file)]["bytes"]:
            raise OSError(
                f"{file} has {file.stat().st_size} bytes here, and {known[str(file)]['bytes']} where it was written: do all "
                "nodes see the same disk?"
            )
    found = {**known, **hash_files([file for file in files if str(file) not in known])}
    entries = {str(file.relative_to(folder)): found[str(file)] for file in files}
    for directory in {file.parent for file in files} | {folder}:
        wait_for_disk(directory)
    manifest = {"format": FORMAT, **contents, "files": entries}
    atomic.write_text(folder / MANIFEST, json.dumps(manifest | {"sha256": _own_hash(manifest)}, indent=1), sync=True)
    wait_for_disk(folder.parent)


def hash_files(files: Sequence[Path]) -> dict[str, Entry]:
    """Size and hash of each file, by path, once its content has reached the disk.

    To be called where a file was written: another node's `fsync` does not flush this one's, and there the content is still in
    memory.
    """
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        return dict(zip(map(str, files), pool.map(_entry, files), strict=True))


def verify(folder: Path) -> Checkpoint:
    """The checkpoint in the folder, after all its files have been compared with its manifest.

    Raises:
        CorruptCheckpoint: what is wrong.
    """
    if folder not in step_folders(folder.parent):
        raise CorruptCheckpoint(f"{folder} is no folder {PREFIX}N")
    manifest = read_manifest(folder)
    entries = manifest["files"]
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        for problem in pool.map(lambda name: _problem(folder / name, entries[name]), entries):
            if problem:
                raise CorruptCheckpoint(problem)
    return Checkpoint(folder, step_of(folder), manifest)


def newest_complete(root: Path, before: float = math.inf) -> tuple[Checkpoint | None, list[str]]:
    """The complete checkpoint of the highest step below `before`, and why each newer folder was skipped."""
    skipped = list[str]()
    for folder in step_folders(root):
        if step_of(folder) >= before:
            skipped.append(f"{folder.name}: not before step {before:.0f}")
            continue
        try:
            return verify(folder), skipped
        except CorruptCheckpoint as error:
            skipped.append(f"{folder.name}: {error}")
    return None, skipped


def step_folders(root: Path) -> list[Path]:
    """Folders global_step_N, the highest N first, whole or not."""
    found = [path for path in root.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdecimal() and path.is_dir()]
    return sorted(found, key=step_of, reverse=True)


def step_folder(root: Path, step: int) -> Path:
    return root / f"{PREFIX}{step}"


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


def prune(root: Path, newest: int, keep: int) -> None:
    """Delete what is not among the `keep` newest checkpoints up to step `newest`, which has just been committed.

    Later steps were trained before the run went back to an earlier checkpoint; folders without a manifest are of saves that
    were interrupted.
    """
    kept = [folder for folder in step_folders(root) if committed(folder) and step_of(folder) <= newest][:keep]
    for folder in step_folders(root):
        if folder not in kept:
            remove(folder)


def delete_unfinished(root: Path) -> None:
    """Delete what saves that were interrupted have left. Where it cannot be, the next save or start does.

    What wrote it may have been ended a moment ago, and not be gone yet: it gets another name first, so that it can no longer
    become a checkpoint."""
    for folder in step_folders(root):
        if not committed(folder):
            with suppress(OSError):
                folder.rename(folder.with_name(folder.name + DELETED))
    for folder in root.glob(f"{PREFIX}*{DELETED}"):
        end = time.monotonic() + ENDING_SECONDS
        while folder.exists() and time.monotonic() < end:
            shutil.rmtree(folder, ignore_errors=True)
            time.sleep(POLL_SECONDS * folder.exists())


def delete_from(root: Path, step: float) -> None:
    """Delete the checkpoints of this step and of later ones: the run goes back before them."""
    for folder in step_folders(root):
        if step_of(folder) >= step:
            remove(folder)


def _files(folder: Path) -> Iterator[Path]:
    manifest = {folder / MANIFEST, atomic.part_of(folder / MANIFEST)}
    return (path for path in folder.rglob("*") if path.is_file() and path not in manifest)


def _entry(file: Path) -> Entry:
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
    """The manifest, compared with its own hash alone. Raises CorruptCheckpoint."""
    try:
        text = (folder / MANIFEST).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CorruptCheckpoint("it was never finished (no manifest)") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CorruptCheckpoint(f"its manifest cannot be read: {error}") from None
    try:
        manifest = json.loads(text)
        unchanged = manifest.pop("sha256") == _own_hash(manifest)
    except (ValueError, KeyError, TypeError, AttributeError):
        unchanged = False
    if not unchanged:
        raise CorruptCheckpoint("its manifest has other content than was saved")
    if manifest["format"] != FORMAT:
        raise CorruptCheckpoint(f"its manifest has format {manifest['format']}; this version reads {FORMAT}")
    return dict(manifest)
