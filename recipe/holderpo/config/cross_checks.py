"""Values that must fit each other. Each function yields a line for each that does not; `CROSS_CHECKS` names the keys that it
reads, and it is called only where these are right by themselves."""

import importlib.util
import ipaddress
import os
import re
import symtable
from collections.abc import Callable, Iterator
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from recipe.holderpo.config.secrets import no_secrets
from recipe.holderpo.config.settings import uses_holder_loss
from recipe.holderpo.config.values import wrong_settings
from recipe.holderpo.rewards.grading.settings import GradingSettings

NOT_COMPILED = {f"actor_rollout_ref.{key}.use_torch_compile": False for key in ("actor", "actor.fsdp_config", "ref")}
NOT_COMPILED["actor_rollout_ref.rollout.enforce_eager"] = True
ATTENTION = "actor_rollout_ref.model.override_config.attn_implementation"
SINGLE_TURN = ("holder_single_turn", "single_turn_agent")
"""Agent loops, ours and verl's, that give no rewards themselves."""
AGENT_LOOPS = (*SINGLE_TURN, "tool_agent")
# verl's keys that would undo what this recipe does about checkpoints; the value each must have, and why.
_CHECKPOINT_KEYS = {
    "trainer.max_actor_ckpt_to_keep": (None, "keep_checkpoints says how many are kept"),
    "trainer.max_critic_ckpt_to_keep": (None, "keep_checkpoints says how many are kept"),
    "critic.checkpoint.async_save": (False, "a critic's is written at once"),
    "trainer.del_local_ckpt_after_load": (False, "a checkpoint is deleted when a newer one is complete"),
    "trainer.remove_previous_ckpt_in_save": (False, "a checkpoint is deleted when a newer one is complete"),
}


def data_files(config: DictConfig, key: str) -> list[str | None]:
    """The files of `data.train_files` or `data.val_files`, which may be one name or a list; [None] where it is null."""
    files = OmegaConf.select(config, key)
    return [files] if files is None or isinstance(files, str) else list(files) or [None]


def holder_loss(config: DictConfig) -> Iterator[str]:
    if not uses_holder_loss(config):
        return
    if config.actor_rollout_ref.actor.policy_loss.get("p") is not None:
        yield (
            f"actor_rollout_ref.actor.policy_loss.p is {config.actor_rollout_ref.actor.policy_loss.p}; allowed is null: the "
            "group holder decides p, with schedule=constant where it is constant"
        )
    if config.algorithm.adv_estimator in ("gae", "optimal_token_baseline", "tir_optimal_token_baseline"):
        yield (
            f"algorithm.adv_estimator is {config.algorithm.adv_estimator!r}; "
            "allowed for loss mode holder are those with one advantage per response: grpo, rloo, ..."
        )
    if OmegaConf.select(config, "algorithm.rollout_correction.rollout_is") == "token":
        yield "algorithm.rollout_correction.rollout_is is 'token'; allowed for loss mode holder are sequence and null"


def guard(config: DictConfig) -> Iterator[str]:
    save_freq, keep = config.trainer.save_freq, config.keep_checkpoints
    if config.guard.on_collapse == "rollback" and not 0 < config.guard.steps <= (keep - 1) * save_freq:
        yield (
            f"guard.steps is {config.guard.steps}; allowed with guard.on_collapse=rollback is at most "
            f"(keep_checkpoints - 1) x trainer.save_freq = {(keep - 1) * save_freq}: a checkpoint from before the collapse "
            "must still be there"
        )
    limits = ("entropy_min", "entropy_max", "grad_norm_max", "log_ratio_max", "first_log_ratio_max")
    watched = [name for name in limits if config.guard[name] is not None]
    if watched and (config.trainer.get("critic_warmup") or 0) > 0:
        yield (
            f"trainer.critic_warmup is {config.trainer.critic_warmup}; allowed with guard.{watched[0]} is 0: there is no "
            "such metric while only the critic is trained"
        )


