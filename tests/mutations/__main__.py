"""Would the tests notice? Each mutation changes one place of the code; the tests named with it must then fail.

    PYTHONPATH=tests .venv/bin/python -m mutations                     # all but those that start the stack
    PYTHONPATH=tests .venv/bin/python -m mutations --stack             # these too
    PYTHONPATH=tests .venv/bin/python -m mutations --only "swapped"    # those whose name has the word

Works in a temporary copy of the tree. Prints a line for each, killed or SURVIVED, and exits with 1 if one survived.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

from mutations.table import MUTATIONS, ROOT, Mutation, mutated

COPIED = ("holderpo_core", "recipe", "conf", "tests", "scripts", "docs", "benchmarks", "requirements")
FILES = ("pyproject.toml", "setup.py", "README.md")


def copy_tree(folder: Path) -> None:
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, folder / name)


def run_tests(folder: Path, tests: tuple[str, ...]) -> int:
    """pytest's exit status. The copy comes first in the search path, also for the processes that the tests start."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=False).returncode


def outcome(mutation: Mutation) -> str:
    if not pass_unchanged(mutation.tests):
        return "its tests fail without it"
    with tempfile.TemporaryDirectory(prefix="m", dir="/tmp") as name:
        folder = Path(name)
        copy_tree(folder)
        file = folder / mutation.file
        file.write_text(mutated(file.read_text(), mutation))
        return {0: "SURVIVED", 1: "killed"}.get(run_tests(folder, mutation.tests), "the tests could not run")


@cache
def pass_unchanged(tests: tuple[str, ...]) -> bool:
    with tempfile.TemporaryDirectory(prefix="m", dir="/tmp") as name:
        copy_tree(Path(name))
        return run_tests(Path(name), tests) == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="WORD")
    parser.add_argument("--stack", action="store_true", help="also those whose tests start the stack")
    arguments = parser.parse_args()
    chosen = [m for m in MUTATIONS if arguments.only in m.name and (arguments.stack or not m.starts_stack)]
    outcomes = []
    for mutation in chosen:
        began = time.monotonic()
        outcomes.append(outcome(mutation))
        print(f"{outcomes[-1]:10} {time.monotonic() - began:4.0f} s  {mutation.file}: {mutation.name}", flush=True)
    print(f"{outcomes.count('killed')} of {len(outcomes)} killed")
    return 0 if outcomes.count("killed") == len(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
