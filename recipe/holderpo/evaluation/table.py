"""Results as text, Markdown, CSV and JSON, benchmarks in the paper's column order."""

import csv
import io
import json
import math
from collections.abc import Mapping
from typing import Any

from recipe.holderpo.data.sources import BENCHMARKS
from recipe.holderpo.evaluation.metrics import Estimate, average
from recipe.holderpo.report.text_table import text_table

LABELS = {
    "aime24": "AIME24",
    "amc": "AMC",
    "math500": "MATH500",
    "minerva": "Minerva",
    "olympiad_bench": "Oly.",
    "aime25": "AIME25",
}
Results = Mapping[str, Mapping[str, Estimate]]
"""Row label -> benchmark -> accuracy."""


def columns(results: Results) -> list[str]:
    """The benchmarks that occur, the paper's first and in its order."""
    present = dict.fromkeys(name for row in results.values() for name in row)
    return [name for name in BENCHMARKS if name in present] + [name for name in present if name not in BENCHMARKS]


def row_average(row: Mapping[str, Estimate]) -> Estimate | None:
    """The paper's average: over its five benchmarks. None unless all five are there."""
    return average([row[name] for name in BENCHMARKS]) if all(name in row for name in BENCHMARKS) else None


def _cells(results: Results, head: str) -> list[list[str]]:
    names = columns(results)
    with_average = any(row_average(row) for row in results.values())
    lines = [[head, *(LABELS.get(name, name) for name in names), *(["avg"] if with_average else [])]]
    for label, row in results.items():
        estimates = [row.get(name) for name in names] + ([row_average(row)] if with_average else [])
        lines.append([label, *(_percent(estimate) for estimate in estimates)])
    return lines


def _percent(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    error = "" if math.isnan(estimate.standard_error) else f" ± {100 * estimate.standard_error:.1f}"
    return f"{100 * estimate.value:.1f}{error}"


def as_text(results: Results, head: str = "model") -> str:
    """Aligned columns; `head` says what the rows are."""
    return text_table(_cells(results, head))


def as_markdown(results: Results) -> str:
    head, *rows = _cells(results, "model")
    return "\n".join(
        ["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *("| " + " | ".join(r) + " |" for r in rows)]
    )


def as_csv(results: Results) -> str:
    """One line per model; each benchmark has its percentage and its standard error, in percentage points."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = columns(results)
    writer.writerow(["model", *(f"{name}{suffix}" for name in (*names, "average") for suffix in ("", "_se"))])
    for label, row in results.items():
        estimates = [*(row.get(name) for name in names), row_average(row)]
        numbers = [n for e in estimates for n in ((100 * e.value, 100 * e.standard_error) if e else ("", ""))]
        writer.writerow([label, *(n if n == "" else f"{n:.4f}" for n in numbers)])
    return text.getvalue()


def as_json(results: Results) -> str:
    """Fractions of 1, unrounded."""
    document: dict[str, Any] = {}
    for label, row in results.items():
        named = {name: row[name] for name in columns({label: row})}
        mean = row_average(row)
        document[label] = {
            name: {"accuracy": e.value, "standard_error": None if math.isnan(e.standard_error) else e.standard_error}
            for name, e in (*named.items(), *([("average", mean)] if mean else []))
        }
    return json.dumps(document, indent=2) + "\n"
