"""The keys that HölderPO adds to verl's config, typed and bounded, and the checks that run before Ray starts."""

import importlib.util
import os
import re
from typing import Any

from omegaconf import DictConfig, OmegaConf

from holderpo_core import CLIP_LEVELS, Schedule
from recipe.holderpo.tasks.registry import DATA, MODELS

SECRET_NAME = re.compile(
    r"(?:^|[._])(?:api_?key|secret(?:_?access)?(?:_?key)?|password|passwd|(?:auth|access|hf|hub|bearer)_?token)$",
    re.IGNORECASE,
)


class ConfigError(ValueError):
    """A wrong value in the config: one line that names the key, the value and what is allowed."""


def holder_schedule(config: DictConfig) -> Schedule | None:
    """The schedule of p that the config asks for; None where the loss is a baseline's.

    Raises:
        ConfigError: a key of `holder` is unknown, missing or out of bounds.
    """
    if config.actor_rollout_ref.actor.policy_loss.loss_mode != "holder" or OmegaConf.select(config, "holder") is None:
        return None  # algo=gmpo has the Hölder loss with a constant p of its own
    settings = OmegaConf.to_container(config.holder, resolve=True)
    assert isinstance(settings, dict)
    clip_level = settings.pop("clip_level")
    if clip_level not in CLIP_LEVELS:
        raise ConfigError(f"holder.clip_level is {clip_level!r}; allowed are {', '.join(CLIP_LEVELS)}")
    try:
        return Schedule(shape=settings.pop("schedule"), **settings)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _number(config: DictConfig, key: str, low: float, high: float, *, whole: bool = False) -> None:
    value = OmegaConf.select(config, key)
    allowed = f"{'a whole number' if whole else 'a number'} from {low:.12g} to {high:.12g}"
    is_number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:
        raise ConfigError(f"{key} is {value!r}; allowed is {allowed}")


def _choice(config: DictConfig, key: str, *allowed: Any) -> None:
    value = OmegaConf.select(config, key)
    if value not in allowed:
        raise ConfigError(f"{key} is {value!r}; allowed are {', '.join(map(str, allowed))}")


