"""The page of several runs: its values, and what a real browser makes of it."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import yaml
from report.browser import browser, in_browser
from report.made_run import PLANTED, Maker, data_of

from recipe.holderpo.report import __main__ as report
from recipe.holderpo.report.events import note_event
from recipe.holderpo.report.page.answers import answers
from recipe.holderpo.report.page.data import GREEDY, REACH, SAMPLED
from recipe.holderpo.report.page.write import page
from recipe.holderpo.report.record import read_run


def test_values_of_a_run(make_run: Maker) -> None:
    (run,) = data_of(make_run("a", p=-2.0))["runs"]
    assert run["x"] == {"step": [0, 1, 2], "samples": [0, 32, 64], "tokens": [7, 14, 21], "seconds": [0, 10, 21]}
    assert run["metrics"][SAMPLED] == [0, 0.25, 0.5] and run["metrics"][REACH] == [0.5] * 3
    assert GREEDY not in run["metrics"]
    assert run["metrics"]["actor/grad_norm"] == [0.3333, 1.333, 2.333], "four digits"
    assert run["group"] == "all runs" and run["marks"] == []


def test_what_is_not_finite_or_went_wrong_is_marked(make_run: Maker) -> None:
    more = {"guard/nonfinite_updates": 1.0, "actor/loss": "NaN", "time": "NaN", "perf/total_num_tokens": "Infinity"}
    (run,) = data_of(make_run("a", more=more))["runs"]
    assert run["metrics"]["actor/loss"] == ["nan"] * 3
    assert run["x"]["seconds"] == run["x"]["tokens"] == [None] * 3
    assert run["marks"] == [[n, "update skipped: not finite"] for n in range(3)]


def test_what_happened_to_a_run_is_marked_at_the_step_that_it_went_on_from(
    make_run: Maker, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run("a")
    note_event(folder, 1, "stuck: step 2 has made no progress; went on from step 1")
    with (folder / "events.jsonl").open("a") as lines:
        lines.write('{"step": 1}\n[1]\n{"step": "x", "text": ""}\n')
    note_event(folder, 7, "resumed from step 7")
    (run,) = data_of(folder)["runs"]
    assert run["marks"] == [[1, "stuck: step 2 has made no progress; went on from step 1"], [2, "resumed from step 7"]]
    assert "events.jsonl: 3 lines are damaged, and left out" in capsys.readouterr().err


def test_seeds_and_machines_make_no_groups_and_as_few_keys_as_tell_them_apart_name_them(make_run: Maker) -> None:
    """A run's own name may be part of other values, and its folder of others."""
    folders = [
        make_run(f"{name}{seed}", seed=seed, p=p) for name, p in (("p", 0.0), ("longer", 2.0)) for seed in (1, 2)
    ]
    data = data_of(*folders)
    assert [run["group"] for run in data["runs"]] == ["p_start=0.0"] * 2 + ["p_start=2.0"] * 2
    assert data["differences"] == {"holder.p_start": ["0.0", "0.0", "2.0", "2.0"]}


