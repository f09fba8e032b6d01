"""Sampling answers with vLLM, stored after each chunk of problems, so that a stopped evaluation can be resumed."""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from recipe.holderpo import atomic
from recipe.holderpo.config.errors import ConfigError
from recipe.holderpo.data.templates import prompt_ids
from recipe.holderpo.rewards.math import FAULTS
from recipe.holderpo.seeds import request_seed

NEEDED = {"index": (int,), "sample": (int,), "score": (int, float)}
"""Keys that an answer must have to count, and what their values are."""


@dataclass(frozen=True)
class Problem:
    benchmark: str
    index: int
    text: str
    ground_truth: str


@dataclass(frozen=True)
class Sampling:
    """n answers per problem; temperature 0 is greedy, with n = 1."""

    n: int
    temperature: float
    top_p: float
    max_tokens: int
    seed: int


def read_problems(path: Path) -> list[Problem]:
    """Problems of an eval_NAME.parquet that `recipe.holderpo.data` wrote.

    Raises:
        ConfigError: there is no such file, or another one.
    """
    import pyarrow.parquet

    if not path.exists():
        raise ConfigError(f"benchmarks names {path}, which does not exist; python -m recipe.holderpo.data makes it")
    try:
        problems = [
            Problem(
                row["data_source"],
                row["extra_info"]["index"],
                row["prompt"][-1]["content"],
                row["reward_model"]["ground_truth"],
            )
            for row in pyarrow.parquet.read_table(path).to_pylist()
        ]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:  # ValueError: pyarrow's own are such
        raise ConfigError(
            f"benchmarks names {path}, which is not as python -m recipe.holderpo.data writes it: "
            f"{type(error).__name__} {' '.join(str(error).split())[:200]}"
        ) from None
    if not problems:
        raise ConfigError(f"benchmarks names {path}, which has no problems; allowed are files with at least one")
    return problems


def read_answers(path: Path) -> list[dict[str, Any]]:
    """The answers in a `generations/NAME.jsonl`; of damaged lines, a note on standard error. [] where there is no file."""
    rows = []
    for number, line in enumerate(atomic.complete_lines(path) if path.exists() else [], 1):
        try:
            row = json.loads(line)
            if not NEEDED.keys() <= row.keys():
                raise ValueError("keys are missing")
            kinds = NEEDED | {key: (int, float) for key in FAULTS if key in row}
            if not all(type(row[key]) in allowed for key, allowed in kinds.items()):
                raise ValueError("values are of other types")
        except (ValueError, AttributeError, RecursionError) as error:
            print(
                f"note: {path}, line {number} is damaged ({error}): its problem counts as not answered", file=sys.stderr
            )
        else:
            rows.append(row)
    return rows


class Store:
    """The answers of one benchmark, `generations/NAME.jsonl`: one JSON object per answer, appended as they are graded."""

    def __init__(self, path: Path, n: int):
        """Keeps the problems in the file that have all of their n answers; the others are dropped, to be sampled again."""
        self.path = path
        rows = read_answers(path)
        answers = Counter(row["index"] for row in rows)
        self.rows = [row for row in rows if answers[row["index"]] == n]
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(path, "".join(map(_line, self.rows)))

    def done(self) -> set[int]:
        """Indices of the problems that have answers."""
        return {row["index"] for row in self.rows}

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Append all answers of some problems."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(map(_line, rows)))
        self.rows += rows

    def right(self) -> list[list[float]]:
        """Scores of each problem's answers, problems in order of their index."""
        by_problem: dict[int, list[float]] = {}
        for row in sorted(self.rows, key=lambda row: (row["index"], row["sample"])):
            by_problem.setdefault(row["index"], []).append(row["score"])
        return list(by_problem.values())


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


class Sampler:
    """A vLLM engine and the prompt template of training."""

    def __init__(self, model: str, template: str | None, engine: dict[str, Any]):
        from vllm import LLM

        try:
            self.llm = LLM(model=model, **engine)
        except (TypeError, ValueError, OSError) as error:  # an unknown argument; pydantic's, vLLM's; transformers'
            # pydantic's text has all of its input
            why = "; ".join(e["msg"] for e in error.errors()) if isinstance(error, ValidationError) else str(error)
            raise ConfigError(f"vLLM refuses engine={engine} for model {model!r}: {why}") from error
        self.tokenizer = self.llm.get_tokenizer()
        self.template = template

    def prompt(self, problem: Problem) -> dict[str, list[int]]:
        return {"prompt_token_ids": prompt_ids(self.tokenizer, problem.text, self.template)}

    def answers(self, problems: list[Problem], sampling: Sampling) -> Iterator[tuple[Problem, int, Any]]:
        """(problem, sample, vLLM's completion) of every answer. Each has a seed of its own."""
        from vllm import SamplingParams

        requests = [(problem, sample) for problem in problems for sample in range(sampling.n)]
        parameters = [
            SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_tokens,
                seed=request_seed(sampling.seed, problem.index, sample, problem.benchmark)
                if sampling.temperature > 0
                else None,
            )
            for problem, sample in requests
        ]
        outputs = self.llm.generate([self.prompt(problem) for problem, _ in requests], parameters, use_tqdm=False)
        for (problem, sample), output in zip(requests, outputs, strict=True):
            yield problem, sample, output.outputs[0]
