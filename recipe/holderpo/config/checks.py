"""Everything that can be found wrong with a config before Ray starts, all of it at once."""

import inspect
import io
import os
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

from omegaconf import DictConfig, OmegaConf

from recipe.holderpo.config.cross_checks import CROSS_CHECKS
from recipe.holderpo.config.errors import ConfigError
from recipe.holderpo.config.settings import (
    GuardSettings,
    HolderSettings,
    ReportSettings,
    RunSettings,
    StallSettings,
    uses_holder_loss,
)
from recipe.holderpo.config.values import Settings, wrong_settings, wrong_value
from recipe.holderpo.config.verl_keys import VERL_KEYS
from recipe.holderpo.config.verl_schema import wrong_by_verl
from recipe.holderpo.tasks.registry import embedded_data, embedded_models, load, tasks_of

CPUS_OF_A_WORKER = 3  # verl's RayResourcePool
# Groups of verl's keys that the checks below read from.
GROUPS = (
    "algorithm",
    "data",
    "trainer",
    "trainer.v1",
    "actor_rollout_ref",
    "actor_rollout_ref.model",
    "ray_kwargs",
    "reward",
    "reward.custom_reward_function",
    "reward.reward_manager",
    "reward.reward_manager.module",
    "actor_rollout_ref.actor",
    "actor_rollout_ref.actor.policy_loss",
    "actor_rollout_ref.actor.checkpoint",
    "actor_rollout_ref.rollout",
    "actor_rollout_ref.rollout.agent",
    "actor_rollout_ref.rollout.val_kwargs",
    "actor_rollout_ref.ref",
)


def check_config(config: DictConfig) -> None:
    """Check our keys, verl's that a run depends on, and how they fit together. verl is not imported.

    Args:
        config: resolved, as `compose_config` returns it.

    Raises:
        ConfigError: with a line for each wrong value.
    """
    lines = [f"{key} is null; allowed is a group of keys, as verl has it" for key in GROUPS if _is_missing(config, key)]
    if lines:
        raise ConfigError(*lines)
    lines = [*_wrong_values(config)]
    wrong = [line.split(" ", 1)[0] for line in lines]
    for find, keys in CROSS_CHECKS.items():
        if not any(_is_below(bad, key) for bad in wrong for key in keys):
            lines += find(config)
    for name, task in tasks_of(config).items():
        keys = (name, *task.check_reads)
        if task.check is not None and not any(_is_below(bad, key) for bad in wrong for key in keys):
            lines += load(task.check)(config)
    if lines:
        raise ConfigError(*dict.fromkeys(lines))


def check_cluster(config: DictConfig) -> None:
    """A Ray of this run's own has one node, with room for what verl reserves, or verl would wait for ever.

    The launcher, which makes a cluster of several nodes, gives its address.

    Raises:
        ConfigError: with a line for each.
    """
    ray_init, workers = config.ray_kwargs.ray_init, config.trainer.n_gpus_per_node
    if ray_init.get("address") != "local":
        return
    lines = []
    if config.trainer.nnodes > 1:
        lines.append(
            f"trainer.nnodes is {config.trainer.nnodes}; allowed in a process of its own is 1: with NNODES set, "
            "python -m recipe.holderpo.launch and the scripts make a cluster of several nodes (docs/multi-node.md)"
        )
    queues = OmegaConf.select(config, "transfer_queue.backend.SimpleStorage.num_data_storage_units") or 0
    given, cpus = ray_init.get("num_cpus"), CPUS_OF_A_WORKER * workers + queues + 2
    if (given or os.cpu_count() or 1) < cpus:
        lines.append(
            f"ray_kwargs.ray_init.num_cpus is {given}; allowed here are {cpus} and more (they are logical): verl reserves "
            f"{CPUS_OF_A_WORKER} for each of trainer.n_gpus_per_node={workers}, and one each for the trainer, its queue and "
            f"{queues} stores of the queue"
        )
    if config.trainer.device == "cpu" and (ray_init.get("num_gpus") or 0) < workers:
        lines.append(
            f"ray_kwargs.ray_init.num_gpus is {ray_init.get('num_gpus')}; allowed with trainer.device=cpu are {workers} and "
            "more (they are logical): one for each of trainer.n_gpus_per_node"
        )
    if lines:
        raise ConfigError(*lines)


