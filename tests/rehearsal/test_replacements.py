"""What a rehearsal replaces: every preset's arithmetic holds, and what it becomes passes the checks of a CPU run."""

import math
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from recipe.holderpo.config.checks import check_config
from recipe.holderpo.config.compose import compose_config
from recipe.holderpo.config.errors import ConfigError
from recipe.holderpo.launch.__main__ import rehearsal_is_asked
from recipe.holderpo.plan import MODELS
from recipe.holderpo.rehearsal.replacements import KEPT, STEPS, Replacement, replacements
from recipe.holderpo.rehearsal.stand_ins import find_target, make_data, make_model

MATH = [name for name in MODELS if not name.endswith("instruct")]
HARDWARE = ("gpu", "gpu_nx8", "gpu_offload")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    train, evaluation = make_data(tmp_path_factory.mktemp("data"))
    return [f"data.train_files={train}", f"data.val_files={evaluation}"]


def preset(model: str, hardware: str, *more: str) -> list[str]:
    return [f"hardware={hardware}", "task=math", f"model={model}", "run_dir=never-made", *more]


def ranks(config: DictConfig) -> int:
    return int(config.trainer.nnodes * config.trainer.n_gpus_per_node)


def share(config: DictConfig) -> float:
    """Responses of a mini-batch on each rank."""
    rollout, actor = config.actor_rollout_ref.rollout, config.actor_rollout_ref.actor
    return float(actor.ppo_mini_batch_size * rollout.n / ranks(config))


