"""From overrides to the resolved config: Hydra's resolvers, search path and the run's environment variables."""

import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from recipe.holderpo.config.errors import ConfigError
from recipe.holderpo.data.templates import chat_template
from recipe.holderpo.tasks.registry import config_folders

CONF = Path(__file__).parents[3] / "conf"
PACKAGE = Path(__file__).parents[1]


def _search_path() -> list[str]:
    """Where Hydra finds files beside conf/: verl's configs, found without importing verl, which takes seconds; and tasks'."""
    spec = importlib.util.find_spec("verl")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("error: verl is not installed; `bash scripts/run_local.sh` sets up an environment that has it")
    return [f"file://{spec.submodule_search_locations[0]}/trainer/config", *config_folders()]


def register_resolvers() -> None:
    """The functions that the files in conf/ call, as in ${cores_per_rank:2}. May be called again."""
    resolvers = {
        "search_path": _search_path,
        "math_template": chat_template,
        "cores_per_rank": lambda ranks: max(1, (os.cpu_count() or 1) // ranks),
        "recipe_file": lambda name: str(PACKAGE / name),
    }
    for name, function in resolvers.items():
        OmegaConf.register_new_resolver(name, function, replace=True)


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """The run's resolved config, as `recipe.holderpo.main` has it.

    Raises:
        ConfigError: an override that Hydra refuses.
    """
    register_resolvers()
    with refusals_of_hydra(), initialize_config_dir(str(CONF), version_base=None):
        return resolve(compose("holderpo", overrides=list(overrides)))


@contextmanager
def refusals_of_hydra() -> Iterator[None]:
    """Within, what Hydra and OmegaConf refuse is a ConfigError."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(str(error)) from None
    except ValueError as error:
        if not str(error).startswith("Config group override"):  # Hydra's, of a group that is null
            raise
        raise ConfigError(str(error)) from None


def resolve(config: DictConfig) -> DictConfig:
    """The config with absolute paths and every interpolation resolved, so that all processes read the same values."""
    for name in ("run", "algo_name", "model_name", "run_dir", "cache_dir"):
        if isinstance(config[name], int | float):  # run=5 is a name
            config[name] = str(config[name])
    for name in ("run_dir", "cache_dir"):
        if not isinstance(config[name], str):
            raise ConfigError(f"{name} is {config[name]!r}; allowed is a path")
    config.run_dir = os.path.abspath(os.path.expanduser(config.run_dir))
    config.cache_dir = os.path.abspath(os.path.expanduser(config.cache_dir))
    OmegaConf.resolve(config)
    return config


def set_environment(config: DictConfig) -> None:
    """Give `config.env` to this process, which reads VERL_PLATFORM when it imports verl, and to Ray's workers, which may
    belong to a cluster that is up already.

    Raises:
        ConfigError: one of the groups is something else.
    """
    for key in ("env", "ray_kwargs", "ray_kwargs.ray_init"):
        value = OmegaConf.select(config, key)
        if not OmegaConf.is_dict(value):
            raise ConfigError(f"{key} is {value!r}; allowed is a group of keys")
    env = {name: str(value) for name, value in config.env.items()}
    os.environ.update(env)
    with open_dict(config):
        OmegaConf.update(config, "ray_kwargs.ray_init.runtime_env.env_vars", env, force_add=True)
