"""The page: template, style, script, plotting library and data in one file."""

import base64
import gzip
import hashlib
import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from recipe.holderpo import atomic
from recipe.holderpo.report.page.data import Records, page_data

PAGE_FILE = "report.html"
"""In the folder of a run that has finished."""
SCRIPTS = ("weights.js", "tokens.js", "episodes.js", "watch.js", "page.js")


def page(records: Mapping[Path, Records], version: str | None = None) -> str:
    """The page of some runs, given the records of each run's folder.

    Args:
        version: for a page that is served: it asks the server for the present one, and loads anew when that is another.
    """
    data = json.dumps(page_data(records) | {"version": version}, allow_nan=False, separators=(",", ":"))
    library = files("plotly").joinpath("package_data/plotly.min.js").read_bytes()
    script = "".join(map(_text, SCRIPTS))
    parts = {
        "ASKED": "'none'" if version is None else "'self'",
        "ALLOWED": f"'sha256-{_sha256(script)}' 'sha256-{_sha256(library.decode())}'",
        "STYLE": _text("page.css"),
        "SCRIPT": script,
        "LIBRARY": _packed(library),
        "DATA": _packed(data.encode()),
    }
    made = _text("page.html")
    for name, part in parts.items():
        made = made.replace(f"@{name}@", part, 1)
    return made


def write_page(records: Mapping[Path, Records], file: Path) -> None:
    """Raises OSError."""
    atomic.write_text(file, page(records))


def _text(name: str) -> str:
    return files(__package__).joinpath(name).read_text()


def _sha256(script: str) -> str:
    """By which a page allows a script, and no other."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _packed(content: bytes) -> str:
    """Compressed, in letters that mean nothing in HTML."""
    return base64.b64encode(gzip.compress(content, mtime=0)).decode()
