"""The estimate's counts against real models: parameters exactly, optimiser state exactly, activations closely."""

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from recipe.holderpo.config.compose import compose_config
from recipe.holderpo.config.errors import ConfigError
from recipe.holderpo.plan import (
    MODELS,
    Architecture,
    Gpu,
    Workload,
    checkpoint_gb,
    checkpoint_rows,
    estimate,
    main,
    read_architecture,
    save_seconds,
    stop_grace_seconds,
)

ROOT = Path(__file__).parents[2]

SHAPE = {
    "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 160, "vocab_size": 300,
}  # fmt: skip
CONFIGS = {
    "qwen2": Qwen2Config(**SHAPE),
    "qwen2 tied": Qwen2Config(**SHAPE, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SHAPE, head_dim=32),
    "llama": LlamaConfig(**SHAPE),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_are_counted_exactly(name: str, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_config(CONFIGS[name])
    CONFIGS[name].save_pretrained(tmp_path)
    assert read_architecture(tmp_path).parameters == sum(p.numel() for p in model.parameters())


def test_the_papers_models_have_the_sizes_in_their_names() -> None:
    sizes = {name: model.parameters / 1e9 for name, model in MODELS.items()}
    expected = {
        "qwen2.5_1.5b_instruct": 1.543714304,
        "qwen2.5_math_1.5b": 1.543714304, "qwen2.5_math_7b": 7.615616512, "r1_distill_qwen_7b": 7.615616512,
        "qwen3_4b_base": 4.022468096, "qwen3_8b_base": 8.190735360,
    }  # fmt: skip
    assert sizes == pytest.approx(expected, rel=1e-12)  # what the models' own cards and safetensors indices count


def test_state_is_sixteen_bytes_a_parameter(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_config(CONFIGS["qwen2"])
    optimizer = torch.optim.AdamW(model.parameters())
    model(input_ids=torch.arange(8)[None]).logits.sum().backward()
    optimizer.step()
    held = [*model.parameters()] + [p.grad for p in model.parameters() if p.grad is not None]
    held += [t for state in optimizer.state.values() for t in state.values() if t.dim() > 0]
    CONFIGS["qwen2"].save_pretrained(tmp_path)
    architecture = read_architecture(tmp_path)
    measured = sum(t.numel() * t.element_size() for t in held)
    assert measured == 16 * architecture.parameters
    gathered = 4 * architecture.parameters / architecture.layers
    assert estimate(architecture, 1, Workload(), Gpu()).state * 1e9 == pytest.approx(measured + gathered, rel=1e-9)


def saved_bytes(model: torch.nn.Module, tokens: int) -> int:
    """Bytes of the tensors that autograd keeps from one forward pass, parameters left out, shared storage once."""
    kept: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        output = model(input_ids=torch.randint(0, 300, (1, tokens)), use_cache=False).last_hidden_state
    assert output.requires_grad
    return sum(kept.values())


def test_activations_are_counted_closely(tmp_path: Path) -> None:
    """Against what autograd saves: with checkpointing each layer's input; without, what its layers keep, in float32."""
    config = Qwen2Config(**SHAPE, attn_implementation="sdpa")
    config.save_pretrained(tmp_path)
    architecture, tokens = read_architecture(tmp_path), 1024
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").model.train()
    layers = saved_bytes(model, tokens) / tokens - 2 * architecture.hidden * 4
    assert layers == pytest.approx(architecture.layers * architecture.layer_bytes_per_token(element=4), rel=0.03)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    checkpointed = saved_bytes(model, tokens) / tokens
    assert checkpointed == pytest.approx(architecture.saved_bytes_per_token(element=4), rel=0.05)


def test_more_gpus_take_less_memory_and_time_each() -> None:
    runs = [estimate(MODELS["qwen2.5_math_7b"], gpus, Workload(), Gpu()) for gpus in (4, 8, 64, 512)]
    for fewer, more in pairwise(runs):
        assert more.training < fewer.training and more.step_s < fewer.step_s
    # decoding reads the weights once per step on every GPU, however few responses it runs: generation does not scale away
    assert runs[-1].generate_s > 0.5 * runs[1].generate_s


def test_kv_cache_by_hand() -> None:
    assert MODELS["qwen2.5_math_7b"].kv_bytes_per_token == 2 * 28 * 4 * 128 * 2 == 57344


def test_the_table_says_that_it_is_an_estimate(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--model", "qwen2.5_math_7b", "--gpus", "4", "512"])
    lines = capsys.readouterr().out.splitlines()
    assert "estimate" in lines[-1]
    assert [line.split()[:2] for line in lines if line.startswith("qwen")] == [
        ["qwen2.5_math_7b", "7.62"], ["qwen2.5_math_7b", "7.62"], ["qwen2.5_math_7b", "4"], ["qwen2.5_math_7b", "512"],
    ]  # fmt: skip


def test_another_family_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ConfigError, match="is a 'gpt2' model; allowed are qwen2, qwen3 and llama"):
        read_architecture(tmp_path)
    with pytest.raises(SystemExit):
        main(["--folder", str(tmp_path)])


WHOLE = SHAPE | {"model_type": "qwen2"}
DAMAGED = {
    "": "is damaged: Expecting value",
    "{": "is damaged: Expecting property name",
    "[1]": "is damaged: 'list' object has no",
    "[" * 99999: "is damaged: maximum recursion",
    "{}": "is a None model",
    '{"model_type": ["qwen2"]}': r"is a \['qwen2'\] model",
    json.dumps(WHOLE | {"hidden_size": "64"}): "hidden_size of .* is '64'; allowed is a whole number from 1",
    json.dumps(WHOLE | {"hidden_size": -64}): "hidden_size of .* is -64",
    json.dumps(WHOLE | {"num_hidden_layers": 0}): "num_hidden_layers of .* is 0",
    json.dumps(WHOLE | {"num_attention_heads": 0}): "num_attention_heads of .* is 0",
    json.dumps(WHOLE | {"num_attention_heads": 128}): "head_dim of .* is 0",
    json.dumps(WHOLE | {"vocab_size": None}): "vocab_size of .* is None",
    json.dumps(
        WHOLE | {"tie_word_embeddings": "no"}
    ): "tie_word_embeddings of .* is 'no'; allowed is true or false or null",
}


@pytest.mark.parametrize("text", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_config_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=DAMAGED[text]):
        read_architecture(tmp_path)


def test_a_config_without_key_value_heads_has_as_many_as_heads(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(WHOLE | {"model_type": "llama", "num_key_value_heads": None}))
    assert read_architecture(tmp_path).kv_heads == 4


def test_all_that_is_wrong_is_told_in_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = [
        "--gpus",
        "0",
        "4",
        "1000001",
        "--gpu-gb",
        "nan",
        "--bandwidth",
        "0",
        "--tflops",
        "-1",
        "--folder",
        "Qwen/Qwen3-8B",
    ]
    with pytest.raises(SystemExit) as ended:
        main([*wrong, "--response-tokens", "3001"])
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == "" and [line.split(" is ")[0] for line in said.err.splitlines()] == [
        f"error: {name}"
        for name in ("--gpus", "--gpus", "--gpu-gb", "--bandwidth", "--tflops", "--response-tokens", "--folder")
    ]
    assert "--response-tokens is 3001; allowed is a whole number from 1 to 3000" in said.err
    assert "--folder is 'Qwen/Qwen3-8B', whose config.json cannot be read (No such file or directory)" in said.err


def test_the_extremes_that_are_allowed_have_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    for slow in ("0.01", "1000"):
        main(
            [
                "--gpus",
                "1",
                "1000000",
                "--gpu-gb",
                "1",
                "--bandwidth",
                slow,
                "--tflops",
                "0.1",
                "--response-tokens",
                "1",
            ]
        )
    assert "nan" not in capsys.readouterr().out


def test_architecture_of_one_layer_by_hand() -> None:
    # embeddings 2*5*2, attention q 2x2 + k, v 2x2 each + o 2x2 = 16, bias 6, mlp 3*2*3 = 18, norms 4, final norm 2
    assert Architecture(2, 1, 1, 1, 2, 3, 5).parameters == 20 + 16 + 6 + 18 + 4 + 2


def test_the_notice_is_longer_than_the_grace_period_and_that_than_a_step_and_a_save() -> None:
    model, work, gpu = MODELS["qwen2.5_math_7b"], Workload(), Gpu()
    assert checkpoint_gb(model) == pytest.approx(91.387, abs=1e-3)  # 12 bytes of each of 7,615,616,512
    assert save_seconds(model, 4) == pytest.approx(91.387 + 91.387 / 4 / 0.75, abs=1e-2)
    assert [stop_grace_seconds(*times) for times in ((10.0, 20.0), (10.0, 20.1), (92.0, 122.0))] == [60, 120, 480]
    (_, row) = checkpoint_rows({"qwen2.5_math_7b": model}, [4], work, gpu)
    grace, notice = int(row[5]), int(row[6])
    assert grace >= 2 * (estimate(model, 4, work, gpu).step_s + save_seconds(model, 4)) and notice == grace + 60


def test_the_presets_and_the_batch_scripts_give_the_time_that_the_largest_step_needs() -> None:
    grace = compose_config(["task=math", "hardware=gpu", "model=qwen3_8b_base"]).stop_grace_s
    needed = max(int(row[5]) for row in checkpoint_rows(MODELS, [4, 8], Workload(), Gpu())[1:])
    slurm = re.search(r"--signal=TERM@(\d+)", (ROOT / "scripts/slurm/run_qwen_math.sbatch").read_text())
    kubernetes = re.search(
        r"terminationGracePeriodSeconds: (\d+)", (ROOT / "scripts/kubernetes/rayjob.yaml").read_text()
    )
    assert slurm is not None and kubernetes is not None
    assert needed <= grace < min(int(slurm[1]), int(kubernetes[1]))
