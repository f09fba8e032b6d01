"""An evaluation's rehearsal: what it replaces, and that the command which it runs is a right one. That such a command works
is shown by the evaluations in tests/stack."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from recipe.holderpo.config.compose import CONF
from recipe.holderpo.config.errors import ConfigError
from recipe.holderpo.evaluation.generate import read_problems
from recipe.holderpo.evaluation.settings import check
from recipe.holderpo.rehearsal import evaluation
from recipe.holderpo.rehearsal.evaluation import rehearse_evaluation, replacements
from recipe.holderpo.rehearsal.stand_ins import make_data


def config_of(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF / "evaluation"), version_base=None):
        return compose("eval", overrides=list(overrides))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands that the rehearsal would run."""
    commands: list[list[str]] = []

    def run_command(command: Sequence[str], nodes: Any, output: Path) -> None:
        commands.append(list(command))

    monkeypatch.setattr(evaluation, "run_command", run_command)
    return commands


GIVEN = ["model=Qwen/Qwen2.5-Math-7B", "template=qwen_math", "n=8", "temperature=0.6", "engine.max_model_len=4096"]


def test_the_command_is_a_right_one_in_small(tmp_path: Path, asked: list[list[str]]) -> None:
    given = [*GIVEN, f"out_dir={tmp_path}", "run=mine", "rehearse=true", "engine.tensor_parallel_size=4"]
    assert rehearse_evaluation(config_of(*given), given) == 0
    here = config_of(*asked[0][3:])
    check(here)
    assert not here.rehearse and (here.n, here.temperature, here.template) == (8, 0.6, "qwen_math")
    assert (here.max_tokens, here.engine.max_model_len, here.limit) == (47, 4096 - 3000 + 47, 4)
    assert (here.engine.dtype, here.engine.tensor_parallel_size, here.engine.enforce_eager) == ("auto", 1, True)
    (file,) = (Path(here.data_dir) / f"eval_{name}.parquet" for name in here.benchmarks)
    assert len(read_problems(file)) == 16
    assert (Path(here.model) / "model.safetensors").exists()
    assert Path(here.out_dir).parent == tmp_path and here.run == "evaluation"


def test_real_problems_are_kept(tmp_path: Path, asked: list[list[str]]) -> None:
    make_data(tmp_path)
    given = [*GIVEN, f"out_dir={tmp_path}", "run=mine", f"data_dir={tmp_path}", "benchmarks=[stand_in]", "limit=2"]
    assert rehearse_evaluation(config_of(*given), given) == 0
    here = config_of(*asked[0][3:])
    assert here.data_dir == str(tmp_path) and here.benchmarks == ["stand_in"] and here.limit == 2


def test_nothing_is_named_that_stays() -> None:
    here = replacements(config_of(*GIVEN, "limit=3", "max_tokens=10"))
    assert {one.key for one in here}.isdisjoint({"limit", "max_tokens", "engine.tensor_parallel_size", "engine.dtype"})


def test_a_failure_is_a_line_and_the_exit_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluation, "run_command", lambda *_: "exit status 2\nerror: config: what is wrong")
    given = [*GIVEN, f"out_dir={tmp_path}", "run=mine"]
    assert rehearse_evaluation(config_of(*given), given) == 1
    said = capfd.readouterr().out
    assert "error: evaluation: error: config: what is wrong" in said and " ERROR" in said


def test_an_unknown_model_is_refused(tmp_path: Path) -> None:
    given = ["model=nobody/knows-it", "template=qwen_math", "run=mine", f"out_dir={tmp_path}"]
    with pytest.raises(ConfigError, match="model is 'nobody/knows-it'; allowed for a rehearsal is"):
        rehearse_evaluation(config_of(*given), given)
