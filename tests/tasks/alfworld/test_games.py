"""Generated games: every one is solved by its walkthrough, and the splits share what they should and nothing else."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe.holderpo.tasks.alfworld import rooms
from recipe.holderpo.tasks.alfworld.dataset import ensure_alfworld_data, official_folder, rows
from recipe.holderpo.tasks.alfworld.environment import plain_environment
from recipe.holderpo.tasks.alfworld.games import draw_splits, game_files, main, task_type_of
from recipe.holderpo.tasks.alfworld.task_types import SPLITS, TASKS


def test_every_walkthrough_wins_in_the_plain_environment_and_only_at_its_end(games: Path) -> None:
    files = [file for split in SPLITS for file in game_files(games, split)]
    assert len(files) == 24
    assert {task_type_of(file) for file in files} == set(TASKS)
    for file in files:
        data = json.loads(file.read_text())
        environment = plain_environment()
        environment.load(str(file))
        state = environment.reset()
        won = [state["won"]]
        for command in data["walkthrough"]:
            assert command in state["admissible_commands"], f"{file}: {command}"
            state, _, _ = environment.step(command)
            won.append(state["won"])
        assert won == [False] * (len(won) - 1) + [True], file
        task = state["extra.gamefile"] if "extra.gamefile" in state else str(file)
        assert task_type_of(task) == task_type_of(file)


def test_alfworlds_own_loader_takes_the_games(games: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from alfworld.agents.environment import get_environment

    config = {
        "env": {"goal_desc_human_anns_prob": 0, "task_types": [1, 2, 3, 4, 5, 6]},
        "dataset": {"data_path": str(games / "json_2.1.1" / "train"), "num_train_games": -1},
    }
    environment = get_environment("AlfredTWEnv")(config, train_eval="train")
    assert sorted(environment.game_files) == [str(file) for file in game_files(games, "train")]


@pytest.mark.parametrize("size", rooms.SIZES)
def test_splits_share_what_they_should_and_nothing_else(size: str) -> None:
    drawn = draw_splits(size, {"train": 120, "valid_seen": 60, "valid_unseen": 60}, seed=3)
    for games in drawn.values():
        assert [sum(task == g.combination.task_type for _, g, _ in games) for task in TASKS] == [len(games) // 6] * 6

    def of(split: str, what: Callable[[rooms.Game], Any]) -> set[Any]:
        return {what(game) for _, game, _ in drawn[split]}

    def task(game: rooms.Game) -> Any:
        return game.combination, game.layout

    def pair(game: rooms.Game) -> Any:
        return game.combination.object, game.combination.destination

    def furniture(game: rooms.Game) -> Any:
        return tuple(sorted(map(rooms.type_of, game.receptacles)))

    assert of("valid_seen", task) <= of("train", task)
    for kind in (task, pair, furniture):
        assert of("valid_unseen", kind).isdisjoint(of("train", kind))
    problems = [rooms.problem(game) for games in drawn.values() for _, game, _ in games]
    assert len(set(problems)) == len(problems) == 240


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), layout=st.integers(0, 31), size=st.sampled_from(sorted(rooms.SIZES)), data=st.data())
def test_a_drawn_game_is_one_that_the_wheels_tables_allow(
    seed: int, layout: int, size: str, data: st.DataObject
) -> None:
    task = data.draw(st.sampled_from(sorted(TASKS)))
    combination = data.draw(st.sampled_from(rooms.combinations(task)))
    game = rooms.draw_game(combination, layout, rooms.SIZES[size], seed)
    assert game == rooms.draw_game(combination, layout, rooms.SIZES[size], seed)
    assert len(set(game.receptacles)) == len(game.receptacles)
    for identity, place in game.places.items():
        assert place in game.receptacles
        if identity != game.lamp:
            assert rooms.type_of(identity) in rooms.FITS[rooms.type_of(place)]
    for target in game.targets:  # not there yet, or the game would begin won
        assert rooms.type_of(target) == combination.object
        assert rooms.type_of(game.places[target]) != combination.destination
    others = [o for o in game.places if o not in game.targets]
    assert combination.object not in map(rooms.type_of, others)
    low, high = rooms.SIZES[size].receptacles
    assert low <= len(game.receptacles) <= high + 3  # tool, destination, and a place to start from


def test_the_same_seed_gives_the_same_games() -> None:
    first, again, other = (draw_splits("small", dict.fromkeys(SPLITS, 30), seed) for seed in (7, 7, 8))
    assert first == again and all(first[split] != other[split] for split in SPLITS)


def test_unsolvable_movable_and_sliced_games_are_left_out(games: Path, tmp_path: Path) -> None:
    wanted = game_files(games, "valid_seen")[0]
    for name, change in (
        ("pick_and_place_simple-Mug-None-Desk-1", {}),
        ("pick_and_place_simple-Pen-None-Desk-1", {"solvable": False}),
        ("pick_and_place_with_movable_recep-Pen-Mug-Desk-1", {}),
        ("pick_and_place_simple-AppleSliced-None-Fridge-1", {}),
    ):
        folder = tmp_path / "json_2.1.1" / "train" / name / "trial_0"
        folder.mkdir(parents=True)
        (folder / "game.tw-pddl").write_text(json.dumps(json.loads(wanted.read_text()) | change))
    assert [f.parent.parent.name for f in game_files(tmp_path, "train")] == ["pick_and_place_simple-Mug-None-Desk-1"]
    with pytest.raises(FileNotFoundError, match="valid_seen"):
        game_files(tmp_path, "valid_seen")


def test_official_games_are_used_where_alfworld_data_names_them(
    games: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALFWORLD_DATA", str(games))
    assert official_folder() == games
    train, seen, unseen = ensure_alfworld_data(tmp_path, "full")  # nothing is generated
    import pyarrow.parquet as pq

    assert pq.read_table(train).to_pylist() == rows("train", game_files(games, "train"))
    assert {r["extra_info"]["split"] for r in pq.read_table(unseen).to_pylist()} == {"valid_unseen"}
    assert pq.read_table(seen).num_rows == 6 and [p.name for p in tmp_path.iterdir()] == ["alfworld_full"]
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="ALFWORLD_DATA"):
        official_folder()
    monkeypatch.setenv("ALFWORLD_DATA", str(Path.home() / ".cache" / "alfworld"))  # what alfworld's import leaves
    assert official_folder() is None or (official_folder() / "json_2.1.1").exists()  # type: ignore[operator]


def test_command_line(games: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(games), "--train", "6"]) == 2
    assert "is there already" in capsys.readouterr().err
    counts = ["--train", "2", "--valid-seen", "1", "--valid-unseen", "1"]
    assert main(["--out", str(tmp_path / "new"), "--size", "small", *counts, "--processes", "1"]) == 0
    assert "train: 2 games, solved by walkthroughs of" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path / "none"), "--train", "0"])
