"""Before a run goes on from its checkpoint: is it still the same run, and is anything left of it?"""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from recipe.holderpo.config import ConfigError
from recipe.holderpo.report.record import METRICS_FILE, read_metrics

# What a run is. Other keys (logging, devices, checkpoints, micro-batches) may change from one start to the next.
MEANING = (
    "algo_name",
    "holder",
    "actor_rollout_ref.model.path",
    "actor_rollout_ref.rollout.n",
    "actor_rollout_ref.rollout.temperature",
    "actor_rollout_ref.actor.policy_loss",
    "actor_rollout_ref.actor.ppo_mini_batch_size",
    "actor_rollout_ref.actor.optim",
    "actor_rollout_ref.actor.use_kl_loss",
    "actor_rollout_ref.actor.kl_loss_coef",
    "actor_rollout_ref.actor.clip_ratio_low",
    "actor_rollout_ref.actor.clip_ratio_high",
    "actor_rollout_ref.actor.loss_agg_mode",
    "actor_rollout_ref.model.custom_chat_template",
    "algorithm",
    "alfworld.size",
    "alfworld.samples",
    "alfworld.prompt",
    "alfworld.max_steps",
    "alfworld.history",
    "alfworld.answer_tokens",
    "alfworld.success_reward",
    "alfworld.invalid_penalty",
    "reward.custom_reward_function",
    "data.max_prompt_length",
    "data.max_response_length",
    "data.train_files",
    "data.train_batch_size",
    "seed",
    "deterministic",
)


def checkpointed_step(config: DictConfig) -> int | None:
    """The global step of the checkpoint that verl will go on from; None if it will start afresh."""
    tracker = Path(config.trainer.default_local_dir) / "latest_checkpointed_iteration.txt"
    if config.trainer.resume_mode != "auto" or not tracker.exists():
        return None
    return int(tracker.read_text())


def check_resume(config: DictConfig) -> None:
    """Refuse to go on from the checkpoint of a run that was another one, or that is finished.

    Raises:
        ConfigError: with one line.
    """
    step, saved_file = checkpointed_step(config), Path(config.run_dir) / "config.yaml"
    if step is None or not saved_file.exists():
        return
    saved, total = OmegaConf.load(saved_file), config.trainer.total_training_steps
    another = f"allowed is the value that run {config.run} began with, {{}}; or give it another name: run=..."
    for key in MEANING:
        for name, value, began in _differences(key, _plain(config, key), _plain(saved, key)):
            raise ConfigError(f"{name} is {value!r}; {another.format(repr(began))}")
    began_total = _plain(saved, "trainer.total_training_steps")
    spans_run = (
        OmegaConf.select(config, "holder.schedule", default="constant") != "constant" and config.holder.steps is None
    )
    if spans_run and total != began_total:
        raise ConfigError(
            f"trainer.total_training_steps is {total}; allowed is {began_total}, with which run {config.run} began: "
            f"the schedule of p spans the whole run (holder.steps={began_total} from the start leaves it free)"
        )
    if step >= total and _has_line(Path(config.run_dir) / METRICS_FILE, total):
        raise ConfigError(
            f"run {config.run} has finished its {total} steps; allowed is another name, run=..., or more "
            "trainer.total_training_steps"
        )


def _plain(config: Any, key: str) -> Any:
    value = OmegaConf.select(config, key)
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _differences(key: str, value: Any, began: Any) -> list[tuple[str, Any, Any]]:
    """(key, value now, value then) of every leaf that is not the same."""
    if isinstance(value, dict) and isinstance(began, dict):
        names = dict.fromkeys([*value, *began])
        return [d for name in names for d in _differences(f"{key}.{name}", value.get(name), began.get(name))]
    return [] if value == began else [(key, value, began)]


def _has_line(metrics: Path, step: int) -> bool:
    return metrics.exists() and any(record["step"] == step for record in read_metrics(metrics))
