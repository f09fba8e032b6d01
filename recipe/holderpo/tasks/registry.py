"""The tasks of this package: what each brings beside its Hydra file, found without being named anywhere.

A module or a folder in recipe/holderpo/tasks that defines `TASK` is a task. It is imported in every process of a run, so it
imports nothing heavy: what a `Task` holds is given by name, "package.module:attribute", and imported when it is needed.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

FOLDER = Path(__file__).parent

EXTRA_FIELDS: ContextVar[list[dict[str, Any]]] = ContextVar("EXTRA_FIELDS")
"""`AgentLoopOutput.extra_fields` of the samples whose advantages are being computed, in their order. verl 0.9.1 hands an
estimator the rewards and the groups alone; a verl that hands it the batch makes this unnecessary."""


@dataclass(frozen=True)
class Task:
    """What a task brings beside its Hydra file; all values are names, "package.module:attribute".

    Args:
        data: values of `embedded_data` -> function(cache_dir) -> parquet files, made unless they are there.
        models: values of `embedded_model` -> function(cache_dir) -> folder of the model, made unless it is there.
        settings: the `Settings` class of the config group that is named as the task.
        check: function(config) -> lines, one for each value of the task's that does not fit another one.
        check_reads: keys of other groups that `check` reads; it is called only where these are right by themselves.
        free_keys: keys of that group that may change when a run is resumed, patterns as in `fault_tolerance.resume`.
        advantages: names of advantage estimators -> functions in the form of verl's, which may read `EXTRA_FIELDS`.
        rehearsal: keys -> values with which `rehearse=true` makes the task small.
        rehearsal_data: function(folder) -> keys and values of a little data of the task's, made in that folder; none where
            the real data is there.
        episodes: function(run_dir) -> step and episodes of a run's last validation, for the report's page, each with `task`,
            `kind`, `split`, `won` and `steps` of `saw`, `commands`, `answer`, `admissible`; None where it has none. It may
            raise OSError, ValueError, KeyError or TypeError for what cannot be read.
    """

    data: Mapping[str, str] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)
    settings: str | None = None
    check: str | None = None
    check_reads: tuple[str, ...] = ()
    free_keys: tuple[str, ...] = ()
    advantages: Mapping[str, str] = field(default_factory=dict)
    rehearsal: Mapping[str, Any] = field(default_factory=dict)
    rehearsal_data: str | None = None
    episodes: str | None = None


@cache
def tasks() -> dict[str, Task]:
    """The tasks by name, which is that of their module or folder."""
    names = [module.name for module in pkgutil.iter_modules([str(FOLDER)])]
    modules = {name: importlib.import_module(f"recipe.holderpo.tasks.{name}") for name in names}
    return {name: module.TASK for name, module in modules.items() if hasattr(module, "TASK")}


def load(name: str) -> Any:
    """What a "package.module:attribute" names."""
    return pkgutil.resolve_name(name)


def embedded_models() -> dict[str, str]:
    """Values of `embedded_model` -> function that makes the model."""
    return {value: name for task in tasks().values() for value, name in task.models.items()}


def embedded_data() -> dict[str, str]:
    """Values of `embedded_data` -> function that makes the data."""
    return {value: name for task in tasks().values() for value, name in task.data.items()}


def make_embedded(model: str | None, data: str | None, cache_dir: Path) -> None:
    """Make the named model and data in `cache_dir` unless they are there; None asks for nothing.

    Raises:
        KeyError: an unknown name.
    """
    for value, makers in ((data, embedded_data()), (model, embedded_models())):
        if value is not None:
            load(makers[value])(cache_dir)


def tasks_of(config: DictConfig) -> dict[str, Task]:
    """The tasks that a config has a group of keys for."""
    return {name: task for name, task in tasks().items() if config.get(name) is not None}


def advantage_estimators() -> dict[str, Callable[..., Any]]:
    """Advantage estimators of all tasks, by the name that `algorithm.adv_estimator` gives them."""
    return {name: load(function) for task in tasks().values() for name, function in task.advantages.items()}


def config_folders() -> list[str]:
    """Folders of Hydra files that tasks bring, as entries of Hydra's search path."""
    return [f"file://{folder}" for folder in sorted(FOLDER.glob("*/conf"))]