def checkpoints(config: DictConfig) -> Iterator[str]:
    for key, (allowed, reason) in _CHECKPOINT_KEYS.items():
        value = OmegaConf.select(config, key)
        if value is not None and value != allowed:
            yield f"{key} is {value!r}; allowed is {'null' if allowed is None else str(allowed).lower()}: {reason}"
    if "hf_model" in config.actor_rollout_ref.actor.checkpoint.save_contents:
        yield (
            "actor_rollout_ref.actor.checkpoint.save_contents has 'hf_model'; allowed are model, optimizer and extra: "
            "scripts/eval.sh merges a checkpoint where one is wanted"
        )
    actor = config.actor_rollout_ref.actor
    if actor.checkpoint.async_save and actor.strategy != "fsdp2":
        yield f"actor_rollout_ref.actor.checkpoint.async_save is True; allowed with strategy={actor.strategy} is false"
    if config.trainer.resume_mode == "resume_path" and not isinstance(config.trainer.resume_from_path, str):
        yield (
            f"trainer.resume_from_path is {config.trainer.resume_from_path!r}; "
            "allowed with trainer.resume_mode=resume_path is a folder global_step_N"
        )


def groups(config: DictConfig) -> Iterator[str]:
    if config.algorithm.adv_estimator in ("grpo", "step_grpo", "gigpo") and config.actor_rollout_ref.rollout.n < 2:
        yield (
            "actor_rollout_ref.rollout.n is 1; allowed is at least 2: a group's rewards are compared with each other"
        )


def lengths(config: DictConfig) -> Iterator[str]:
    rollout, length = config.actor_rollout_ref.rollout, config.data.max_prompt_length + config.data.max_response_length
    if rollout.max_model_len is not None and rollout.max_model_len < length:
        yield (
            f"actor_rollout_ref.rollout.max_model_len is {rollout.max_model_len}; allowed is null, or at least "
            f"data.max_prompt_length + data.max_response_length = {length}: verl would cut the responses silently"
        )


def batches(config: DictConfig) -> Iterator[str]:
    """Sizes that do not divide each other, which verl finds out a minute later, in a worker."""
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    batch, mini_batch = config.data.train_batch_size, actor.ppo_mini_batch_size
    if batch % mini_batch:
        yield (
            f"actor_rollout_ref.actor.ppo_mini_batch_size is {mini_batch}; "
            f"allowed are the divisors of data.train_batch_size={batch} (both count prompts)"
        )
        return
    devices = config.trainer.nnodes * config.trainer.n_gpus_per_node
    sequence_parallel = OmegaConf.select(actor, "ulysses_sequence_parallel_size") or 1
    if devices % sequence_parallel:
        yield (
            f"actor_rollout_ref.actor.ulysses_sequence_parallel_size is {sequence_parallel}; allowed are the divisors of the "
            f"{devices} devices of trainer.nnodes x n_gpus_per_node"
        )
        return
    ranks = devices // sequence_parallel
    sizes = (
        ("actor.ppo_micro_batch_size_per_gpu", mini_batch, actor.use_dynamic_bsz),
        ("rollout.log_prob_micro_batch_size_per_gpu", batch, rollout.log_prob_use_dynamic_bsz),
    )
    for name, prompts, dynamic in sizes:
        responses, micro = prompts * rollout.n, OmegaConf.select(config.actor_rollout_ref, name)
        if responses % ranks:
            yield (
                f"trainer.nnodes x n_gpus_per_node gives {ranks} data-parallel ranks; allowed are divisors of "
                f"{responses}, the responses of {prompts} prompts x {rollout.n} samples"
            )
        elif not dynamic and micro is not None and responses // ranks % micro:
            yield (
                f"actor_rollout_ref.{name} is {micro}; allowed are the divisors of {responses // ranks} ({prompts} prompts x "
                f"{rollout.n} samples over {ranks} ranks)"
            )