def check_config(config: DictConfig) -> None:
    """Check every value that a HölderPO run depends on and that verl would accept, ignore or find wrong only later.

    verl's own `validate_config` runs after this one.

    Raises:
        ConfigError: with one line for the first wrong value found.
    """
    _check_no_secret(OmegaConf.to_container(config))
    holder_schedule(config)
    actor, rollout = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
    _choice(config, "trainer.v1.trainer_mode", "sync", "colocate_async", "separate_async")
    _choice(config, "trainer.device", "cpu", "cuda", "npu")
    _choice(config, "deterministic", True, False)
    _choice(config, "trainer.use_v1", True)
    _number(config, "seed", 0, 2**31 - 1, whole=True)
    _number(config, f"{actor}.clip_ratio_low", 0, 0.999999)  # 1 would let the ratio fall to 0: no clip at all
    _number(config, f"{actor}.clip_ratio_high", 0, 100)
    _number(config, f"{actor}.optim.lr", 1e-12, 1)
    _number(config, f"{actor}.entropy_coeff", -1, 1)
    _number(config, f"{actor}.kl_loss_coef", 0, 100)
    _number(config, f"{actor}.ppo_epochs", 1, 100, whole=True)
    _number(config, f"{rollout}.temperature", 0.01, 10)
    _number(config, f"{rollout}.n", 1, 4096, whole=True)
    _number(config, "trainer.total_training_steps", 1, 10**9, whole=True)
    _number(config, "restarts", 0, 1000, whole=True)
    _check_guard(config)
    _number(config, "stop_grace_s", 1, 10**5)
    _number(config, "keep_checkpoints", 1, 1000, whole=True)
    _choice(config, "trainer.resume_mode", "auto", "disable", "resume_path")
    for key in ("trainer.max_actor_ckpt_to_keep", "trainer.max_critic_ckpt_to_keep"):
        if (value := OmegaConf.select(config, key)) is not None:
            raise ConfigError(f"{key} is {value!r}; allowed is null: keep_checkpoints says how many are kept")
    _choice(config, "trust_checkpoint", True, False)
    _choice(config, "trainer.del_local_ckpt_after_load", False)
    if OmegaConf.select(config, "trainer.remove_previous_ckpt_in_save"):
        raise ConfigError(
            "trainer.remove_previous_ckpt_in_save is True; allowed is False: the last checkpoint goes when the next is whole"
        )
    if "hf_model" in config.actor_rollout_ref.actor.checkpoint.save_contents:
        raise ConfigError(
            f"{actor}.checkpoint.save_contents has 'hf_model'; allowed are model, optimizer and extra: scripts/eval.sh "
            "merges a checkpoint into a Hugging Face folder when one is wanted"
        )
    if OmegaConf.select(config, f"{actor}.checkpoint.async_save"):
        raise ConfigError(
            f"{actor}.checkpoint.async_save is True; allowed is False: a checkpoint is committed when it is whole"
        )
    if config.trainer.resume_mode == "resume_path" and not isinstance(config.trainer.resume_from_path, str):
        raise ConfigError(
            f"trainer.resume_from_path is {config.trainer.resume_from_path!r}; "
            "allowed with trainer.resume_mode=resume_path is a folder global_step_N"
        )
    _number(config, "trainer.save_freq", -1, 10**9, whole=True)
    _number(config, "trainer.test_freq", -1, 10**9, whole=True)
    _number(config, "trainer.nnodes", 1, 10**5, whole=True)
    _number(config, "trainer.n_gpus_per_node", 1, 64, whole=True)
    _number(config, "data.train_batch_size", 1, 10**7, whole=True)
    _number(config, f"{actor}.ppo_mini_batch_size", 1, 10**7, whole=True)
    batch, mini_batch = config.data.train_batch_size, config.actor_rollout_ref.actor.ppo_mini_batch_size
    if batch % mini_batch:
        raise ConfigError(
            f"{actor}.ppo_mini_batch_size is {mini_batch}; "
            f"allowed are the divisors of data.train_batch_size={batch} (both count prompts)"
        )
    if config.algorithm.adv_estimator in ("grpo", "step_grpo") and config.actor_rollout_ref.rollout.n < 2:
        raise ConfigError(f"{rollout}.n is 1; allowed is at least 2: a group's rewards are compared with each other")
    _check_batches(config)
    if config.actor_rollout_ref.actor.policy_loss.loss_mode == "holder":
        if config.algorithm.adv_estimator in ("gae", "optimal_token_baseline", "tir_optimal_token_baseline"):
            raise ConfigError(
                f"algorithm.adv_estimator is {config.algorithm.adv_estimator!r}; "
                "allowed for loss mode holder are those with one advantage a sequence: grpo, rloo, ..."
            )
        if OmegaConf.select(config, "algorithm.rollout_correction.rollout_is") == "token":
            raise ConfigError(
                "algorithm.rollout_correction.rollout_is is 'token'; allowed for loss mode holder are sequence and null"
            )
    if config.deterministic and config.trainer.v1.trainer_mode != "sync":
        raise ConfigError(
            f"trainer.v1.trainer_mode is {config.trainer.v1.trainer_mode!r}; allowed with deterministic=true is sync: "
            "an asynchronous trainer takes samples in the order in which they arrive"
        )
    if config.deterministic and OmegaConf.select(config, "algorithm.filter_groups.enable"):
        raise ConfigError(
            "algorithm.filter_groups.enable is True; allowed with deterministic=true is False: "
            "which groups replace the filtered ones depends on which are finished first"
        )
    if config.trainer.v1.trainer_mode == "separate_async":
        _check_separate(config)
    platform_is_cpu = os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu"
    if (config.trainer.device == "cpu") != platform_is_cpu:
        raise ConfigError(
            f"trainer.device is {config.trainer.device!r} while VERL_PLATFORM in the environment is "
            f"{os.environ.get('VERL_PLATFORM')!r}; allowed is cpu with 'cpu' (hardware=cpu sets both), or neither"
        )
    if OmegaConf.select(config, "alfworld") is not None:
        _check_alfworld(config)
    _choice(config, "embedded_model", None, *MODELS)
    _choice(config, "embedded_data", None, *DATA)
    if config.actor_rollout_ref.model.path is None:
        raise ConfigError("actor_rollout_ref.model.path is null; allowed is an existing folder or a hub id")
    model_path = os.path.expanduser(str(config.actor_rollout_ref.model.path))
    if config.embedded_model is None and model_path.startswith(("/", ".")) and not os.path.isdir(model_path):
        raise ConfigError(f"actor_rollout_ref.model.path is {model_path!r}; allowed is an existing folder or a hub id")
    for key in ("data.train_files", "data.val_files") if config.embedded_data is None else ():
        for file in data_files(config, key):
            if file is None or not os.path.exists(os.path.expanduser(file)):
                raise ConfigError(f"{key} is {file!r}; allowed are existing files")


