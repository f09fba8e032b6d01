"""The ALFWorld presets compose, pass our checks and verl's own, and have the paper's settings."""

from pathlib import Path

import pytest

from recipe.holderpo.config.checks import check_config, check_with_verl
from recipe.holderpo.config.compose import compose_config
from recipe.holderpo.config.errors import ConfigError
from recipe.holderpo.config.settings import rule_of_p

PAPER = ["hardware=gpu", "task=alfworld", "model=qwen2.5_1.5b_instruct", "run_dir=never-made"]
SMALL = ["hardware=cpu", "task=alfworld_tiny", "model=alfworld_warm", "run_dir=never-made"]


@pytest.fixture(autouse=True)
def no_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VERL_PLATFORM", raising=False)


@pytest.mark.parametrize(
    ("algo", "loss", "way"),
    [
        ("grpo", "vanilla", None),
        ("gmpo", "holder", (0.0, 0.0)),
        ("holder", "holder", (2.0, -2.0)),
        ("holder_narrow", "holder", (1.0, -1.0)),
    ],
)
def test_the_papers_settings(algo: str, loss: str, way: tuple[float, float] | None) -> None:
    config = compose_config([*PAPER, f"algo={algo}"])
    check_config(config)
    check_with_verl(config)
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    assert actor.policy_loss.loss_mode == loss
    rule = rule_of_p(config)
    assert (None if rule is None else (rule.next_p(1), rule.next_p(150))) == way
    assert (config.data.train_batch_size, rollout.n, config.alfworld.max_steps) == (16, 8, 50)
    assert (config.data.max_prompt_length, config.data.max_response_length) == (2048, 512)
    assert (actor.optim.lr, actor.use_kl_loss, actor.kl_loss_coef, actor.kl_loss_type) == (
        1e-6,
        True,
        0.01,
        "low_var_kl",
    )
    assert (config.trainer.total_training_steps, config.trainer.test_freq) == (150, 5)
    assert (rollout.temperature, rollout.val_kwargs.temperature, rollout.val_kwargs.do_sample) == (1.0, 0.4, True)
    assert (config.alfworld.invalid_penalty, config.alfworld.samples) == (0.1, "step")
    assert config.algorithm.adv_estimator == "step_grpo" and rollout.tensor_model_parallel_size == 2
    assert Path(rollout.agent.agent_loop_config_path).exists()


@pytest.mark.parametrize("algo", ["grpo", "gmpo", "holder", "holder_narrow"])
def test_the_small_run(algo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    config = compose_config([*SMALL, f"algo={algo}"])
    check_config(config)
    check_with_verl(config)
    assert config.alfworld.samples == "episode" and config.algorithm.adv_estimator == "grpo"
    assert config.embedded_data == "alfworld_tiny"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("alfworld.samples=episodes", ["alfworld.samples", "'episodes'", "step, episode"]),
        ("alfworld.samples=episode", ["algorithm.adv_estimator", "'step_grpo'", "any but step_grpo and gigpo"]),
        ("algorithm.adv_estimator=grpo", ["algorithm.adv_estimator", "'grpo'", "step_grpo"]),
        ("alfworld.max_steps=0", ["alfworld.max_steps", "0", "1 to 1000"]),
        ("alfworld.answer_tokens=513", ["alfworld.answer_tokens", "513", "max_response_length=512"]),
        ("alfworld.invalid_penalty=-0.1", ["alfworld.invalid_penalty", "-0.1"]),
        ("alfworld.workers=0", ["alfworld.workers", "0"]),
        ("alfworld.size=huge", ["alfworld.size", "'huge'", "tiny, small, full"]),
        ("alfworld.prompt=short", ["alfworld.prompt", "'short'", "full, compact"]),
        ("alfworld.step_timeout=0", ["alfworld.step_timeout", "0"]),
    ],
)
def test_a_wrong_value_is_named_before_ray_starts(override: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        check_config(compose_config([*PAPER, override]))
    assert any(all(word in line for word in words) for line in error.value.lines)


def test_an_unknown_key_is_an_error() -> None:
    with pytest.raises(ConfigError, match="max_step"):
        compose_config([*PAPER, "alfworld.max_step=3"])