def rollout_engine(config: DictConfig) -> Iterator[str]:
    """The engine that samples is installed, and each replica of it has as many devices as it is split over."""
    rollout = config.actor_rollout_ref.rollout
    if importlib.util.find_spec(str(rollout.name)) is None:
        yield f"actor_rollout_ref.rollout.name is {rollout.name!r}, which is not installed here; allowed is vllm"
    devices = config.trainer.nnodes * config.trainer.n_gpus_per_node
    if config.trainer.v1.trainer_mode != "separate_async" and devices % rollout.tensor_model_parallel_size:
        yield (
            f"actor_rollout_ref.rollout.tensor_model_parallel_size is {rollout.tensor_model_parallel_size}; allowed are the "
            f"divisors of the {devices} devices of trainer.nnodes x n_gpus_per_node"
        )


def agent_loop(config: DictConfig) -> Iterator[str]:
    """What answers a prompt: one of verl's, ours, or one that a file of the user's defines."""
    agent = config.actor_rollout_ref.rollout.agent
    known, file = [*AGENT_LOOPS], agent.agent_loop_config_path
    if file is not None:
        try:
            known += [str(loop.name) for loop in OmegaConf.load(Path(str(file)).expanduser())]
        except Exception as error:  # whatever a broken file makes YAML and OmegaConf raise
            yield (
                f"actor_rollout_ref.rollout.agent.agent_loop_config_path is {file!r}; allowed is a YAML file with a list of "
                f"agent loops, each with a name and a _target_: {' '.join(str(error).split())[:200]}"
            )
            return
    if agent.default_agent_loop not in known:
        yield (
            f"actor_rollout_ref.rollout.agent.default_agent_loop is {agent.default_agent_loop!r}; "
            f"allowed are {', '.join(known)}"
        )


def filtered_groups(config: DictConfig) -> Iterator[str]:
    groups = OmegaConf.select(config, "algorithm.filter_groups")
    if groups and groups.enable and groups.metric is None:
        yield (
            "algorithm.filter_groups.metric is null; allowed with enable=true is reward, or the name of a number that the "
            "reward function returns: without it, verl filters nothing"
        )


def reward_function(config: DictConfig) -> Iterator[str]:
    """A reward function of the user's, and a reward manager, in a file or a module of a package: there, and defined."""
    function, manager = config.reward.custom_reward_function, config.reward.reward_manager
    if function.path is not None:
        yield from _undefined("reward.custom_reward_function", "path", function.path, function.name)
    if manager.source == "importlib" and manager.module.path is not None:
        yield from _undefined("reward.reward_manager", "module.path", manager.module.path, manager.name)


def _undefined(key: str, where: str, path: str, name: str) -> Iterator[str]:
    """A line if a Python file, or a module as pkg://a.b, is not there or does not define a name. Nothing of it is run."""
    try:
        module = importlib.util.find_spec(path.removeprefix("pkg://")) if path.startswith("pkg://") else None
        file = Path(module.origin or "") if module else Path(path).expanduser()
        source = file.read_text()
        names = symtable.symtable(source, path, "exec").get_symbols()
    except (OSError, SyntaxError, ValueError, ImportError) as error:
        yield f"{key}.{where} is {path!r}; allowed is a Python file, or pkg:// and a module: {error}"
        return
    defined = {name.get_name() for name in names if name.is_assigned() or name.is_imported()}
    if name not in defined and "import *" not in source:
        yield f"{key}.name is {name!r}; {path} defines {', '.join(sorted(defined)) or 'nothing'}"


def grading(config: DictConfig) -> Iterator[str]:
    """The limits of our grader, which it would find wrong at the first answer."""
    function = config.reward.custom_reward_function
    if function.path == "pkg://recipe.holderpo.rewards.math":
        limits = OmegaConf.to_container(function.reward_kwargs) if function.get("reward_kwargs") else {}
        assert isinstance(limits, dict)
        values = {str(name): value for name, value in limits.items()}
        yield from wrong_settings("reward.custom_reward_function.reward_kwargs", values, GradingSettings)


def deterministic(config: DictConfig) -> Iterator[str]:
    if not config.deterministic:
        return
    if config.trainer.v1.trainer_mode != "sync":
        yield (
            f"trainer.v1.trainer_mode is {config.trainer.v1.trainer_mode!r}; allowed with deterministic=true is sync: "
            "an asynchronous trainer takes samples in the order in which they arrive"
        )
    if OmegaConf.select(config, "algorithm.filter_groups.enable"):
        yield (
            "algorithm.filter_groups.enable is True; allowed with deterministic=true is false: "
            "which groups replace the filtered ones depends on which are finished first"
        )


