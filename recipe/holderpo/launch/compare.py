"""Train the same model with several rules of p and with GRPO, one after another over one Ray, and draw them together.

    python -m recipe.holderpo.launch.compare [name=NAME] [arms=p0,signed,gspo] [Hydra overrides]

Each arm is a run of its own, outputs/NAME-ARM. One that is finished is not run again, one that was interrupted resumes, so
the same command goes on where it was stopped. After each arm the table and outputs/NAME/compare.png are made anew.
"""

import os
import re
import secrets
import shlex
import socket
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from omegaconf import DictConfig

from recipe.holderpo.config.compose import CONF, compose_config
from recipe.holderpo.config.errors import ConfigError
from recipe.holderpo.config.help import help_text, wants_help
from recipe.holderpo.fault_tolerance.command import COMMAND_VARIABLE
from recipe.holderpo.fault_tolerance.console import console_that_holds_nothing
from recipe.holderpo.fault_tolerance.resume import changes
from recipe.holderpo.fault_tolerance.run_files import check_can_write, read_config
from recipe.holderpo.fault_tolerance.signals import ExitStatus
from recipe.holderpo.launch.__main__ import RunFailed, checked, exit_status, ray_head
from recipe.holderpo.launch.driver import drive
from recipe.holderpo.launch.settings import Node
from recipe.holderpo.report.record import METRICS_FILE, read_metrics

USUAL = {
    "p0": ["algo=holder_static", "holder.p_start=0"],
    "p2": ["algo=holder_static", "holder.p_start=2"],
    "2to-2": ["algo=holder"],
    "signed": ["algo=holder_signed"],
    "grpo": ["algo=grpo"],
}
"""The arms without `arms=`. Every preset of conf/algo is an arm, too."""
ARMS = {file.stem: [f"algo={file.stem}"] for file in sorted(CONF.glob("algo/[!_]*.yaml"))} | USUAL
NAME = re.compile(r"\w[\w.-]{0,99}", re.ASCII)
"""Which Hydra takes as a value, and every file system as a folder."""
ADDRESS = "127.0.0.2"  # that of a run of its own, see conf/hardware/cpu.yaml


def compare(arguments: Sequence[str]) -> int:
    """Train the arms that are not finished, and report; the exit status."""
    name, arms, overrides = read_arguments(arguments)
    runs = {arm: [*overrides, *ARMS[arm], f"run={name}-{arm}"] for arm in arms}
    configs = {arm: checked(run) for arm, run in runs.items()}  # before the first of them trains
    check_finished(configs)
    return train_missing(Path(configs[arms[0]].run_dir).with_name(name), runs, configs)


def read_arguments(arguments: Sequence[str]) -> tuple[str, list[str], list[str]]:
    """The name, the arms and the overrides for all of them.

    Raises:
        ConfigError: a name that is none, an unknown arm, one that is named twice, a key that the command or an arm sets
            itself; a line for each.
    """
    name, arms, overrides, lines = "compare", [*USUAL], list[str](), list[str]()
    for argument in arguments:
        key, _, value = argument.lstrip("+~").partition("=")
        if key == "name":
            name = value
        elif key == "arms":
            arms = value.split(",")
        elif key in ("run", "run_dir", "algo"):
            lines.append(f"{argument}: this command sets {key} for each arm; allowed are name=, arms= and other keys")
        else:
            overrides.append(argument)
    if not NAME.fullmatch(name):
        lines.append(f"name is {name!r}; allowed is the name of a folder in outputs: letters, digits, _, - and .")
    lines += [f"arms has {arm!r}; allowed are {', '.join(ARMS)}" for arm in arms if arm not in ARMS]
    lines += [f"arms has {arm!r} twice; allowed is each once" for arm in dict.fromkeys(arms) if arms.count(arm) > 1]
    set_by = {override.partition("=")[0]: arm for arm in reversed(arms) for override in ARMS.get(arm, ())}
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if key in set_by:
            lines.append(f"{override}: the arm {set_by[key]} sets {key} itself; allowed are other keys, or other arms")
    if lines:
        raise ConfigError(*lines)
    return name, arms, overrides


def check_finished(configs: dict[str, DictConfig]) -> None:
    """What is finished, and so only read, must be what the command asks for.

    Raises:
        ConfigError: with a line for each key in which an arm's run differs.
    """
    lines = list[str]()
    for config in configs.values():
        file = Path(config.run_dir) / "config.yaml"
        if is_finished(config) and file.exists():
            lines += changes(config, read_config(file))
    if lines:
        raise ConfigError(*lines)


def train_missing(folder: Path, runs: dict[str, list[str]], configs: dict[str, DictConfig]) -> int:
    """Train what is not finished; 0, or the status of the first run that ended otherwise."""
    missing = [arm for arm in runs if not is_finished(configs[arm])]
    check_can_write("name", folder)  # the picture's
    folder.mkdir(parents=True, exist_ok=True)
    if not missing:
        report(folder, configs)
        return 0
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # of this cluster alone; ~/.ray may hold another's
    node = Node(head=ADDRESS, address=ADDRESS, port=free_port(ADDRESS))
    shared = compose_config([*runs[missing[0]], f"run_dir={folder}"])
    with ray_head(node, shared) as (environment, attach):
        for arm in missing:
            print(f"{arm}: {' '.join(runs[arm])}", flush=True)
            status, _ = drive([*runs[arm], *attach], environment)
            if status not in [*ExitStatus]:
                raise RunFailed(status)  # keeps Ray's logs
            if status != ExitStatus.FINISHED:
                return status
            report(folder, configs)
    return 0


def is_finished(config: DictConfig) -> bool:
    """Whether a run's record has its last step."""
    records = _records(config)
    return bool(records) and records[-1]["step"] >= config.trainer.total_training_steps


def report(folder: Path, configs: dict[str, DictConfig]) -> None:
    """The table and the picture of the arms that are finished."""
    from recipe.holderpo.report.comparison import comparison_table, plot_comparison

    finished = {arm: _records(config) for arm, config in configs.items() if is_finished(config)}
    plot_comparison({arm: [records] for arm, records in finished.items()}, folder / "compare.png", title=folder.name)
    print(comparison_table(finished))
    print(f"picture: {folder / 'compare.png'}", flush=True)


def _records(config: DictConfig) -> list[dict[str, float]]:
    path = Path(config.run_dir) / METRICS_FILE
    return read_metrics(path) if path.exists() else []


def free_port(address: str) -> int:
    with closing(socket.socket()) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    if wants_help(sys.argv[1:]):
        sys.exit(print(help_text(__doc__)))
    os.environ.setdefault(
        COMMAND_VARIABLE, shlex.join(["python", "-m", "recipe.holderpo.launch.compare", *sys.argv[1:]])
    )
    with console_that_holds_nothing():
        sys.exit(exit_status(compare, sys.argv[1:]))
