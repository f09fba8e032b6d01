"""Tasks are found without being named; what they name exists, and finding them costs no heavy import."""

import subprocess
import sys
from pathlib import Path

import pytest

from recipe.holderpo.config.values import Settings
from recipe.holderpo.tasks.registry import (
    advantage_estimators,
    config_folders,
    embedded_data,
    embedded_models,
    load,
    make_embedded,
    tasks,
)

ROOT = Path(__file__).parents[2]


def test_every_name_that_a_task_gives_can_be_loaded() -> None:
    assert set(tasks()) == {"arithmetic", "addition", "alfworld", "clock"}
    for name in (*embedded_data().values(), *embedded_models().values()):
        assert callable(load(name)), name
    assert set(advantage_estimators()) == {"step_grpo", "gigpo"}
    for task in tasks().values():
        assert task.settings is None or issubclass(load(task.settings), Settings)
        assert task.check is None or callable(load(task.check))


def test_finding_the_tasks_imports_nothing_heavy() -> None:
    """The plugin does it in every process that imports verl."""
    code = (
        "import sys; from recipe.holderpo.tasks.registry import tasks; assert tasks(); "
        "print([name for name in ('torch', 'pyarrow', 'numpy', 'transformers', 'verl', 'ray', 'pydantic', 'alfworld') "
        "if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_shared_module_names_the_tasks_that_are_folders() -> None:
    """What an agent's task needs is in its folder, its Hydra files included."""
    folder = ROOT / "recipe/holderpo/tasks/alfworld"
    shared = [
        file
        for pattern in ("recipe/holderpo/**/*.py", "conf/**/*.yaml")
        for file in ROOT.glob(pattern)
        if not file.is_relative_to(folder)
    ]
    assert len(shared) > 50
    naming = [str(file.relative_to(ROOT)) for file in shared if "alfworld" in file.read_text().lower()]
    assert naming == []
    assert f"file://{folder}/conf" in config_folders()


def test_data_are_made_where_the_config_looks_for_them(tmp_path: Path) -> None:
    make_embedded(None, "arithmetic", tmp_path)
    assert {file.name for file in (tmp_path / "arithmetic").glob("*.parquet")} == {"train.parquet", "val.parquet"}
    with pytest.raises(KeyError):
        make_embedded(None, "sums", tmp_path)
