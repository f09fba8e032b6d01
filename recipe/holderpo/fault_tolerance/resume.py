"""Before a run resumes from its checkpoint: is it still the same run, and is anything left of it?"""

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from recipe.holderpo.config.errors import ConfigError
from recipe.holderpo.config.free_keys import FREE_KEYS, is_free
from recipe.holderpo.config.settings import HolderSettings
from recipe.holderpo.fault_tolerance.checkpoint import (
    Checkpoint,
    CorruptCheckpoint,
    committed,
    newest_complete,
    step_folders,
    verify,
)
from recipe.holderpo.fault_tolerance.safe_load import check_holds_no_code
from recipe.holderpo.report.record import METRICS_FILE, last_step
from recipe.holderpo.tasks.registry import tasks


def find_checkpoint(config: DictConfig) -> Checkpoint | None:
    """The checkpoint that the command resumes from; None: it begins at step 0. Prints which, and why.

    Raises:
        ConfigError: there is a checkpoint, or there should be one, but none that can be used. A run that was to resume
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
        except CorruptCheckpoint as error:
            raise ConfigError(
                f"trainer.resume_from_path is {trainer.resume_from_path!r}; allowed is a complete checkpoint: {error}"
            ) from None
        print(f"resuming from step {found.step}: {found.folder}, as trainer.resume_from_path says", flush=True)
        return found
    found_own = newest_checkpoint(config)
    if found_own is None and (own or 0 < trainer.save_freq <= recorded):
        state = f"{len(own)} corrupt checkpoints and no complete one" if own else "no checkpoint"
        raise ConfigError(
            f"run is {config.run!r}, which has a record of {recorded} steps and {state} in {root}; allowed is a run with a "
            "complete checkpoint, or another name: run=... (or remove its folder to begin again)"
        )
    return found_own


def newest_checkpoint(config: DictConfig, before: float = math.inf) -> Checkpoint | None:
    """The newest complete checkpoint of this run below step `before`, None if there is none. Prints which, and why not a
    newer one."""
    complete, skipped = newest_complete(Path(config.trainer.default_local_dir), before)
    for problem in skipped:
        print(f"checkpoint skipped: {problem}", file=sys.stderr, flush=True)
    if complete is not None:
        print(f"resuming from step {complete.step}: {complete.folder}, the newest complete checkpoint", flush=True)
    return complete


def check_resume(config: DictConfig, checkpoint: Checkpoint | None) -> None:
    """Refuse to resume from a checkpoint that holds code, from one of another run, or of one that is finished.

    Raises:
        ConfigError: with a line for each key that differs and may not.
    """
    if checkpoint is None:
        return
    if not config.trust_checkpoint:
        check_holds_no_code(checkpoint.folder, own=checkpoint.folder.parent == Path(config.trainer.default_local_dir))
    saved, total = OmegaConf.create(checkpoint.manifest["config"]), config.trainer.total_training_steps
    lines = [*changes(config, saved), *_changed_ranks(config, saved, checkpoint.step)]
    if not lines and checkpoint.step >= total and last_step(Path(config.run_dir) / METRICS_FILE) >= total:
        lines.append(
            f"run {config.run} has finished its {total} steps; allowed is another name, run=..., or more "
            "trainer.total_training_steps"
        )
    if lines:
        raise ConfigError(*lines)


def changes(config: DictConfig, saved: Any) -> list[str]:
    """A line for each key that differs from that of the run's saved config, and may not."""
    length = OmegaConf.select(saved, "trainer.total_training_steps")
    return [*_changed_keys(config, saved), *_changed_length(config, length)]


def free_keys() -> list[str]:
    """All patterns of keys that may change, those of tasks included."""
    return [key for keys in FREE_KEYS.values() for key in keys] + [
        k for task in tasks().values() for k in task.free_keys
    ]


def _changed_keys(config: DictConfig, saved: Any) -> Iterator[str]:
    patterns = [*free_keys(), *config.resume_changes]
    for key, value, began in differences(_plain(config), _plain(saved)):
        if not is_free(key, patterns):
            yield (
                f"{key} is {value!r}; allowed is the value that run {config.run} began with, {began!r}; or give it another "
                f"name: run=... (or resume_changes=[{key}])"
            )


def _changed_ranks(config: DictConfig, saved: Any, step: int) -> Iterator[str]:
    """Shards of FSDP2's actor are divided anew (training/reshard.py)."""
    ranks, saved_ranks = (c.trainer.nnodes * c.trainer.n_gpus_per_node for c in (config, saved))
    if ranks != saved_ranks and (whose := undivided_shards(config)) is not None:
        yield (
            f"trainer.nnodes x n_gpus_per_node is {ranks}; allowed is {saved_ranks}: the checkpoint of step {step} has "
            f"{saved_ranks} shards, one per device, and those of {whose} are not divided anew"
        )


def undivided_shards(config: DictConfig) -> str | None:
    """Whose shards cannot be loaded on another number of devices; None: nobody's."""
    strategy, critic = config.actor_rollout_ref.actor.strategy, config.critic.enable
    if config.algorithm.adv_estimator == "gae" if critic is None else critic:
        return "a critic"
    return None if strategy == "fsdp2" else f"actor_rollout_ref.actor.strategy={strategy}"


def _changed_length(config: DictConfig, began: int | None) -> Iterator[str]:
    """A run may be made longer or shorter only where neither p nor the learning rate depends on its length."""
    total, key = config.trainer.total_training_steps, "trainer.total_training_steps"
    if total == began or key in config.resume_changes:
        return
    holder = config.get("holder")
    if holder is not None:
        settings = HolderSettings.model_validate(_plain(holder))
        if settings.depends_on_length:
            yield (
                f"{key} is {total}; allowed is {began}, with which run {config.run} began: the schedule of p spans the whole "
                f"run (holder.steps={began} from the start leaves it free; or resume_changes=[{key}])"
            )
            return
    if _rate_depends_on_length(config.actor_rollout_ref.actor.optim):
        yield (
            f"{key} is {total}; allowed is {began}, with which run {config.run} began: the learning rate depends on the "
            f"whole run (or resume_changes=[{key}])"
        )


def _rate_depends_on_length(optimizer: Any) -> bool:
    """Whether verl computes the learning rate, or its warm-up, from the number of steps of the run."""
    scheduler = optimizer.get("warmup_style") or optimizer.get("lr_scheduler_type") or "constant"
    warmup = (optimizer.get("lr_warmup_steps") or -1) <= 0 and (optimizer.get("lr_warmup_steps_ratio") or 0) > 0
    return bool(scheduler != "constant" or warmup)


def _plain(config: Any) -> Any:
    return OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config


def differences(value: Any, began: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    """(key, value now, value then) of every leaf that is not the same; a missing one is None."""
    if isinstance(value, dict) and isinstance(began, dict):
        names = dict.fromkeys([*value, *began])
        below = ((f"{key}.{name}" if key else str(name), name) for name in names)
        return [d for path, name in below for d in differences(value.get(name), began.get(name), path)]
    return [] if value == began else [(key, value, began)]
