"""Estimators against enumeration, tables, and what an interrupted evaluation finds again."""

import itertools
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from recipe.holderpo.config.errors import ConfigError
from recipe.holderpo.evaluation import compare, table
from recipe.holderpo.evaluation.__main__ import complete, faults, open_run, with_earlier, write
from recipe.holderpo.evaluation.compare import read_results
from recipe.holderpo.evaluation.generate import Problem, Sampler, Sampling, Store, read_problems
from recipe.holderpo.evaluation.metrics import Estimate, average, mean_over_problems, pass_at_k
from recipe.holderpo.evaluation.model import resolve_model, trained_template
from recipe.holderpo.evaluation.settings import check

ROOT = Path(__file__).parents[2]


@given(st.lists(st.booleans(), min_size=1, max_size=9), st.data())
def test_pass_at_k_is_the_mean_over_all_subsets_of_k(right: list[bool], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(right)))
    subsets = list(itertools.combinations(right, k))
    assert pass_at_k(len(right), sum(right), k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-12)


@pytest.mark.parametrize("arguments", [(4, 5, 1), (4, -1, 1), (4, 2, 0), (4, 2, 5)])
def test_pass_at_k_refuses_what_it_cannot_estimate(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="allowed is"):
        pass_at_k(*arguments)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=50))
def test_the_standard_error_is_that_of_the_mean(values: list[float]) -> None:
    estimate = mean_over_problems(values)
    assert estimate.value == pytest.approx(statistics.fmean(values), abs=1e-12)
    assert estimate.standard_error == pytest.approx(statistics.stdev(values) / math.sqrt(len(values)), abs=1e-9)


def test_the_average_is_unweighted_with_independent_errors() -> None:
    mean = average([Estimate(0.2, 0.03), Estimate(0.6, 0.04)])
    assert (mean.value, mean.standard_error) == (pytest.approx(0.4), pytest.approx(0.025))


PAPER = dict(
    zip(("aime24", "amc", "math500", "minerva", "olympiad_bench"), (0.433, 0.687, 0.822, 0.349, 0.453), strict=True)
)
RESULTS = {
    "holder": {name: Estimate(value, 0.01) for name, value in reversed(PAPER.items())}
    | {"aime25": Estimate(0.1, 0.05)},
    "one set": {"math500": Estimate(0.5, math.nan)},
}


def test_the_table_has_the_papers_columns_and_average() -> None:
    head, holder, one = table.as_text(RESULTS).splitlines()
    assert head.split() == ["model", "AIME24", "AMC", "MATH500", "Minerva", "Oly.", "AIME25", "avg"]
    assert holder.split("  ")[-1].strip() == "54.9 ± 0.4"  # the paper's average of these five
    assert one.split()[-1] == "-" and "50.0" in one
    markdown = table.as_markdown(RESULTS).splitlines()
    assert (
        markdown[0] == "| model | AIME24 | AMC | MATH500 | Minerva | Oly. | AIME25 | avg |"
        and markdown[1].count("---") == 8
    )
    assert table.as_csv(RESULTS).splitlines()[1].startswith("holder,43.3000,1.0000,68.7000,1.0000,")


def test_json_comes_back_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(table.as_json(RESULTS))
    back = read_results(tmp_path)
    assert back["holder"] == RESULTS["holder"] and math.isnan(back["one set"]["math500"].standard_error)
    assert json.loads(table.as_json(RESULTS))["holder"]["average"]["accuracy"] == pytest.approx(sum(PAPER.values()) / 5)


