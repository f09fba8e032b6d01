"""The runs of each experiment of docs/study/plan.md, seed by seed, so that what an interrupted study has is balanced."""

from collections.abc import Callable, Container, Iterator
from itertools import product

from recipe.holderpo.study.settings import RunSettings

REPORTED_SEEDS = range(21, 41)
TUNING_SEEDS = range(1, 4)
ARMS = ("p-2", "p0", "p2", "2to-2", "-2to2", "signed", "optimistic")
CLIPS = (0.2, 0.03, 0.01)
RATES = (1e-4, 2e-4, 4e-4)
LEADING = ("p0", "p2", "2to-2", "signed")


def grid(seed: int) -> Iterator[RunSettings]:
    """Question 1: the seven arms at three clips."""
    for clip, arm in product(CLIPS, ARMS):
        yield RunSettings(arm=arm, clip=clip, seed=seed)
    for clip in CLIPS:  # GRPO's objective
        yield RunSettings(arm="p1", clip=clip, clip_level="token", seed=seed)


def unclipped(seed: int) -> Iterator[RunSettings]:
    """Question 2: without any clip."""
    for arm in ("p-2", "p0", "p2", "signed"):
        yield RunSettings(arm=arm, clip=None, seed=seed)


def signed(seed: int) -> Iterator[RunSettings]:
    """Question 3: is signed p more than a smaller step?"""
    for arm in ("signed", "p0"):
        yield RunSettings(arm=arm, reset_adam=True, seed=seed)
        yield RunSettings(arm=arm, clip_level="token", seed=seed)
        for max_kl in (0.003, 0.001):
            yield RunSettings(arm=arm, max_kl=max_kl, seed=seed)
    for arm in ("signed-half", "signed-double", "positive-only", "negative-only", "signed1", "dispersion"):
        yield RunSettings(arm=arm, seed=seed)


def rates(seed: int) -> Iterator[RunSettings]:
    """Question 4: other learning rates."""
    for lr, clip, arm in product((1e-4, 4e-4), (0.2, 0.03), LEADING):
        yield RunSettings(arm=arm, lr=lr, clip=clip, seed=seed)


def sparse(seed: int) -> Iterator[RunSettings]:
    """Question 5: a start at which few answers are right."""
    for clip, arm in product((0.2, 0.03), LEADING):
        yield RunSettings(arm=arm, start="sparse", clip=clip, seed=seed)


def shift(seed: int) -> Iterator[RunSettings]:
    """Question 6: another task."""
    for clip, arm in product((0.2, 0.03), LEADING):
        yield RunSettings(arm=arm, task="shift", clip=clip, seed=seed)


def large(seed: int) -> Iterator[RunSettings]:
    """Question 6: a larger model."""
    for clip, arm in product((0.2, 0.03), LEADING):
        yield RunSettings(arm=arm, size="large", clip=clip, seed=seed)


def tuning(seed: int) -> Iterator[RunSettings]:
    """Question 7, first part: each method's best clip and rate, on seeds that are not reported."""
    for lr, clip, arm in product(RATES, CLIPS, ("p0", "p2", "2to-2", "signed")):
        yield RunSettings(arm=arm, lr=lr, clip=clip, seed=seed)
    for lr, clip in product(RATES, CLIPS):
        yield RunSettings(arm="p1", lr=lr, clip=clip, clip_level="token", seed=seed)


EXPERIMENTS: dict[str, Callable[[int], Iterator[RunSettings]]] = {
    "grid": grid,
    "unclipped": unclipped,
    "signed": signed,
    "rates": rates,
    "sparse": sparse,
    "shift": shift,
    "large": large,
    "tuning": tuning,
}


def planned_seeds(experiment: str) -> range:
    return TUNING_SEEDS if experiment == "tuning" else REPORTED_SEEDS


def complete_seeds(experiment: str, keys: Container[str]) -> list[int]:
    """The planned seeds of which every run of the experiment is among `keys`."""
    return [seed for seed in planned_seeds(experiment) if all(run.key in keys for run in EXPERIMENTS[experiment](seed))]


def runs(experiment: str, seeds: int) -> list[RunSettings]:
    """The runs of an experiment on its first so many seeds, in their order.

    Raises:
        ValueError: `seeds` is below 1.
    """
    planned = planned_seeds(experiment)
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}; allowed is 1 and more, of which {experiment} uses at most {len(planned)}")
    return [run for seed in planned[:seeds] for run in EXPERIMENTS[experiment](seed)]
