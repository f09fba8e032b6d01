"""The lines a user watches, and that each step is shown once whatever happens to the file."""

import codecs
import io
import os
import pty
import re
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe.holderpo.report.console import LINE_WIDTH, STARTING, Follower, Progress, step_line
from recipe.holderpo.report.record import RunRecord, read_metrics

VALIDATION = {"val-core/arithmetic/acc/mean@8": 0.406, "val-core/arithmetic_greedy/acc/mean@1": 0.6172}
TRAINING = {
    "critic/score/mean": 0.4297,
    "actor/entropy": 0.6129,
    "actor/grad_norm": 0.3371,
    "timing_s/step": 4.067,
    "timing_s/testing": 6.0,
}
HOLDER = {"holder/p": 1.186, "holder/rho_min": 0.9812, "holder/rho_max": 1.0489, "holder/clip_fraction": 0.0312}
BASELINE = {"actor/pg_clipfrac": 0.0217, "holder/rho_min": 0.9, "holder/rho_max": 1.1, "holder/clip_fraction": 0.5}


@pytest.mark.parametrize(
    ("metrics", "total", "line"),
    [
        (
            {"step": 12} | TRAINING | HOLDER | VALIDATION,
            60,
            "step  12/60  p +1.19  reward 0.43  acc 0.41 (greedy 0.62)  "
            "rho 0.98-1.05  clip 3%  entropy 0.61  grad 0.34  4.1 s",
        ),
        (
            {"step": 3} | TRAINING | HOLDER,
            60,
            "step   3/60  p +1.19  reward 0.43  rho 0.98-1.05  clip 3%  entropy 0.61  grad 0.34  4.1 s",
        ),
        ({"step": 9} | TRAINING | BASELINE, 9, "step  9/9  reward 0.43  clip 2%  entropy 0.61  grad 0.34  4.1 s"),
        ({"step": 0} | VALIDATION, 500, "step    0/500  acc 0.41 (greedy 0.62)"),
        ({"step": 0, "val-core/a_greedy/acc/mean@1": 0.5}, 5, "step  0/5  greedy acc 0.50"),
        (
            {"step": 1, "holder/p": float("-inf"), "actor/grad_norm": float("nan"), "critic/score/mean": -0.00312},
            5,
            "step  1/5  p -inf  reward -3e-03  grad nan",
        ),
        ({"step": 1, "actor/grad_norm": 31415.9, "timing_s/step": 1234.5}, 5, "step  1/5  grad 3e+04  1234 s"),
        ({"step": 1, "actor/grad_norm": 314.15}, 5, "step  1/5  grad 314"),
    ],
)
def test_lines(metrics: dict[str, float], total: int, line: str) -> None:
    assert step_line(metrics, total) == line


@settings(deadline=None)
@given(st.data())
def test_no_line_is_too_wide(data: st.DataObject) -> None:
    fraction, seconds = st.floats(0, 1), st.floats(0, 99999) | st.just(999.96)
    # The values come from float32, whose exponents have two digits.
    positive = st.floats(0, 2.0**127, width=32) | st.sampled_from([float("nan"), float("inf"), 9.996, 99.996, 999.6])
    metrics = {"holder/p": data.draw(st.floats(-99, 99)), "critic/score/mean": -data.draw(positive)}
    metrics |= {key: data.draw(positive) for key in ("actor/entropy", "actor/grad_norm")}
    metrics |= {key: data.draw(positive) for key in ("holder/rho_min", "holder/rho_max")}
    metrics |= {key: data.draw(fraction) for key in ("holder/clip_fraction", *VALIDATION)}
    metrics |= {"step": data.draw(st.integers(0, 9999)), "timing_s/step": data.draw(seconds)}
    line = step_line(metrics, 9999)
    assert len(line) <= LINE_WIDTH and "\n" not in line


def _shown(stream: io.StringIO) -> list[str]:
    return [line for line in stream.getvalue().splitlines() if line.startswith("step")]


def test_progress_prints_each_step_of_a_writer_once_and_drains_at_the_end(tmp_path: Path) -> None:
    record = RunRecord(tmp_path)
    stream = io.StringIO()

    def write() -> None:
        record.resume_from(0)
        for step in range(8):
            record.step(step, {"critic/score/mean": step / 10})
            time.sleep(0.05)

    writer = threading.Thread(target=write)
    started = time.time() - 100
    with Progress(tmp_path / "metrics.jsonl", 7, stream=stream, started=started):
        writer.start()
        writer.join()
        record.step(8, {"critic/score/mean": 0.8})  # within one poll of the end
    assert _shown(stream) == [f"step  {step}/7  reward 0.{step}0" for step in range(9)]
    lines = stream.getvalue().splitlines()
    assert lines[0] == STARTING and lines[1].startswith("step  0/7") and len(lines) == 11
    # the time to the first step, not to the validation before it
    first_step = read_metrics(record.path)[1]["time"]
    assert lines[2] == f"first step done {first_step - started:.0f} s after the start"
    assert "\r" not in stream.getvalue() and "\x1b" not in stream.getvalue()


def test_progress_of_a_resumed_run_shows_only_what_is_new(tmp_path: Path) -> None:
    first = RunRecord(tmp_path)
    for step in range(5):
        first.step(step, {"critic/score/mean": 0.1})
    with first.path.open("a") as file:
        file.write('{"step": 5, "ti')  # killed here
    stream = io.StringIO()
    with Progress(first.path, 6, stream=stream):
        time.sleep(0.5)
        resumed = RunRecord(tmp_path)
        resumed.resume_from(3)
        for step in range(4, 7):
            resumed.step(step, {"critic/score/mean": 0.2})
    assert _shown(stream) == ["step  4/6  reward 0.20", "step  5/6  reward 0.20", "step  6/6  reward 0.20"]