def test_values_that_hold_a_runs_name_differ_all_the_same(make_run: Maker) -> None:
    folders = [make_run(name) for name in ("ppo", "gspo")]
    for folder in folders:
        config = yaml.safe_load((folder / "config.yaml").read_text()) | {
            "algo_name": folder.name,
            "project": "gspo-ppo",
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    data = data_of(*folders)
    assert [run["group"] for run in data["runs"]] == ["algo_name=ppo", "algo_name=gspo"]
    assert list(data["differences"]) == ["algo_name"]


def test_results_are_of_one_step_over_seeds_and_pairs(make_run: Maker) -> None:
    last = {0.0: {1: 0.1, 2: 0.2, 3: 0.4}, 2.0: {1: 0.5, 3: 0.9, 4: 0.7}}
    folders = [make_run(f"{p}-{s}", seed=s, p=p, last=v) for p, own in last.items() for s, v in own.items()]
    folders.append(make_run("again", seed=3, p=2.0, last=0.7))  # seed 3 is 0.8 in the mean
    folders.append(make_run("stopped", seed=5, p=2.0, last=0.0, steps=2))
    results = data_of(*folders)["results"]
    assert (results["measure"], results["step"], results["missing"]) == (SAMPLED, 2, ["stopped"])
    first, second = results["rows"]
    assert (first["seeds"], first["mean"]) == (3, 0.2333) and "difference" not in first
    half = 4.303 * math.sqrt(sum((v - fmean([0.1, 0.2, 0.4])) ** 2 for v in (0.1, 0.2, 0.4)) / 2 / 3)
    assert first["mean_interval"] == pytest.approx([0.2333 - half, 0.2333 + half], abs=2e-4)
    assert (second["seeds"], second["mean"]) == (3, 0.6667)
    assert (second["difference"], second["pairs"]) == (0.4, 2), "of seeds 1 and 3"
    assert "difference_interval" not in second, "of two seeds there is none"


def test_runs_without_seeds_are_not_paired_and_runs_without_a_config_are_a_group(make_run: Maker) -> None:
    folders = [make_run("a", seed=None), make_run("b", seed=None), make_run("c", p=1.0), make_run("d", p=2.0)]
    (folders[3] / "config.yaml").write_text("- a list")
    data = data_of(*folders)
    assert [run["group"] for run in data["runs"]] == ["p_start=0.0"] * 2 + ["p_start=1.0", "no config.yaml"]
    assert data["runs"][3]["x"]["samples"] == [None] * 3
    assert [(row["seeds"], row["pairs"]) for row in data["results"]["rows"]] == [(2, 0), (1, 0), (1, 0)]


def test_answers_that_cannot_be_read_are_left_out_and_long_ones_are_cut(
    make_run: Maker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run("a")
    long, short = b'{"output": "%s", "score": NaN}' % (b"x" * 9000), b'{"output": "short"}'
    lines = [b"", b"[1]", b"{broken", b"\xff", long, short, b"{unfinished"]
    (folder / "generations" / "10.jsonl").write_bytes(b"\n".join(lines))
    (folder / "generations" / "11.jsonl").mkdir()
    (folder / "generations" / "other.jsonl").touch()
    two, ten, eleven = answers({"a": folder})
    said = capsys.readouterr().err
    assert "10.jsonl: 4 lines are damaged, and left out" in said and "11.jsonl is left out: Is a directory" in said
    assert [row["output"] for row in two["rows"]] == [f"{PLANTED} 2", "4"]
    assert (ten["step"], ten["all"], len(ten["rows"])) == (10, 2, 2) and (eleven["all"], eleven["rows"]) == (0, [])
    assert ten["rows"][0]["output"].endswith("x ... (3000 more characters)") and ten["rows"][0]["score"] == "nan"
    monkeypatch.setattr("recipe.holderpo.report.page.answers.BYTES", 3 * 1000)
    (_, ten, _) = answers({"a": folder})
    assert ten["all"] == 2 and [row["output"] for row in ten["rows"]] == [], "what was left out has taken the room"


def test_the_command_leaves_out_folders_that_are_no_runs(
    make_run: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "none").mkdir()
    run, file = make_run("a"), tmp_path / "page.html"
    monkeypatch.setattr(sys, "argv", ["report", str(run), f"{run}/.", f"{tmp_path}/none", "--html", str(file)])
    report.main()
    said = capsys.readouterr()
    assert f"{file}: 1 runs, " in said.out and f"note: left out: {tmp_path}/none has no metrics.jsonl" in said.err
    monkeypatch.setattr(sys, "argv", ["report", str(run), "--png", f"{tmp_path}/all.png"])
    report.main()
    assert (tmp_path / "all.png").read_bytes().startswith(b"\x89PNG") and "all.png: 1 runs, " in capsys.readouterr().out
    for folders, output, error in (
        ([f"{tmp_path}/none"], file, "none of these folders has a record"),
        ([str(run)], tmp_path / "no" / "page.html", "page.html', which cannot be written: No such file"),
    ):
        monkeypatch.setattr(sys, "argv", ["report", *folders, "--html", str(output)])
        with pytest.raises(SystemExit) as ended:
            report.main()
        assert ended.value.code == 2 and error in capsys.readouterr().err


@pytest.fixture
def page_of_runs(make_run: Maker) -> str:
    """Three seeds of two groups, and a run that stopped early; something is planted wherever there is a name."""
    last = {0.0: (0.3, 0.4, 0.5), 2.0: (0.7, 0.8, 0.9)}
    folders = [
        make_run(f"<b>p{p}-{seed}", seed=seed, p=p, last=value, more={f"{PLANTED}/metric": 1.0})
        for p, values in last.items()
        for seed, value in enumerate(values)
    ]
    folders.append(make_run("stopped", seed=7, p=2.0, steps=2))
    for folder in folders:
        config = yaml.safe_load((folder / "config.yaml").read_text())
        config["algo_name"] = f"{PLANTED}{config['holder']['p_start']}"
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    text = page({folder: read_run(folder) for folder in folders})
    assert len(text) < 2.5e6
    return text


def test_a_browser_shows_it_without_an_error_and_runs_nothing_that_was_planted(
    page_of_runs: str, tmp_path: Path
) -> None:
    seen = in_browser(
        page_of_runs,
        tmp_path,
        """
        set("metric", [...$("metric").options].map((o) => o.value).find((name) => name.includes("planted")));
        result.made = document.querySelectorAll("main img, main script, svg b, svg img").length;
        result.output = document.querySelector("#answers pre.output").textContent;
        result.rows = $("results").rows.length; result.measured = $("measured").textContent;
        """,
    )
    assert seen["errors"] == [] and seen["state"] == "7 runs in 2 groups"
    assert "planted" not in seen and seen["made"] == 0 and seen["output"] == f"{PLANTED} 2"
    assert seen["rows"] == 3 and seen["measured"] == "accuracy, sampled at step 2; without one, and left out: stopped"


def test_the_comparison_has_means_and_intervals_and_filters_groups(page_of_runs: str, tmp_path: Path) -> None:
    seen = in_browser(
        page_of_runs,
        tmp_path,
        """
        const traces = () => $("compare").data, line = ({ name, x, y }) => ({ name, x, y });
        const means = () => traces().filter((t) => t.name && t.name.includes("mean of")).map(line);
        set("metric", "actor/grad_norm"); set("x", "samples");
        result.all = means(); result.lines = traces().filter((t) => !t.name || !t.name.includes("stopped")).length;
        set("x", "seconds"); result.seconds = means()[1].x;
        const box = $("groups").querySelector("input");
        box.checked = false; box.dispatchEvent(new Event("input"));
        result.one = means();
        set("smoothing", "0.5");
        result.smoothed = $("smoothed").textContent; result.smooth = means()[0].y;
        set("metric", "accuracy, sampled"); set("smoothing", "0");
        result.band = traces().slice(0, 2).map((t) => t.y);
        """,
    )
    assert seen["errors"] == []
    assert [mean["name"][-9:] for mean in seen["all"]] == ["mean of 3"] * 2
    assert seen["all"][0]["x"] == [0, 32, 64] and seen["all"][0]["y"] == pytest.approx([0.3333, 1.333, 2.333])
    assert seen["seconds"] == pytest.approx([0, 11, (21 + 22 + 22) / 3]), "each run has its own, and there is one mean"
    assert seen["lines"] == 2 * (3 + 3), "a mean, the two edges of a band and three runs in each group"
    assert len(seen["one"]) == 1 and seen["one"][0]["name"].startswith("algo_name=&lt;script>")
    expected, total, weight = [], 0.0, 0.0
    for value in (0.3333, 1.333, 2.333):
        total, weight = 0.5 * total + 0.5 * value, 0.5 * weight + 0.5
        expected.append(total / weight)
    assert seen["smooth"] == pytest.approx(expected) and seen["smoothed"] == "moving average, 0.5"
    half = 4.303 * 0.1 / 3**0.5  # of 0.7, 0.8 and 0.9
    assert [edge[-1] for edge in seen["band"]] == pytest.approx([0.8 - half, 0.8 + half])


def test_answers_are_found_by_score_and_words(page_of_runs: str, tmp_path: Path) -> None:
    seen = in_browser(
        page_of_runs,
        tmp_path,
        """
        const shown = () => [...document.querySelectorAll("#answers pre.output")].map((pre) => pre.textContent);
        result.both = shown().length;
        set("s-score", "0"); result.wrong = shown();
        set("s-score", "none"); result.none = shown().length;
        set("s-score", ""); set("s-search", "ONERROR"); result.found = shown().length;
        result.count = $("s-count").textContent;
        """,
    )
    assert seen["errors"] == [] and (seen["both"], seen["wrong"], seen["none"], seen["found"]) == (2, ["4"], 0, 1)
    assert seen["count"] == "1 of the 2 answers that are here, of 2 in all"


@pytest.mark.parametrize(
    ("p", "step", "said"), [("Infinity", 3, "in 3 of 3 steps."), (0.0, 1, "No training step yet.")]
)
def test_what_is_said_of_p(p: Any, step: int, said: str, make_run: Maker, tmp_path: Path) -> None:
    folder = make_run("a", more={"holder/p": p})
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)[:step]
    if step == 1:
        lines = [json.dumps({"step": 0, "time": 0.0, "val-core/sums/acc/mean@4": 0.5}) + "\n"]
    (folder / "metrics.jsonl").write_text("".join(lines))
    seen = in_browser(page({folder: read_run(folder)}), tmp_path, 'result.said = $("effect").textContent;')
    assert seen["errors"] == [] and seen["said"].endswith(said)


def test_nothing_is_wider_than_a_phone(page_of_runs: str, tmp_path: Path) -> None:
    """In a frame: a headless browser's window is no narrower than 500."""
    frame = tmp_path / "frame.html"
    (tmp_path / "page.html").write_text(page_of_runs)
    frame.write_text('<iframe src="page.html" width="360" height="800"></iframe>')
    command = [browser(), "--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=30000"]
    driver = (
        "<script>setTimeout(() => { const d = document.querySelector('iframe').contentDocument.documentElement;"
        "document.title = `${d.clientWidth} ${d.scrollWidth}`; }, 20000)</script>"
    )
    frame.write_text(frame.read_text() + driver)
    command += ["--allow-file-access-from-files", "--dump-dom", f"file://{frame}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    title = re.search(r"<title>(\d+) (\d+)</title>", done.stdout)
    assert title is not None, done.stdout[:300] + done.stderr[-1000:]
    assert 300 <= int(title[1]) <= 360 and int(title[2]) <= int(title[1])