@pytest.mark.parametrize("name", ["text", "markdown", "csv", "json"])
def test_comparisons_have_a_form(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [tmp_path / "e1", tmp_path / "e2"]
    for folder in folders:
        folder.mkdir()
        write(folder, RESULTS)
    monkeypatch.setattr(sys, "argv", ["compare", *map(str, folders), *([] if name == "text" else [f"--{name}"])])
    compare.main()
    together = RESULTS | {f"e2/{label}": row for label, row in RESULTS.items()}
    assert capsys.readouterr().out == getattr(table, f"as_{name}")(together) + "\n"
    assert [path.name for path in sorted(folders[0].iterdir())] == [
        "results.json",
        "table.csv",
        "table.md",
        "table.txt",
    ]


def test_the_store_keeps_only_problems_with_all_their_answers(tmp_path: Path) -> None:
    store = Store(tmp_path / "g" / "x.jsonl", n=2)
    store.add([{"index": 1, "sample": s, "score": float(s == 0)} for s in range(2)])
    store.add([{"index": 0, "sample": s, "score": 1.0} for s in range(2)])
    with store.path.open("a") as file:  # killed while writing the answers of problem 2
        file.write('{"index": 2, "sample": 0, "score": 1.0}\n{"index": 2, "sam')
    again = Store(store.path, n=2)
    assert again.done() == {0, 1} and again.right() == [[1.0, 1.0], [1.0, 0.0]]
    again.add([{"index": 2, "sample": s, "score": 0.0} for s in range(2)])
    assert [row["index"] for row in Store(store.path, n=2).rows] == [1, 1, 0, 0, 2, 2]


def test_a_damaged_line_is_named_and_its_problem_answered_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path / "x.jsonl", n=1)
    store.add([{"index": i, "sample": 0, "score": 1.0, "truncated": 1.0, "no_answer": 0.0} for i in range(10)])
    lines = store.path.read_bytes().splitlines()
    lines[1:9] = [
        lines[1][:20], b"[3]", b'{"index": 3}', b"\xff", b"[" * 99999, b'{"index": [6], "sample": 0, "score": 1.0}',
        b'{"index": 7, "sample": 0, "score": "1"}', b'{"index": 8, "sample": 0, "score": 1, "timeout": null}',
    ]  # fmt: skip
    store.path.write_bytes(b"\n".join(lines) + b"\n")
    assert Store(store.path, n=1).done() == {0, 9}
    said = capsys.readouterr().err.splitlines()
    assert [line.split(" is damaged")[0] for line in said] == [f"note: {store.path}, line {n}" for n in range(2, 10)]
    (tmp_path / "generations").mkdir()
    store.path.rename(tmp_path / "generations" / "x.jsonl")
    assert faults(tmp_path).startswith("2 answers: 2 truncated, 0 no_answer, 0 timeout")


@pytest.mark.parametrize("damage", ["nothing of parquet", None])
def test_a_file_of_problems_that_cannot_be_read_is_one_line(damage: str | None, tmp_path: Path) -> None:
    file = tmp_path / "eval_amc.parquet"
    if damage is None:
        pyarrow.parquet.write_table(pyarrow.table({"data_source": ["amc"], "extra_info": [None]}), file)
    else:
        file.write_text(damage)
    with pytest.raises(ConfigError, match="which is not as python -m") as caught:
        read_problems(file)
    assert len(caught.value.lines) == 1


