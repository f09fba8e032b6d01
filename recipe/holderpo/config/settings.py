"""The keys that HölderPO adds to verl's config: types and bounds. conf/ says what each does."""

from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from pydantic import Field, model_validator

from holderpo_core import ClipLevel, PRule, Schedule, ScheduledP, Shape
from recipe.holderpo.config.values import Settings


class HolderSettings(Settings):
    """Group `holder`: the rule of p, and where the ratio is clipped."""

    schedule: Shape
    p_start: float
    p_end: float | None
    steps: Annotated[int, Field(ge=2, le=10**9)] | None
    power: Annotated[float, Field(gt=0, le=1e6)] | None
    clip_level: ClipLevel

    @model_validator(mode="after")
    def _fits_together(self) -> "HolderSettings":
        self.as_schedule()  # raises ValueError with a line for each wrong value
        return self

    def as_schedule(self) -> Schedule:
        return Schedule(self.schedule, self.p_start, self.p_end, self.steps, self.power)


class GuardSettings(Settings):
    """Group `guard`: what is done about updates that are not finite, and the limits beyond which a run has collapsed."""

    on_nonfinite: Literal["skip", "stop"] = "skip"
    entropy_min: Annotated[float, Field(ge=0, le=1e12)] | None = None
    entropy_max: Annotated[float, Field(ge=0, le=1e12)] | None = None
    grad_norm_max: Annotated[float, Field(gt=0, le=1e12)] | None = None
    log_ratio_max: Annotated[float, Field(gt=0, le=1e12)] | None = None
    steps: Annotated[int, Field(ge=1, le=10**6)] = 5
    on_collapse: Literal["stop", "rollback"] = "stop"


class RunSettings(Settings):
    """The keys at the top of the config that are HölderPO's."""

    run: str
    run_dir: str
    cache_dir: str
    algo_name: str
    model_name: str
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)]
    deterministic: bool
    restarts: Annotated[int, Field(ge=0, le=1000)]
    keep_checkpoints: Annotated[int, Field(ge=1, le=1000)]
    resume_changes: list[str]
    trust_checkpoint: bool
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
    return ScheduledP(settings.as_schedule(), config.trainer.total_training_steps)


def guard_settings(config: DictConfig) -> GuardSettings:
    return GuardSettings.model_validate(OmegaConf.to_container(config.guard, resolve=True))
