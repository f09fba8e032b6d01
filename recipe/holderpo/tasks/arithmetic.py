"""The task of the embedded model: ``a ± b ± c`` with single digits, answered as ``\\boxed{answer}``."""

from __future__ import annotations

from itertools import product
from pathlib import Path

from recipe.holderpo.embedded.cache import cached_folder
from recipe.holderpo.embedded.dataset import TRAIN_FILE, VAL_FILE, Problem, split_problems, write_parquet_files

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


def ensure_arithmetic_data(cache_dir: Path) -> tuple[Path, Path]:
    """Write the data to ``cache_dir/arithmetic`` unless it is there; return its (train, validation) parquet files."""

    def build(folder: Path) -> None:
        write_parquet_files(folder, DATA_SOURCE, *train_val_problems(), val_samples=VAL_SAMPLES)

    settings = {"version": 1, "val_problems": VAL_PROBLEMS, "val_samples": VAL_SAMPLES, "split_seed": SPLIT_SEED}
    folder = cached_folder(cache_dir / DATA_SOURCE, settings, build)
    return folder / TRAIN_FILE, folder / VAL_FILE
