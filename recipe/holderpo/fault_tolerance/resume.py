"""Before a run goes on from its checkpoint: is it still the same run, and is anything left of it?"""

import math
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from recipe.holderpo.config.checks import ConfigError
from recipe.holderpo.fault_tolerance.checkpoint import (
    Checkpoint,
    Damaged,
    committed,
    newest_whole,
    step_folders,
    verify,
)
from recipe.holderpo.fault_tolerance.safe_load import check_holds_no_code
from recipe.holderpo.report.record import METRICS_FILE, last_step

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


def find_checkpoint(config: DictConfig) -> Checkpoint | None:
    """The checkpoint that the command goes on from; None: it begins at step 0. Says which, and why.

    Raises:
        ConfigError: there is a checkpoint, or there should be one, but none that can be used. A run that was to go on
            never begins again by itself.
    """
    trainer, root = config.trainer, Path(config.trainer.default_local_dir)
    folders, recorded = step_folders(root), last_step(Path(config.run_dir) / METRICS_FILE)
    own = [folder for folder in folders if committed(folder)]
    if folders and not own and not recorded:
        raise ConfigError(
            f"trainer.default_local_dir is {str(root)!r}, which has checkpoints that no run of this recipe has written "
            f"({folders[0].name}); allowed is a folder without, since older ones are deleted there"
        )
    if own and trainer.resume_mode == "disable":
        raise ConfigError(
            f"trainer.resume_mode is 'disable'; allowed is auto, since {root} has checkpoints that a run from step 0 "
            "would replace; or another name: run=..."
        )
    if not own and trainer.resume_mode == "resume_path":
        try:
            found = verify(Path(trainer.resume_from_path))
        except Damaged as error:
            raise ConfigError(
                f"trainer.resume_from_path is {trainer.resume_from_path!r}; allowed is a whole checkpoint: {error}"
            ) from None
        print(f"going on from step {found.step}: {found.folder}, as trainer.resume_from_path says", flush=True)
        return found
    found_own = newest_checkpoint(config)
    if found_own is None and (own or 0 < trainer.save_freq <= recorded):
        state = f"{len(own)} damaged checkpoints and no whole one" if own else "no checkpoint"
        raise ConfigError(
            f"run is {config.run!r}, which has a record of {recorded} steps and {state} in {root}; allowed is a run with a "
            "whole checkpoint, or another name: run=... (or remove its folder to begin again)"
        )
    return found_own


def newest_checkpoint(config: DictConfig, before: float = math.inf) -> Checkpoint | None:
    """The newest whole checkpoint of this run below step `before`, None if there is none. Says which, and why not another."""
    whole, passed_over = newest_whole(Path(config.trainer.default_local_dir), before)
    for problem in passed_over:
        print(f"checkpoint passed over: {problem}", file=sys.stderr, flush=True)
    if whole is not None:
        print(f"going on from step {whole.step}: {whole.folder}, the newest whole checkpoint", flush=True)
    return whole


def check_resume(config: DictConfig, checkpoint: Checkpoint | None) -> None:
    """Refuse to go on from a checkpoint that holds code, or from one of another run, or of one that is finished.

    Raises:
        ConfigError: with one line.
    """
    if checkpoint is None:
        return
    if not config.trust_checkpoint:
        check_holds_no_code(checkpoint.folder, own=checkpoint.folder.parent == Path(config.trainer.default_local_dir))
    saved, total = OmegaConf.create(checkpoint.manifest["config"]), config.trainer.total_training_steps
    another = f"allowed is the value that run {config.run} began with, {{}}; or give it another name: run=..."
    for key in MEANING:
        for name, value, began in _differences(key, _plain(config, key), _plain(saved, key)):
            if name not in config.resume_changes:
                raise ConfigError(f"{name} is {value!r}; {another.format(repr(began))} (or resume_changes=[{name}])")
    ranks, saved_ranks = (c.trainer.nnodes * c.trainer.n_gpus_per_node for c in (config, saved))
    if ranks != saved_ranks:
        raise ConfigError(
            f"trainer.nnodes x n_gpus_per_node is {ranks}; allowed is {saved_ranks}: the checkpoint of step "
            f"{checkpoint.step} has a shard for each of so many devices"
        )
    began_total = _plain(saved, "trainer.total_training_steps")
    spans_run = (
        OmegaConf.select(config, "holder.schedule", default="constant") != "constant" and config.holder.steps is None
    )
    if spans_run and total != began_total:
        raise ConfigError(
            f"trainer.total_training_steps is {total}; allowed is {began_total}, with which run {config.run} began: "
            f"the schedule of p spans the whole run (holder.steps={began_total} from the start leaves it free)"
        )
    if checkpoint.step >= total and last_step(Path(config.run_dir) / METRICS_FILE) >= total:
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
