"""The study's tasks: problems, demonstrations and what counts as right. All prompts of a task have one length in tokens."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from recipe.holderpo.embedded.tiny_model import TinyModelConfig
from recipe.holderpo.rewards.boxed import last_number
from recipe.holderpo.tasks.clock.pretrain import (
    Demonstrations,
    Phase,
    PretrainConfig,
    clock_demonstrations,
    ensure_pretrained,
)
from recipe.holderpo.tasks.clock.problems import VAL_PROBLEMS, train_val_problems

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SHIFTED_LETTERS = 24
LARGEST_SHIFT = 5


def draw_shift(draw: random.Random) -> str:
    """A digit and 24 letters, as `3hello...`: each letter is to be moved on by the digit, z on to a."""
    return f"{draw.randint(1, LARGEST_SHIFT)}{''.join(draw.choice(LETTERS) for _ in range(SHIFTED_LETTERS))}"


def shifted(question: str, wrong_share: float = 0.0, draw: random.Random | None = None) -> str:
    """The letters moved on; a share of them by another number. Unlike the clock's, one mistake does not lead to another."""
    written = []
    for letter in question[1:]:
        move = int(question[0])
        if draw is not None and draw.random() < wrong_share:
            move += draw.randrange(1, len(LETTERS))
        written.append(LETTERS[(LETTERS.index(letter) + move) % len(LETTERS)])
    return "".join(written)


@dataclass(frozen=True)
class StudyTask:
    """Problems as (question, right answer); `answer_of(response)` is compared with the right answer."""

    problems: tuple[list[tuple[str, str]], list[tuple[str, str]]]  # training, held out
    answer_of: Callable[[str], str | None]
    demonstrations: Demonstrations
    phases: Mapping[str, tuple[Phase, ...]]  # start -> pre-training


def clock_task() -> StudyTask:
    clean, noisy = PretrainConfig().phases
    train, val = ([(problem.question, problem.answer) for problem in part] for part in train_val_problems())
    phases = {"noisy": (clean, noisy), "sparse": (clean, replace(noisy, wrong_share=0.3))}
    return StudyTask((train, val), last_number, clock_demonstrations(), phases)


def shift_task() -> StudyTask:
    draw = random.Random("problems of the shift task")
    questions = list({draw_shift(draw): None for _ in range(4400)})
    problems = [(question, shifted(question)) for question in questions]
    held_out = frozenset(questions[:VAL_PROBLEMS])
    clean, noisy = PretrainConfig().phases
    phases = {"noisy": (clean, replace(noisy, wrong_share=0.05))}
    demonstrations = Demonstrations(draw_shift, shifted, (), held_out)
    return StudyTask((problems[VAL_PROBLEMS:], problems[:VAL_PROBLEMS]), str, demonstrations, phases)


TASKS: dict[str, Callable[[], StudyTask]] = {"clock": clock_task, "shift": shift_task}

SIZES = {
    "small": PretrainConfig().model,
    "large": TinyModelConfig(hidden_size=128, intermediate_size=384, num_layers=3, num_heads=4, initializer_range=0.07),
}


def ensure_start(cache_dir: Path, task: str, start: str, size: str) -> Path:
    """The folder of the pre-trained model that runs of these settings begin with, made unless it is there."""
    made = TASKS[task]()
    config = replace(PretrainConfig(), model=SIZES[size], phases=made.phases[start])
    if (task, start, size) == ("clock", "noisy", "small"):
        return ensure_pretrained(cache_dir / "clock_model", config, made.demonstrations)  # that of model=clock
    return ensure_pretrained(cache_dir / f"study_{task}_{start}_{size}", config, made.demonstrations)
