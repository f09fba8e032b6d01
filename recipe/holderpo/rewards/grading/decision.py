"""A judgement that may depend on what algebra says: questions, and how their answers decide."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Ask:
    """Whether two expressions are equal."""

    answer: str
    truth: str


@dataclass(frozen=True)
class AllOf:
    parts: tuple["Decision", ...]


@dataclass(frozen=True)
class AnyOf:
    parts: tuple["Decision", ...]


Decision = bool | Ask | AllOf | AnyOf
"""Certain, or depending on what algebra says."""


def all_of(parts: Sequence[Decision]) -> Decision:
    if any(part is False for part in parts):
        return False
    left = tuple(part for part in parts if part is not True)
    return left[0] if len(left) == 1 else AllOf(left) if left else True


def any_of(parts: Sequence[Decision]) -> Decision:
    if any(part is True for part in parts):
        return True
    left = tuple(dict.fromkeys(part for part in parts if part is not False))
    return left[0] if len(left) == 1 else AnyOf(left) if left else False


def questions(decision: Decision) -> Iterator[Ask]:
    """The questions on which a decision depends, each once."""
    found: dict[Ask, None] = {}

    def collect(part: Decision) -> None:
        if isinstance(part, Ask):
            found[part] = None
        elif isinstance(part, AllOf | AnyOf):
            for below in part.parts:
                collect(below)

    collect(decision)
    return iter(found)


def decide(decision: Decision, equal: dict[Ask, bool]) -> bool:
    """The decision, once its questions are answered."""
    if isinstance(decision, Ask):
        return equal[decision]
    if isinstance(decision, AllOf):
        return all(decide(part, equal) for part in decision.parts)
    if isinstance(decision, AnyOf):
        return any(decide(part, equal) for part in decision.parts)
    return decision
