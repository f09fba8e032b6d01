"""Folders that are built once and used again as long as the settings they were built with stay the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from recipe.holderpo import atomic

SETTINGS_FILE = "settings.json"


def cached_folder(folder: Path, settings: Mapping[str, Any], build: Callable[[Path], None]) -> Path:
    """Return ``folder``, calling ``build(empty_folder)`` first unless it was built with the same ``settings``.

    The build happens in a folder beside it, which is renamed when complete (`atomic.new_folder`): an interrupted build
    leaves the old content as it was, and other settings replace it as a whole.

    Args:
        folder: where the result lies; its last part is its name in the cache.
        settings: everything the content depends on, as JSON values; kept in ``settings.json`` inside the folder.
        build: fills the empty folder that it is given. What it raises is raised here.
    """
    wanted = json.dumps(settings, indent=1, sort_keys=True)
    if _built_with(folder) == wanted:
        return folder
    try:
        with atomic.new_folder(folder, replace=folder.exists()) as new:
            build(new)
            (new / SETTINGS_FILE).write_text(wanted)
    except OSError:  # another process was faster, or is replacing the folder at the same time
        if _built_with(folder) != wanted:
            raise
    return folder


def _built_with(folder: Path) -> str | None:
    try:
        return (folder / SETTINGS_FILE).read_text()
    except FileNotFoundError:
        return None
