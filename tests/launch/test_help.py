"""`--help` says what a command does, with its groups or keys; a script's also where nothing is set up."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recipe.holderpo.config.compose import CONF
from recipe.holderpo.config.help import groups

ROOT = Path(__file__).parents[2]
WITH_GROUPS = ("main", "launch", "launch.compare", "doctor")
OTHERS = ("evaluation", "evaluation.compare", "data", "plan", "report", "study")


def run(*command: str, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return done.stdout


@pytest.mark.parametrize("module", [*WITH_GROUPS, *OTHERS])
def test_of_a_command(module: str) -> None:
    said = run(sys.executable, "-m", f"recipe.holderpo.{module}", "--help")
    package = importlib.import_module(
        f"recipe.holderpo.{module}" + (".__main__" if (ROOT / f"recipe/holderpo/{module}").is_dir() else "")
    )
    what = (package.__doc__ or "").strip().split("\n")[0]
    assert what.split(":")[0] in said
    if module in WITH_GROUPS:
        for group, names in groups().items():
            assert f"{group}={' | '.join(names)}" in said
        assert run(sys.executable, "-m", f"recipe.holderpo.{module}", "-h") == said


def test_the_groups_are_all_that_there_are() -> None:
    found = groups()
    assert {*found} == {folder.name for folder in CONF.iterdir() if folder.is_dir()} - {"evaluation"}
    assert {"alfworld", "alfworld_tiny", "clock"} <= {*found["task"]} and "holder_signed" in found["algo"]
    assert "_baseline" not in found["algo"]


@pytest.mark.parametrize("script", ["run_local", "compare_local", "run_alfworld", "run_qwen_math", "eval"])
def test_of_a_script_where_nothing_is_set_up(script: str) -> None:
    for flag in ("--help", "-h"):
        said = run("bash", f"scripts/{script}.sh", "hardware=cpu", flag, PYTHON="/nowhere", PATH="/usr/bin:/bin")
        assert f"bash scripts/{script}.sh" in said and "set -" not in said and "#!" not in said
