"""What a rehearsal replaces in the config that a cluster would get: pure functions from that config to overrides."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from recipe.holderpo.config.compose import CONF
from recipe.holderpo.config.values import leaves
from recipe.holderpo.tasks.registry import tasks_of

RANKS = 2
STEPS = 2
SHORTER = 64  # responses are so many times shorter, but have at least MIN_RESPONSE tokens
MIN_RESPONSE = 16
STOP_GRACE_S = 10
VALIDATED = 4  # problems of the validation files
# Keys of conf/hardware/cpu.yaml that stay as the cluster has them: packing, checkpointing and bfloat16 work on a CPU, too.
KEPT = (
    "actor_rollout_ref.model.use_remove_padding",
    "actor_rollout_ref.model.enable_gradient_checkpointing",
    "actor_rollout_ref.actor.fsdp_config.mixed_precision",
    "actor_rollout_ref.ref.fsdp_config.mixed_precision",
    "actor_rollout_ref.rollout.dtype",
    "ray_kwargs.ray_init.log_to_driver",  # so that an error of a worker is in driver.log
    "trainer.nnodes",
    "trainer.n_gpus_per_node",
)
_TOKENS_PER_GPU = (
    "actor_rollout_ref.actor.ppo_max_token_len_per_gpu",
    "actor_rollout_ref.ref.log_prob_max_token_len_per_gpu",
    "actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu",
)
_MICRO_BATCHES = (
    ("actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu", "actor_rollout_ref.actor.ppo_mini_batch_size"),
    ("actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu", "data.train_batch_size"),
    ("actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu", "data.train_batch_size"),
)


@dataclass(frozen=True)
class Replacement:
    """One key: what the cluster would have, what the rehearsal has, and why."""

    key: str
    was: Any
    value: Any
    why: str

    @property
    def override(self) -> str:
        return override(self.key, self.value)


def key_of(given: str) -> str:
    """The key of an override."""
    return given.lstrip("+~").partition("=")[0]


def override(key: str, value: Any) -> str:
    """For Hydra's command line; a later override of a key wins over an earlier one."""
    return f"++{key}={_written(value)}"


def _written(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{name}: {_written(one)}' for name, one in value.items())}}}"
    if isinstance(value, str) and not value.startswith("${"):
        return "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + (m[2] and r"\'"), value) + "'"  # as Hydra quotes
    return str(value)


def replacements(config: DictConfig, nodes: int) -> list[Replacement]:
    """All but the model and the data, in the order in which they are to be given.

    Args:
        config: resolved, as the cluster would have it.
        nodes: of the rehearsal, 1 or 2.
    """
    found = [*_device(config, nodes), *_sizes(config, nodes), *_course(config)]
    for name, task in tasks_of(config).items():
        found += [
            Replacement(key, value_of(config, key), value, f"{name}, small") for key, value in task.rehearsal.items()
        ]
    return [one for one in found if one.was != one.value]


def value_of(config: DictConfig, key: str) -> Any:
    """A key's value, a group or a list as Python's own."""
    value = OmegaConf.select(config, key)
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def _device(config: DictConfig, nodes: int) -> Iterator[Replacement]:
    """Those of conf/hardware/cpu.yaml that a CPU cannot do without."""
    for key, value in leaves(OmegaConf.to_container(OmegaConf.load(CONF / "hardware" / "cpu.yaml"))):
        if not key.startswith(KEPT):
            yield Replacement(key, value_of(config, key), value, "a CPU")
    ranks = min(RANKS, config.trainer.nnodes * config.trainer.n_gpus_per_node)
    yield Replacement("trainer.nnodes", config.trainer.nnodes, nodes, "this machine")
    yield Replacement(
        "trainer.n_gpus_per_node", config.trainer.n_gpus_per_node, max(1, ranks // nodes), "two processes"
    )


def _sizes(config: DictConfig, nodes: int) -> Iterator[Replacement]:
    """Batches and lengths divided, so that updates a step, samples a prompt, and sequences a micro-batch stay."""
    rollout, actor, data = config.actor_rollout_ref.rollout, config.actor_rollout_ref.actor, config.data
    world = config.trainer.nnodes * config.trainer.n_gpus_per_node
    ranks = max(nodes, min(RANKS, world))
    divisor = max(
        d
        for d in range(1, actor.ppo_mini_batch_size + 1)
        if data.train_batch_size % d == actor.ppo_mini_batch_size % d == 0
        and (d == 1 or actor.ppo_mini_batch_size // d * rollout.n % ranks == 0)
    )
    for key in ("data.train_batch_size", "actor_rollout_ref.actor.ppo_mini_batch_size"):
        yield Replacement(key, value_of(config, key), value_of(config, key) // divisor, "the same updates a step")
    for key, prompts in _MICRO_BATCHES:
        size = value_of(config, key)
        if size is not None:  # as much of a rank's share as on the cluster
            share = size * world / (value_of(config, prompts) * rollout.n)
            here = math.ceil(share * (value_of(config, prompts) // divisor) * rollout.n / ranks)
            yield Replacement(key, size, max(1, here), "as many micro-batches a rank")
    response = min(data.max_response_length, max(MIN_RESPONSE, math.ceil(data.max_response_length / SHORTER)))
    yield Replacement("data.max_response_length", data.max_response_length, response, "time")
    tokens, longest = data.max_prompt_length + response, data.max_prompt_length + data.max_response_length
    yield Replacement("actor_rollout_ref.rollout.max_model_len", rollout.max_model_len, tokens, "shorter responses")
    for key in _TOKENS_PER_GPU:
        size = value_of(config, key)
        if size is not None:
            yield Replacement(key, size, math.ceil(size * tokens / longest), "as many sequences a micro-batch")


def _course(config: DictConfig) -> Iterator[Replacement]:
    trainer, data = config.trainer, config.data
    yield Replacement("trainer.total_training_steps", trainer.total_training_steps, STEPS, "time")
    yield Replacement("trainer.save_freq", trainer.save_freq, 1, "a checkpoint to resume from")
    yield Replacement("trainer.test_freq", trainer.test_freq, STEPS, "validation at the end")
    enough = STEPS * data.train_batch_size  # of the cluster's batches
    yield Replacement("data.train_max_samples", data.get("train_max_samples"), enough, "time")
    yield Replacement("data.val_max_samples", data.get("val_max_samples"), VALIDATED, "time")
    filtered = "algorithm.filter_groups.enable"
    if value_of(config, filtered):  # else there would never be a batch
        yield Replacement(filtered, True, False, "random weights: every group is all wrong")
    yield Replacement("stop_grace_s", config.stop_grace_s, STOP_GRACE_S, "nothing is to be saved")
    yield Replacement("restarts", config.restarts, 0, "the first error counts")
    yield Replacement("env.WANDB_MODE", value_of(config, "env.WANDB_MODE"), "offline", "no account needed")