def test_progress_of_a_fresh_run_into_an_old_folder(tmp_path: Path) -> None:
    record = RunRecord(tmp_path)
    for step in range(5):
        record.step(step, {"critic/score/mean": 0.1})
    stream = io.StringIO()
    with Progress(record.path, 4, stream=stream):
        record.resume_from(0)
        for step in range(3):
            record.step(step, {"critic/score/mean": 0.2})
            time.sleep(0.25)
    assert _shown(stream) == [f"step  {step}/4  reward 0.20" for step in range(3)]


def test_progress_drains_when_training_fails(tmp_path: Path) -> None:
    stream = io.StringIO()
    with pytest.raises(RuntimeError, match="training failed"), Progress(tmp_path / "metrics.jsonl", 4, stream=stream):
        RunRecord(tmp_path).step(1, {})
        raise RuntimeError("training failed")
    assert _shown(stream) == ["step  1/4"]


class Terminal:
    """A pseudo-terminal; `shown` is what has been written to it so far."""

    def __init__(self) -> None:
        self._master, slave = pty.openpty()
        self.stream = open(slave, "w")  # noqa: SIM115 (closed below)
        self.shown = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            while chunk := os.read(self._master, 4096):
                self.shown += decoder.decode(chunk)
        except OSError:  # Linux: the other side was closed
            return

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + 600
        while text not in self.shown:
            assert time.monotonic() < deadline, self.shown
            time.sleep(0.01)

    def screen(self) -> list[str]:
        """What a user sees after a last line "the end", for the control sequences that rich writes; call it once."""
        print("the end", file=self.stream)
        self.stream.close()
        self._reader.join()
        os.close(self._master)
        lines, row, column = [""], 0, 0
        for text, control in re.findall(r"([^\x1b\r\n]+)|(\x1b\[[0-9;?]*[A-Za-z]|\r|\n)", self.shown):
            if text:
                lines[row] = lines[row][:column].ljust(column) + text + lines[row][column + len(text) :]
                column += len(text)
            elif control == "\r":
                column = 0
            elif control == "\n":
                row += 1
                lines += [""] * (row == len(lines))
            elif control.endswith("A"):  # up
                row -= int(control[2:-1])
            elif control == "\x1b[2K":  # erase the line
                lines[row] = ""
            else:
                assert control.endswith(("m", "\x1b[?25l", "\x1b[?25h")), repr(control)  # colours, cursor off and on
        return "\n".join(line.rstrip() for line in lines).rstrip().split("\n")


@pytest.fixture(params=[80, 120])
def columns(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Width of the terminal."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", str(request.param))
    return int(request.param)


def test_on_a_terminal_a_bar_is_below_the_lines(tmp_path: Path, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, terminal = [0.0], Terminal()
    monkeypatch.setattr("rich.console.monotonic", lambda: clock[-1])
    with Progress(tmp_path / "metrics.jsonl", 60, stream=terminal.stream, started=time.time()):
        terminal.wait_for(f"{STARTING} ")
        for step, seconds in ((30, 100.0), (31, 400.0)):  # resumed: 30 is the first step that this process sees
            clock.append(seconds)
            RunRecord(tmp_path).step(step, {"critic/score/mean": 0.5})
            terminal.wait_for(f"step  {step}/60")
    first, *steps, bar, end = terminal.screen()
    assert first.startswith("first step done ")
    assert steps == ["step  30/60  reward 0.50", "step  31/60  reward 0.50"] and end == "the end"
    # 29 steps are left, each as long as the one that was seen from its start to its end: 29 x 300 s.
    assert re.fullmatch(r" 52% [━╸╺]+ 31/60 steps, 0:06:40 elapsed, 2:25:00 left", bar) and len(bar) == columns, bar
    assert terminal.shown.rindex("\x1b[?25h") > terminal.shown.rindex("\x1b[?25l")  # the cursor is back


def test_on_a_terminal_nothing_is_starting_after_an_error(tmp_path: Path, columns: int) -> None:
    terminal = Terminal()
    with (
        pytest.raises(RuntimeError, match="no GPU"),
        Progress(tmp_path / "metrics.jsonl", 60, stream=terminal.stream),
    ):
        terminal.wait_for(f"{STARTING} ")
        RunRecord(tmp_path).step(0, {"critic/score/mean": 0.5})
        raise RuntimeError("no GPU")
    assert terminal.screen() == ["step   0/60  reward 0.50", "the end"]


def test_follower_waits_for_the_end_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    follower = Follower(path)
    assert follower.new_records() == []
    path.write_text('{"step": 1, "time": 1.0}\n{"step": 2, ')
    assert follower.new_records() == [{"step": 1, "time": 1.0}]
    assert follower.new_records() == []
    with path.open("a") as file:
        file.write('"time": 2.0}\n')
    assert follower.new_records() == [{"step": 2, "time": 2.0}]


def test_follower_sees_a_file_cut_in_place(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    follower = Follower(path)
    path.write_text('{"step": 1, "time": 1.0}\n{"step": 2, "time": 2.0}\n')
    assert len(follower.new_records()) == 2
    path.write_text('{"step": 1, "time": 1.0}\n')
    assert follower.new_records() == []
    with path.open("a") as file:
        file.write('{"step": 2, "time": 3.0}\n')
    assert follower.new_records() == [{"step": 2, "time": 3.0}]
