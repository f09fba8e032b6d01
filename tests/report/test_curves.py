"""The picture: its lines are the recorded numbers, and it can be drawn from any part of a run."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recipe.holderpo.report import __main__ as report
from recipe.holderpo.report.comparison import comparison_figure
from recipe.holderpo.report.curves import curves_figure, plot_curves
from recipe.holderpo.report.record import RunRecord

KEYS = [  # panel, label of the line, key
    (0, "mean training reward", "critic/score/mean"),
    (0, "validation accuracy", "val-core/arithmetic/acc/mean@8"),
    (0, "validation accuracy, greedy", "val-core/arithmetic_greedy/acc/mean@1"),
    (1, "p", "holder/p"),
    (2, "largest", "holder/log_ratio_max"),
    (2, "smallest", "holder/log_ratio_min"),
    (3, "entropy", "actor/entropy"),
    (4, "gradient norm", "actor/grad_norm"),
    (5, "effective sample size / tokens", "holder/effective_sample_size"),
    (5, "entropy / log(tokens)", "holder/weight_entropy"),
]


def _records(steps: int, *, holder: bool = True) -> list[dict[str, float]]:
    rng = np.random.default_rng(0)
    records = []
    for step in range(steps + 1):
        record = {"step": float(step), "time": 1e9 + step}
        for _, _, key in KEYS:
            validated = step % 4 == 0
            if validated if key.startswith("val") else step > 0 and (holder or not key.startswith("holder")):
                record[key] = rng.normal()
        records.append(record)
    return records


def _lines(axes: Axes) -> dict[str, tuple[list[float], list[float]]]:
    return {
        str(line.get_label()): (np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist())
        for line in axes.lines
    }


@pytest.mark.parametrize("steps", [1, 13])
def test_every_line_is_what_was_recorded(steps: int) -> None:
    records = _records(steps)
    figure = curves_figure(records, "a title")
    assert figure.get_suptitle() == "a title"
    assert sum(len(axes.lines) for axes in figure.axes) == len(KEYS)
    for panel, label, key in KEYS:
        expected = [(record["step"], record[key]) for record in records if key in record]
        assert _lines(figure.axes[panel])[label] == ([s for s, _ in expected], [v for _, v in expected])
        assert all(line.get_marker() == "o" for line in figure.axes[panel].lines)  # one value alone is visible
    assert {axes.get_xlim() for axes in figure.axes} == {(-0.5, steps + 0.5)}


def _notes(figure: Figure) -> dict[int, list[str]]:
    return {i: [text.get_text() for text in axes.texts] for i, axes in enumerate(figure.axes) if axes.texts}


def test_a_baseline_says_what_its_loss_does_not_record() -> None:
    figure = curves_figure(_records(13, holder=False))
    assert _notes(figure) == {i: ["not recorded by this loss"] for i in (1, 2, 5)}
    assert [len(axes.lines) for axes in figure.axes] == [3, 0, 0, 1, 1, 0]


def test_before_the_first_step() -> None:
    figure = curves_figure(_records(0))
    assert _notes(figure) == {i: ["no training step yet"] for i in range(1, 6)}
    assert set(_lines(figure.axes[0])) == {"validation accuracy", "validation accuracy, greedy"}


def test_a_constant_infinite_p_is_said_in_words() -> None:
    records = [{"step": float(s), "time": 0.0, "holder/p": float("-inf")} for s in (1, 2)]
    assert _notes(curves_figure(records))[1] == ["-inf in the last step"]


@pytest.mark.parametrize(
    "records", [_records(13), _records(13, holder=False), _records(1)], ids=["long", "grpo", "one"]
)
def test_no_text_overlaps_another_or_leaves_the_picture(records: list[dict[str, float]]) -> None:
    figure = curves_figure(records, "outputs/arithmetic-holder-2026-01-01")
    figure.draw_without_rendering()
    renderer = figure._get_renderer()  # type: ignore[attr-defined]
    texts = [figure._suptitle]  # type: ignore[attr-defined]
    for axes in figure.axes:
        texts += [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            texts += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]  # those drawn
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts if text.get_text()]
    width, height = figure.get_size_inches() * figure.dpi
    for i, (name, box) in enumerate(boxes):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, name
        for other_name, other in boxes[i + 1 :]:
            assert not box.overlaps(other), (name, other_name)


def test_the_command_draws_and_prints(tmp_path: Path) -> None:
    for name in ("one", "two"):
        record = RunRecord(tmp_path / name)
        for entry in _records(5):
            record.step(int(entry.pop("step")), entry)
    command = [sys.executable, "-m", "recipe.holderpo.report", str(tmp_path / "one"), str(tmp_path / "two")]
    root = Path(__file__).parents[2]
    out = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[0].split() == ["one", "two"]
    for name in ("one", "two"):
        png = (tmp_path / name / "curves.png").read_bytes()
        assert png[:8] == b"\x89PNG\r\n\x1a\n"
        assert int.from_bytes(png[16:20], "big") == 1650
        assert f"curves   {tmp_path / name / 'curves.png'}\n" in out

    (tmp_path / "four").mkdir()
    (tmp_path / "four" / "metrics.jsonl").write_text('{"step": "one"}\n')
    wrong = [str(tmp_path / name) for name in ("three", "four")]
    refused = subprocess.run([*command, *wrong], cwd=root, capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and refused.stdout == ""
    lines = refused.stderr.splitlines()
    assert len(lines) == 2 and all(line.startswith(f"error: {name}") for line, name in zip(lines, wrong, strict=True))


def test_a_picture_that_cannot_be_written_takes_no_table_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    RunRecord(tmp_path / "r").step(1, {})
    (tmp_path / "r" / "curves.png").mkdir()
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path / "r")])
    report.main()
    said = capsys.readouterr()
    assert said.err == f"note: {tmp_path / 'r' / 'curves.png'} is not redrawn: Is a directory\n"
    assert said.out.splitlines()[0].split() == ["r"]


def test_a_title_is_no_formula(tmp_path: Path) -> None:
    curves_figure(_records(1), r"$\frac{$").draw_without_rendering()
    comparison_figure({"p0": [_records(1)]}, r"$\frac{$").draw_without_rendering()


def test_plot_curves_reads_the_file(tmp_path: Path) -> None:
    record = RunRecord(tmp_path)
    record.step(1, {"holder/p": 2.0, "actor/grad_norm": float("nan")})
    plot_curves(record.path, tmp_path / "curves.png", title="t")
    assert (tmp_path / "curves.png").stat().st_size > 10_000
