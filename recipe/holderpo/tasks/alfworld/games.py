"""Generated ALFWorld games: `python -m recipe.holderpo.tasks.alfworld.games --size tiny --out data/alfworld-tiny`.

Writes games in ALFWorld's own layout, OUT/json_2.1.1/{train,valid_seen,valid_unseen}/<task>/trial_<n>/, so that ALFWorld's
tools read them too. Each is proved solvable: its walkthrough is played in the plain environment before it is written.

valid_seen has rooms (numbered layouts) and tasks of training games, with objects in other places; valid_unseen has pairs of
object and destination, and sets of furniture, that no training game has. With ALFWORLD_DATA set to the official games,
training and evaluation use those instead (`dataset.official_folder`); nothing is generated.
"""

import argparse
import hashlib
import importlib.resources
import json
import os
import random
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from recipe.holderpo import atomic
from recipe.holderpo.tasks.alfworld.task_types import SPLITS, TASKS

FOLDER = "json_2.1.1"  # what the official download is called
GAME_FILE, TRAJECTORY_FILE = "game.tw-pddl", "traj_data.json"
DEFAULT_COUNTS = {"train": 300, "valid_seen": 60, "valid_unseen": 60}
TRAIN_LAYOUTS, UNSEEN_LAYOUTS = range(0, 24), range(24, 32)
HELD_OUT_SHARE = 0.2  # of the combinations
MAX_DRAWS = 200  # for one game that is not among the others yet


def task_type_of(game_file: Path | str) -> str:
    """The task type, which ALFWorld keeps in the folder's name.

    Raises:
        ValueError: the path names none of the six.
    """
    for part in reversed(Path(game_file).parts):
        if part.split("-")[0] in TASKS:
            return part.split("-")[0]
    raise ValueError(f"{game_file}: no part of the path begins with a task type, one of {', '.join(TASKS)}")


def game_files(folder: Path, split: str) -> list[Path]:
    """The solvable games of a split, sorted; as ALFWorld itself picks them (none with movable receptacles or sliced objects).

    Raises:
        FileNotFoundError: there is none.
    """
    found = [
        path
        for path in sorted((folder / FOLDER / split).glob(f"*/*/{GAME_FILE}"))
        if "movable" not in str(path.relative_to(folder))
        and "Sliced" not in str(path.relative_to(folder))
        and json.loads(path.read_text()).get("solvable")
    ]
    if not found:
        raise FileNotFoundError(
            f"no solvable game under {folder / FOLDER / split}; "
            f"`python -m recipe.holderpo.tasks.alfworld.games --out {folder}` generates games, "
            "ALFWORLD_DATA=... names the official ones"
        )
    return found


def held_out(combination: Any) -> bool:
    """Whether a combination of task, object and destination is for valid_unseen alone."""
    text = f"{combination.task_type}/{combination.object}/{combination.destination}"
    return hashlib.sha256(text.encode()).digest()[0] < HELD_OUT_SHARE * 256


def draw_splits(size: str, counts: dict[str, int], seed: int) -> dict[str, list[tuple[str, Any, str]]]:
    """The games of each split, the task types in turn: (folder name, game, task text). No two have the same problem.

    Raises:
        ValueError: a split cannot have so many different games.
    """
    from recipe.holderpo.tasks.alfworld import rooms

    taken: set[str] = set()
    drawn: dict[str, list[tuple[str, Any, str]]] = {}

    def furniture(game: Any) -> tuple[str, ...]:
        return tuple(sorted(map(rooms.type_of, game.receptacles)))

    for split in SPLITS:
        draw = random.Random(f"{seed}/{split}/{size}")
        trained = [game for _, game, _ in drawn.get("train", [])]
        pairs = {(game.combination.object, game.combination.destination) for game in trained}
        furnished = set(map(furniture, trained))
        drawn[split] = []
        for index in range(counts[split]):
            task_type = list(TASKS)[index % len(TASKS)]
            candidates = [c for c in rooms.combinations(task_type) if held_out(c) == (split == "valid_unseen")]
            known = [(g.combination, g.layout) for g in trained if g.combination.task_type == task_type]
            for _ in range(MAX_DRAWS):
                if split == "valid_seen" and known:
                    combination, layout = draw.choice(known)
                else:
                    layouts = UNSEEN_LAYOUTS if split == "valid_unseen" else TRAIN_LAYOUTS
                    combination, layout = draw.choice(candidates), draw.choice(layouts)
                game = rooms.draw_game(combination, layout, rooms.SIZES[size], draw.randrange(2**31))
                seen = (combination.object, combination.destination) in pairs or furniture(game) in furnished
                if rooms.problem(game) not in taken and not (split == "valid_unseen" and seen):
                    break
            else:
                raise ValueError(f"{counts[split]} games in {split} are too many for size {size}: no other {task_type}")
            taken.add(rooms.problem(game))
            place = "None" if game.lamp else combination.destination
            folder = f"{task_type}-{combination.object}-None-{place}-{layout}/trial_{index:05d}"
            drawn[split].append((folder, game, rooms.task_text(game, draw)))
    return drawn


