"""`--help` of the commands that take Hydra overrides: what the command does, and which groups there are."""

from collections.abc import Sequence
from pathlib import Path

from recipe.holderpo.config.compose import CONF
from recipe.holderpo.tasks.registry import config_folders


def wants_help(arguments: Sequence[str]) -> bool:
    return any(argument in ("--help", "-h") for argument in arguments)


def help_text(what: str) -> str:
    """The command's own text, then a line for each group of conf/ (and of tasks) with the names it may have.

    Args:
        what: the docstring of the command's module.
    """
    lines = [f"  {group}={' | '.join(names)}" for group, names in groups().items()]
    return "\n".join([
        what.strip(),
        "",
        "Groups:",
        *lines,
        "",
        "Keys: docs/configuration.md, and verl's own; `python -m recipe.holderpo.main --cfg job [overrides]` prints all.",
    ])  # fmt: skip


def groups() -> dict[str, list[str]]:
    """Group -> its names, sorted; files that begin with _ are parts of others."""
    folders = [CONF, *(Path(folder.removeprefix("file://")) for folder in config_folders())]
    found: dict[str, set[str]] = {}
    for folder in folders:
        for file in folder.glob("*/[!_]*.yaml"):
            found.setdefault(file.parent.name, set()).add(file.stem)
    found.pop("evaluation", None)  # a config of its own
    return {group: sorted(names) for group, names in sorted(found.items())}
