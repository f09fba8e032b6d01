"""Wrong values end the command before Ray starts, with one line that names the key, the value and what is allowed."""

import copy
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from recipe.holderpo.config.checks import check_config, check_with_verl
from recipe.holderpo.config.compose import CONF, compose_config, register_resolvers, resolve, set_environment
from recipe.holderpo.config.cross_checks import stalls
from recipe.holderpo.config.errors import ConfigError
from recipe.holderpo.fault_tolerance.checkpoint import commit
from recipe.holderpo.fault_tolerance.resume import check_resume, find_checkpoint
from recipe.holderpo.report.record import RunRecord

ROOT = Path(__file__).parents[2]
GROUPS = {"algo", "hardware", "task", "model", "logger"}

# override -> what the one line must contain
BAD = {
    "holder.schedule=exponential": ["holder.schedule", "exponential", "linear"],
    "holder.p_start=nan": ["holder.p_start", "nan"],
    "holder.p_start=two": ["holder.p_start", "two"],
    "holder.p_end=inf": ["holder.p_end", "inf"],
    "holder.p_end=null": ["holder.p_end", "null", "finite number"],
    "holder.steps=1": ["holder.steps", "1", "from 2"],
    "holder.steps=2.5": ["holder.steps", "2.5"],
    "holder.power=3": ["holder.power", "3", "null"],
    "holder.schedule=power holder.power=0": ["holder.power", "0", "above 0"],
    "holder.clip_level=word": ["holder.clip_level", "word", "sequence"],
    "actor_rollout_ref.actor.clip_ratio_low=-0.1": ["clip_ratio_low", "-0.1", "from 0 to 0.999999"],
    "actor_rollout_ref.actor.clip_ratio_high=big": ["clip_ratio_high", "big", "a number"],
    "actor_rollout_ref.actor.optim.lr=0": ["optim.lr", "0"],
    "actor_rollout_ref.actor.ppo_mini_batch_size=5": ["ppo_mini_batch_size", "5", "divisors", "32"],
    "actor_rollout_ref.rollout.n=1": ["rollout.n", "1", "at least 2"],
    "actor_rollout_ref.rollout.temperature=0": ["rollout.temperature", "0"],
    "algorithm.adv_estimator=gae": ["adv_estimator", "gae", "one advantage per response"],
    "algorithm.adv_estimator=optimal_token_baseline": ["adv_estimator", "optimal_token_baseline", "one advantage"],
    "algorithm.rollout_correction.rollout_is=token": ["rollout_is", "token", "sequence"],
    "actor_rollout_ref.rollout.n=6": ["ppo_micro_batch_size_per_gpu", "32", "divisors of 48"],
    "trainer.n_gpus_per_node=4": ["ppo_micro_batch_size_per_gpu", "32", "divisors of 16"],
    "trainer.n_gpus_per_node=3": ["3 data-parallel ranks", "divisors of 64"],
    "data.max_response_length=3000": ["max_model_len", "64", "3048"],
    "algorithm.gamma=2": ["algorithm.gamma", "2", "from 0 to 1"],
    "algorithm.norm_adv_by_std_in_grpo=maybe": ["norm_adv_by_std_in_grpo", "maybe", "true or false"],
    "actor_rollout_ref.actor.grad_clip=-1": ["grad_clip", "-1"],
    "actor_rollout_ref.rollout.dtype=float8": ["rollout.dtype", "float8", "bfloat16"],
    "actor_rollout_ref.rollout.enforce_eager=maybe": ["enforce_eager", "maybe"],
    "actor_rollout_ref.rollout.gpu_memory_utilization=2": ["gpu_memory_utilization", "2", "to 1"],
    "actor_rollout_ref.rollout.max_num_seqs=0": ["max_num_seqs", "0"],
    "actor_rollout_ref.rollout.mode=sync": ["rollout.mode", "sync", "async"],
    "actor_rollout_ref.rollout.name=sglang": ["rollout.name", "sglang", "not installed"],
    "actor_rollout_ref.rollout.tensor_model_parallel_size=2": ["tensor_model_parallel_size", "2", "divisors of the 1"],
    "actor_rollout_ref.rollout.top_p=2": ["rollout.top_p", "2", "to 1"],
    "actor_rollout_ref.rollout.val_kwargs.n=0": ["val_kwargs.n", "0"],
    "actor_rollout_ref.rollout.val_kwargs.temperature=-1": ["val_kwargs.temperature", "-1"],
    "data.shuffle=maybe": ["data.shuffle", "maybe"],
    "data.val_batch_size=-1": ["val_batch_size", "-1"],
    "guard.entropy_min=5 guard.entropy_max=1": ["guard.entropy_min", "5", "less than", "1"],
    "reward.custom_reward_function.path=nope.py": ["custom_reward_function.path", "nope.py", "No such file"],
    "reward.num_workers=0": ["reward.num_workers", "0"],
    "trainer.logger=null": ["trainer.logger", "None"],
    "trainer.project_name=null": ["trainer.project_name", "None"],
    "trainer.total_epochs=0": ["trainer.total_epochs", "0"],
    "trainer.val_before_train=maybe": ["val_before_train", "maybe"],
    "deterministic=true algo=dapo": ["filter_groups", "True", "allowed with deterministic=true is false"],
    "trainer.v1.trainer_mode=separate_async": ["rollout.nnodes", "0", "from 1"],
    "trainer.v1.trainer_mode=separate_async trainer.v1.separate_async.parameter_sync_step=2": [
        "train_batch_size",
        "32",
        "16",
    ],
    "trainer.v1.trainer_mode=separate_async actor_rollout_ref.rollout.nnodes=1 actor_rollout_ref.rollout.n_gpus_per_node=1": [
        "checkpoint_engine.backend",
        "naive",
        "nccl",
    ],
    "trainer.total_training_steps=null": ["total_training_steps", "None", "from 1"],
    "trainer.v1.trainer_mode=turbo": ["trainer.v1.trainer_mode", "turbo", "sync"],
    "deterministic=maybe": ["deterministic", "maybe", "true or false"],
    "deterministic=true trainer.v1.trainer_mode=colocate_async": ["trainer_mode", "colocate_async", "sync"],
    "trainer.total_training_steps=0": ["total_training_steps", "0", "from 1"],
    "actor_rollout_ref.actor.use_torch_compile=true": [
        "actor.use_torch_compile is true",
        "TORCH_COMPILE_DISABLE=1 is false",
    ],
    "actor_rollout_ref.rollout.enforce_eager=false": ["enforce_eager is false", "TORCH_COMPILE_DISABLE=1 is true"],
    "env.TORCH_COMPILE_DISABLE=yes": ["env.TORCH_COMPILE_DISABLE is 'yes'", "allowed are 0 and 1"],
    "trainer.device=cuda": ["trainer.device", "cuda", "hardware=cpu"],
    "seed=-1": ["seed", "-1", "from 0"],
    "embedded_data=null data.train_files=/no/such.parquet": ["data.train_files", "/no/such.parquet", "existing files"],
    "model=custom task=custom trainer.total_training_steps=9": ["actor_rollout_ref.model.path", "null", "hub id"],
    "model=custom task=custom trainer.total_training_steps=9 actor_rollout_ref.model.path=a/b": [
        "data.train_files",
        "None",
    ],
    "embedded_model=huge": ["embedded_model", "huge", "tiny"],
    "+env.WANDB_API_KEY=0123456789": ["env.WANDB_API_KEY is set", "environment variable"],
    "+trainer.auth_token=hf_x": ["trainer.auth_token is set", "environment variable"],
    "keep_checkpoints=0": ["keep_checkpoints", "0", "from 1"],
    "trainer.max_actor_ckpt_to_keep=1": ["max_actor_ckpt_to_keep", "1", "keep_checkpoints"],
    "trainer.del_local_ckpt_after_load=true": ["del_local_ckpt_after_load", "True", "false"],
    "trainer.resume_mode=never": ["trainer.resume_mode", "never", "auto"],
    "trainer.resume_mode=resume_path": ["resume_from_path", "None", "global_step_N"],
    "trust_checkpoint=perhaps": ["trust_checkpoint", "perhaps", "true or false"],
    "fork_workers=perhaps": ["fork_workers", "perhaps", "true or false"],
    "actor_rollout_ref.rollout.full_determinism=true": ["full_determinism", "True", "hash seed"],
    "actor_rollout_ref.actor.checkpoint.async_save=1": ["async_save", "1", "true or false"],
    "stop_grace_s=0": ["stop_grace_s", "0", "from 1"],
    "guard.on_nonfinite=ignore": ["guard.on_nonfinite", "ignore", "skip"],
    "guard.on_collapse=hope": ["guard.on_collapse", "hope", "rollback"],
    "guard.entropy_min=-1": ["guard.entropy_min", "-1", "from 0"],
    "guard.on_collapse=rollback guard.steps=21 trainer.save_freq=20": ["guard.steps", "21", "= 20"],
    "guard.on_collapse=rollback trainer.save_freq=-1": ["guard.steps", "5", "= -1"],
    "actor_rollout_ref.actor.checkpoint.save_contents=[model,hf_model]": ["save_contents", "hf_model", "eval.sh"],
    "+trainer.remove_previous_ckpt_in_save=true": ["remove_previous_ckpt_in_save", "True", "false"],
    "guard.steps=0": ["guard.steps", "0", "from 1"],
    "holder.rule=adaptive": ["holder.rule", "adaptive", "dispersion"],
    "holder.rule=signed": ["holder.delta_start is null", "signed"],
    "holder.delta_start=1": ["holder.delta_start is 1", "schedule", "null"],
    "algo=holder_signed holder.delta_start=-101": ["holder.delta_start", "-101", "from -100"],
    "algo=holder_signed holder.delta_end=1": ["holder.delta_end is 1", "constant"],
    "algo=holder_dispersion holder.spread_min=0": ["holder.spread_min", "0", "above 0"],
    "algo=holder_dispersion holder.spread_decay=1": ["holder.spread_decay", "1", "from 0 to 0.9999"],
    "algo=holder_dispersion holder.p_max=null": ["holder.p_max is null", "dispersion"],
    "algo=holder_ess holder.ess_target=1.5": ["holder.ess_target", "1.5", "above 0"],
    "algo=holder_ess holder.ess_sign=2": ["holder.ess_sign", "2", "-1, 0, 1"],
    "algo=holder_ess holder.p_start=1": ["holder.p_start is 1", "ess", "null"],
    "algo=apmpo_like holder.reward_rate=-1": ["holder.reward_rate", "-1", "from 0"],
    "holder.length_weighted=2": ["holder.length_weighted", "2", "true or false"],
}

