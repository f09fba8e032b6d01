"""Which runs are of the same training: by their configs, but for seeds and the keys that a resumed run may change."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from recipe.holderpo.config.free_keys import FREE_KEYS, is_free
from recipe.holderpo.config.values import leaves

Json = dict[str, Any]
Records = list[dict[str, float]]

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The one in C where PyYAML was built with it: ten times as fast."""
SEED = "seed"
LENGTH = "trainer.total_training_steps"  # free when a run resumes, but another training
SAME_TRAINING = (
    *(key for keys in FREE_KEYS.values() for key in keys if key != LENGTH),
    *("cache_dir", SEED, "*.seed", "*_seed"),
)
"""Keys in which the runs of one group may differ, as those of `FREE_KEYS`."""
NO_CONFIG = "no config.yaml"


def grouped(records: Mapping[Path, Records]) -> dict[str, list[Records]]:
    """The runs of each group, by its name."""
    configs = [settings_of(folder) for folder in records]
    found: dict[str, list[Records]] = {}
    for name, (folder, run) in zip(group_names(configs, differing_keys(configs)), records.items(), strict=True):
        found.setdefault(f"{folder.name} ({name})" if name == NO_CONFIG else name, []).append(run)
    return found


def settings_of(run_dir: Path) -> Json:
    """Full key -> value of a run's config, in which the run's own folder has no name; {} where there is none to be read."""
    try:
        config = yaml.load((run_dir / "config.yaml").read_text(), LOADER)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    settings = dict(leaves(config)) if isinstance(config, dict) else {}
    own = settings.get("run_dir")
    return {key: _without(value, own) if isinstance(own, str) and own else value for key, value in settings.items()}


def _without(value: Any, folder: str) -> Any:
    if isinstance(value, list):
        return [_without(one, folder) for one in value]
    return f"...{value.removeprefix(folder)}" if isinstance(value, str) and value.startswith(folder) else value


def differing_keys(configs: Sequence[Json]) -> list[str]:
    """Keys in which trainings differ; runs without a config have none."""
    known = [config for config in configs if config]
    return [
        key
        for key in sorted({key for config in known for key in config})
        if len({as_text(config.get(key)) for config in known}) > 1 and not is_free(key, SAME_TRAINING)
    ]


def group_names(configs: Sequence[Json], differing: Sequence[str]) -> list[str]:
    """The name of each run's group, whose trainings are the same: values of as few keys as tell the groups apart."""
    named, tell = [""] * len(configs), 1
    last = Counter(key.rsplit(".", 1)[-1] for key in differing)
    for key in sorted(differing, key=lambda key: key != "algo_name"):
        short = key.rsplit(".", 1)[-1]
        shown = short if last[short] == 1 else key
        finer = [f"{name}, {shown}={as_text(config.get(key))}" for name, config in zip(named, configs, strict=True)]
        groups = {name for name, config in zip(finer, configs, strict=True) if config}
        if len(groups) > tell:
            named, tell = finer, len(groups)
    return [
        name.removeprefix(", ") or "all runs" if config else NO_CONFIG
        for name, config in zip(named, configs, strict=True)
    ]


def as_text(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, default=str)