def _check_no_secret(value: Any, key: str = "") -> None:
    """The config is printed, saved and sent to trackers: it is no place for a key or a password."""
    if isinstance(value, dict):
        for name, item in value.items():
            _check_no_secret(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            _check_no_secret(item, f"{key}.{number}")
    elif isinstance(value, str) and value and SECRET_NAME.search(key):
        raise ConfigError(
            f"{key} is set; allowed is none, since the config is saved and sent to trackers: put it into the environment "
            "variable that its library reads"
        )


def data_files(config: DictConfig, key: str) -> list[str | None]:
    """The files of `data.train_files` or `data.val_files`, which may be one name or a list; [None] where it is null."""
    files = OmegaConf.select(config, key)
    return [files] if files is None or isinstance(files, str) else list(files) or [None]


def _check_guard(config: DictConfig) -> None:
    _choice(config, "guard.on_nonfinite", "skip", "stop")
    _choice(config, "guard.on_collapse", "stop", "rollback")
    _number(config, "guard.steps", 1, 10**6, whole=True)
    for name, low in (("entropy_min", 0.0), ("entropy_max", 0.0), ("grad_norm_max", 1e-12), ("log_ratio_max", 1e-12)):
        if config.guard[name] is not None:
            _number(config, f"guard.{name}", low, 1e12)
    save_freq, keep = config.trainer.save_freq, config.keep_checkpoints
    if config.guard.on_collapse == "rollback" and not 0 < config.guard.steps <= (keep - 1) * save_freq:
        raise ConfigError(
            f"guard.steps is {config.guard.steps}; allowed with guard.on_collapse=rollback is at most "
            f"(keep_checkpoints - 1) x trainer.save_freq = {(keep - 1) * save_freq}: a checkpoint from before the collapse "
            "must still be there"
        )
    loss = config.actor_rollout_ref.actor.policy_loss.loss_mode
    if config.guard.log_ratio_max is not None and loss != "holder":
        raise ConfigError(
            f"guard.log_ratio_max is {config.guard.log_ratio_max!r}; allowed with loss mode {loss!r}, which does not record "
            "it, is null"
        )


def _check_alfworld(config: DictConfig) -> None:
    """Keys of conf/task/alfworld.yaml."""
    if importlib.util.find_spec("alfworld") is None or importlib.util.find_spec("textworld") is None:
        raise ConfigError("alfworld is not installed; `bash scripts/setup.sh alfworld`, or requirements/alfworld.txt")
    _choice(config, "alfworld.size", "tiny", "small", "full")
    _choice(config, "alfworld.samples", "step", "episode")
    _choice(config, "alfworld.prompt", "full", "compact")
    _number(config, "alfworld.max_steps", 1, 1000, whole=True)
    _number(config, "alfworld.history", 0, 1000, whole=True)
    _number(config, "alfworld.answer_tokens", 1, config.data.max_response_length, whole=True)
    _number(config, "alfworld.success_reward", 1e-6, 1e6)
    _number(config, "alfworld.invalid_penalty", 0, 1e6)
    _number(config, "alfworld.workers", 1, 1024, whole=True)
    _number(config, "alfworld.episodes_per_worker", 1, 1024, whole=True)
    _number(config, "alfworld.step_timeout", 0.1, 3600)
    if config.embedded_model == "alfworld_warm":
        from recipe.holderpo.tasks.alfworld.dataset import official_folder

        if (official := official_folder()) is not None:
            raise ConfigError(
                f"ALFWORLD_DATA is {official}; allowed with model=alfworld_warm is none: it was taught generated tiny games"
            )
    by_step, estimator = config.alfworld.samples == "step", config.algorithm.adv_estimator
    if by_step != (estimator == "step_grpo"):
        allowed = "step_grpo, which takes the penalty of each step" if by_step else "any but step_grpo"
        raise ConfigError(
            f"algorithm.adv_estimator is {estimator!r}; allowed with alfworld.samples={config.alfworld.samples} is {allowed}"
        )


def _check_batches(config: DictConfig) -> None:
    """What verl finds out a minute later, in a worker (or, for `max_model_len`, never): sizes that do not fit each other."""
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    length = config.data.max_prompt_length + config.data.max_response_length
    if rollout.max_model_len is not None and rollout.max_model_len < length:
        raise ConfigError(
            f"actor_rollout_ref.rollout.max_model_len is {rollout.max_model_len}; allowed is null, or at least "
            f"data.max_prompt_length + data.max_response_length = {length}: verl would cut the responses without a word"
        )
    sequence_parallel = OmegaConf.select(actor, "ulysses_sequence_parallel_size") or 1
    ranks = config.trainer.nnodes * config.trainer.n_gpus_per_node // sequence_parallel
    sizes = (
        ("actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu", actor.ppo_mini_batch_size, actor.use_dynamic_bsz),
        (
            "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu",
            config.data.train_batch_size,
            rollout.log_prob_use_dynamic_bsz,
        ),
    )
    for key, prompts, dynamic in sizes:
        responses, micro = prompts * rollout.n, OmegaConf.select(config, key)
        if responses % ranks:
            raise ConfigError(
                f"trainer.nnodes x n_gpus_per_node gives {ranks} data-parallel ranks; allowed are divisors of "
                f"{responses}, the responses of {prompts} prompts x {rollout.n} samples"
            )
        if not dynamic and micro is not None and responses // ranks % micro:
            raise ConfigError(
                f"{key} is {micro}; allowed are the divisors of {responses // ranks} ({prompts} prompts x {rollout.n} "
                f"samples over {ranks} ranks)"
            )


def _check_separate(config: DictConfig) -> None:
    """What verl's separate_async trainer asserts when it is made."""
    rollout = config.actor_rollout_ref.rollout
    expected = config.actor_rollout_ref.actor.ppo_mini_batch_size * config.trainer.v1.separate_async.parameter_sync_step
    if config.data.train_batch_size != expected:
        raise ConfigError(
            f"data.train_batch_size is {config.data.train_batch_size}; allowed with trainer_mode=separate_async is "
            f"ppo_mini_batch_size x trainer.v1.separate_async.parameter_sync_step = {expected}"
        )
    _number(config, "actor_rollout_ref.rollout.nnodes", 1, 10**5, whole=True)
    _number(config, "actor_rollout_ref.rollout.n_gpus_per_node", 1, 64, whole=True)
    if rollout.checkpoint_engine.backend == "naive":
        raise ConfigError(
            "actor_rollout_ref.rollout.checkpoint_engine.backend is 'naive'; "
            "allowed with trainer_mode=separate_async are nccl, nixl, mooncake and other backends between devices"
        )
