"""metrics.jsonl: what exactly is written, and what a resume keeps."""

import json
import math
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe.holderpo.config.errors import ConfigError
from recipe.holderpo.report.record import RunRecord, accuracy, read_metrics, read_run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1700000000.25)


def test_exact_lines(tmp_path: Path, clock: None) -> None:
    record = RunRecord(tmp_path / "new" / "run")
    record.step(0, {"val-core/arithmetic/acc/mean@8": 0.25})
    record.step(1, {"a": 1, "b": 0.1, "c": math.nan, "d": math.inf, "e": -math.inf})
    assert (tmp_path / "new" / "run" / "metrics.jsonl").read_text() == (
        '{"step": 0, "time": 1700000000.25, "val-core/arithmetic/acc/mean@8": 0.25}\n'
        '{"step": 1, "time": 1700000000.25, "a": 1, "b": 0.1, "c": "NaN", "d": "Infinity", "e": "-Infinity"}\n'
    )


def test_numpy_scalars_become_plain_numbers(tmp_path: Path, clock: None) -> None:
    RunRecord(tmp_path).step(
        np.int64(3),  # type: ignore[arg-type]
        {"i": np.int32(7), "u": np.uint8(9), "f": np.float32(0.5), "g": np.float64(0.1), "n": np.float16("nan")},
    )
    assert (tmp_path / "metrics.jsonl").read_text() == (
        '{"step": 3, "time": 1700000000.25, "i": 7, "u": 9, "f": 0.5, "g": 0.1, "n": "NaN"}\n'
    )


@pytest.mark.parametrize("value", ["0.5", None, [1.0], {"a": 1}, np.ones(1), Decimal("0.5"), 1j, np.bool_(True)])
def test_other_types_are_refused_and_nothing_is_written(tmp_path: Path, value: object) -> None:
    with pytest.raises(TypeError, match=r"'actor/odd'.*" + type(value).__name__):
        RunRecord(tmp_path).step(1, {"actor/fine": 1.0, "actor/odd": value})
    assert not (tmp_path / "metrics.jsonl").exists()


def test_verls_notes_to_its_logger_are_left_out(tmp_path: Path) -> None:
    RunRecord(tmp_path).step(1, {"a": 1, "_dapo_filtered_reward_counts": {"0.0": 3}})
    assert read_metrics(tmp_path / "metrics.jsonl")[0].keys() == {"step", "time", "a"}


@given(st.lists(st.floats(), min_size=1, max_size=5))
@settings(max_examples=50, deadline=None)  # writes files
def test_floats_come_back_bit_for_bit_and_each_line_is_strict_json(
    tmp_path_factory: pytest.TempPathFactory, values: list[float]
) -> None:
    path = tmp_path_factory.mktemp("run")
    RunRecord(path).step(1, {f"k{i}": value for i, value in enumerate(values)})

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    json.loads((path / "metrics.jsonl").read_text(), parse_constant=refuse)
    (record,) = read_metrics(path / "metrics.jsonl")
    for i, value in enumerate(values):
        assert repr(record[f"k{i}"]) == repr(value)  # distinguishes -0.0 from 0.0; one NaN is as good as another


def _steps(path: Path) -> list[float]:
    return [record["step"] for record in read_metrics(path / "metrics.jsonl")]


def test_resume_keeps_the_steps_up_to_the_checkpoint_as_they_are(tmp_path: Path) -> None:
    record = RunRecord(tmp_path)
    for step in range(6):
        record.step(step, {"x": 0.1 * step, "n": step, "inf": math.inf, "nan": math.nan})
    before = (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)
    resumed = RunRecord(tmp_path)
    resumed.resume_from(3)
    assert (tmp_path / "metrics.jsonl").read_text() == "".join(before[:4])
    resumed.step(4, {"x": 9.0})
    assert _steps(tmp_path) == [0, 1, 2, 3, 4]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("unfinished", ['{"step": 3, "ti', '{"step": 3, "time": 5.0', "{"])
def test_resume_drops_an_unfinished_last_line(tmp_path: Path, unfinished: str) -> None:
    record = RunRecord(tmp_path)
    for step in (1, 2):
        record.step(step, {})
    with record.path.open("a") as file:
        file.write(unfinished)
    assert _steps(tmp_path) == [1, 2]
    record.resume_from(5)
    record.step(3, {})
    assert _steps(tmp_path) == [1, 2, 3]
    assert record.path.read_text().count("\n") == 3


@pytest.mark.parametrize("step", [4, 3, 0])
def test_no_step_is_recorded_twice(tmp_path: Path, step: int) -> None:
    """As a validation that is repeated after a stop would: its step's line may be there already."""
    first = RunRecord(tmp_path)
    first.step(4, {"x": 1.0})
    resumed = RunRecord(tmp_path)
    resumed.resume_from(4)
    before = resumed.path.read_bytes()
    for record in (first, resumed):
        with pytest.raises(ValueError, match=f"step {step} cannot follow step 4"):
            record.step(step, {"x": 2.0})
        assert record.path.read_bytes() == before and record.last_step == 4
    resumed.step(5, {})
    assert _steps(tmp_path) == [4, 5]


