"""Wrong values of every key that a preset sets are refused, or named as harmless: a part of `benchmarks/overrides.py`."""

from functools import cache
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from benchmarks.overrides import cases, keys_of_presets, why_harmless, wrong_values
from recipe.holderpo.config.checks import check_cluster, check_config, check_with_verl
from recipe.holderpo.config.compose import compose_config, set_environment
from recipe.holderpo.config.errors import ConfigError

STRIDE = 17  # each so manieth case, another for each key


@cache
def config() -> DictConfig:
    return compose_config(["model=tiny", "hardware=cpu", "run_dir=never-made", "cache_dir=never-made"])


def refusal(overrides: dict[str, Any]) -> str:
    """What the checks of a config say to these overrides; "" if they pass."""
    changed = OmegaConf.create(OmegaConf.to_container(config()))
    for key, value in overrides.items():
        OmegaConf.update(changed, key, value, merge=False, force_add=True)
    try:
        set_environment(changed)
        check_config(changed)
        check_with_verl(changed)
        check_cluster(changed)
    except ConfigError as error:
        return str(error)
    return ""


def test_the_config_itself_passes() -> None:
    assert refusal({}) == ""


def test_a_wrong_value_is_refused_or_known_to_be_harmless() -> None:
    every = [*cases(config(), keys_of_presets())]
    assert len(every) > 800
    # What check_inputs looks at needs the model and the data, which are not made here.
    left = (
        "actor_rollout_ref.model.path",
        "actor_rollout_ref.model.custom_chat_template",
        "data.train_files",
        "data.val_files",
        "reward.custom_reward_function.path",  # null, where verl has no reward of its own for the data's source
    )
    passed = [
        f"{key}={value!r}"
        for key, value in every[::STRIDE]
        if key not in left and refusal({key: value}) == "" and why_harmless(key, value) is None
    ]
    assert passed == []


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"data.train_file": "x"}, "data.train_file is not a key; allowed are verl's, among them train_files"),
        ({"actor_rollout_ref.rollout.temprature": 1}, "rollout.temprature is not a key; allowed are verl's, among them"),
        ({"trainer.critic_warmup": "soon"}, "trainer.critic_warmup is 'soon'; allowed is a whole number"),
        ({"actor_rollout_ref.rollout.repetition_penalty": "a"}, "repetition_penalty is 'a'; allowed is a number"),
        ({"actor_rollout_ref.actor.optim.optimizer": 5}, "optim.optimizer is 5; allowed is a string"),
        ({"actor_rollout_ref.actor.policy_loss._target_": "no.thing"}, "allowed is the full name of a dataclass"),
        ({"actor_rollout_ref.actor.strategy": "fsdp"}, "actor.strategy is 'fsdp'; allowed with trainer.device=cpu is fsdp2"),
        ({"ray_kwargs": None}, "ray_kwargs is None; allowed is a group of keys"),
        ({"ray_kwargs.ray_init": None}, "ray_kwargs.ray_init is None; allowed is a group of keys"),
        ({"actor_rollout_ref.ref": None}, "actor_rollout_ref.ref is null; allowed is a group of keys"),
        ({"actor_rollout_ref.rollout.agent": None}, "rollout.agent is null; allowed is a group of keys"),
        ({"env": 5}, "env is 5; allowed is a group of keys"),
        ({"ray_kwargs.ray_init.adress": "local"}, "ray_init.adress is not a key; allowed are ray.init's"),
        ({"ray_kwargs.ray_init.address": "here"}, "ray_init.address is 'here'; allowed are local, auto, host:port"),
        ({"ray_kwargs.ray_init._node_ip_address": "here"}, "allowed is an IP address"),
        ({"ray_kwargs.ray_init.num_cpus": 5}, "num_cpus is 5; allowed here are 6 and more"),
        ({"ray_kwargs.ray_init.num_gpus": None}, "num_gpus is None; allowed with trainer.device=cpu are 1"),
        ({"trainer.nnodes": 2}, "trainer.nnodes is 2; allowed in a process of its own is 1"),
        ({"actor_rollout_ref.rollout.agent.default_agent_loop": "mine"}, "default_agent_loop is 'mine'; allowed are holder"),
        ({"actor_rollout_ref.rollout.agent.agent_loop_config_path": "no.yaml"}, "agent_loop_config_path is 'no.yaml'"),
        ({"reward.custom_reward_function.name": "nope"}, "custom_reward_function.name is 'nope'"),
        ({"reward.custom_reward_function.path": "pkg://no.such"}, "custom_reward_function.path is 'pkg://no.such'"),
        ({"reward.reward_manager": {"source": "importlib", "name": "M", "module": {"path": "no.py"}}}, "path is 'no.py'"),
        ({"reward.reward_manager.name": "mine"}, "reward.reward_manager.name is 'mine'; allowed are dapo,"),
        ({"algorithm.filter_groups": {"enable": True, "metric": None}}, "filter_groups.metric is null; allowed"),
        ({"actor_rollout_ref.model.override_config.attn_implementation": None}, "allowed with trainer.device=cpu are sdpa"),
        (
            {
                "reward.custom_reward_function.path": "pkg://recipe.holderpo.rewards.math",
                "reward.custom_reward_function.reward_kwargs": {"workers": 0},
            },
            "reward_kwargs.workers is 0; allowed is a whole number from 1 to 256",
        ),
    ],
)  # fmt: skip
def test_what_passed_once(overrides: dict[str, Any], said: str) -> None:
    assert said in refusal(overrides)


def test_keys_of_other_data_set_classes_and_open_groups_are_not_verls_to_know() -> None:
    assert refusal({"data.custom_cls.path": "mine.py", "data.my_own": 1}) == ""
    assert refusal({"actor_rollout_ref.rollout.custom": {"any": 1}}) == ""


def test_wrong_values_are_of_another_kind() -> None:
    for value in (True, 3, 0.5, "text", ["a"], {"a": 1}, None):
        assert all(type(wrong) is not type(value) or wrong != value for wrong in wrong_values(value))
