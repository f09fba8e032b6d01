"""The page: template, style, script, plotting library and data in one file."""

import base64
import gzip
import hashlib
import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from recipe.holderpo.report.page.data import Records, page_data


def page(records: Mapping[Path, Records]) -> str:
    """The page of some runs, given the records of each run's folder."""
    data = json.dumps(page_data(records), allow_nan=False, separators=(",", ":"))
    library = files("plotly").joinpath("package_data/plotly.min.js").read_bytes()
    parts = {
        "ALLOWED": f"'sha256-{_sha256(_text('page.js'))}' 'sha256-{_sha256(library.decode())}'",
        "STYLE": _text("page.css"),
        "SCRIPT": _text("page.js"),
        "LIBRARY": _packed(library),
        "DATA": _packed(data.encode()),
    }
    made = _text("page.html")
    for name, part in parts.items():
        made = made.replace(f"@{name}@", part, 1)
    return made


def _text(name: str) -> str:
    return files(__package__).joinpath(name).read_text()


def _sha256(script: str) -> str:
    """By which a page allows a script, and no other."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _packed(content: bytes) -> str:
    """Compressed, in letters that mean nothing in HTML."""
    return base64.b64encode(gzip.compress(content, mtime=0)).decode()
