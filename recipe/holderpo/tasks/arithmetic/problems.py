"""The problems `a±b±c` with single digits, answered as `\\boxed{answer}`."""

from itertools import product
from pathlib import Path

from recipe.holderpo.embedded.dataset import Problem, ensure_problem_files, split_problems

DATA_SOURCE = "arithmetic"
VAL_PROBLEMS = 64
VAL_SAMPLES = 8
SPLIT_SEED = 0


def all_problems() -> list[Problem]:
    """All 4000 problems ``a±b±c`` with digits a, b, c from 0 to 9; answers lie between -18 and 27."""
    signs = {"+": 1, "-": -1}
    return [
        Problem(f"{a}{first}{b}{second}{c}", str(a + signs[first] * b + signs[second] * c))
        for a, first, b, second, c in product(range(10), "+-", range(10), "+-", range(10))
    ]


def train_val_problems() -> tuple[list[Problem], list[Problem]]:
    """The training problems and the 64 held-out ones; the split is fixed, so runs of all seeds can be compared."""
    return split_problems(all_problems(), VAL_PROBLEMS, SPLIT_SEED)


def ensure_data(cache_dir: Path) -> tuple[Path, Path]:
    """Write the data to `cache_dir/arithmetic` unless it is there; return its (train, validation) parquet files."""
    return ensure_problem_files(cache_dir / DATA_SOURCE, DATA_SOURCE, *train_val_problems(), VAL_SAMPLES)
