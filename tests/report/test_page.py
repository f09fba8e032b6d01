"""The page of several runs: its values, and what a real browser makes of it."""

import base64
import json
import math
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from recipe.holderpo.report.page.data import GREEDY, REACH, SAMPLED, page_data
from recipe.holderpo.report.page.write import write_page
from recipe.holderpo.report.statistics import interval

PLANTED = "<script>window.planted = true</script><img src=x onerror='window.planted = true'>"
Maker = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path) -> Maker:
    def make(name: str, seed: int = 1, p: float = 0.0, last: float = 0.5, steps: int = 3, **more: float) -> Path:
        folder = tmp_path / name
        (folder / "generations").mkdir(parents=True)
        config = {
            "run": name, "run_dir": str(folder), "seed": seed, "holder": {"p_start": p}, "data": {"train_batch_size": 4},
            "actor_rollout_ref": {"rollout": {"n": 8, "seed": seed}}, "trainer": {"experiment_name": name},
            "ray_kwargs": {"address": name},
        }  # fmt: skip
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        records = [
            {
                "step": step,
                "time": 1000.0 + 10 * step,
                "holder/p": p,
                "holder/log_ratio_std": 0.25,
                "perf/total_num_tokens": 7,
                "val-core/sums/acc/mean@4": last * step / (steps - 1),
                "actor/grad_norm": 1 / 3 + step,
                **more,
            }
            for step in range(steps)
        ]
        text = "".join(json.dumps(record).replace("NaN", '"NaN"') + "\n" for record in records)
        (folder / "metrics.jsonl").write_text(text)
        rows = [
            {"input": "1+1", "output": f"{PLANTED} 2", "gts": "2", "score": 1.0, "step": 2},
            {"input": "1+2", "output": "4", "gts": "3", "score": 0.0, "step": 2},
        ]
        (folder / "generations" / "2.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return folder

    return make


def test_values_of_a_run(make_run: Maker) -> None:
    (run,) = page_data([make_run("a", p=-2.0)])["runs"]
    assert run["x"] == {"step": [0, 1, 2], "samples": [0, 32, 64], "tokens": [7, 14, 21], "seconds": [0.0, 10.0, 20.0]}
    assert (
        run["metrics"][SAMPLED] == [0, 0.25, 0.5]
        and run["metrics"][REACH] == [0.5] * 3
        and GREEDY not in run["metrics"]
    )
    assert run["metrics"]["actor/grad_norm"] == [0.3333, 1.333, 2.333], "four digits"
    assert run["group"] == "all runs" and run["marks"] == []


def test_what_is_not_finite_or_went_wrong_is_marked(make_run: Maker) -> None:
    (run,) = page_data([make_run("a", **{"guard/nonfinite_updates": 1.0, "actor/loss": math.nan})])["runs"]
    assert run["metrics"]["actor/loss"] == ["nan"] * 3
    assert run["marks"] == [[n, "update skipped: not finite"] for n in range(3)]


def test_seeds_make_no_groups_and_as_few_keys_as_tell_them_apart_name_them(make_run: Maker) -> None:
    folders = [make_run(f"p{p}-{seed}", seed=seed, p=p) for p in (0.0, 2.0) for seed in (1, 2)]
    data = page_data(folders)
    assert [run["group"] for run in data["runs"]] == ["p_start=0.0"] * 2 + ["p_start=2.0"] * 2
    assert data["differences"] == {"holder.p_start": ["0.0", "0.0", "2.0", "2.0"]}


def test_results_have_the_studys_intervals_and_differences_by_seed(make_run: Maker) -> None:
    last = {0.0: {1: 0.1, 2: 0.2, 3: 0.4}, 2.0: {1: 0.5, 3: 0.9, 4: 0.7}}
    data = page_data([make_run(f"{p}-{s}", seed=s, p=p, last=v) for p, own in last.items() for s, v in own.items()])
    first, second = data["results"]
    assert (first["runs"], first["last"]) == (3, 0.2333) and "difference" not in first
    assert first["last_interval"] == pytest.approx(interval([0.1, 0.2, 0.4]), rel=1e-3)
    assert (second["difference"], second["pairs"]) == (0.45, 2), "of seeds 1 and 3"
    assert "difference_interval" not in second, "of two seeds there is none"


def test_texts_have_limited_room(make_run: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run("a")
    assert [row["output"] for row in page_data([folder])["samples"]] == [f"{PLANTED} 2", "4"]
    monkeypatch.setattr("recipe.holderpo.report.page.data.SAMPLES_BYTES", 200)
    assert len(page_data([folder])["samples"]) == 1


def browser() -> str:
    """A Chromium on this machine."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no chromium here (Debian: apt-get install chromium)")
    return found


# Waits for the page, does what is to be done in it, and leaves the result where the test finds it.
DRIVER = """
<script>
const errors = [], result = {};
window.addEventListener("error", (event) => errors.push(String(event.message)));
const consoles = console.error; console.error = (...words) => { errors.push(words.join(" ")); consoles(...words); };
const set = (id, value) => { $(id).value = value; $(id).dispatchEvent(new Event("input")); };
const waiting = setInterval(() => {
  if (document.querySelector("main").hidden && !$("state").textContent.includes("could not")) return;
  clearInterval(waiting);
  try { DO } catch (error) { errors.push(String(error)); }
  result.errors = errors; result.state = $("state").textContent;
  const found = document.createElement("pre"), text = unescape(encodeURIComponent(JSON.stringify(result)));
  found.id = "found"; found.textContent = btoa(text);
  document.body.append(found);
}, 20);
</script>
"""


def in_browser(page: Path, do: str, *flags: str) -> dict[str, Any]:
    """`result`, after the statements were run in the page, with "errors" and "state"."""
    driven = page.with_name("driven.html")
    driven.write_text(page.read_text().replace("</body>", DRIVER.replace("DO", do) + "</body>"))
    command = [browser(), "--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=30000", *flags]
    done = subprocess.run([*command, "--dump-dom", f"file://{driven}"], capture_output=True, text=True, check=False)
    found = re.search(r'<pre id="found">([^<]+)</pre>', done.stdout)
    assert found is not None, done.stdout[:500] + done.stderr[-2000:]
    return dict(json.loads(base64.b64decode(found[1])))


@pytest.fixture
def page(make_run: Maker, tmp_path: Path) -> Path:
    last = {0.0: (0.3, 0.4, 0.5), 2.0: (0.7, 0.8, 0.9)}
    folders = [
        make_run(f"<b>p{p}-{seed}", seed=seed, p=p, last=value)
        for p, values in last.items()
        for seed, value in enumerate(values)
    ]
    file = tmp_path / "page.html"
    write_page(folders, file)
    assert file.stat().st_size < 2.5e6 and PLANTED not in file.read_text()
    return file


def test_a_browser_shows_it_without_an_error_and_runs_nothing_that_a_model_wrote(page: Path) -> None:
    seen = in_browser(
        page,
        """
        result.planted = window.planted === true;
        result.made = document.querySelectorAll("#samples script, #samples img").length;
        result.output = document.querySelector("#samples pre.output").textContent;
        result.rows = $("results").rows.length;
        result.network = performance.getEntriesByType("resource").map((entry) => entry.name);
        """,
    )
    assert seen["errors"] == [] and seen["state"] == "6 runs in 2 groups"
    assert seen["planted"] is False and seen["made"] == 0 and seen["output"] == f"{PLANTED} 2"
    assert seen["rows"] == 3 and all(name.startswith(("blob:", "data:")) for name in seen["network"])


def test_the_comparison_has_means_and_intervals_and_filters_groups(page: Path) -> None:
    seen = in_browser(
        page,
        """
        const traces = () => $("compare").data, line = ({ name, x, y }) => ({ name, x, y });
        const means = () => traces().filter((t) => t.name && t.name.includes("mean of")).map(line);
        set("metric", "actor/grad_norm"); set("x", "samples");
        result.all = means(); result.lines = traces().length;
        const box = $("groups").querySelector("input");
        box.checked = false; box.dispatchEvent(new Event("change"));
        result.one = means();
        set("smoothing", "0.5");
        result.smoothed = $("smoothed").textContent; result.smooth = means()[0].y;
        set("metric", "accuracy, sampled"); set("smoothing", "0");
        result.band = traces().slice(0, 2).map((t) => t.y);
        """,
    )
    assert seen["errors"] == []
    assert [mean["name"] for mean in seen["all"]] == ["p_start=0.0: mean of 3", "p_start=2.0: mean of 3"]
    assert seen["all"][0]["x"] == [0, 32, 64] and seen["all"][0]["y"] == pytest.approx([0.3333, 1.333, 2.333])
    assert seen["lines"] == 2 * (3 + 3), "a mean, the two edges of a band and three runs in each group"
    assert [mean["name"] for mean in seen["one"]] == ["p_start=2.0: mean of 3"]
    expected, total, weight = [], 0.0, 0.0
    for value in (0.3333, 1.333, 2.333):
        total, weight = 0.5 * total + 0.5 * value, 0.5 * weight + 0.5
        expected.append(total / weight)
    assert seen["smooth"] == pytest.approx(expected) and seen["smoothed"] == "moving average, 0.5"
    half = 4.303 * 0.1 / 3**0.5  # of 0.7, 0.8 and 0.9
    assert [edge[-1] for edge in seen["band"]] == pytest.approx([0.8 - half, 0.8 + half])


def test_answers_are_found_by_score_and_words(page: Path) -> None:
    seen = in_browser(
        page,
        """
        const shown = () => [...document.querySelectorAll("#samples pre.output")].map((pre) => pre.textContent);
        result.both = shown().length;
        set("s-score", "0"); result.wrong = shown();
        set("s-score", ""); set("s-search", "ONERROR"); result.found = shown().length;
        result.count = $("s-count").textContent;
        """,
    )
    assert seen["errors"] == [] and (seen["both"], seen["wrong"], seen["found"]) == (2, ["4"], 1)
    assert seen["count"] == "1 answers"


@pytest.mark.parametrize("width", [400, 1300])
def test_nothing_is_wider_than_the_screen(page: Path, width: int) -> None:
    do = "result.wide = document.documentElement.scrollWidth - innerWidth; result.width = innerWidth;"
    seen = in_browser(page, do, f"--window-size={width},900")
    assert seen["wide"] <= 0 and abs(seen["width"] - width) <= 100
