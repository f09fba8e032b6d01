"""Folders that are built once and found again as long as the settings they were built with stay the same."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

SETTINGS_FILE = "settings.json"


def cached_folder(folder: Path, settings: Mapping[str, Any], build: Callable[[Path], None]) -> Path:
    """Return ``folder``, calling ``build(empty_folder)`` first unless it was built with the same ``settings``.

    The build happens in a temporary folder beside it, which is renamed when complete: an interrupted build leaves
    nothing behind (a killed one only that hidden folder), and other settings replace the old content as a whole.

    Args:
        folder: where the result lies; its last part is its name in the cache.
        settings: everything the content depends on, as JSON values; kept in ``settings.json`` inside the folder.
        build: fills the empty folder that it is given. What it raises is raised here.
    """
    wanted = json.dumps(settings, indent=1, sort_keys=True)
    if _built_with(folder) == wanted:
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        new = work / "new"
        new.mkdir()
        build(new)
        (new / SETTINGS_FILE).write_text(wanted)
        try:
            if folder.exists():
                os.rename(folder, work / "old")
            os.rename(new, folder)
        except OSError:
            if _built_with(folder) != wanted:  # else another process was faster, with the same result
                raise
    finally:
        shutil.rmtree(work)
    return folder


def _built_with(folder: Path) -> str | None:
    try:
        return (folder / SETTINGS_FILE).read_text()
    except FileNotFoundError:
        return None