def deterministic_gpus(config: DictConfig) -> Iterator[str]:
    """Seeds do not make a bfloat16 kernel's result independent of what else is in its batch."""
    keys = ("actor_rollout_ref.rollout.full_determinism", "actor_rollout_ref.actor.fsdp_config.full_determinism")
    if config.deterministic and config.trainer.device != "cpu":
        for key in keys:
            if not OmegaConf.select(config, key):
                yield (
                    f"{key} is {OmegaConf.select(config, key)}; allowed with deterministic=true on GPUs is true, which costs "
                    "speed: kernels whose results do not depend on what else is in the batch"
                )


def forked_workers(config: DictConfig) -> Iterator[str]:
    if config.fork_workers and config.actor_rollout_ref.rollout.full_determinism:
        yield (
            "actor_rollout_ref.rollout.full_determinism is True; allowed with fork_workers=true is false: "
            "a forked process has the hash seed of the process that it was forked from"
        )


def stalls(config: DictConfig) -> Iterator[str]:
    floor, timeout = config.stall.floor_s, config.actor_rollout_ref.nccl_timeout
    if config.trainer.device != "cpu" and floor is not None and floor <= timeout:
        yield (
            f"stall.floor_s is {floor:g}; allowed on GPUs is null, or more than actor_rollout_ref.nccl_timeout={timeout:g}: "
            "NCCL's own report of a rank that is gone is to come first"
        )


def ray_address(config: DictConfig) -> Iterator[str]:
    ray_init = config.ray_kwargs.ray_init
    address, own = ray_init.get("address"), ray_init.get("_node_ip_address")
    if address not in (None, "local", "auto") and not re.fullmatch(
        r"(ray://)?(\[[0-9a-fA-F:]+\]|[\w.-]+):\d{1,5}", address
    ):
        yield (
            f"ray_kwargs.ray_init.address is {address!r}; allowed are local, auto, host:port, ray://host:port and null"
        )
    try:
        ipaddress.ip_address(own or "127.0.0.1")
    except ValueError:
        yield f"ray_kwargs.ray_init._node_ip_address is {own!r}; allowed is an IP address of this machine, or null"


def separate_async(config: DictConfig) -> Iterator[str]:
    """What verl's separate_async trainer asserts when it is made."""
    if config.trainer.v1.trainer_mode != "separate_async":
        return
    rollout = config.actor_rollout_ref.rollout
    expected = config.actor_rollout_ref.actor.ppo_mini_batch_size * config.trainer.v1.separate_async.parameter_sync_step
    if config.data.train_batch_size != expected:
        yield (
            f"data.train_batch_size is {config.data.train_batch_size}; allowed with trainer_mode=separate_async is "
            f"ppo_mini_batch_size x trainer.v1.separate_async.parameter_sync_step = {expected}"
        )
    for name in ("nnodes", "n_gpus_per_node"):
        if not isinstance(rollout[name], int) or rollout[name] < 1:
            yield (
                f"actor_rollout_ref.rollout.{name} is {rollout[name]!r}; allowed with trainer_mode=separate_async is a whole "
                "number from 1: the devices that sample alone"
            )
    if rollout.checkpoint_engine.backend == "naive":
        yield (
            "actor_rollout_ref.rollout.checkpoint_engine.backend is 'naive'; "
            "allowed with trainer_mode=separate_async are nccl, nixl, mooncake and other backends between devices"
        )


