"""Unions of intervals, and inequalities of one variable, which are the same."""

import re
from dataclasses import dataclass

from recipe.holderpo.rewards.grading.reading import encloses, split_top

Interval = tuple[str, bool, str, bool]  # lower end, whether it belongs to it, upper end, whether it belongs to it
_UNION = re.compile(r'\\cup ?|"or"')
ORDER = re.compile(r"\\leq ?|\\geq ?|<|>")
NAME = re.compile(r"[a-zA-Z](?:_\{?\w+\}?)?'*|\\(?:alpha|beta|gamma|delta|theta|lambda|mu|phi|omega|sigma|rho|epsilon)")
_EVERYTHING: list[Interval] = [(r"-\infty", False, r"\infty", False)]


@dataclass(frozen=True)
class Reals:
    name: str  # of the variable; "" of an interval
    intervals: tuple[Interval, ...]
    certain: bool  # not also a point


_BUILT = re.compile(rf"\\\{{(?:{NAME.pattern})(?:\\in ?\\mathbb\{{R\}})?(?:\\mid ?|\||:)(.*)\\\}}")


def reals(text: str) -> Reals | None:
    """A union of intervals, or inequalities of one variable; None for anything else."""
    if built := _BUILT.fullmatch(text):
        text = built[1]
    match = re.match(rf"({NAME.pattern})\\in ?", text)
    name, text = (match[1], text[match.end() :]) if match else ("", text)
    if text == r"\mathbb{R}":
        return Reals(name, tuple(_EVERYTHING), True)
    found, certain = list[Interval](), bool(match) or bool(_UNION.search(text))
    for part in split_top(text, _UNION):
        piece = _interval(part)
        if piece is None:
            inequality = _inequality(part)
            if inequality is None or (name and inequality[0] != name):
                return None
            name, piece, certain = inequality[0], inequality[1], True
        found.append(piece)
        certain = certain or (piece[1] != piece[3]) or "\\infty" in piece[0] + piece[2]
    return Reals(name, tuple(found), certain)


def _interval(text: str) -> Interval | None:
    if text[:1] not in ("(", "[") or text[-1:] not in (")", "]") or not encloses(text):
        return None
    ends = split_top(text[1:-1], re.compile(","))
    if len(ends) != 2 or not all(ends):
        return None
    return ends[0], text[0] == "[", _unsigned(ends[1]), text[-1] == "]"


def _unsigned(text: str) -> str:
    return text.removeprefix("+") if text.startswith(r"+\infty") else text


def _inequality(text: str) -> tuple[str, Interval] | None:
    signs, sides = ORDER.findall(text), split_top(text, ORDER)
    if len(sides) != len(signs) + 1 or not all(sides) or not 1 <= len(signs) <= 2:
        return None
    if len(signs) == 2:
        if not NAME.fullmatch(sides[1]) or _is_up(signs[0]) != _is_up(signs[1]):
            return None
        if not _is_up(signs[0]):
            sides, signs = sides[::-1], signs[::-1]
        low, name, high = sides
        return name, (low, "eq" in signs[0], _unsigned(high), "eq" in signs[1])
    if NAME.fullmatch(sides[1]) and not NAME.fullmatch(sides[0]):
        sides, up = sides[::-1], not _is_up(signs[0])
    else:
        up = _is_up(signs[0])
    name, end = sides
    if not NAME.fullmatch(name):
        return None
    closed = "eq" in signs[0]
    return name, ((r"-\infty", False, end, closed) if up else (end, closed, r"\infty", False))


def _is_up(sign: str) -> bool:
    return sign.startswith(("<", r"\leq"))
