"""What may change when a run resumes: refused by default, and the documented list is the one in force."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from recipe.holderpo.config.compose import compose_config
from recipe.holderpo.config.errors import ConfigError
from recipe.holderpo.config.free_keys import is_free
from recipe.holderpo.fault_tolerance.checkpoint import Checkpoint
from recipe.holderpo.fault_tolerance.resume import check_resume, differences, free_keys

ROOT = Path(__file__).parents[2]


def test_the_documented_keys_are_those_in_force() -> None:
    section = (ROOT / "docs/faults.md").read_text().split("## What may change when a run resumes")[1]
    rows = [line for line in section.splitlines() if line.startswith("| ") and "`" in line]
    documented = [key for row in rows for key in re.findall(r"`([^`]+)`", row.split(" | ", 1)[1])]
    assert sorted(documented) == sorted(free_keys())


@pytest.fixture(scope="module")
def config() -> DictConfig:
    return compose_config(["model=tiny", "run=r", "run_dir=never-made"])


def changed(config: DictConfig, key: str, value: object) -> DictConfig:
    other = OmegaConf.create(OmegaConf.to_container(config))
    assert isinstance(other, DictConfig)
    OmegaConf.update(other, key, value, force_add=True)
    return other


def resume(began: DictConfig, config: DictConfig) -> None:
    check_resume(config, Checkpoint(Path("never-made/global_step_3"), 3, {"config": OmegaConf.to_container(began)}))


@pytest.mark.parametrize(
    "key",
    [
        "actor_rollout_ref.actor.ppo_epochs", "actor_rollout_ref.actor.entropy_coeff", "actor_rollout_ref.rollout.top_p",
        "actor_rollout_ref.actor.kl_loss_type", "actor_rollout_ref.actor.optim.weight_decay", "data.shuffle",
        "reward.custom_reward_function.name", "algorithm.gamma", "a_key_of_next_year",
    ],
)  # fmt: skip
def test_a_key_that_is_not_listed_is_refused(key: str, config: DictConfig) -> None:
    other = changed(config, key, "else")
    with pytest.raises(ConfigError) as caught:
        resume(config, other)
    (line,) = caught.value.lines
    assert line.startswith(f"{key} is 'else'; allowed is the value that run r began with, ")
    resume(config, changed(other, "resume_changes", [key]))
    with pytest.raises(ConfigError):
        resume(other, config)  # a key that is gone is a change too


def test_resume_changes_takes_groups_and_patterns(config: DictConfig) -> None:
    other = changed(
        changed(config, "actor_rollout_ref.actor.optim.lr", 0.5), "actor_rollout_ref.actor.optim.betas", [0, 0]
    )
    resume(config, changed(other, "resume_changes", ["actor_rollout_ref.actor.optim"]))
    resume(config, changed(other, "resume_changes", ["*.optim"]))


def test_every_change_has_its_line(config: DictConfig) -> None:
    other = changed(changed(config, "seed", 7), "data.train_batch_size", 64)
    with pytest.raises(ConfigError) as caught:
        resume(config, other)
    assert {line.split()[0] for line in caught.value.lines} == {"seed", "data.train_batch_size"}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({}, "the schedule of p spans the whole run"),
        ({"holder.steps": 60}, "the learning rate depends on the whole run"),
        ({"holder.steps": 60, "actor_rollout_ref.actor.optim.lr_scheduler_type": "constant"}, None),
        (
            {
                "holder.steps": 60,
                "actor_rollout_ref.actor.optim.lr_scheduler_type": "constant",
                "actor_rollout_ref.actor.optim.lr_warmup_steps_ratio": 0.1,
            },
            "the learning rate depends on the whole run",
        ),
    ],
)
def test_a_run_changes_its_length_only_where_nothing_spans_it(
    overrides: dict[str, object], said: str | None, config: DictConfig
) -> None:
    began = config
    for key, value in overrides.items():
        began = changed(began, key, value)
    longer = changed(began, "trainer.total_training_steps", 120)
    if said is None:
        resume(began, longer)
        return
    with pytest.raises(ConfigError) as caught:
        resume(began, longer)
    (line,) = caught.value.lines
    assert line.startswith("trainer.total_training_steps is 120; allowed is 60") and said in line
    resume(began, changed(longer, "resume_changes", ["trainer.total_training_steps"]))


TREES = st.recursive(st.integers(0, 2), lambda below: st.dictionaries(st.sampled_from("abc"), below, max_size=3))


@given(TREES, TREES)
def test_differences_are_none_exactly_for_equal_configs(one: object, other: object) -> None:
    assert (differences(one, other) == []) == (one == other)


def test_a_pattern_covers_its_group_and_no_other_name() -> None:
    assert is_free("ray_kwargs.ray_init.num_cpus", ["ray_kwargs"]) and is_free("a.b.profiler.tool", ["*.profiler"])
    assert not is_free("ray_kwargs_too", ["ray_kwargs"]) and not is_free("trainer", ["trainer.nnodes"])