def platform(config: DictConfig) -> Iterator[str]:
    for role in ("actor", "ref"):
        strategy = config.actor_rollout_ref[role].strategy
        if config.trainer.device == "cpu" and strategy != "fsdp2":
            yield (
                f"actor_rollout_ref.{role}.strategy is {strategy!r}; allowed with trainer.device=cpu is fsdp2: "
                "FSDP1 insists on an accelerator"
            )
    attention = OmegaConf.select(config, ATTENTION)
    if config.trainer.device == "cpu" and attention not in ("sdpa", "eager"):
        yield f"{ATTENTION} is {attention!r}; allowed with trainer.device=cpu are sdpa and eager"
    chosen = os.environ.get("VERL_PLATFORM")
    if (config.trainer.device == "cpu") != ((chosen or "").strip().lower() == "cpu"):
        yield (
            f"trainer.device is {config.trainer.device!r} while VERL_PLATFORM in the environment is {chosen!r}; "
            "allowed is cpu with 'cpu' (hardware=cpu sets both), or neither"
        )


def compiled(config: DictConfig) -> Iterator[str]:
    off = config.env.get("TORCH_COMPILE_DISABLE")
    if str(off) not in ("None", "0", "1"):
        yield f"env.TORCH_COMPILE_DISABLE is {off!r}; allowed are 0 and 1"
    for key, value in NOT_COMPILED.items():
        if str(off) == "1" and OmegaConf.select(config, key) is not value:
            yield f"{key} is {str(not value).lower()}; allowed with env.TORCH_COMPILE_DISABLE=1 is {str(value).lower()}"


def files(config: DictConfig) -> Iterator[str]:
    """Model and data where they are local, and not made by the command itself."""
    path = config.actor_rollout_ref.model.path
    if path is None:
        yield "actor_rollout_ref.model.path is null; allowed is an existing folder or a hub id"
    elif config.embedded_model is None:
        folder = os.path.expanduser(str(path))
        if folder.startswith(("/", ".")) and not os.path.isdir(folder):
            yield f"actor_rollout_ref.model.path is {folder!r}; allowed is an existing folder or a hub id"
    for key in ("data.train_files", "data.val_files") if config.embedded_data is None else ():
        for file in data_files(config, key):
            if file is None or not os.path.exists(os.path.expanduser(str(file))):
                yield f"{key} is {file!r}; allowed are existing files"


_BATCH_KEYS = (
    "data.train_batch_size",
    "actor_rollout_ref.actor.ppo_mini_batch_size",
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu",
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu",
    "actor_rollout_ref.actor.ulysses_sequence_parallel_size",
    "actor_rollout_ref.rollout.n",
    "trainer.nnodes",
    "trainer.n_gpus_per_node",
)
CROSS_CHECKS: dict[Callable[[DictConfig], Iterator[str]], tuple[str, ...]] = {
    no_secrets: (),
    holder_loss: (),
    guard: ("guard", "trainer.save_freq", "keep_checkpoints"),
    checkpoints: ("trainer.resume_mode", "actor_rollout_ref.actor.checkpoint", "actor_rollout_ref.actor.strategy"),
    groups: ("actor_rollout_ref.rollout.n",),
    lengths: ("data.max_prompt_length", "data.max_response_length", "actor_rollout_ref.rollout.max_model_len"),
    batches: _BATCH_KEYS,
    rollout_engine: (
        "actor_rollout_ref.rollout.tensor_model_parallel_size",
        "trainer.nnodes",
        "trainer.n_gpus_per_node",
        "trainer.v1",
    ),
    reward_function: ("reward.custom_reward_function", "reward.reward_manager"),
    grading: ("reward.custom_reward_function",),
    agent_loop: (),
    ray_address: ("ray_kwargs.ray_init",),
    filtered_groups: (),
    deterministic: ("deterministic", "trainer.v1.trainer_mode"),
    deterministic_gpus: ("deterministic", "trainer.device"),
    forked_workers: ("fork_workers",),
    stalls: ("stall", "actor_rollout_ref.nccl_timeout", "trainer.device"),
    separate_async: ("trainer.v1", "actor_rollout_ref.rollout.checkpoint_engine", *_BATCH_KEYS),
    platform: ("trainer.device", "actor_rollout_ref.actor.strategy", "actor_rollout_ref.ref.strategy", ATTENTION),
    compiled: ("env", *NOT_COMPILED),
    files: ("embedded_model", "embedded_data", "data.train_files", "data.val_files"),
}
