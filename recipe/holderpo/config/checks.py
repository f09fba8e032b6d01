"""Everything that can be found wrong with a config before Ray starts, all of it at once."""

import io
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from recipe.holderpo.config.cross_checks import CROSS_CHECKS
from recipe.holderpo.config.errors import ConfigError
from recipe.holderpo.config.settings import GuardSettings, HolderSettings, RunSettings, uses_holder_loss
from recipe.holderpo.config.values import Settings, integer, number, wrong_settings, wrong_value
from recipe.holderpo.tasks.registry import embedded_data, embedded_models, load, tasks_of

_ACTOR, _ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"

# verl's keys that a HölderPO run depends on, and that verl would accept, ignore or find wrong only later.
VERL_KEYS: dict[str, Any] = {
    "algorithm.gamma": number(0, 1),
    "algorithm.lam": number(0, 1),
    "algorithm.norm_adv_by_std_in_grpo": bool,
    "algorithm.use_kl_in_reward": bool,
    "data.shuffle": bool,
    "data.train_files": str | list[str] | None,
    "data.val_files": str | list[str] | None,
    "data.train_batch_size": integer(1, 10**7),
    "data.max_prompt_length": integer(1, 10**7),
    "data.max_response_length": integer(1, 10**7),
    "data.val_batch_size": integer(1, 10**7) | None,
    f"{_ACTOR}.clip_ratio_low": number(0, 0.999999),  # 1 would let the ratio fall to 0: no clip at all
    f"{_ACTOR}.clip_ratio_high": number(0, 100),
    f"{_ACTOR}.checkpoint.save_contents": list[str],
    f"{_ACTOR}.entropy_coeff": number(-1, 1),
    f"{_ACTOR}.grad_clip": number(1e-9, 1e9),
    f"{_ACTOR}.kl_loss_coef": number(0, 100),
    f"{_ACTOR}.optim.lr": number(1e-12, 1),
    f"{_ACTOR}.ppo_epochs": integer(1, 100),
    f"{_ACTOR}.ppo_mini_batch_size": integer(1, 10**7),
    f"{_ACTOR}.ppo_micro_batch_size_per_gpu": integer(1, 10**7) | None,
    f"{_ACTOR}.ulysses_sequence_parallel_size": integer(1, 1024) | None,
    f"{_ROLLOUT}.checkpoint_engine": dict[str, Any],
    f"{_ROLLOUT}.dtype": Literal["bfloat16", "float16", "float32", "auto", "half", "float"],
    f"{_ROLLOUT}.enforce_eager": bool,
    f"{_ROLLOUT}.gpu_memory_utilization": number(0.01, 1),
    f"{_ROLLOUT}.log_prob_micro_batch_size_per_gpu": integer(1, 10**7) | None,
    f"{_ROLLOUT}.max_model_len": integer(1, 10**8) | None,
    f"{_ROLLOUT}.max_num_batched_tokens": integer(1, 10**8),
    f"{_ROLLOUT}.max_num_seqs": integer(1, 10**6),
    f"{_ROLLOUT}.mode": Literal["async"],
    f"{_ROLLOUT}.n": integer(1, 4096),
    f"{_ROLLOUT}.temperature": number(0.01, 10),
    f"{_ROLLOUT}.tensor_model_parallel_size": integer(1, 1024),
    f"{_ROLLOUT}.top_k": integer(-1, 10**7),
    f"{_ROLLOUT}.top_p": number(1e-6, 1),
    f"{_ROLLOUT}.val_kwargs.n": integer(1, 4096),
    f"{_ROLLOUT}.val_kwargs.temperature": number(0, 10),
    f"{_ROLLOUT}.val_kwargs.top_k": integer(-1, 10**7),
    f"{_ROLLOUT}.val_kwargs.top_p": number(1e-6, 1),
    "ray_kwargs.ray_init": dict[str, Any],
    "reward.num_workers": integer(1, 10**4),
    "trainer.device": Literal["cpu", "cuda", "npu"],
    "trainer.experiment_name": str,
    "trainer.logger": str | list[str],
    "trainer.n_gpus_per_node": integer(1, 64),
    "trainer.nnodes": integer(1, 10**5),
    "trainer.project_name": str,
    "trainer.resume_mode": Literal["auto", "disable", "resume_path"],
    "trainer.save_freq": integer(-1, 10**9),
    "trainer.test_freq": integer(-1, 10**9),
    "trainer.total_epochs": integer(1, 10**9),
    "trainer.total_training_steps": integer(1, 10**9),
    "trainer.use_v1": Literal[True],
    "trainer.val_before_train": bool,
    "trainer.v1.separate_async.parameter_sync_step": integer(1, 10**6),
    "trainer.v1.trainer_mode": Literal["sync", "colocate_async", "separate_async"],
}
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
    _ACTOR,
    f"{_ACTOR}.policy_loss",
    f"{_ACTOR}.checkpoint",
    _ROLLOUT,
    f"{_ROLLOUT}.val_kwargs",
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


def _is_missing(config: DictConfig, group: str) -> bool:
    return not OmegaConf.is_dict(OmegaConf.select(config, group))


def _is_below(key: str, group: str) -> bool:
    return key == group or key.startswith(f"{group}.")


def _wrong_values(config: DictConfig) -> Iterator[str]:
    """A line for each key whose value is not allowed whatever the others are."""
    top = {name: OmegaConf.select(config, name) for name in RunSettings.model_fields}
    yield from wrong_settings("", {name: _plain(value) for name, value in top.items()}, RunSettings)
    groups: dict[str, type[Settings]] = {"guard": GuardSettings}
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
    """verl's own validation of a config that has passed `check_config`, and names that verl looks up later.

    Raises:
        ConfigError: with a line for each unknown name, or with what verl says, as one line.
    """
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    lines = [*_unknown_names(config)]
    if lines:
        raise ConfigError(*lines)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # it also prints that all is well
            use_reference_policy, use_critic = need_reference_policy(config), need_critic(config)
            validate_config(config=config, use_reference_policy=use_reference_policy, use_critic=use_critic)
    except Exception as error:  # verl raises whatever its checks happen to raise
        raise ConfigError(f"verl refuses this config: {error}") from error


def _unknown_names(config: DictConfig) -> Iterator[str]:
    """A line for each name that is in none of verl's registries, where plugins (ours among them) have put theirs, too."""
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, POLICY_LOSS_REGISTRY
    from verl.utils.tracking import Tracking

    loggers = config.trainer.logger
    of_tasks = [name for task in tasks_of(config).values() for name in task.advantages]
    known: list[tuple[str, list[str], Any]] = [
        ("algorithm.adv_estimator", [config.algorithm.adv_estimator], [*ADV_ESTIMATOR_REGISTRY, *of_tasks]),
        (
            f"{_ACTOR}.policy_loss.loss_mode",
            [config.actor_rollout_ref.actor.policy_loss.loss_mode],
            POLICY_LOSS_REGISTRY,
        ),
        ("trainer.logger", [loggers] if isinstance(loggers, str) else [*loggers], Tracking.supported_backend),
    ]
    for key, names, allowed in known:
        for name in names:
            if str(name) not in {*map(str, allowed)}:
                yield f"{key} is {name!r}; allowed are {', '.join(sorted(map(str, allowed)))}"
