"""Where problems come from: the named data sets of the paper on the Hugging Face hub, or local files and folders."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROBLEM_COLUMNS = ("problem", "question", "Problem")
ANSWER_COLUMNS = ("answer", "final_answer", "Answer")

Row = dict[str, Any]


class DataError(ValueError):
    """Data that cannot be used: one line that says what is wrong and where."""


@dataclass(frozen=True)
class Source:
    """A named data set: where it lies on the hub, and which of its rows and columns are meant."""

    hub_id: str
    splits: tuple[str, ...] = ("train",)
    config: str | None = None
    solution_column: str | None = None
    """Where the answer is the last \\boxed{} of this column instead of a column of its own."""
    keep: Callable[[Row], bool] | None = None
    count: int | None = None
    """Problems that it is known to give (math_3to5: without those of MATH500); another number is reported."""


SOURCES: dict[str, Source] = {
    # The 12,500 problems of MATH; those of MATH500 are left out where that is an evaluation set.
    "math_3to5": Source(
        "DigitalLearningGmbH/MATH-lighteval",
        splits=("train", "test"),
        solution_column="solution",
        keep=lambda row: str(row.get("level", "")).removeprefix("Level ") in ("3", "4", "5"),
        count=8523,
    ),
    "gsm8k": Source("openai/gsm8k", config="main", count=7473),
    "aime24": Source("HuggingFaceH4/aime_2024", count=30),
    "amc": Source("AI-MO/aimo-validation-amc", count=83),
    "math500": Source("HuggingFaceH4/MATH-500", splits=("test",), count=500),
    "minerva": Source("math-ai/minervamath", splits=("test",), count=272),
    "olympiad_bench": Source("Hothan/OlympiadBench", config="OE_TO_maths_en_COMP", count=674),
    "aime25": Source("math-ai/aime25", splits=("test",), count=30),
}
BENCHMARKS = ("aime24", "amc", "math500", "minerva", "olympiad_bench")
"""The five of the paper, in its column order."""


def parse_source(argument: str) -> tuple[str, str | None]:
    """(name, place) of a command-line argument: a known name, NAME=PLACE, or a place alone, named after its last part.

    A place is a file (.jsonl, .json, .parquet), a folder of such files, or a hub id."""
    name, separator, place = argument.partition("=")
    if separator:
        return name, place
    if argument in SOURCES:
        return argument, None
    return Path(argument).stem.removeprefix("eval_").removeprefix("train_"), argument


def read_source(name: str, place: str | None) -> tuple[list[Row], dict[str, Any]]:
    """The rows of a source, and its origin: {"place", "sha256", "rows"}, the hash of the files' or else the rows' bytes.

    Raises:
        DataError: it is not there, or cannot be read, or has no rows.
    """
    source = SOURCES.get(name, Source(place or name))
    if place is not None and Path(place).expanduser().exists():
        rows, sha256 = _read_local(Path(place).expanduser())
    else:
        rows = _read_hub(place or source.hub_id, source)
        sha256 = hashlib.sha256(json.dumps(rows, sort_keys=True, default=str).encode()).hexdigest()
    if not rows:
        raise DataError(f"{name}: {place or source.hub_id} has no rows")
    origin = {"place": place or source.hub_id, "sha256": sha256, "rows": len(rows)}
    if source.keep is not None and "level" in rows[0]:
        rows = [row for row in rows if source.keep(row)]
    return rows, origin


def _read_local(path: Path) -> tuple[list[Row], str]:
    files = sorted(p for p in path.rglob("*") if p.suffix in _READERS) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path} holds no file that ends in {', '.join(_READERS)}")
    digest = hashlib.sha256()
    rows: list[Row] = []
    for file in files:
        if file.suffix not in _READERS:
            raise DataError(f"{file} ends in {file.suffix!r}; allowed are {', '.join(_READERS)}")
        digest.update(file.read_bytes())
        try:
            read = _READERS[file.suffix](file)
        except DataError:
            raise
        except (ValueError, OSError) as error:
            raise DataError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
        for number, row in enumerate(read, 1):
            check_row(row, f"{file}, row {number}")
        rows += read
    return rows, digest.hexdigest()


def check_row(row: Any, where: str) -> None:
    """
    Raises:
        DataError: it is not an object, or holds text that no file can: half of a character of two (a lone surrogate).
    """
    if not isinstance(row, dict):
        raise DataError(
            f"{where} is {' '.join(repr(row)[:60].split())}; allowed are objects with a problem and an answer"
        )
    for column, value in row.items():
        try:
            str(value).encode()
        except UnicodeEncodeError:
            raise DataError(f"{where}, column {column!r} is not Unicode text: a lone surrogate") from None


def _read_jsonl(file: Path) -> list[Row]:
    rows = []
    for number, line in enumerate(
        file.read_text(encoding="utf-8").split("\n"), 1
    ):  # JSON may hold other line separators
        if line.strip():
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise DataError(f"{file}, line {number}: {error}") from error
    return rows


def _read_json(file: Path) -> list[Row]:
    rows = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(rows, list):
        raise DataError(f"{file} holds one {type(rows).__name__}; allowed is a list of objects, or .jsonl")
    return rows


def _read_parquet(file: Path) -> list[Row]:
    import pyarrow.parquet

    rows: list[Row] = pyarrow.parquet.read_table(file).to_pylist()
    return rows


_READERS: dict[str, Callable[[Path], list[Row]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".parquet": _read_parquet,
}


def _read_hub(place: str, source: Source) -> list[Row]:
    import datasets

    rows: list[Row] = []
    try:
        for split in source.splits:
            rows += datasets.load_dataset(place, source.config, split=split).to_list()
    except Exception as error:  # the library raises whatever the hub, the network or a loader happen to raise
        raise DataError(
            f"{place} cannot be loaded: {' '.join(str(error).split())[:200]} (offline? give a local file: NAME=PATH)"
        ) from error
    return rows


def find_column(rows: list[Row], candidates: tuple[str, ...], name: str, what: str) -> str:
    """The first of the candidate columns that the rows have.

    Raises:
        DataError: they have none of them.
    """
    for column in candidates:
        if column in rows[0]:
            return column
    raise DataError(
        f"{name} has the columns {', '.join(map(str, rows[0]))}; the {what} must be in one of {', '.join(candidates)}"
    )
