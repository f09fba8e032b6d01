"""From rows to verl's parquet files: normalised, without duplicates, checked against each other, always the same bytes."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from recipe.holderpo import atomic
from recipe.holderpo.data.answers import answer_of_solution, normalize_ground_truth, problem_key
from recipe.holderpo.data.sources import (
    ANSWER_COLUMNS,
    PROBLEM_COLUMNS,
    SOURCES,
    DataError,
    Row,
    find_column,
    read_source,
)


@dataclass
class DataSet:
    """Problems of one source, in its order, and the count of what was left out and why."""

    name: str
    origin: dict[str, Any]
    problems: list[tuple[str, str]] = field(default_factory=list)
    """(problem, ground truth)."""
    other_level: int = 0
    empty: int = 0
    without_answer: int = 0
    duplicates: int = 0
    conflicting: int = 0
    """Duplicates with another answer than the first: also left out."""
    over_long: int = 0
    in_evaluation: int = 0

    @property
    def counts(self) -> dict[str, int]:
        numbers = {k: v for k, v in asdict(self).items() if isinstance(v, int)}
        return {"rows": self.origin["rows"], **numbers, "kept": len(self.problems)}


def load(
    name: str, place: str | None, progress: Callable[[list[Row], str], Iterable[Row]], keep_duplicates: bool = False
) -> DataSet:
    """Read a source and keep its usable problems; duplicates are counted, and kept if asked for.

    Raises:
        DataError: there is nothing to keep.
    """
    rows, origin = read_source(name, place)
    read = origin["rows"]
    source = SOURCES.get(name)
    problem_column = find_column(rows, PROBLEM_COLUMNS, name, "problem")
    solution = source.solution_column if source is not None and source.solution_column in rows[0] else None
    answer_column = solution or find_column(rows, ANSWER_COLUMNS, name, "answer")
    result = DataSet(name, origin, other_level=read - len(rows))
    seen: dict[str, str] = {}
    for row in progress(rows, name):
        problem = row.get(problem_column)
        if not isinstance(problem, str) or not problem.strip():
            result.empty += 1
            continue
        try:
            answer = row.get(answer_column)
            truth = normalize_ground_truth(answer_of_solution(str(answer)) if solution else answer)
        except ValueError:
            result.without_answer += 1
            continue
        key = problem_key(problem)
        if key in seen:
            result.duplicates += 1
            result.conflicting += seen[key] != truth
            if not keep_duplicates:
                continue
        seen.setdefault(key, truth)
        result.problems.append((problem.strip(), truth))
    if not result.problems:
        raise DataError(f"{name}: none of {len(rows)} rows has a problem and an answer")
    return result


def drop_repeated(train: list[DataSet]) -> None:
    """Leave out of each set the problems that a set before it has, and count them as duplicates."""
    seen: dict[str, str] = {}
    for data in train:
        kept = [(problem, truth) for problem, truth in data.problems if problem_key(problem) not in seen]
        data.duplicates += len(data.problems) - len(kept)
        data.conflicting += sum(seen.get(problem_key(problem), truth) != truth for problem, truth in data.problems)
        data.problems = kept
        seen |= {problem_key(problem): truth for problem, truth in kept}


def find_over_long(data: DataSet, count_tokens: Callable[[str], int], limit: int, drop: bool) -> None:
    """Count the problems whose prompt, template included, has more than `limit` tokens, and leave them out if `drop`."""
    kept = [(problem, truth) for problem, truth in data.problems if count_tokens(problem) <= limit]
    data.over_long = len(data.problems) - len(kept)
    if drop:
        data.problems = kept


def overlap(train: list[DataSet], evaluation: list[DataSet]) -> dict[str, set[str]]:
    """For each evaluation set, the keys of its problems that are also in a training set."""
    keys = {problem_key(problem) for data in train for problem, _ in data.problems}
    found = {data.name: keys & {problem_key(problem) for problem, _ in data.problems} for data in evaluation}
    return {name: shared for name, shared in found.items() if shared}


def drop_keys(data: DataSet, keys: set[str]) -> None:
    """Leave out the problems with these keys."""
    kept = [(problem, truth) for problem, truth in data.problems if problem_key(problem) not in keys]
    data.in_evaluation += len(data.problems) - len(kept)
    data.problems = kept


def records(data: DataSet, split: str) -> list[Row]:
    """verl's columns, one record per problem."""
    return [
        {
            "data_source": data.name,
            "prompt": [{"role": "user", "content": problem}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": truth},
            "extra_info": {"split": split, "index": index, "id": hashlib.sha256(problem.encode()).hexdigest()[:16]},
        }
        for index, (problem, truth) in enumerate(data.problems)
    ]


def write_parquet(rows: list[Row], path: Path) -> str:
    """Write records and return the SHA-256 of the file. The same records give the same bytes."""
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic.new_file(path) as part:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), part, compression="zstd")
    return hashlib.sha256(path.read_bytes()).hexdigest()