# Overrides that make several values wrong: how many lines there are.
SEVERAL = {
    "actor_rollout_ref.rollout.n=1": 3,  # the micro-batches do not fit either
    "trainer.n_gpus_per_node=3": 2,
    "trainer.v1.trainer_mode=separate_async": 2,
    "trainer.v1.trainer_mode=separate_async trainer.v1.separate_async.parameter_sync_step=2": 3,
    "embedded_data=null data.train_files=/no/such.parquet": 2,
    "model=custom task=custom trainer.total_training_steps=9": 3,
    "model=custom task=custom trainer.total_training_steps=9 actor_rollout_ref.model.path=a/b": 2,
}


BASE = "model=tiny"
"""What the tests compose: two mini-batches and more per step, several micro-batches in each, which the default has not."""


def _command(tmp_path: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "recipe.holderpo.main", f"run_dir={tmp_path}/run", *overrides]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


@cache
def _default() -> DictConfig:
    """The config of BASE, not yet resolved: Hydra takes half a second to read verl's forty files."""
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base=None):
        return compose("holderpo", overrides=[BASE])


def _compose(*overrides: str) -> DictConfig:
    """As `compose_config`, which it calls where a group is chosen, or a key added or deleted."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    if any(override.key_or_group in GROUPS or override.is_add() or override.is_delete() for override in parsed):
        return compose_config([*([] if any(o.key_or_group == "model" for o in parsed) else [BASE]), *overrides])
    config = copy.deepcopy(_default())
    for override in parsed:
        OmegaConf.update(config, override.key_or_group, override.value())
    return resolve(config)


@pytest.mark.parametrize("overrides", BAD)
def test_the_error_names_key_value_and_what_is_allowed(overrides: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    config = _compose(*overrides.split(), "run_dir=never-made", "cache_dir=never-made")
    with pytest.raises(ConfigError) as caught:
        check_config(config)
    assert any(all(part in line for part in BAD[overrides]) for line in caught.value.lines), caught.value.lines
    assert len(caught.value.lines) == SEVERAL.get(overrides, 1)


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("algorithm.adv_estimator=foo", ["algorithm.adv_estimator is 'foo'; allowed are ", "gigpo", "grpo"]),
        (
            "actor_rollout_ref.actor.policy_loss.loss_mode=ppo2",
            ["loss_mode is 'ppo2'; allowed are ", "holder", "vanilla"],
        ),
        ("trainer.logger=[console,mlflw]", ["trainer.logger is 'mlflw'; allowed are ", "mlflow"]),
    ],
)
def test_names_that_verl_does_not_know(override: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        check_with_verl(_compose(override, "run_dir=never-made"))
    (line,) = caught.value.lines
    assert all(part in line for part in parts)


def test_a_reward_function_must_be_defined_in_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    (tmp_path / "mine.py").write_text("from math import fsum as summed\n\n\nasync def reward(): ...\n")
    overrides = [f"reward.custom_reward_function.path={tmp_path}/mine.py", "run_dir=never-made"]
    for name in ("reward", "summed"):
        check_config(_compose(*overrides, f"reward.custom_reward_function.name={name}"))
    with pytest.raises(ConfigError, match=r"custom_reward_function\.name is 'nope'; .*mine\.py defines reward, summed"):
        check_config(_compose(*overrides, "reward.custom_reward_function.name=nope"))


def test_limits_of_grading_are_a_line_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    group = "reward.custom_reward_function.reward_kwargs"
    wrong = [f"{group}.workers=257", f"{group}.timeout=0", f"{group}.memory_mb=512", f"+{group}.memory=2"]
    with pytest.raises(ConfigError) as caught:
        check_config(_compose("task=math", *wrong, "run_dir=never-made", "cache_dir=never-made"))
    assert [line for line in caught.value.lines if group in line] == [
        f"{group}.workers is 257; allowed is a whole number from 1 to 256",
        f"{group}.timeout is 0; allowed is a number from 0.001 to 86400",
        f"{group}.memory_mb is 512; allowed is a whole number from 1024 to 1048576",
        f"{group}.memory is not a key; allowed are workers, timeout, memory_mb, conventions",
    ]


@pytest.mark.parametrize("name", ["run_dir", "cache_dir"])
def test_a_folder_that_is_null(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name} is None; allowed is a path"):
        _compose(f"{name}=null")


def test_all_wrong_values_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """In our groups, in verl's keys and between them; nothing is computed from a value that is wrong itself."""
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    wrong = ["seed=-1", "restarts=many", "holder.p_start=inf", "holder.steps=1", "guard.on_collapse=hope"]
    wrong += ["actor_rollout_ref.actor.optim.lr=0", "data.train_batch_size=0", "+env.API_KEY=secret"]
    with pytest.raises(ConfigError) as caught:
        check_config(_compose(*wrong, "run_dir=never-made"))
    named = [line.split()[0] for line in caught.value.lines]
    keys = {override.split("=")[0].lstrip("+") for override in wrong}
    assert set(named) == keys - {"holder.p_start"}, "which is looked at together with holder.steps, once that is right"
    assert len(named) == len(set(named))


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ("guard=null", "guard is None; allowed is a mapping of on_nonfinite, "),
        (
            "trainer.n_gpus_per_node=2 actor_rollout_ref.actor.ulysses_sequence_parallel_size=4",
            "actor_rollout_ref.actor.uly",
        ),
        (
            "actor_rollout_ref.actor.ulysses_sequence_parallel_size=abc",
            "actor_rollout_ref.actor.ulysses_sequence_parallel",
        ),
        ("task=alfworld_tiny model=alfworld_warm data.max_response_length=null", "data.max_response_length is None"),
        (
            "trainer.v1.trainer_mode=separate_async trainer.v1.separate_async.parameter_sync_step=null",
            "trainer.v1.separate_async.parameter_sync_step is None; allowed is a whole number from 1",
        ),
        (
            "trainer.v1.trainer_mode=separate_async actor_rollout_ref.rollout.checkpoint_engine=null",
            "actor_rollout_ref.ro",
        ),
        (
            "actor_rollout_ref.actor.checkpoint.save_contents=null",
            "actor_rollout_ref.actor.checkpoint.save_contents is None",
        ),
        (
            "data.train_files=5 embedded_data=null",
            "data.train_files is 5; allowed is a string or a list of: a string or null",
        ),
        ("actor_rollout_ref.actor.policy_loss=null", "actor_rollout_ref.actor.policy_loss is null; allowed is a group"),
        ("env=null", "env is None; allowed is a mapping"),
        (
            "trainer.critic_warmup=5 guard.grad_norm_max=1",
            "trainer.critic_warmup is 5; allowed with guard.grad_norm_max is 0",
        ),
    ],
)
def test_a_value_of_another_kind_is_a_line_and_no_traceback(
    overrides: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    with pytest.raises(ConfigError) as caught:
        check_config(_compose(*overrides.split(), "run_dir=never-made"))
    assert any(found.startswith(line) for found in caught.value.lines), caught.value.lines


def test_a_number_is_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    config = _compose("run=20260101", "model_name=7", "run_dir=never-made")
    check_config(config)
    assert config.run == "20260101" and config.model_name == "7"


def test_an_unknown_key_of_ours_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    for override, line in {
        "+holder.foo=1": "holder.foo is not a key; allowed are rule, schedule, p_start, p_end",
        "~holder.schedule": "holder.schedule is missing; allowed are constant, linear, cosine, power, cubic",
        "+guard.loss_max=1": "guard.loss_max is not a key; allowed are on_nonfinite, ",
        "~holder": "holder is missing; allowed with loss mode holder is",
        "actor_rollout_ref.actor.policy_loss.p=1": "actor_rollout_ref.actor.policy_loss.p is 1; allowed is null",
    }.items():
        with pytest.raises(ConfigError) as caught:
            loss = ("clip_level=none", "length_weighted=false")  # which come from the group holder
            check_config(
                _compose(
                    override, *(f"actor_rollout_ref.actor.policy_loss.{key}" for key in loss), "run_dir=never-made"
                )
            )
        assert len(caught.value.lines) == 1 and caught.value.lines[0].startswith(line), caught.value.lines


def test_the_default_config_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    check_config(_compose("run_dir=never-made"))


def test_the_command_ends_with_that_line_and_writes_nothing(tmp_path: Path) -> None:
    done = _command(tmp_path, "holder.schedule=exponential")
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: holder.schedule is 'exponential'; allowed are"), done.stderr
    assert not (tmp_path / "run").exists()


def test_what_verl_refuses_is_one_line_too(tmp_path: Path) -> None:
    done = _command(
        tmp_path, "embedded_model=null", "embedded_data=null", f"data.train_files={__file__}", f"data.val_files={__file__}",
        "actor_rollout_ref.model.path=some/hub-id", "actor_rollout_ref.actor.loss_agg_mode=median",
    )  # fmt: skip
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and "median" in lines[0], done.stderr


def test_an_unknown_key_is_named(tmp_path: Path) -> None:
    done = _command(tmp_path, "holder.p_begin=2")
    assert (
        done.returncode != 0 and "Could not override 'holder.p_begin'" in done.stderr and "Traceback" not in done.stderr
    )


def test_a_key_of_holder_is_refused_where_the_loss_is_a_baseline(tmp_path: Path) -> None:
    done = _command(tmp_path, "algo=grpo", "holder.p_start=1")
    assert done.returncode != 0 and "holder.p_start" in done.stderr and "Traceback" not in done.stderr


ALGORITHMS = sorted(file.stem for file in (ROOT / "conf/algo").glob("[!_]*.yaml"))


@pytest.mark.parametrize(
    ("algo", "scale"),
    [*((algo, (2, 8)) for algo in ALGORITHMS), ("holder", (1, 4)), ("holder", (50, 8)), ("grpo", (50, 8))],
)
def test_the_gpu_preset_passes_our_checks_and_verls(
    algo: str, scale: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two overrides take a config from a laptop to a cluster."""
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    data = tmp_path / "data.parquet"
    data.touch()
    overrides = [
        *("hardware=gpu", f"algo={algo}", "model=custom", "task=custom", "trainer.total_training_steps=500"),
        *(f"data.train_files={data}", f"data.val_files={data}", "actor_rollout_ref.model.path=some/hub-id"),
        *("data.train_batch_size=800", "actor_rollout_ref.actor.ppo_mini_batch_size=400"),
        *(f"trainer.nnodes={scale[0]}", f"trainer.n_gpus_per_node={scale[1]}", "run_dir=never-made"),
    ]
    config = _compose(*overrides)
    check_config(config)
    check_with_verl(config)


def test_on_gpus_a_collective_ends_before_the_run_is_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    config = _compose("hardware=gpu", "run_dir=never-made", "stall.floor_s=600")
    with pytest.raises(ConfigError) as refused:
        check_config(config)
    (line,) = [line for line in refused.value.lines if line.startswith("stall.floor_s is 600;")]
    assert "null, or more than actor_rollout_ref.nccl_timeout=600" in line
    for key, allowed in {"stall.floor_s": 601, "actor_rollout_ref.nccl_timeout": 599}.items():
        changed = copy.deepcopy(config)
        OmegaConf.update(changed, key, allowed)
        assert [*stalls(changed)] == []
    config.stall.floor_s = None
    assert [*stalls(config)] == []


def test_the_environment_reaches_this_process_and_rays_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERL_PLATFORM", "")
    config = _compose("run_dir=never-made", "+env.HOLDERPO_TEST=1")
    monkeypatch.setenv("HOLDERPO_TEST", "")
    set_environment(config)
    assert os.environ["VERL_PLATFORM"] == "cpu" and os.environ["HOLDERPO_TEST"] == "1"
    assert config.ray_kwargs.ray_init.runtime_env.env_vars == {
        "VERL_PLATFORM": "cpu", "HOLDERPO_TEST": "1", "TORCH_COMPILE_DISABLE": "1"
    }  # fmt: skip


RESUMED = {
    "": None,
    "trainer.save_freq=7": None,
    "algo=grpo": "algo_name is 'grpo'; allowed is the value that run r began with, 'holder'",
    "actor_rollout_ref.actor.ppo_epochs=2": "actor_rollout_ref.actor.ppo_epochs is 2; allowed is the value that run r began",
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=16 restarts=7 logger=tensorboard guard.entropy_min=0.1": None,
    "holder.p_end=-1": "holder.p_end is -1",
    "actor_rollout_ref.actor.optim.lr=1e-3": "actor_rollout_ref.actor.optim.lr is 0.001",
    "trainer.total_training_steps=120": "trainer.total_training_steps is 120; allowed is 60",
    "run=another": None,
    "algo=grpo resume_changes=[algo_name]": "holder is None",
    "actor_rollout_ref.actor.optim.lr=1e-3 resume_changes=[actor_rollout_ref.actor.optim.lr]": None,
    "trainer.n_gpus_per_node=2": None,
    "trainer.n_gpus_per_node=2 critic.enable=true resume_changes=[critic]": "trainer.nnodes x n_gpus_per_node is 2; allowed",
    "trainer.n_gpus_per_node=2 actor_rollout_ref.actor.strategy=fsdp resume_changes=[*.strategy]": "trainer.nnodes x n_gpus",
    "trainer.resume_mode=disable": "trainer.resume_mode is 'disable'; allowed is auto, since ",
    "trainer.resume_mode=disable run=another": None,
}


@pytest.mark.parametrize("overrides", RESUMED)
def test_a_run_goes_on_only_as_the_run_that_it_was(overrides: str, tmp_path: Path) -> None:
    run = ("run=r", f"run_dir={tmp_path}/${{run}}")
    config = _compose(*run)
    _checkpoint(config, step=30)
    again = _compose(*run, *overrides.split())
    expected = RESUMED[overrides]
    if expected is None:
        check_resume(again, find_checkpoint(again))
    else:
        with pytest.raises(ConfigError) as caught:
            check_resume(again, find_checkpoint(again))
        assert any(line.startswith(expected) for line in caught.value.lines), caught.value.lines


def test_a_damaged_checkpoint_is_skipped_aloud(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = _compose("run=r", f"run_dir={tmp_path}/r")
    folders = [_checkpoint(config, step) for step in (20, 30)]
    (folders[1] / "actor" / "model.json").write_bytes(b"weight")
    found = find_checkpoint(config)
    assert found is not None and found.step == 20
    output = capsys.readouterr()
    assert f"resuming from step 20: {folders[0]}, the newest complete checkpoint" in output.out
    assert "skipped: global_step_30: model.json has 6 bytes instead of 7" in output.err
    (folders[0] / "actor" / "model.json").unlink()
    with pytest.raises(ConfigError, match="has a record of 0 steps and 2 corrupt checkpoints and no complete one"):
        find_checkpoint(config)


def test_a_run_whose_checkpoints_are_gone_does_not_begin_again(tmp_path: Path) -> None:
    config = _compose("run=r", f"run_dir={tmp_path}/r", "trainer.save_freq=5")
    record = RunRecord(config.run_dir)
    record.step(4, {})
    assert find_checkpoint(config) is None, "it had none yet"
    record.step(5, {})
    with pytest.raises(ConfigError, match="has a record of 5 steps and no checkpoint in"):
        find_checkpoint(config)


def test_a_checkpoint_of_another_run(tmp_path: Path) -> None:
    folder = _checkpoint(_compose("run=r", f"run_dir={tmp_path}/r"), step=30)
    branch = ("run=b", f"run_dir={tmp_path}/b", "trainer.resume_mode=resume_path")
    config = _compose(*branch, f"trainer.resume_from_path={folder}")
    found = find_checkpoint(config)
    assert found is not None and found.step == 30
    check_resume(config, found)
    (folder / "actor" / "model.json").unlink()
    with pytest.raises(ConfigError, match=r"allowed is a complete checkpoint: model\.json is missing"):
        find_checkpoint(config)


def test_once_it_has_one_of_its_own_that_is_gone_on_from(tmp_path: Path) -> None:
    """A job that is queued again gives the same command, resume_from_path and all."""
    folder = _checkpoint(_compose("run=r", f"run_dir={tmp_path}/r"), step=30)
    branch = ("run=b", f"run_dir={tmp_path}/b", "trainer.resume_mode=resume_path")
    config = _compose(*branch, f"trainer.resume_from_path={folder}")
    _checkpoint(config, step=40)
    found = find_checkpoint(config)
    assert found is not None and found.step == 40 and found.folder.is_relative_to(tmp_path / "b")


def test_a_folder_with_somebody_elses_checkpoints_is_not_taken_over(tmp_path: Path) -> None:
    config = _compose("run=r", f"run_dir={tmp_path}/r")
    (Path(config.trainer.default_local_dir) / "global_step_5").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"trainer\.default_local_dir is .* no run of this recipe .*global_step_5"):
        find_checkpoint(config)
    RunRecord(config.run_dir).step(3, {})  # its own: a save was cut off
    assert find_checkpoint(config) is None


def test_a_finished_run_is_not_started_again(tmp_path: Path) -> None:
    config = _compose("run=r", f"run_dir={tmp_path}/r")
    _checkpoint(config, step=60)
    check_resume(
        config, find_checkpoint(config)
    )  # the last step has no line yet: its validation is still to be made up for
    RunRecord(config.run_dir).step(60, {})
    with pytest.raises(ConfigError, match="run r has finished its 60 steps"):
        check_resume(config, find_checkpoint(config))


def _checkpoint(config: DictConfig, step: int) -> Path:
    folder = Path(config.trainer.default_local_dir) / f"global_step_{step}"
    (folder / "actor").mkdir(parents=True)
    (folder / "actor" / "model.json").write_bytes(b"weights")
    commit(folder, {"step": step, "config": OmegaConf.to_container(config, resolve=True)})
    return folder


def test_a_group_that_is_null_is_one_line() -> None:
    with pytest.raises(ConfigError) as caught:
        compose_config(["task=null"])
    assert len(caught.value.lines) == 1
