"""Writes the page: template, style, script, plotting library and data in one file."""

import base64
import gzip
import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

from recipe.holderpo import atomic
from recipe.holderpo.report.page.data import page_data


def write_page(run_dirs: Sequence[Path], file: Path) -> None:
    """Make the page of some runs.

    Raises:
        ConfigError: a folder has no record that can be read, or an empty one.
        OSError: the file cannot be written.
    """
    data = json.dumps(page_data(run_dirs), allow_nan=False, separators=(",", ":"))
    parts = {
        "STYLE": _text("page.css"),
        "SCRIPT": _text("page.js"),
        "LIBRARY": _library(),
        "DATA": _packed(data.encode()),
    }
    page = _text("page.html")
    for name, part in parts.items():
        page = page.replace(f"@{name}@", part, 1)
    atomic.write_text(file, page)


def _text(name: str) -> str:
    return files(__package__).joinpath(name).read_text()


@cache
def _library() -> str:
    return _packed(files("plotly").joinpath("package_data/plotly.min.js").read_bytes())


def _packed(content: bytes) -> str:
    """Compressed, in letters that mean nothing in HTML."""
    return base64.b64encode(gzip.compress(content, mtime=0)).decode()