@pytest.mark.parametrize(
    ("model", "hardware", "nodes"),
    [*((model, hardware, 1) for model in MATH for hardware in HARDWARE), ("qwen3_8b_base", "gpu_nx8", 2)],
)
def test_a_presets_arithmetic_holds(
    model: str, hardware: str, nodes: int, data: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = preset(model, hardware, *data)
    cluster = compose_config(given)
    replaced = replacements(cluster, nodes)
    here = compose_config([*given, *(one.override for one in replaced)])
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    check_config(here)
    for config in (cluster, here):
        assert config.data.train_batch_size == 8 * config.actor_rollout_ref.actor.ppo_mini_batch_size  # updates a step
        assert share(config) == int(share(config)) >= 1
    assert ranks(here) == 2 and here.trainer.nnodes == nodes and here.trainer.device == "cpu"
    assert here.actor_rollout_ref.rollout.n == cluster.actor_rollout_ref.rollout.n == 8

    def sequences(config: DictConfig) -> float:  # of the longest, in a packed micro-batch
        longest = config.data.max_prompt_length + config.data.max_response_length
        return float(config.actor_rollout_ref.actor.ppo_max_token_len_per_gpu / longest)

    assert sequences(here) == pytest.approx(sequences(cluster), rel=1e-3)
    for key in KEPT:
        if not key.startswith("trainer"):
            assert OmegaConf.select(here, key) == OmegaConf.select(cluster, key), key
    fsdp = here.actor_rollout_ref.actor.fsdp_config
    assert fsdp.param_offload == (hardware == "gpu_offload") and here.trainer.total_training_steps == STEPS


@pytest.mark.parametrize(("micro", "world"), [(4, 4), (8, 8), (16, 4), (32, 4), (64, 8)])
def test_a_micro_batch_keeps_its_part_of_a_ranks_share(
    micro: int, world: int, data: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that is too large, so that verl refuses here what it would refuse there."""
    key = "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu"
    cluster = compose_config(preset("qwen2.5_math_7b", "gpu", f"trainer.n_gpus_per_node={world}", f"{key}={micro}"))
    given = preset("qwen2.5_math_7b", "gpu", *(one.override for one in replacements(cluster, 1)))
    here = compose_config(given)
    if micro > share(cluster):
        monkeypatch.setenv("VERL_PLATFORM", "cpu")
        with pytest.raises(ConfigError, match="ppo_micro_batch_size_per_gpu is"):
            check_config(compose_config([*given, "actor_rollout_ref.actor.use_dynamic_bsz=false", *data]))
    there = micro / share(cluster)
    assert OmegaConf.select(here, key) == max(1, math.ceil(there * share(here)))


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        False,
        3,
        -1,
        0.5,
        "a b",
        "it's",
        "a\\b",
        "a,b",
        "{x}",
        "[1]",
        "null",
        "1",
        "a=b",
        "äö #x",
        [1, "a b"],
        {"a": 1},
    ],
)
def test_an_override_gives_the_value(value: Any) -> None:
    found = compose_config([Replacement("env.X", None, value, "").override])
    got = found.env.X
    assert (OmegaConf.to_container(got) if OmegaConf.is_config(got) else got) == value


def test_nothing_is_named_that_stays() -> None:
    cluster = compose_config(preset("qwen2.5_math_7b", "gpu"))
    for one in replacements(cluster, 1):
        value = OmegaConf.select(cluster, one.key)
        assert one.was == (OmegaConf.to_container(value) if OmegaConf.is_config(value) else value) != one.value, one.key


def test_a_task_says_what_makes_it_small() -> None:
    given = ["hardware=gpu", "task=alfworld", "model=qwen2.5_1.5b_instruct", "algo=holder_narrow"]
    replaced = replacements(compose_config(given), 1)
    here = compose_config([*given, *(one.override for one in replaced)])
    assert here.alfworld.max_steps == 4
    assert here.alfworld.answer_tokens == here.data.max_response_length < 512


def test_groups_without_variance_are_kept() -> None:
    """With random weights all groups are such ones: DAPO would ask for new prompts for ever."""
    given = preset("qwen2.5_math_7b", "gpu", "algo=dapo")
    found = {one.key: one.value for one in replacements(compose_config(given), 1)}
    assert found["algorithm.filter_groups.enable"] is False
    assert "algorithm.filter_groups.enable" not in [
        one.key for one in replacements(compose_config(preset("qwen2.5_math_7b", "gpu")), 1)
    ]


def test_the_last_one_counts() -> None:
    assert rehearsal_is_asked(["a=1", "rehearse=true"]) and rehearsal_is_asked(["+rehearse=True"])
    for none in ([], ["rehearse=true", "rehearse=false"], ["rehearse_=true"]):
        assert not rehearsal_is_asked(none)


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
def test_a_model_at_hand_is_shrunk_with_its_own_tokenizer(family: str, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from recipe.holderpo.embedded.tiny_model import build_tokenizer

    tokenizer = build_tokenizer(["holder"])
    large = AutoConfig.for_model(
        family, vocab_size=300, hidden_size=512, intermediate_size=700, num_hidden_layers=6, num_attention_heads=16,
        num_key_value_heads=4, max_position_embeddings=2048, rope_theta=5e5, tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    large.save_pretrained(tmp_path / "large")
    tokenizer.save_pretrained(tmp_path / "large")
    config = compose_config(preset("custom", "gpu", f"actor_rollout_ref.model.path={tmp_path / 'large'}"))
    target = find_target("actor_rollout_ref.model.path", config.actor_rollout_ref.model.path)
    assert target.folder == tmp_path / "large" and target.architecture is not None and target.architecture.layers == 6
    make_model(target, False, tmp_path / "small")
    small = AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    assert small.config.model_type == family and small.config.vocab_size == 300
    assert small.config.num_key_value_heads == 1 and small.config.tie_word_embeddings
    assert small.config.rope_parameters["rope_theta"] == 5e5 and small.config.max_position_embeddings == 2048
    assert sum(weight.numel() for weight in small.parameters()) < 10**6
    assert AutoTokenizer.from_pretrained(tmp_path / "small").encode("holder") == tokenizer.encode("holder")


def test_a_preset_that_is_not_here_has_its_family() -> None:
    for name, family, kv_heads in (("qwen3_8b_base", "qwen3", 8), ("r1_distill_qwen_7b", "qwen2", 4)):
        target = find_target("model", compose_config(preset(name, "gpu")).actor_rollout_ref.model.path)
        assert target.folder is None and target.architecture == MODELS[name]
        assert (target.config["model_type"], target.config["num_key_value_heads"]) == (family, kv_heads)
