"""Records of runs as files: joined, and what is none is named; what the command is told is checked before it trains."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from recipe.holderpo.config.errors import ConfigError
from recipe.holderpo.study import __main__ as study
from recipe.holderpo.study.records import collect, read_records, rerun
from recipe.holderpo.study.settings import RunSettings

ROOT = Path(__file__).parents[2]


def record(seed: int, final: float = 0.5) -> dict[str, Any]:
    settings = RunSettings(arm="p2", seed=seed, steps=2)
    steps = {"p_mean": [2.0, 2.0], "last_log_ratio_std": [0.1, 0.2]}
    return {"key": settings.key, "settings": asdict(settings), "accuracy": {"0": 0.25, "2": final}, "steps": steps}


def test_records_are_joined_with_those_that_are_there(tmp_path: Path) -> None:
    first, second = record(22), record(21)
    for name, made in (("b", first), ("a", second)):
        (tmp_path / f"{name}.json").write_text(json.dumps(made))
    file = tmp_path / "records.jsonl"
    assert collect(tmp_path, file) == 2
    again = record(22, final=0.6)
    (tmp_path / "b.json").write_text(json.dumps(again))
    (tmp_path / "a.json").unlink()
    assert collect(tmp_path, file) == 2
    assert read_records(file) == [second, again]


def test_the_studys_own_records_are_such() -> None:
    assert len(read_records(ROOT / "docs/study/records.jsonl")) > 100


def damaged(**parts: object) -> bytes:
    return json.dumps(record(21) | parts).encode()


DAMAGED = {
    b"": "JSONDecodeError",
    b"\xff": "UnicodeDecodeError",
    b"[" * 99999: "RecursionError",
    b"[]": "TypeError",
    b"{}": "KeyError: 'settings'",
    damaged(key="arm=p0,seed=21"): "its key is not that of a run with its settings",
    damaged(settings={"arm": "p3", "seed": 21}, key="arm=p3,seed=21"): "its key is not",
    damaged(settings=record(21)["settings"] | {"beta": 1}): "TypeError: .*unexpected keyword argument 'beta'",
    damaged(accuracy={"0": 0.25}): "its accuracy has not the first and the last step",
    damaged(accuracy={"0": 0.25, "2": None}): "it has values that are no numbers",
    damaged(steps={"p_mean": [2.0], "last_log_ratio_std": [0.1, 0.2]}): "its p_mean has not a number for each step",
    damaged(steps={"p_mean": [2.0, 2.0]}): "KeyError: 'last_log_ratio_std'",
}


@pytest.mark.parametrize("line", DAMAGED, ids=range(len(DAMAGED)))
def test_what_is_no_record_is_named(line: bytes, tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    file.write_bytes(json.dumps(record(22)).encode() + b"\n" + line + b"\n")
    with pytest.raises(ConfigError, match=f"line 2 of .*records.jsonl is no record of a run: .*{DAMAGED[line]}"):
        read_records(file)
    file.unlink()
    (tmp_path / "a.json").write_bytes(line)
    with pytest.raises(ConfigError, match=f"a.json is no record of a run: .*{DAMAGED[line]}"):
        collect(tmp_path, file)
    assert not file.exists()


def test_more_runs_than_there_are_cannot_be_repeated(tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    file.write_text(json.dumps(record(21)) + "\n")
    for count in (0, 2):
        with pytest.raises(ConfigError, match=f"--count is {count}; allowed is a whole number from 1 to the 1 runs in"):
            rerun(file, count, seed=0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "grid", "--jobs", "0", "--seeds", "-1"], ["--jobs is 0; allowed", "--seeds is -1; allowed"]),
        (["run", "grid", "--out", "/dev/null/x"], ["--out is '/dev/null/x', which cannot be written"]),
        (["collect", "--out", "none"], ["--out is 'none', which is no folder"]),
        (["probe", "--seed", "-1"], ["--seed is -1; allowed"]),
        (["rerun"], ["docs/study/records.jsonl cannot be read (No such file"]),
        (["report"], ["docs/study/records.jsonl cannot be read (No such file"]),
    ],
)
def test_a_wrong_argument_is_a_line(
    arguments: list[str],
    said: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Before anything is trained."""
    (tmp_path / "docs" / "study").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["study", *arguments])
    with pytest.raises(SystemExit) as ended:
        study.main()
    lines = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and len(lines) == len(said)
    assert all(line.startswith(f"error: {start}") for line, start in zip(lines, said, strict=True))


def test_another_folder_than_the_repositorys_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="docs/study is not in "):
        study.check(argparse.Namespace(command="report"))


def test_a_damaged_probe_is_named(tmp_path: Path) -> None:
    file = tmp_path / "probe.json"
    for text in ("{", "[]", '{"0.2": 1}', '{"0.2": [{"updates": 1}]}'):
        file.write_text(text)
        with pytest.raises(ConfigError, match=r"probe.json is damaged .*; `probe` makes it"):
            study.read_probe(file)
    assert study.read_probe(ROOT / "docs/study/probe.json").keys() == {"0.2", "0.03"}
