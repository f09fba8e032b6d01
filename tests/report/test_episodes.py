"""ALFWorld's episodes, and answers of mathematics, on the page."""

import json
from pathlib import Path
from typing import Any

import pytest
from report.browser import in_browser
from report.made_run import PLANTED, Maker, data_of

from recipe.holderpo.report.page.answers import WHY, answers
from recipe.holderpo.report.page.write import page
from recipe.holderpo.report.record import read_run
from recipe.holderpo.rewards.math import FAULTS


def transcripts(folder: Path, step: int, *episodes: Any) -> None:
    (folder / "transcripts" / str(step)).mkdir(parents=True)
    lines = "".join(json.dumps(episode) + "\n" for episode in episodes)
    (folder / "transcripts" / str(step) / "host-1.jsonl").write_text(lines)


def episode(game: str, won: bool, **changed: Any) -> dict[str, Any]:
    wrong = {"commands": ["look", PLANTED], "answer": PLANTED, "command": None, "admissible": False}
    right = {"commands": ["look"], "answer": "<action>look</action>", "command": "look", "admissible": True}
    turns = [{"saw": f"You see {PLANTED}.", **wrong}, {"saw": "Nothing happens.", **right}]
    return {
        "task": f"put {game}", "split": "valid_seen", "task_type": "pick_and_place_simple", "game_file": game, "session": 0,
        "won": won, "time": 1.0, "steps": turns,
    } | changed  # fmt: skip


def test_episodes_are_dialogues(make_run: Maker, tmp_path: Path) -> None:
    folder = make_run("a")
    transcripts(folder, 2, episode("old", won=True))
    transcripts(folder, 10, episode("mug", won=True), episode("pan", won=False))
    seen = in_browser(
        page({folder: read_run(folder)}),
        tmp_path,
        """
        const first = (what) => document.querySelector(`#episodes ${what}`);
        result.hidden = $("s-episodes").hidden; result.count = $("e-count").textContent;
        result.heads = [...document.querySelectorAll("#episodes .episode > summary")].map((one) => one.textContent);
        result.saw = first(".saw").textContent; result.allowed = first(".turn details").textContent;
        result.said = [...document.querySelectorAll("#episodes .said")].map((one) => [one.textContent, one.className]);
        set("e-won", "true"); result.won = document.querySelectorAll("#episodes .episode").length;
        set("e-won", ""); set("e-search", "PUT PAN"); result.found = document.querySelectorAll("#episodes .episode").length;
        result.made = document.querySelectorAll("main img, main script").length;
        """,
    )
    assert seen["errors"] == [] and "planted" not in seen and seen["made"] == 0 and seen["hidden"] is False
    assert seen["heads"] == [
        f"{outcome} in 2 steps: put {game} (pick, valid_seen)" for outcome, game in (("not won", "pan"), ("won", "mug"))
    ]
    assert seen["count"] == "2 of the 2 episodes that are here, of 2 in all, at step 10"
    assert seen["saw"] == f"1. You see {PLANTED}." and seen["allowed"] == f"2 commands allowedlook; {PLANTED}"
    assert seen["said"][:2] == [[PLANTED, "said not"], ["<action>look</action>", "said"]]
    assert (seen["won"], seen["found"]) == (1, 1)


def test_episodes_that_cannot_be_read_and_runs_without_any(make_run: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    whole, damaged, none = (make_run(name) for name in "abc")
    transcripts(whole, 3, episode("mug", won=True))
    transcripts(damaged, 3, {"time": 1.0})
    assert [(one["run"], one["step"], len(one["rows"])) for one in data_of(whole, damaged, none)["episodes"]] == [
        ("a", 3, 1)
    ]
    assert f"note: the episodes of {damaged} are left out: KeyError" in capsys.readouterr().err


def test_mathematical_answers_have_what_was_read_and_why(make_run: Maker) -> None:
    assert WHY.keys() == set(FAULTS)
    none = dict.fromkeys(WHY, 0.0)
    rows = [
        {"output": "so \\boxed{7}", "acc": 1.0, **none},
        {"output": "so \\boxed{8}", "acc": 0.0, **none},
        {"output": "so 7", "acc": 0.0, **none, "no_answer": 1.0},
        {"output": "\\boxed{7", "acc": 0.0},
    ]
    folder = make_run("a")
    (folder / "generations" / "2.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (found,) = answers({"a": folder})
    assert [(row.get("answer"), row.get("why")) for row in found["rows"]] == [
        ("7", "the same as the truth"), ("8", "another answer than the truth"), ("", "no answer was found"), (None, None),
    ]  # fmt: skip