def test_the_record_knows_where_it_resumed_and_its_last_step(tmp_path: Path) -> None:
    first = RunRecord(tmp_path)
    assert (first.resumed_at, first.last_step) == (None, None)
    first.resume_from(0)
    assert (first.resumed_at, first.last_step) == (0, None)
    for step in range(4):
        first.step(step, {})
    assert first.last_step == 3
    resumed = RunRecord(tmp_path)
    resumed.resume_from(5)  # killed between the checkpoint of step 5 and its line
    assert (resumed.resumed_at, resumed.last_step) == (5, 3)


def test_a_fresh_run_starts_with_an_empty_file(tmp_path: Path) -> None:
    record = RunRecord(tmp_path)
    record.step(0, {})
    record.step(1, {})
    record.resume_from(0)
    assert record.path.read_text() == ""
    record.step(0, {})
    assert _steps(tmp_path) == [0]


def test_resume_into_an_empty_folder(tmp_path: Path) -> None:
    record = RunRecord(tmp_path)
    record.resume_from(30)
    record.step(31, {})
    assert _steps(tmp_path) == [31]


DAMAGED = {
    b"nonsense": "Expecting value",
    b"[1]": "not a JSON object",
    b'{"time": 1}': "not a JSON object",
    b"": "Expecting value",
    b'{"step": 2, "ti': "Unterminated string",
    b'{"step": 2, "x": null}': "x is None, which is no number",
    b'{"step": 2, "x": "0.5"}': "x is '0.5', which is no number",
    b'{"step": 2, "x": [1]}': r"x is \[1\], which is no number",
    b'{"step": 2, "x": true}': "x is True, which is no number",
    b'{"step": 2, "x": 1' + b"0" * 400 + b"}": "OverflowError",
    b'{"step": 2, "x": 1' + b"0" * 9999 + b"}": "Exceeds the limit",
    b"[" * 99999: "RecursionError",
    b'{"step": 2, "\xff": 1}': "'utf-8' codec can't decode byte 0xff",
    b"\0\0\0": "Expecting value",
    b'{"step": "NaN"}': "step is nan, which is no whole number",
    b'{"step": "Infinity"}': "step is inf, which is no whole number",
    b'{"step": null}': "step is None, which is no number",
    b'{"step": 1.5}': "step is 1.5, which is no whole number",
    b'{"step": -1}': "step is -1, which is no whole number",
    b'{"step": 1}': "step 1 after step 1: each is recorded once, in order",
    b'{"step": 0}': "step 0 after step 1: each is recorded once, in order",
}


@pytest.mark.parametrize("line", DAMAGED, ids=range(len(DAMAGED)))
def test_a_line_that_is_no_record_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 4}\n')
    with pytest.raises(ConfigError, match=rf"metrics\.jsonl, line 2: {DAMAGED[line]}.*; allowed are lines"):
        read_metrics(path)


def test_a_run_without_a_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder, said in (
        ("none", " has no metrics.jsonl; allowed"),
        ("file", ".metrics.jsonl cannot be read: Not a dir"),
    ):
        with pytest.raises(ConfigError, match=f"{folder}{said}"):
            read_run(tmp_path / folder)
    (tmp_path / "metrics.jsonl").write_text('{"step": 0')  # killed while it wrote its first line
    with pytest.raises(ConfigError, match=r"no step is recorded in .*metrics\.jsonl"):
        read_run(tmp_path)


def test_accuracy_is_the_mean_over_data_sources_of_one_kind() -> None:
    metrics = {
        "val-core/arithmetic/acc/mean@8": 0.25,
        "val-core/math/algebra/acc/mean@8": 0.75,
        "val-core/arithmetic/acc/best@8/mean": 0.9,
        "val-core/arithmetic_greedy/acc/mean@1": 0.5,
        "val-aux/arithmetic/acc/mean@4": 0.1,
        "val-core/arithmetic/reward/mean@8": 0.3,
    }
    assert accuracy(metrics, greedy=False) == 0.5
    assert accuracy(metrics, greedy=True) == 0.5
    assert accuracy({"val-core/a_greedy/acc/mean@1": 0.4}, greedy=False) is None
    assert accuracy({"val-core/a/acc/mean@8": 0.4}, greedy=True) is None


def test_record_and_console_import_nothing_heavy() -> None:
    code = (
        "import sys, recipe.holderpo.report.record, recipe.holderpo.report.console; "
        "print({m.split('.')[0] for m in sys.modules} & {'torch', 'verl', 'ray', 'vllm', 'matplotlib', 'numpy'})"
    )
    root = Path(__file__).parents[2]
    out = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
