"""Games as the parquet files that verl reads: one row per game."""

import hashlib
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from recipe.holderpo.embedded.cache import cached_folder
from recipe.holderpo.tasks.alfworld.games import DEFAULT_COUNTS, FOLDER, game_files, generate, task_type_of
from recipe.holderpo.tasks.alfworld.task_types import SPLITS, TASKS

DATA_SOURCE = "alfworld_{split}"
SEED = 1


def rows(split: str, files: Sequence[Path]) -> list[dict[str, Any]]:
    """verl's columns for each game. The prompt is only shown in logs; the agent loop writes what the model reads."""
    return [
        {
            "data_source": DATA_SOURCE.format(split=split),
            "prompt": [{"role": "user", "content": f"{TASKS[task_type_of(file)]}: {file.parent.parent.name}"}],
            "ability": "alfworld",
            "reward_model": {"style": "environment", "ground_truth": ""},
            "extra_info": {"index": i, "split": split, "task_type": task_type_of(file), "game_file": str(file)},
        }
        for i, file in enumerate(files)
    ]


def write_splits(games: Path, folder: Path) -> dict[str, int]:
    """Write {split}.parquet for the games under `games`; the number of games of each.

    Raises:
        FileNotFoundError: a split has no game.
    """
    counts = {}
    for split in SPLITS:
        files = game_files(games, split)
        pq.write_table(pa.Table.from_pylist(rows(split, files)), folder / f"{split}.parquet")
        counts[split] = len(files)
    return counts


def official_folder() -> Path | None:
    """Where ALFWORLD_DATA says that the official games are; None if it says nothing.

    The import of alfworld sets it to a cache folder of its own, which counts only if games were downloaded there.

    Raises:
        FileNotFoundError: it names a folder without games.
    """
    value = os.environ.get("ALFWORLD_DATA")
    if not value:
        return None
    folder = Path(value).expanduser().resolve()  # workers elsewhere read the games by this path
    if (folder / FOLDER).is_dir():
        return folder
    if folder == (Path.home() / ".cache" / "alfworld").resolve():
        return None
    raise FileNotFoundError(f"ALFWORLD_DATA is {value}, which has no {FOLDER}; unset it to generate games")


def ensure_games(cache_dir: Path, size: str) -> Path:
    """Generate games of a size into `cache_dir/alfworld_games_<size>` unless they are there; that folder."""

    def build(folder: Path) -> None:
        print(f"games: generating {sum(DEFAULT_COUNTS.values())} ALFWorld games of size {size} ...", flush=True)
        generate(folder, size, DEFAULT_COUNTS, SEED, processes=os.cpu_count() or 1)

    return cached_folder(cache_dir / f"alfworld_games_{size}", game_settings(size), build)


def game_settings(size: str) -> dict[str, Any]:
    """What generated games depend on; the version counts changes of the generator."""
    return {"version": 2, "size": size, "counts": DEFAULT_COUNTS, "seed": SEED}


def ensure_alfworld_data(cache_dir: Path, size: str) -> list[Path]:
    """The parquet files in `cache_dir/alfworld_<size>`, of the official games if there are any, else of generated ones.

    Returns:
        the files of train, valid_seen, valid_unseen.
    """
    games = official_folder() or ensure_games(cache_dir.resolve(), size)

    def build(folder: Path) -> None:
        counts = write_splits(games, folder)
        print(f"data: {', '.join(f'{n} games in {split}' for split, n in counts.items())} of {games}", flush=True)

    files = "\n".join(str(file) for split in SPLITS for file in game_files(games, split))
    settings = {"version": 1, "games": str(games), "files": hashlib.sha256(files.encode()).hexdigest()}
    folder = cached_folder(cache_dir / f"alfworld_{size}", settings, build)
    return [folder / f"{split}.parquet" for split in SPLITS]


def make_a_few(folder: Path) -> dict[str, Any]:
    """For a rehearsal: a few games in `folder`, and the keys that name them; none where the official games are."""
    if official_folder() is not None:
        return {}
    generate(
        folder / "games", "tiny", {"train": 4, "valid_seen": 2, "valid_unseen": 2}, SEED, processes=os.cpu_count() or 1
    )
    write_splits(folder / "games", folder)
    train, *validation = [str(folder / f"{split}.parquet") for split in SPLITS]
    return {"embedded_data": None, "data.train_files": train, "data.val_files": validation}


ensure_tiny_data = partial(ensure_alfworld_data, size="tiny")
ensure_small_data = partial(ensure_alfworld_data, size="small")
ensure_full_data = partial(ensure_alfworld_data, size="full")
