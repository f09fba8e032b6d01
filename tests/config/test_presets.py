"""Every preset of the paper composes, passes our checks and verl's own, and has the paper's batch arithmetic."""

from pathlib import Path

import pytest
from omegaconf import DictConfig

from recipe.holderpo.config.checks import check_config, check_with_verl
from recipe.holderpo.config.compose import compose_config
from recipe.holderpo.config.errors import ConfigError
from recipe.holderpo.data.templates import TEMPLATES
from recipe.holderpo.plan import DEFAULT_UTILIZATION, MODELS, UTILIZATION, Gpu, Workload, estimate

HARDWARE = {"gpu": (1, 4), "gpu_nx8": (4, 8), "gpu_offload": (1, 4)}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    for name in ("train", "eval_math500", "eval_amc", "eval_aime24"):
        (tmp_path / f"{name}.parquet").touch()
    return f"data_dir={tmp_path}"


def preset(data: str, model: str, hardware: str, *more: str) -> DictConfig:
    nodes, gpus = HARDWARE[hardware]
    return compose_config([
        data, "task=math", f"model={model}", f"hardware={hardware}", f"trainer.nnodes={nodes}",
        f"trainer.n_gpus_per_node={gpus}", "run_dir=never-made", *more,
    ])  # fmt: skip


@pytest.mark.parametrize("hardware", HARDWARE)
@pytest.mark.parametrize("model", MODELS)
def test_a_preset_passes_and_has_the_papers_arithmetic(data: str, model: str, hardware: str) -> None:
    config = preset(data, model, hardware)
    check_config(config)
    check_with_verl(config)
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    assert config.data.train_batch_size * rollout.n == 1024
    assert actor.ppo_mini_batch_size * rollout.n == 128
    assert config.data.train_batch_size // actor.ppo_mini_batch_size == 8  # updates a step
    assert (config.data.max_prompt_length, config.data.max_response_length) == (1024, 3000)
    assert (actor.optim.lr, actor.optim.lr_scheduler_type, actor.use_kl_loss, actor.ppo_epochs) == (
        1e-6,
        "constant",
        False,
        1,
    )
    assert (actor.clip_ratio_low, actor.clip_ratio_high) == (0.2, 0.2)
    assert (config.holder.schedule, config.holder.p_start, config.holder.p_end) == ("linear", 2.0, -2.0)
    assert config.trainer.total_training_steps == 500 and rollout.temperature == 1.0
    assert rollout.val_kwargs.temperature == 0.0 and rollout.val_kwargs.n == 1


def test_a_models_template_reaches_verl(data: str) -> None:
    base = preset(data, "qwen2.5_math_7b", "gpu").actor_rollout_ref.model.custom_chat_template
    assert base == TEMPLATES["qwen_math"] and "reason step by step" in base
    assert preset(data, "r1_distill_qwen_7b", "gpu").actor_rollout_ref.model.custom_chat_template is None
    assert (
        preset(data, "qwen3_8b_base", "gpu", "template=r1").actor_rollout_ref.model.custom_chat_template
        == TEMPLATES["r1"]
    )


def test_an_unknown_template_is_named(data: str) -> None:
    with pytest.raises(ConfigError, match="template is 'chatml'; allowed are qwen_math, r1, none, model"):
        preset(data, "qwen3_8b_base", "gpu", "template=chatml")


@pytest.mark.parametrize("model", MODELS)
def test_by_the_estimate_every_preset_fits_its_gpus(data: str, model: str) -> None:
    for hardware in ("gpu", "gpu_nx8"):
        config = preset(data, model, hardware)
        rollout = config.actor_rollout_ref.rollout
        work = Workload(
            tokens_per_gpu=config.actor_rollout_ref.actor.ppo_max_token_len_per_gpu,
            gpu_memory_utilization=rollout.gpu_memory_utilization,
        )
        plan = estimate(MODELS[model], config.trainer.nnodes * config.trainer.n_gpus_per_node, work, Gpu())
        assert max(plan.training, plan.sampling) <= Gpu().memory_gb, f"{model} on {hardware}: {plan}"
        assert plan.kv_tokens > 50_000
        if hardware == "gpu":
            assert rollout.gpu_memory_utilization == UTILIZATION.get(model, DEFAULT_UTILIZATION)
            assert config.actor_rollout_ref.actor.ppo_max_token_len_per_gpu == Workload.tokens_per_gpu
