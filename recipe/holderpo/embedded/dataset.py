"""Question-and-answer problems as the parquet files that verl reads."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from recipe.holderpo.embedded.cache import cached_folder

TRAIN_FILE = "train.parquet"
VAL_FILE = "val.parquet"
GREEDY_SUFFIX = "_greedy"


class Problem(NamedTuple):
    """One user message and the answer that a rule can check."""

    question: str
    answer: str


def split_problems(problems: Sequence[Problem], val_size: int, seed: int) -> tuple[list[Problem], list[Problem]]:
    """Shuffle ``problems`` with ``seed`` and return (training, validation) without a question in common.

    Raises:
        ValueError: a question occurs twice, or ``val_size`` leaves one side empty.
    """
    if len({problem.question for problem in problems}) != len(problems):
        raise ValueError("problems must have distinct questions")
    if not 0 < val_size < len(problems):
        raise ValueError(f"val_size={val_size} must be between 1 and {len(problems) - 1}, one less than the problems")
    shuffled = list(problems)
    random.Random(seed).shuffle(shuffled)
    return shuffled[val_size:], shuffled[:val_size]


def write_parquet_files(
    folder: Path,
    data_source: str,
    train: Sequence[Problem],
    val: Sequence[Problem],
    val_samples: int,
    greedy: bool = True,
) -> None:
    """Write ``train.parquet`` and ``val.parquet`` into ``folder``; equal arguments give equal bytes.

    Each validation problem has two rows: ``data_source`` is sampled ``val_samples`` times, ``data_source + "_greedy"``
    decoded once with ``extra_info.greedy``; without ``greedy`` it has the first alone. verl takes the number of samples of
    a row from its column ``__rollout_n__``; the training file has none, so that ``rollout.n`` holds there.
    """
    _write(folder / TRAIN_FILE, [_row(problem, data_source, "train", i) for i, problem in enumerate(train)])
    rows = []
    for index, problem in enumerate(val):
        sampled = _row(problem, data_source, "val", 2 * index)
        rows.append(sampled | {"__rollout_n__": val_samples})
        if greedy:
            row = _row(problem, data_source + GREEDY_SUFFIX, "val", 2 * index + 1)
            row["extra_info"]["greedy"] = True
            rows.append(row | {"__rollout_n__": 1})
    _write(folder / VAL_FILE, rows)


def ensure_problem_files(
    folder: Path,
    data_source: str,
    train: Sequence[Problem],
    val: Sequence[Problem],
    val_samples: int,
    greedy: bool = True,
) -> tuple[Path, Path]:
    """`write_parquet_files` into a cached folder, unless it holds these problems; return (train, validation) files."""

    def build(new: Path) -> None:
        write_parquet_files(new, data_source, train, val, val_samples, greedy)

    content = repr([train, val, greedy])
    settings = {"version": 2, "val_samples": val_samples, "sha256": hashlib.sha256(content.encode()).hexdigest()}
    cached_folder(folder, settings, build)
    return folder / TRAIN_FILE, folder / VAL_FILE


def _row(problem: Problem, data_source: str, split: str, index: int) -> dict[str, Any]:
    return {
        "data_source": data_source,
        "prompt": [{"role": "user", "content": problem.question}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": problem.answer},
        "extra_info": {"index": index, "split": split, "greedy": False},
    }


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    # Imported here: modules of tasks use this one, and every process of a run imports those.
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path)
