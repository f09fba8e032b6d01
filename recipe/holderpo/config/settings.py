"""The keys that HölderPO adds to verl's config: types and bounds. conf/ says what each does."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from pydantic import Field, model_validator

from holderpo_core import (
    ClipLevel,
    DispersionP,
    PRule,
    RewardP,
    Schedule,
    ScheduledP,
    Shape,
    SignedSchedule,
    TargetEss,
    TrajectoryRule,
)
from recipe.holderpo.config.values import Settings

RuleName = Literal["schedule", "signed", "dispersion", "ess", "pmpo_like", "apmpo_like"]
SCHEDULE_KEYS = ("schedule", "p_start")
SPREAD_KEYS = ("spread_decay", "spread_min", "p_max")
# Keys that a rule of p needs, and keys that it also reads where they are set.
RULE_KEYS: dict[RuleName, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "schedule": (SCHEDULE_KEYS, ("p_end", "steps", "power")),
    "signed": ((*SCHEDULE_KEYS, "delta_start"), ("p_end", "delta_end", "steps", "power")),
    "dispersion": ((*SCHEDULE_KEYS, *SPREAD_KEYS), ("p_end", "steps", "power")),
    "ess": (("ess_target", "ess_sign", *SPREAD_KEYS), ()),
    "pmpo_like": ((), ()),
    "apmpo_like": (("reward_rate",), ()),
}


class HolderSettings(Settings):
    """Group `holder`: the rule of p, and where the ratio is clipped."""

    rule: RuleName
    schedule: Shape | None
    p_start: float | None
    p_end: float | None
    steps: Annotated[int, Field(ge=2, le=10**9)] | None
    power: Annotated[float, Field(gt=0, le=1e6)] | None
    delta_start: Annotated[float, Field(ge=-100, le=100)] | None
    delta_end: Annotated[float, Field(ge=-100, le=100)] | None
    spread_decay: Annotated[float, Field(ge=0, le=0.9999)] | None
    spread_min: Annotated[float, Field(gt=0, le=100)] | None
    p_max: Annotated[float, Field(gt=0, le=1000)] | None
    ess_target: Annotated[float, Field(gt=0, le=1)] | None
    ess_sign: Literal[-1, 0, 1] | None
    reward_rate: Annotated[float, Field(ge=0, le=1000)] | None
    clip_level: ClipLevel
    length_weighted: bool

    @model_validator(mode="after")
    def _fits_together(self) -> "HolderSettings":
        lines = [*self._wrong_keys()]
        if lines:
            raise ValueError("\n".join(lines))
        self.as_rule(total_steps=1)  # raises ValueError with a line for each wrong value of a schedule
        return self

    def _wrong_keys(self) -> Iterator[str]:
        """A line for each key that the rule needs and that is null, and for each that has no effect under it."""
        needed, optional = RULE_KEYS[self.rule]
        for key in dict.fromkeys(key for keys in RULE_KEYS.values() for group in keys for key in group):
            value = getattr(self, key)
            if key in needed and value is None:
                yield f"holder.{key} is null; holder.rule={self.rule} needs a value, as in conf/algo"
            elif key not in (*needed, *optional) and value is not None:
                yield f"holder.{key} is {value!r} while holder.rule is {self.rule}; allowed is null: it has no effect there"

    def as_rule(self, total_steps: int) -> PRule:
        """The rule of p of a run of so many steps.

        Raises:
            ValueError: the keys of the schedule do not fit together, with a line for each.
        """
        values: dict[str, Any] = self.model_dump()
        spread = {key: values[key] for key in SPREAD_KEYS}
        if self.rule == "signed":
            return SignedSchedule(self._schedule(), self._delta_schedule(), total_steps)
        if self.rule == "dispersion":
            return DispersionP(self._schedule(), total_steps, **spread)
        if self.rule == "ess":
            return TargetEss(values["ess_target"], values["ess_sign"], **spread)
        if self.rule == "pmpo_like":
            return TrajectoryRule()
        if self.rule == "apmpo_like":
            return RewardP(values["reward_rate"])
        return ScheduledP(self._schedule(), total_steps)

    def _schedule(self) -> Schedule:
        assert self.schedule is not None and self.p_start is not None, "the rule's keys have been checked"
        return Schedule(self.schedule, self.p_start, self.p_end, self.steps, self.power)

    def _delta_schedule(self) -> Schedule:
        assert self.schedule is not None and self.delta_start is not None, "the rule's keys have been checked"
        try:
            return Schedule(self.schedule, self.delta_start, self.delta_end, self.steps, self.power)
        except ValueError as error:  # which names the keys of p
            raise ValueError(str(error).replace("holder.p_", "holder.delta_")) from None

    @property
    def depends_on_length(self) -> bool:
        """Whether p depends on the number of steps of the run."""
        return self.schedule not in (None, "constant") and self.steps is None


class GuardSettings(Settings):
    """Group `guard`: what is done about updates that are not finite, and the limits beyond which a run has collapsed."""

    on_nonfinite: Literal["skip", "stop"] = "skip"
    entropy_min: Annotated[float, Field(ge=0, le=1e12)] | None = None
    entropy_max: Annotated[float, Field(ge=0, le=1e12)] | None = None
    grad_norm_max: Annotated[float, Field(gt=0, le=1e12)] | None = None
    log_ratio_max: Annotated[float, Field(gt=0, le=1e12)] | None = None
    first_log_ratio_max: Annotated[float, Field(gt=0, le=1e12)] | None = None
    steps: Annotated[int, Field(ge=1, le=10**6)] = 5
    on_collapse: Literal["stop", "rollback"] = "stop"

    @model_validator(mode="after")
    def _fits_together(self) -> "GuardSettings":
        if self.entropy_min is not None and self.entropy_max is not None and self.entropy_min >= self.entropy_max:
            raise ValueError(
                f"guard.entropy_min is {self.entropy_min}; allowed is less than guard.entropy_max ({self.entropy_max})"
            )
        return self


class StallSettings(Settings):
    """Group `stall`: when a run that does not get on is taken for stuck."""

    start_s: Annotated[float, Field(ge=10, le=10**6)] = 3600.0
    floor_s: Annotated[float, Field(ge=10, le=10**6)] | None = 900.0
    medians: Annotated[float, Field(ge=2, le=10**4)] = 10.0


class ReportSettings(Settings):
    """Group `report`: what a run keeps for its page beside its metrics."""

    tokens_every: Annotated[int, Field(ge=1, le=10**6)] = 10
    token_groups: Annotated[int, Field(ge=0, le=1000)] = 2


class RunSettings(Settings):
    """The keys at the top of the config that are HölderPO's."""

    run: str
    run_dir: str
    cache_dir: str
    algo_name: str
    model_name: str
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)]
    deterministic: bool
    sequence_clip_range: Annotated[float, Field(ge=0, le=0.999999)]
    restarts: Annotated[int, Field(ge=0, le=1000)]
    keep_checkpoints: Annotated[int, Field(ge=1, le=1000)]
    resume_changes: list[str]
    trust_checkpoint: bool
    fork_workers: bool
    rehearse: bool
    stop_grace_s: Annotated[float, Field(ge=1, le=10**5)]
    env: dict[str, Any]
    embedded_model: str | None
    embedded_data: str | None


def uses_holder_loss(config: DictConfig) -> bool:
    return bool(config.actor_rollout_ref.actor.policy_loss.loss_mode == "holder")


def rule_of_p(config: DictConfig) -> PRule | None:
    """The rule of p that a checked config asks for; None where the loss is a baseline's."""
    if not uses_holder_loss(config):
        return None
    settings = HolderSettings.model_validate(OmegaConf.to_container(config.holder, resolve=True))
    return settings.as_rule(config.trainer.total_training_steps)


def guard_settings(config: DictConfig) -> GuardSettings:
    return GuardSettings.model_validate(OmegaConf.to_container(config.guard, resolve=True))


def stall_settings(config: DictConfig) -> StallSettings:
    return StallSettings.model_validate(OmegaConf.to_container(config.stall, resolve=True))
