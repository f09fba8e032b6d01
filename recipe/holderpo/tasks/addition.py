"""A task for a small pre-trained model: sums of single digits in words; the last number of the answer counts."""

from itertools import product
from pathlib import Path

from recipe.holderpo.embedded.dataset import Problem, ensure_problem_files, split_problems
from recipe.holderpo.tasks.registry import Task

DATA_SOURCE = "number/addition"
VAL_PROBLEMS = 16
VAL_SAMPLES = 4
SPLIT_SEED = 0

TASK = Task(
    data={"addition": "recipe.holderpo.tasks.addition:ensure_data"},
    models={"smollm2": "recipe.holderpo.embedded.smollm2:ensure_smollm2"},
)


def all_problems() -> list[Problem]:
    """All 100 additions of two single digits, as questions in words."""
    return [
        Problem(f"What is {a} + {b}? Answer with the number only.", str(a + b)) for a, b in product(range(10), repeat=2)
    ]


def ensure_data(cache_dir: Path) -> tuple[Path, Path]:
    """Write the data to `cache_dir/addition` unless it is there; return its (train, validation) parquet files."""
    train, val = split_problems(all_problems(), VAL_PROBLEMS, SPLIT_SEED)
    return ensure_problem_files(cache_dir / "addition", DATA_SOURCE, train, val, VAL_SAMPLES)