def test_another_benchmark_is_added_to_a_runs_results(tmp_path: Path) -> None:
    first = {"r": {"amc": Estimate(0.5, 0.1)}, "r pass@2": {"amc": Estimate(0.7, 0.1)}}
    write(tmp_path, with_earlier(tmp_path, first))
    write(tmp_path, with_earlier(tmp_path, {"r": {"aime24": Estimate(0.2, 0.1)}}))
    assert read_results(tmp_path) == {"r": first["r"] | {"aime24": Estimate(0.2, 0.1)}, "r pass@2": first["r pass@2"]}
    write(tmp_path, with_earlier(tmp_path, {"r": {"amc": Estimate(0.6, 0.1)}}))
    assert read_results(tmp_path)["r"] == {"amc": Estimate(0.6, 0.1), "aime24": Estimate(0.2, 0.1)}
    assert "AIME24" in (tmp_path / "table.txt").read_text()


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[1]",
        '{"r": {"amc": 1}}',
        '{"r": 2}',
        "[" * 99999,
        '{"r": {"amc": {"accuracy": "0.5", "standard_error": 0.1}}}',
        '{"r": {"amc": {"accuracy": null, "standard_error": null}}}',
    ],
)
def test_results_that_cannot_be_read_are_a_line_each(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results.json").write_text(content)
    folders = [tmp_path, tmp_path / "results.json", tmp_path / "none"]
    monkeypatch.setattr(sys, "argv", ["compare", *map(str, folders)])
    with pytest.raises(SystemExit) as ended:
        compare.main()
    lines = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and len(lines) == 3
    for line, said in zip(
        lines, ("is damaged", "cannot be read: Not a dir", "does not exist; it is written"), strict=True
    ):
        assert line.startswith("error: ") and said in line


def test_every_sampled_answer_has_a_seed_of_its_own_and_a_greedy_one_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def generate(prompts: list[object], parameters: list[dict[str, Any]], use_tqdm: bool) -> list[SimpleNamespace]:
        return [SimpleNamespace(outputs=[given["seed"]]) for given in parameters]

    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(SamplingParams=lambda **given: given))
    sampler = Sampler.__new__(Sampler)
    sampler.llm = SimpleNamespace(generate=generate)
    sampler.prompt = lambda problem: {"prompt_token_ids": []}  # type: ignore[method-assign]
    problems = [Problem("amc", 3, "", ""), Problem("amc", 4, "", ""), Problem("minerva", 3, "", "")]

    def seeds(temperature: float, seed: int) -> list[int | None]:
        sampling = Sampling(n=2, temperature=temperature, top_p=1.0, max_tokens=9, seed=seed)
        return [made for _, _, made in sampler.answers(problems, sampling)]

    assert len({*seeds(0.6, seed=1), *seeds(0.6, seed=2)}) == 2 * len(problems) * 2
    assert seeds(0.6, seed=1) == seeds(0.6, seed=1) and set(seeds(0.0, seed=1)) == {None}