def wheel_file(name: str) -> str:
    """A file of the alfworld wheel's data."""
    return (importlib.resources.files("alfworld") / "data" / name).read_text()


def write_game(folder: Path, game: Any, text: str) -> int:
    """Write one game and prove it solvable in the plain environment; the number of its walkthrough's steps.

    Raises:
        RuntimeError: the walkthrough does not win (a mistake in `rooms`).
    """
    from recipe.holderpo.tasks.alfworld import rooms
    from recipe.holderpo.tasks.alfworld.environment import plain_environment

    grammar = wheel_file("alfred.twl2").replace("UNKNOWN GOAL", text)
    data = {
        "pddl_domain": wheel_file("alfred.pddl"),
        "grammar": grammar,
        "pddl_problem": rooms.problem(game),
        "solvable": True,
    }
    folder.mkdir(parents=True)
    (folder / GAME_FILE).write_text(json.dumps(data))
    environment = plain_environment()
    environment.load(str(folder / GAME_FILE))
    state = environment.reset()
    commands = rooms.walkthrough(game, {key: info.name for key, info in state["_entity_infos"].items()})
    for command in commands:
        if command not in state["admissible_commands"]:
            raise RuntimeError(f"{folder}: {command!r} is not among {state['admissible_commands']}")
        state, _, _ = environment.step(command)
    if not state["won"]:
        raise RuntimeError(f"{folder}: the walkthrough {commands} does not win")
    c = game.combination
    trajectory = {
        "task_type": c.task_type,
        "task_id": folder.name,
        "pddl_params": {
            "object_target": c.object,
            "parent_target": "" if game.lamp else c.destination,
            "toggle_target": c.destination if game.lamp else "",
            "mrecep_target": "",
            "object_sliced": False,
        },
        "turk_annotations": {"anns": [{"task_desc": text}]},
    }
    (folder / GAME_FILE).write_text(json.dumps(data | {"walkthrough": commands}))
    (folder / TRAJECTORY_FILE).write_text(json.dumps(trajectory, indent=1))
    return len(commands)


def generate(out: Path, size: str, counts: dict[str, int], seed: int, processes: int) -> dict[str, list[int]]:
    """Write all splits; the lengths of the walkthroughs by split.

    Raises:
        FileExistsError: `out` has games already.
    """
    root = out / FOLDER
    if root.exists():
        raise FileExistsError(f"{root} is there already; choose another --out, or remove it")
    drawn = draw_splits(size, counts, seed)
    with atomic.new_folder(root) as work:  # half a set of games would look like a complete one
        jobs = [(split, work / split / name, game, text) for split in SPLITS for name, game, text in drawn[split]]
        with ProcessPoolExecutor(processes) as pool:
            lengths = list(pool.map(write_game, *zip(*(job[1:] for job in jobs), strict=True), chunksize=8))
    return {split: [n for job, n in zip(jobs, lengths, strict=True) if job[0] == split] for split in SPLITS}


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the games")
    parser.add_argument(
        "--size", choices=("tiny", "small", "full"), default="tiny", help="3-6, 7-11 or 14-20 receptacles"
    )
    parser.add_argument("--seed", type=int, default=1)
    for split, count in DEFAULT_COUNTS.items():
        parser.add_argument(f"--{split.replace('_', '-')}", type=int, default=count, help=f"games in {split}")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parsed = parser.parse_args(arguments)
    counts = {split: getattr(parsed, split) for split in SPLITS}
    if min(counts.values()) < 1:
        parser.error("every split needs at least one game")
    try:
        lengths = generate(parsed.out, parsed.size, counts, parsed.seed, parsed.processes)
    except (FileExistsError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for split, steps in lengths.items():
        print(f"{split}: {len(steps)} games, solved by walkthroughs of {min(steps)} to {max(steps)} steps")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
