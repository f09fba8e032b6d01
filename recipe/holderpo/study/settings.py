"""What one run of the study is: an arm (rule of p and clip), a learning rate, a start, a seed."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from holderpo_core import ClipLevel, DispersionP, PRule, Schedule, ScheduledP, SignedSchedule


@dataclass(frozen=True)
class RunSettings:
    """Everything that a run's record depends on beside the code and the versions.

    Args:
        arm: a name of `RULES`.
        clip: epsilon on both sides; None: the ratio is not clipped.
        clip_level: where the clip acts; "token" at p = 1 is GRPO's objective.
        lr: AdamW's rate, constant.
        task: a name of `study.tasks.TASKS`.
        start: "noisy" (about one answer in six is right) or "sparse" (twice as many wrong demonstrations).
        size: "small" (0.13 M parameters) or "large" (0.7 M).
        reset_adam: the optimiser's state is emptied before each step's updates.
        max_kl: a step's updates end once the mean KL(old, new) per token of a mini-batch is above it, nats; None: never.
    """

    arm: str
    seed: int
    clip: float | None = 0.2
    clip_level: ClipLevel = "sequence"
    lr: float = 2e-4
    task: str = "clock"
    start: str = "noisy"
    size: str = "small"
    reset_adam: bool = False
    max_kl: float | None = None
    steps: int = 25
    prompts: int = 16
    samples: int = 8
    mini_batch_prompts: int = 2
    epochs: int = 2
    val_freq: int = 5

    @property
    def key(self) -> str:
        """A name that tells it from every other, of the values that are not the defaults."""
        usual = asdict(RunSettings(arm="", seed=0))
        parts = [f"{name}={value}" for name, value in asdict(self).items() if value != usual[name] and name != "seed"]
        return ",".join([*parts, f"seed={self.seed}"])

    @property
    def clip_ratio(self) -> float:
        """For the loss; without a clip, a range that no ratio leaves."""
        return 0.2 if self.clip is None else self.clip

    @property
    def loss_clip_level(self) -> ClipLevel:
        return "none" if self.clip is None else self.clip_level


def _constant(p: float) -> Callable[[int], PRule]:
    return lambda steps: ScheduledP(Schedule("constant", p), steps)


def _linear(start: float, end: float) -> Callable[[int], PRule]:
    return lambda steps: ScheduledP(Schedule("linear", start, end), steps)


def _signed(center: float, delta: float) -> Callable[[int], PRule]:
    return lambda steps: SignedSchedule(Schedule("constant", center), Schedule("constant", delta), steps)


def _dispersion(start: float, end: float) -> Callable[[int], PRule]:
    return lambda steps: DispersionP(
        Schedule("linear", start, end), steps, spread_decay=0.5, spread_min=0.01, p_max=8.0
    )


RULES: dict[str, Callable[[int], PRule]] = {
    "p-2": _constant(-2.0),
    "p0": _constant(0.0),
    "p1": _constant(1.0),
    "p2": _constant(2.0),
    "2to-2": _linear(2.0, -2.0),
    "-2to2": _linear(-2.0, 2.0),
    "signed": _signed(0.0, 2.0),
    "signed1": _signed(1.0, 2.0),
    "signed-half": _signed(0.0, 1.0),
    "signed-double": _signed(0.0, 4.0),
    "optimistic": _signed(0.0, -2.0),
    "positive-only": _signed(-1.0, 1.0),
    "negative-only": _signed(1.0, 1.0),
    "dispersion": _dispersion(0.5, -0.5),
}
"""Arms: the rule of p of a run of so many steps. "signed" is p = -2 for A > 0 and 2 for A < 0; "positive-only" is (-2, 0),
"negative-only" (0, 2), "optimistic" (2, -2)."""


def settings_of(record: dict[str, Any]) -> RunSettings:
    """The settings of a record."""
    return RunSettings(**record["settings"])
