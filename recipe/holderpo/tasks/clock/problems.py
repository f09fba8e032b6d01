"""The problems: from an hour of 00 to 23, six turns of the hand by one to five hours, as `07+4-3+2-1+5-5`.

A worked answer repeats each turn and says where it leads, `+4=11-3=08+2=10-1=09+5=14-5=09`: 24 tokens and the end, since each
hour is a token of its own. Only the last hour counts for the reward.
"""

import random
import re
from pathlib import Path

from recipe.holderpo.embedded.dataset import Problem, ensure_problem_files

DATA_SOURCE = "number/clock"  # the reward is for the last number of a response
HOURS = 24
TURNS = 6
LARGEST_TURN = 5
WORDS = tuple(f"{hour:02d}" for hour in range(HOURS))
TRAIN_PROBLEMS, VAL_PROBLEMS = 4000, 400
SPLIT_SEED = 0
_TURN = re.compile(r"[+-]\d")


def draw_question(draw: random.Random) -> str:
    """A question from the uniform distribution over all 24 x 10^6."""
    turns = "".join(f"{draw.choice('+-')}{draw.randint(1, LARGEST_TURN)}" for _ in range(TURNS))
    return f"{draw.randrange(HOURS):02d}{turns}"


def worked_answer(question: str, wrong_share: float = 0.0, draw: random.Random | None = None) -> str:
    """The answer with every hour on the way; a share of the hours is wrong, and what follows goes on from the wrong hour.

    Args:
        wrong_share: probability of each hour to be one of the others; `draw` is needed where it is above 0.
    """
    hour, written = int(question[:2]), []
    for turn in _TURN.findall(question):
        hour = (hour + int(turn)) % HOURS
        if draw is not None and draw.random() < wrong_share:
            hour = (hour + draw.randrange(1, HOURS)) % HOURS
        written.append(f"{turn}={hour:02d}")
    return "".join(written)


def draw_problems(count: int, seed: int) -> list[Problem]:
    """Distinct problems; the first n of a seed are the same whatever `count` is."""
    draw, questions = random.Random(seed), dict[str, None]()
    while len(questions) < count:
        questions[draw_question(draw)] = None
    return [Problem(question, worked_answer(question)[-2:]) for question in questions]


def train_val_problems() -> tuple[list[Problem], list[Problem]]:
    """The 4000 training problems and the 400 held-out ones; the same in every run, so runs of all seeds can be compared."""
    problems = draw_problems(VAL_PROBLEMS + TRAIN_PROBLEMS, SPLIT_SEED)
    return problems[VAL_PROBLEMS:], problems[:VAL_PROBLEMS]


def ensure_data(cache_dir: Path) -> tuple[Path, Path]:
    """Write the data to `cache_dir/clock` unless it is there; return its (train, validation) parquet files."""
    train, val = train_val_problems()
    return ensure_problem_files(cache_dir / "clock", DATA_SOURCE, train, val, val_samples=1, greedy=False)
