"""The fast environment says what ALFWorld's own says, command by command, in games of every size and task type."""

import random
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from recipe.holderpo.tasks.alfworld import rooms
from recipe.holderpo.tasks.alfworld.environment import FastEnvironment, plain_environment, prepare
from recipe.holderpo.tasks.alfworld.games import draw_splits, write_game


@pytest.fixture(autouse=True)
def keep_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain environment overwrites sys.argv."""
    monkeypatch.setattr(sys, "argv", list(sys.argv))


@pytest.mark.parametrize(("size", "count"), [("tiny", 6), ("small", 2), ("full", 1)])
def test_observations_are_those_of_the_plain_environment(size: str, count: int, tmp_path: Path) -> None:
    fast = FastEnvironment()
    for name, game, text in draw_splits(size, {"train": count, "valid_seen": 0, "valid_unseen": 0}, seed=11)["train"]:
        write_game(tmp_path / name, game, text)
        file = tmp_path / name / "game.tw-pddl"
        plain = plain_environment()
        plain.load(str(file))
        for episode in range(2):  # the second finds the game prepared and its commands derived
            draw = random.Random(episode)
            state, seen = plain.reset(), fast.reset(file)
            for _ in range(20):
                assert seen.text == state.feedback
                assert list(seen.admissible_commands) == state["admissible_commands"]
                assert seen.won == state["won"]
                command = draw.choice([*seen.admissible_commands, "open the sky", " look "])
                state, _, _ = plain.step(command)
                seen = fast.step(command)
        assert f"Your task is to: {text}." in fast.reset(file).text


def test_the_translation_leaves_sys_argv_alone(train_games: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["command", "override=1"])
    prepare.cache_clear()
    FastEnvironment().reset(train_games[0])
    assert sys.argv == ["command", "override=1"]


def test_episodes_of_one_game_do_not_disturb_each_other(train_games: list[Path]) -> None:
    first, second = FastEnvironment(), FastEnvironment()
    start = first.reset(train_games[0])
    for command in start.admissible_commands[:3]:
        first.step(command)
    assert second.reset(train_games[0]) == start == first.reset(train_games[0])


def test_memory_stays_flat_over_many_episodes(train_games: list[Path]) -> None:
    def resident_mb() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

    environment = FastEnvironment()

    def play(episodes: int) -> None:
        for episode in range(episodes):
            if episode % 10 == 0:
                prepare.cache_clear()  # as among thousands of games, each is prepared again and again
            seen = environment.reset(train_games[episode % len(train_games)])
            environment.step(seen.admissible_commands[0])

    play(20)
    before = resident_mb()
    play(200)
    assert resident_mb() - before < 3  # MB; benchmarks/environments.py plays 10,000


def test_a_file_that_states_no_task_is_refused(train_games: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "game.tw-pddl"
    broken.write_text(train_games[0].read_text().replace("Your task is to:", "Do:"))
    with pytest.raises(ValueError, match=r"game\.tw-pddl.*task"):
        prepare(broken)


def test_every_size_is_larger_than_the_one_before() -> None:
    sizes = list(rooms.SIZES.values())
    assert all(a.receptacles[1] < b.receptacles[0] for a, b in pairwise(sizes))