def _is_missing(config: DictConfig, group: str) -> bool:
    return not OmegaConf.is_dict(OmegaConf.select(config, group))


def _is_below(key: str, group: str) -> bool:
    return key == group or key.startswith(f"{group}.")


def _wrong_values(config: DictConfig) -> Iterator[str]:
    """A line for each key whose value is not allowed whatever the others are."""
    top = {name: OmegaConf.select(config, name) for name in RunSettings.model_fields}
    yield from wrong_settings("", {name: _plain(value) for name, value in top.items()}, RunSettings)
    groups: dict[str, type[Settings]] = {"guard": GuardSettings, "report": ReportSettings, "stall": StallSettings}
    if config.get("holder") is not None:
        groups["holder"] = HolderSettings
    for name, task in tasks_of(config).items():
        if task.settings is not None:
            groups[name] = load(task.settings)
    for group, model in groups.items():
        yield from wrong_settings(group, _plain(config[group]), model)
    for key, kind in VERL_KEYS.items():
        line = wrong_value(key, _plain(OmegaConf.select(config, key)), kind)
        if line is not None:
            yield line
    for key, makers in (("embedded_model", embedded_models()), ("embedded_data", embedded_data())):
        if isinstance(config[key], str) and config[key] not in makers:
            yield f"{key} is {config[key]!r}; allowed are {', '.join(makers)} or null"
    if uses_holder_loss(config) and config.get("holder") is None:
        yield "holder is missing; allowed with loss mode holder is a group of keys as in conf/algo/holder.yaml"


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def check_with_verl(config: DictConfig) -> None:
    """What verl declares of its keys, names that it looks up later, and its own validation, for a config that has passed
    `check_config`.

    Raises:
        ConfigError: with a line for each wrong key, or else for each unknown name, or with what verl says, as one line.
    """
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    lines = [*wrong_by_verl(config, VERL_KEYS), *_unknown_to_ray(config)] or [*_unknown_names(config)]
    if lines:
        raise ConfigError(*lines)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # it also prints that all is well
            use_reference_policy, use_critic = need_reference_policy(config), need_critic(config)
            validate_config(config=config, use_reference_policy=use_reference_policy, use_critic=use_critic)
    except Exception as error:  # verl raises whatever its checks happen to raise
        raise ConfigError(f"verl refuses this config: {error}") from error


def _unknown_to_ray(config: DictConfig) -> Iterator[str]:
    import ray

    known = inspect.signature(ray.init).parameters
    for name in config.ray_kwargs.ray_init:
        if name not in known and not name.startswith("_"):
            yield f"ray_kwargs.ray_init.{name} is not a key; allowed are ray.init's, {', '.join(known)}"


def _unknown_names(config: DictConfig) -> Iterator[str]:
    """A line for each name that is in none of verl's registries, where plugins (ours among them) have put theirs, too."""
    from verl.experimental.reward_loop.reward_manager.registry import REWARD_MANAGER
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, POLICY_LOSS_REGISTRY
    from verl.utils.tracking import Tracking

    loggers = config.trainer.logger
    of_tasks = [name for task in tasks_of(config).values() for name in task.advantages]
    known: list[tuple[str, list[str], Any]] = [
        ("algorithm.adv_estimator", [config.algorithm.adv_estimator], [*ADV_ESTIMATOR_REGISTRY, *of_tasks]),
        (
            "actor_rollout_ref.actor.policy_loss.loss_mode",
            [config.actor_rollout_ref.actor.policy_loss.loss_mode],
            POLICY_LOSS_REGISTRY,
        ),
        ("reward.reward_manager.name", _registered_manager(config), REWARD_MANAGER),
        ("trainer.logger", [loggers] if isinstance(loggers, str) else [*loggers], Tracking.supported_backend),
    ]
    for key, names, allowed in known:
        for name in names:
            if str(name) not in {*map(str, allowed)}:
                yield f"{key} is {name!r}; allowed are {', '.join(sorted(map(str, allowed)))}"


def _registered_manager(config: DictConfig) -> list[str]:
    """The reward manager's name, if it is to be one of verl's: a reward function in the user's file may register its own."""
    function, manager = config.reward.custom_reward_function.path, config.reward.reward_manager
    own = function is not None and not function.startswith("pkg://recipe.holderpo.")
    return [manager.name] if manager.source == "register" and not own else []
