"""Types of config values, checked by pydantic; what it finds becomes a line that names key, value and what is allowed."""

from collections.abc import Iterable, Iterator, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, MinLen
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError


class Settings(BaseModel):
    """A group of config keys: unknown keys are refused, and no value is converted to another type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def leaves(value: Any, key: str = "", lists: bool = False) -> Iterator[tuple[str, Any]]:
    """(full key, value) of what is no group of keys, or an empty one; with `lists`, of each of a list's values."""
    if isinstance(value, dict) and value:
        items: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list) and lists:
        items = enumerate(value)
    else:
        yield key, value
        return
    for name, item in items:
        yield from leaves(item, f"{key}.{name}" if key else str(name), lists)


def integer(low: int, high: int) -> Any:
    """A whole number from low to high, both included."""
    return Annotated[int, Field(ge=low, le=high)]


def number(low: float, high: float) -> Any:
    """A number from low to high, both included; nan is none."""
    return Annotated[float, Field(ge=low, le=high, allow_inf_nan=False)]


def wrong_value(key: str, value: Any, kind: Any) -> str | None:
    """The line for a value that is not of the type `kind`; None for one that is."""
    try:
        TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError:
        return f"{key} is {value!r}; allowed {allowed(kind)}"
    return None


def wrong_settings(group: str, values: Mapping[str, Any], model: type[Settings]) -> list[str]:
    """A line for each value of a config group that its model refuses.

    Args:
        group: key of the group, "" for the top of the config.
        values: the group as plain Python values.
    """
    try:
        model.model_validate(values)
    except ValidationError as error:
        return [line for found in error.errors(include_url=False) for line in _lines(group, found, model)]
    return []


def _lines(group: str, found: Any, model: type[Settings]) -> list[str]:
    """One of pydantic's findings in words. The messages of a model's own validator are whole lines already."""
    if found["type"] == "value_error":
        return str(found["ctx"]["error"]).splitlines()
    return [_line(group, found, model)]


def _line(group: str, found: Any, model: type[Settings]) -> str:
    if not found["loc"]:
        return f"{group} is {found['input']!r}; allowed is a mapping of {', '.join(model.model_fields)}"
    name = str(found["loc"][0])
    key = f"{group}.{name}" if group else name
    if found["type"] == "extra_forbidden":
        return f"{key} is not a key; allowed are {', '.join(model.model_fields)}"
    field = model.model_fields[name]
    words = allowed(field.annotation, *field.metadata)
    if found["type"] == "missing":
        return f"{key} is missing; allowed {words}"
    return f"{key} is {found['input']!r}; allowed {words}"


def allowed(kind: Any, *metadata: Any) -> str:
    """What a type, with pydantic's bounds, allows in words: "is a whole number from 1 to 9", "are sync, async"."""
    words, plural = _bounded(kind, metadata)
    return f"{'are' if plural else 'is'} {words}"


def _words(kind: Any) -> tuple[str, bool]:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _bounded(arguments[0], arguments[1:])
    if origin is Literal:
        return ", ".join(map(str, arguments)), len(arguments) > 1
    if origin in (Union, UnionType):
        parts = [_words(part) for part in arguments if part is not NoneType]
        null = ["null"] if NoneType in arguments else []
        return " or ".join([words for words, _ in parts] + null), any(plural for _, plural in parts)
    if kind is bool:
        return "true or false", False
    if origin is list:
        return f"a list of: {_words(arguments[0])[0]}", False
    if origin is dict and arguments[1] is not Any:
        return f"a mapping to: {_words(arguments[1])[0]}", False
    names = {int: "a whole number", float: "a number", str: "a string", NoneType: "null"}
    if kind in names:
        return names[kind], False
    return {dict: "a mapping"}.get(origin or kind, "another type"), False


def _bounded(base: Any, metadata: tuple[Any, ...]) -> tuple[str, bool]:
    words, plural = _words(base)
    constraints = [c for m in metadata for c in (getattr(m, "metadata", None) or [m])]
    low = next((c.ge for c in constraints if isinstance(c, Ge)), None)
    above = next((c.gt for c in constraints if isinstance(c, Gt)), None)
    high = next((c.le for c in constraints if isinstance(c, Le)), None)
    least = next((c.min_length for c in constraints if isinstance(c, MinLen)), None)
    if least is not None:
        return f"{words}; at least {least} of them", plural
    if low is not None and high is not None:
        return f"{words} from {low:.12g} to {high:.12g}", plural
    if low is not None:
        return f"{words} from {low:.12g}", plural
    if above is not None and high is not None:
        return f"{words} above {above:.12g}, at most {high:.12g}", plural
    return words, plural
