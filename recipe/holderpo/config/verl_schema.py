"""verl's keys by verl's own word: the types of its dataclasses, and the names and kinds in its default config.

verl itself checks few types, ignores most names that it does not know, and finds the rest out in a worker.
"""

import dataclasses
import difflib
import pydoc
import types
import typing
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from omegaconf import MISSING, DictConfig, OmegaConf

from recipe.holderpo.config.values import wrong_value

_DEFAULTS = "trainer/config/_generated_ppo_trainer.yaml"  # the whole default config, which verl writes by a script
# Groups that are handed on to something else: any key may be in them.
_OPEN = ("env", "ray_kwargs.ray_init", "actor_rollout_ref.rollout.custom")
# null by verl's own default, which is none of the declared whole numbers.
_MAY_BE_NULL = ("critic.forward_micro_batch_size", "critic.forward_micro_batch_size_per_gpu")


def wrong_by_verl(config: DictConfig, checked: Container[str]) -> Iterator[str]:
    """A line for each key in verl's groups that verl does not know, and for each value of another type than it declares.

    Args:
        checked: keys whose values have been checked by themselves.
    """
    import verl.trainer.ppo.core_algos  # before a loss that extends it

    defaults = OmegaConf.to_container(OmegaConf.load(Path(verl.__file__).parent / _DEFAULTS))
    values = OmegaConf.to_container(config)
    assert isinstance(defaults, dict) and isinstance(values, dict)
    of_verl = {str(name): value for name, value in values.items() if name in defaults}
    defaults["reward"]["custom_reward_function"]["reward_kwargs"] = {}  # which it reads where it is
    if OmegaConf.select(config, "data.custom_cls.path") is not None:  # a data set class that may read any key
        defaults["data"] = dict.fromkeys(of_verl["data"]) | defaults["data"]
    yield from _wrong(of_verl, defaults, "", checked)


def _wrong(group: Mapping[Any, Any], defaults: Mapping[Any, Any], path: str, checked: Container[str]) -> Iterator[str]:
    declared: dict[str, Any] = {}
    if "_target_" in group:
        found = pydoc.locate(group["_target_"]) if isinstance(group["_target_"], str) else None
        if not isinstance(found, type) or not dataclasses.is_dataclass(found):
            yield f"{path}._target_ is {group['_target_']!r}; allowed is the full name of a dataclass"
            return
        declared = typing.get_type_hints(found)
    for name, value in group.items():
        key = f"{path}.{name}" if path else str(name)
        if name not in declared and name not in defaults:
            yield f"{key} is not a key{_suggestion(str(name), [*declared, *defaults])}"
            continue
        default = defaults.get(name)
        kind = declared.get(name) if _is_checked(declared.get(name)) else _kind_of(default)
        if key not in checked and kind is not None and value != MISSING:
            line = wrong_value(key, value, kind)
            if line is not None and not (value is None and key in _MAY_BE_NULL):
                yield line
        if isinstance(value, dict) and key not in _OPEN and ("_target_" in value or (default and default != MISSING)):
            yield from _wrong(value, default if isinstance(default, dict) else {}, key, checked)


def _suggestion(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, [key for key in known if not key.startswith("_")], n=3)
    return f"; allowed are verl's{', among them ' if close else ''}{', '.join(close)}"


def _is_checked(kind: Any) -> bool:
    """Whether values of a declared type can be told from others: groups have their own, and a tuple is a list in a config."""
    if typing.get_origin(kind) in (list, types.UnionType, typing.Union):
        return all(_is_checked(part) for part in typing.get_args(kind))
    return typing.get_origin(kind) is Literal or kind in (bool, int, float, str, list, types.NoneType)


def _kind_of(default: Any) -> Any:
    """The type of a key that has a default and no declaration; None where the default does not say."""
    if isinstance(default, str):
        return None if default.startswith("${") or default == MISSING else str | None
    return next((kind for kind in (bool, int, float) if isinstance(default, kind)), None)
