"""What an evaluation says of input that it cannot use, before vLLM is imported; and how its process ends."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from recipe.holderpo.config.errors import ConfigError
from recipe.holderpo.data.templates import TEMPLATES
from recipe.holderpo.embedded.tiny_model import TinyModelConfig, build_model, build_tokenizer, save_model
from recipe.holderpo.evaluation import __main__ as evaluation
from recipe.holderpo.evaluation.generate import Problem, Sampler
from recipe.holderpo.evaluation.model import check_model

ROOT = Path(__file__).parents[2]
ENGINE = {"trust_remote_code": False}
PROBLEMS = [Problem("amc", 0, "1 + 1", "2"), Problem("amc", 1, "1 + 1 + 1", "3")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "whole"
    folder.mkdir()
    tokenizer = build_tokenizer()
    save_model(build_model(TinyModelConfig(), tokenizer, seed=0), tokenizer, folder)
    return folder


@pytest.fixture
def model(whole: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(whole, tmp_path / "model"))


def said_of(model: Path | str, **engine: object) -> str:
    with pytest.raises(ConfigError) as caught:
        check_model(str(model), ENGINE | engine, PROBLEMS, TEMPLATES["none"])
    assert len(caught.value.lines) == 1
    return str(caught.value)


def test_a_whole_model_passes(model: Path) -> None:
    check_model(str(model), ENGINE, PROBLEMS, TEMPLATES["none"])


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_damaged_config_is_named(text: str, model: Path) -> None:
    (model / "config.json").write_text(text)
    assert f"{model}/config.json cannot be read" in said_of(model)


def test_weights_that_are_not_whole_are_named(model: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert f"the weights in {weights} cannot be read" in said_of(model)
    weights.rename(model / "model-00001-of-00002.safetensors")
    (model / "model-00001-of-00002.safetensors").unlink()
    assert "which has no weights" in said_of(model)
    check_model(str(model), ENGINE | {"load_format": "dummy"}, PROBLEMS, TEMPLATES["none"])
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-00001-of-00002.safetensors cannot be read: No such file" in said_of(model)


def test_a_model_without_its_tokenizer_is_named(model: Path) -> None:
    for file in model.glob("tokenizer*"):
        file.unlink()
    assert "tokenizer" in said_of(model)


def test_a_prompt_that_is_too_long_is_named(model: Path) -> None:
    said = said_of(model, max_model_len=5)
    assert said.startswith("engine.max_model_len is 5; allowed is more than the ") and "problem 1 of amc" in said


def test_a_model_that_is_nowhere_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One question, where transformers asks again and again for a minute."""
    import huggingface_hub

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", unreachable)
    said = said_of("nobody/nothing")
    assert said.startswith("model is 'nobody/nothing'; allowed is a folder, or a hub id") and "no route" in said


def config(tmp_path: Path) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf/evaluation"), version_base=None):
        overrides = ["model=a/b", "run=r", "template=none", "benchmarks=[amc]", f"out_dir={tmp_path}/out"]
        return compose("eval", overrides=overrides)


def test_what_cannot_be_gone_on_with_is_found_before_anything_is_generated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[str]()
    monkeypatch.setattr(evaluation, "read_problems", lambda _: PROBLEMS)
    monkeypatch.setattr(evaluation, "resolve_model", lambda *_: asked.append("model"))
    folder = tmp_path / "out" / "r"
    folder.mkdir(parents=True)
    (folder / "results.json").write_text("{")
    with pytest.raises(ConfigError, match=r"results\.json is damaged .*; without it, it is written anew"):
        evaluation.evaluate(config(tmp_path))
    shutil.rmtree(folder)
    folder.touch()
    with pytest.raises(ConfigError, match=r"out_dir/run is .*, which cannot be written"):
        evaluation.evaluate(config(tmp_path))
    folder.unlink()
    folder.mkdir()
    (folder / "config.yaml").write_text("a: [")
    assert asked == []
    with pytest.raises(ConfigError, match=r"config\.yaml cannot be read"):
        evaluation.open_run(config(tmp_path), "a/b", {})


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (
            TypeError("EngineArgs.__init__() got an unexpected keyword argument 'foo'"),
            "unexpected keyword argument 'foo'",
        ),
        (ValueError("heads must be divisible"), "heads must be divisible"),
        (OSError("no such revision"), "no such revision"),
    ],
)
def test_what_vllm_refuses_is_one_line(error: Exception, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise error

    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=refuse))
    with pytest.raises(ConfigError, match=f"vLLM refuses engine=.*'foo': 1.* for model 'a/b': .*{why}"):
        Sampler("a/b", None, {"foo": 1})


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("run=x", "model is missing; allowed is a hub id or a folder"),
        ("model=5", "model is 5; allowed is a hub id or a folder"),
        ("model=", "model is ''; allowed is a hub id or a folder"),
        ("nonsense=1", "Could not override 'nonsense'"),
        ("hardware=null", "Config group override must be a string or a list. Got NoneType"),
        ("hardware=tpu", "In 'eval': Could not find 'hardware/tpu'"),
    ],
)
def test_a_wrong_command_is_one_line(override: str, said: str) -> None:
    command = [sys.executable, "-m", "recipe.holderpo.evaluation", override]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stderr.startswith(f"error: {said}")


def test_the_process_ends_after_what_is_registered_and_before_the_interpreter_is_taken_apart() -> None:
    code = """
import atexit, os
from recipe.holderpo.evaluation.__main__ import end
class Told:
    def __del__(self):
        os.write(2, b"leaked")
kept = Told()  # as nanobind keeps what it tells of when the interpreter is taken apart
atexit.register(print, "closed")
print("table", end=" ")
end(3)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "table closed\n", "")
    kept = subprocess.run(
        [sys.executable, "-c", code.replace("end(3)", "")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert kept.stderr == "leaked", "so the class above is one that would be told of"
