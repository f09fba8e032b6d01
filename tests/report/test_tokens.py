"""The tokens on the page: which are there, and what a real browser makes of them."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from report.browser import in_browser
from report.made_run import PLANTED, Maker, data_of

from recipe.holderpo.report.page.write import page
from recipe.holderpo.report.record import read_run


def sample(group: str, number: int, **changed: Any) -> dict[str, Any]:
    """A response of three tokens, the last of which is not the model's."""
    made = {
        "group": group, "sample": f"{group}_{number}_0", "prompt": PLANTED, "tokens": [PLANTED, " b", "c"], "mask": [1, 1, 0],
        "log_ratio": [0.5, -0.5, 0.0], "log_prob": [-1.0, -2.0, 0.0], "advantage": 1.0, "reward": 1.0, "p": 2.0,
    }  # fmt: skip
    return made | changed


def keep(folder: Path, step: int, rows: list[Any]) -> None:
    (folder / "tokens").mkdir(exist_ok=True)
    (folder / "tokens" / f"{step}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_of_the_steps_that_were_kept_the_first_the_middle_and_the_last_are_there(
    make_run: Maker, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run("a", more={"x": 1.0})
    (folder / "metrics.jsonl").write_text('{"step": 10, "time": 0.0}\n')
    for step in (2, 10, 4, 8, 6, 12):  # it went back from a later one
        keep(folder, step, [sample("g", number) for number in range(3)])
    wrong = (
        {"tokens": [1, 2, 3]},
        {"mask": [1, 1]},
        {"log_ratio": ["nan", 0, 0]},
        {"p": "much"},
        {"reward": None},
        {"log_prob": 1},
    )
    keep(folder, 10, [*(sample("g", 0, **one) for one in wrong), sample("g", 1, p="-inf"), sample("g", 2, p=None)])
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["actor_rollout_ref"]["actor"] = {"clip_ratio_low": 0.1, "clip_ratio_high": None}
    (folder / "config.yaml").write_text(yaml.safe_dump(config | {"holder": {"clip_level": "token"}}))
    kept = data_of(folder)["tokens"]
    assert [(one["run"], one["step"], len(one["samples"])) for one in kept] == [("a", 2, 3), ("a", 6, 3), ("a", 10, 2)]
    assert kept[0]["clip"] == {"level": "token", "low": 0.1, "high": 0.2}
    assert "10.jsonl: 6 lines are damaged, and left out" in capsys.readouterr().err
    room = 2 * len(json.dumps(sample("g", 0))) + 10
    monkeypatch.setattr("recipe.holderpo.report.page.tokens.BYTES", 3 * room)
    assert [len(one["samples"]) for one in data_of(folder)["tokens"]] == [2, 2, 2]


def test_the_weights_of_tokens_follow_p(make_run: Maker, tmp_path: Path) -> None:
    folder = make_run("a")
    keep(folder, 1, [sample("g", 0)])
    keep(folder, 2, [sample("g", 0), sample("g", 1, advantage=-1.0), sample("h", 0, p=None)])
    seen = in_browser(
        page({folder: read_run(folder)}),
        tmp_path,
        """
        const all = (what) => [...document.querySelectorAll(what)], first = (what) => document.querySelector(what);
        const heads = () => all("#tokens header").map((head) => [...head.children].map((part) => part.textContent));
        const response = first("#tokens .response"), detail = () => first("#tokens .detail").textContent;
        const shades = () => [...response.children].map((span) => Number(span.style.getPropertyValue("--w")));
        const press = (key) => response.dispatchEvent(new KeyboardEvent("keydown", { key }));
        result.step = $("t-step").value; result.own = heads(); result.shades = shades();
        result.said = $("t-said").textContent;
        set("t-p", "-4"); result.moved = shades();
        result.words = $("t-said").textContent; result.box = $("t-number").value;
        set("t-number", "inf"); result.limit = shades();
        press("ArrowRight"); result.second = detail();
        press("ArrowRight"); press("ArrowRight"); result.third = detail();
        $("t-own").click(); result.back = shades();
        result.text = response.textContent; result.prompt = $("t-prompt").textContent;
        set("t-group", "h"); result.other = heads(); result.none = $("t-said").textContent;
        """,
    )
    assert seen["errors"] == [] and "planted" not in seen
    assert seen["text"] == f"{PLANTED} bc" and seen["prompt"] == PLANTED and seen["step"] == "2"

    def shade(p: float) -> list[float]:
        weight = 1 / (1 + math.exp(-p))  # of two tokens whose log-ratios are 1 apart
        return [1 - math.exp(-0.3 * 2 * share) for share in (weight, 1 - weight, 0.0)]

    assert seen["shades"] == pytest.approx(shade(2), abs=1e-3) and seen["moved"] == pytest.approx(shade(-4), abs=1e-3)
    assert seen["limit"] == pytest.approx(shade(math.inf), abs=1e-3) and seen["back"] == seen["shades"]
    rho = math.sqrt((math.exp(1) + math.exp(-1)) / 2)
    size = 1 / (2 * sum(share**2 for share in (1 / (1 + math.exp(-2)), 1 / (1 + math.exp(2)))))
    numbers = ["p 2", f"rho {rho:.4g}", f"effective sample size {100 * size:.4g} % of 2 tokens"]
    assert seen["own"][0] == ["reward 1", "advantage 1", *numbers, "clipped: no gradient"]
    assert seen["own"][1] == ["reward 1", "advantage -1", *numbers]
    assert (seen["said"], seen["words"], seen["box"]) == ("p of the run (2)", "p = -4; the run's: 2", "-4")
    assert seen["second"] == 'token 2 of 3: " b", log-ratio -0.5, probability 0.1353, weight 0 x uniform'
    assert seen["third"] == 'token 3 of 3: "c", not of the model: without a weight'
    assert (
        len(seen["other"]) == 1 and "p 1" in seen["other"][0] and seen["none"] == "p of the run (this loss has none: 1)"
    )