def config(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf/evaluation"), version_base=None):
        return compose("eval", overrides=["model=a/b", "run=r", "template=qwen_math", *overrides])


BAD = {
    "n=8": "n is 8; allowed with temperature=0 is 1",
    "n=0": "n is 0",
    "temperature=-1": "temperature is -1",
    "top_p=0": "top_p is 0",
    "template=chatml": "template is 'chatml'; allowed are qwen_math, r1, none, model",
    "k=[2]": "k contains 2; allowed are whole numbers from 1 to n=1",
    "benchmarks=[]": "benchmarks is []; allowed is a list of: a string; at least 1 of them",
    "k=[0]": "k is 0; allowed is a list of: a whole number from 1",
    "+temprature=1": "temprature is not a key; allowed are model, ",
    "limit=0": "limit is 0",
    "engine.max_model_len=0": "engine.max_model_len is 0; allowed is a whole number from 1",
    "engine.tensor_parallel_size=two": "engine.tensor_parallel_size is 'two'; allowed is a whole number from 1",
    "engine.trust_remote_code=1": "engine.trust_remote_code is 1; allowed is true or false",
    "max_tokens=many": "max_tokens is 'many'",
    "k=3": "k is 3; allowed is a list of",
    "run=../x": "run is '../x'; allowed is the name of a folder inside out_dir",
    "run=/tmp/x": "run is '/tmp/x'; allowed is the name of a folder inside out_dir",
    "run=.": "run is '.'; allowed is the name of a folder inside out_dir",
    "grading.workers=0": "grading.workers is 0; allowed is a whole number from 1 to 256",
    "+grading.worker=3": "grading.worker is not a key; allowed are workers, timeout, memory_mb, conventions",
    "+env.HF_TOKEN=hf_x": "env.HF_TOKEN is set; allowed is none",
    "env=null": "env is None; allowed is a mapping",
    "run=a/../..": "run is 'a/../..'; allowed is the name of a folder inside out_dir",
}


@pytest.mark.parametrize("overrides", BAD)
def test_a_wrong_value_is_one_line(overrides: str) -> None:
    check(config())
    with pytest.raises(ConfigError) as caught:
        check(config(overrides))
    assert len(caught.value.lines) == 1 and caught.value.lines[0].startswith(BAD[overrides])
    wrong = ["n=0", "seed=-1", "limit=0", "top_p=2"]
    with pytest.raises(ConfigError) as caught:
        check(config(*wrong))
    assert [line.split()[0] for line in caught.value.lines] == ["n", "top_p", "seed", "limit"]


def test_what_would_be_compiled_is_refused_where_nothing_is() -> None:
    check(config("hardware=cpu"))
    check(config("hardware=cpu", "env.TORCH_COMPILE_DISABLE=0", "engine.enforce_eager=false"))
    with pytest.raises(
        ConfigError, match=r"engine\.enforce_eager is false; allowed with env\.TORCH_COMPILE_DISABLE=1 is true"
    ):
        check(config("hardware=cpu", "engine.enforce_eager=false"))


def test_an_evaluation_is_resumed_only_with_what_it_began_with(tmp_path: Path) -> None:
    place, file = f"out_dir={tmp_path}", tmp_path / "eval_amc.parquet"
    file.write_text("problems")
    open_run(config(place), "a/b", {"amc": file})
    open_run(config(place, "chunk=7", "benchmarks=[amc]"), "a/b", {"amc": file})
    open_run(config(place), "a/b", {})  # one set fewer, and the other's hash is not forgotten
    with pytest.raises(ConfigError, match="n is 2; allowed is 1"):
        open_run(config(place, "n=2"), "a/b", {})
    with pytest.raises(ConfigError, match="found_model is 'newer'; allowed is 'a/b'"):
        open_run(config(place), "newer", {})
    file.write_text("other problems")
    with pytest.raises(ConfigError, match="sha256_amc is"):
        open_run(config(place), "a/b", {"amc": file})


def test_what_follows_from_the_model(tmp_path: Path) -> None:
    run = tmp_path / "my-run"
    (run / "checkpoints" / "global_step_7").mkdir(parents=True)
    OmegaConf.save({"template": "r1"}, run / "config.yaml")
    for model, template, name in (
        ("Qwen/Qwen2.5-Math-7B", "qwen_math", "Qwen-Qwen2.5-Math-7B"),
        (str(run / "checkpoints" / "global_step_7"), "r1", None),
        (str(run), "r1", None),
    ):
        with initialize_config_dir(str(ROOT / "conf/evaluation"), version_base=None):
            made = compose("eval", overrides=[f"model={model}"])
        complete(made)
        assert made.template == template and (name is None or made.run == name)
        check(made)
    OmegaConf.save({"run": "r"}, run / "config.yaml")
    assert trained_template(str(run)) == "model"


def test_a_checkpoint_is_merged_once_and_completely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    actor = tmp_path / "global_step_7" / "actor"
    actor.mkdir(parents=True)
    (actor / "fsdp_config.json").touch()
    outcomes = [(1, "Traceback\nRuntimeError: a shard is missing"), (0, "")]

    def merger(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        """verl's, which fails the first time, in the middle."""
        status, errors = outcomes.pop(0)
        options = dict(zip(command[-4::2], command[-3::2], strict=True))
        assert options["--local_dir"] == str(actor)
        (Path(options["--target_dir"]) / "config.json").write_text("{}" if status == 0 else "{")
        return subprocess.CompletedProcess(command, status, "", errors)

    monkeypatch.setattr(subprocess, "run", merger)
    with pytest.raises(ConfigError, match="cannot be merged: RuntimeError: a shard is missing"):
        resolve_model(str(actor.parent), trust_checkpoint=True)
    assert [path.name for path in actor.iterdir()] == ["fsdp_config.json"]
    for _ in range(2):  # the second time nothing is left to do
        assert resolve_model(str(actor.parent), trust_checkpoint=True) == str(actor / "merged")
    assert (actor / "merged" / "config.json").read_text() == "{}" and outcomes == []


def test_what_model_may_name(tmp_path: Path) -> None:
    assert resolve_model("Qwen/Qwen2.5-Math-7B") == "Qwen/Qwen2.5-Math-7B"
    (tmp_path / "hf").mkdir()
    OmegaConf.save({}, tmp_path / "hf" / "config.json")
    assert resolve_model(str(tmp_path / "hf")) == str(tmp_path / "hf")
    for wrong in (str(tmp_path / "nothing"), "./a/b", str(tmp_path)):
        with pytest.raises(ConfigError, match="model is "):
            resolve_model(wrong)
