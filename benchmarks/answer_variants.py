"""Other answers made of a right one: `CORRUPTIONS`, which are wrong, and `RENDERINGS`, which are right.

Each is a function of a truth in LaTeX, and a source of random numbers, to another answer, or None where it does not apply.
"""

import random
import re
from collections.abc import Callable
from fractions import Fraction

Variant = Callable[[str, random.Random], str | None]

_INTEGER = re.compile(r"-?\d+")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_DIGITS = re.compile(r"\d+")
_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]+)\}\{([^{}]+)\}")
_TEXT = re.compile(r"\\(?:text|mbox|mathrm)\{[^{}]*\}")
_LETTER = re.compile(r"(?<![\\a-zA-Z{])[a-zA-Z](?![a-zA-Z}])")


def _is_number(truth: str) -> bool:
    return bool(_NUMBER.fullmatch(truth))


def _is_prose(truth: str) -> bool:
    return bool(re.search(r"[a-zA-Z]{3,}", re.sub(r"\\[a-zA-Z]+", "", truth)))


def _replace(match: "re.Match[str] | None", text: str, new: str) -> str | None:
    return text[: match.start()] + new + text[match.end() :] if match else None


def _a_number(truth: str, draw: random.Random, least: int = 1) -> "re.Match[str] | None":
    found = [m for m in _DIGITS.finditer(truth) if len(m[0]) >= least]
    return draw.choice(found) if found else None


def _items(truth: str) -> tuple[str, list[str], str] | None:
    """A list of plain elements: (opening, elements, closing)."""
    match = re.fullmatch(r"(\\\{|[(\[]?)([^()\[\]]*,[^()\[\]]*?)(\\\}|[)\]]?)", truth)
    if match is None or "{,}" in truth or re.fullmatch(r"\d{1,3}(,\d{3})+", truth) or r"\!" in truth or "=" in truth:
        return None
    items = [item.strip() for item in match[2].split(",")]
    return (match[1], items, match[3]) if len(items) > 1 and all(items) else None


def _joined(opening: str, items: list[str], closing: str) -> str:
    return f"{opening}{', '.join(items)}{closing}"


def last_digit(truth: str, draw: random.Random) -> str | None:
    match = _a_number(truth, draw)
    return _replace(match, truth, f"{match[0][:-1]}{(int(match[0][-1]) + draw.randint(1, 9)) % 10}") if match else None


def dropped_digit(truth: str, draw: random.Random) -> str | None:
    match = _a_number(truth, draw, 2)
    if match is None or match[0][0] == "0" or set(match[0]) == {"0"}:
        return None
    changed = _replace(match, truth, match[0][1:])
    return changed if changed and int(match[0][1:]) != int(match[0]) else None


def swapped_digits(truth: str, draw: random.Random) -> str | None:
    match = _a_number(truth, draw, 2)
    if match is None or match[0][0] == match[0][1]:
        return None
    return _replace(match, truth, match[0][1] + match[0][0] + match[0][2:])


def appended_zero(truth: str, draw: random.Random) -> str | None:
    return truth + "0" if _INTEGER.fullmatch(truth) and int(truth) else None


def gap(truth: str, draw: random.Random) -> str | None:
    match = _a_number(truth, draw, 2)
    if match is None or "," in truth or r"\!" in truth:
        return None
    at = draw.randint(1, len(match[0]) - 1)
    if len(match[0]) - at == 3:  # thousands
        return None
    blank = draw.choice([" ", "~", r"\ ", r"\quad "])
    return _replace(match, truth, match[0][:at] + blank + match[0][at:])


def negated(truth: str, draw: random.Random) -> str | None:
    if not (_is_number(truth) or _FRACTION.fullmatch(truth)) or re.fullmatch(r"-?0(\.0*)?", truth):
        return None
    return truth[1:] if truth.startswith("-") else f"-{truth}"


def exchanged_fraction(truth: str, draw: random.Random) -> str | None:
    match = _FRACTION.search(truth)
    return _replace(match, truth, f"\\frac{{{match[2]}}}{{{match[1]}}}") if match and match[1] != match[2] else None


def maybe(truth: str, draw: random.Random) -> str:
    return rf"\text{{maybe }}{truth}\text{{ or not}}"


def not_it(truth: str, draw: random.Random) -> str:
    return rf"\text{{not }}{truth}"


def two_answers(truth: str, draw: random.Random) -> str:
    return rf"{truth} \text{{ or }} {draw.randint(1000, 9999)}"


def false_equation(truth: str, draw: random.Random) -> str | None:
    return None if "=" in truth else f"{draw.randint(10000, 99999)}={truth}"


def square_equals(truth: str, draw: random.Random) -> str | None:
    return None if "=" in truth or _is_prose(truth) else f"x^2={truth}"


def greater(truth: str, draw: random.Random) -> str | None:
    return rf"\ge {truth}" if _is_number(truth) or _FRACTION.fullmatch(truth) else None


def other_base(truth: str, draw: random.Random) -> str | None:
    if match := re.fullmatch(r"(\d+)_\{?(\d+)\}?", truth):
        return f"{match[1]}_{{{int(match[2]) + 1}}}"
    return f"{truth}_{{{draw.randint(11, 16)}}}" if re.fullmatch(r"\d{2,}", truth) else None


def other_case(truth: str, draw: random.Random) -> str | None:
    found = [] if _is_prose(truth) else [m for m in _LETTER.finditer(truth) if m[0] not in "eidEI"]
    if not found or len(truth) < 2:
        return None
    match = draw.choice(found)
    return _replace(match, truth, match[0].swapcase())


def other_letter(truth: str, draw: random.Random) -> str | None:
    found = [] if _is_prose(truth) else [m for m in _LETTER.finditer(truth) if m[0] not in "eidEI"]
    if not found or len(truth) < 2:
        return None
    match = draw.choice(found)
    return _replace(match, truth, "q" if match[0] != "q" else "w")


def dropped_item(truth: str, draw: random.Random) -> str | None:
    parts = _items(truth)
    return _joined(parts[0], parts[1][:-1], parts[2]) if parts and not _is_interval(parts) else None


def last_item_alone(truth: str, draw: random.Random) -> str | None:
    parts = _items(truth)
    return parts[1][-1] if parts and not _is_interval(parts) else None


def repeated_item(truth: str, draw: random.Random) -> str | None:
    parts = _items(truth)
    return _joined(parts[0], [parts[1][0], *parts[1]], parts[2]) if parts and not _is_interval(parts) else None


def other_order(truth: str, draw: random.Random) -> str | None:
    parts = _items(truth)
    if parts is None or parts[0] not in ("(", "[") or parts[1] == parts[1][::-1]:
        return None
    return _joined(parts[0], parts[1][::-1], parts[2])


def other_brackets(truth: str, draw: random.Random) -> str | None:
    if not re.fullmatch(r"[(\[].*\\infty.*[)\]]|[(\[][^,]*,[^,]*\]|\[[^,]*,[^,]*[)\]]", truth):
        return None
    first = "[" if truth[0] == "(" else "("
    last = ")" if truth[-1] == "]" else "]"
    return first + truth[1:] if draw.random() < 0.5 else truth[:-1] + last


def set_for_point(truth: str, draw: random.Random) -> str | None:
    parts = _items(truth)
    return _joined(r"\{", parts[1], r"\}") if parts and (parts[0], parts[2]) == ("(", ")") else None


def other_exponent(truth: str, draw: random.Random) -> str | None:
    match = re.search(r"\^\{?(\d)\}?", truth)
    return _replace(match, truth, f"^{{{int(match[1]) + 1}}}") if match else None


def other_sign(truth: str, draw: random.Random) -> str | None:
    found = list(re.finditer(r"(?<=[\w})] )[+-](?= [\w\\(])|(?<=[\w})])[+-](?=[\w\\(])", truth))
    if not found or _TEXT.search(truth):
        return None
    match = draw.choice(found)
    return _replace(match, truth, "-" if match[0] == "+" else "+")


def other_unit(truth: str, draw: random.Random) -> str | None:
    if re.fullmatch(r"-?\d+(?:\.\d+)?\s*\^\{?\\circ\}?", truth):
        return re.sub(r"\s*\^\{?\\circ\}?", r"\\text{ radians}", truth)
    match = re.search(r"\\(?:text|mbox|mathrm)\{ *([a-z]+) *\}(\^\{?\d\}?)?$", truth)
    return _replace(match, truth, rf"\text{{ {'hours' if 'hour' not in match[1] else 'miles'}}}") if match else None


def without_root(truth: str, draw: random.Random) -> str | None:
    match = re.search(r"\\sqrt\{([^{}]+)\}", truth)
    return _replace(match, truth, f"({match[1]})") if match and match[1] not in ("0", "1") else None


def without_pi(truth: str, draw: random.Random) -> str | None:
    changed = re.sub(r"\\pi(?![a-zA-Z])", "", truth)
    return changed if changed != truth and re.search(r"\d", changed) and "{}" not in changed else None


def other_function(truth: str, draw: random.Random) -> str | None:
    match = re.search(r"\\(sin|cos)(?![a-zA-Z])", truth)
    return _replace(match, truth, r"\tan") if match else None


def other_power_of_ten(truth: str, draw: random.Random) -> str | None:
    match = re.search(r"(?:10\^\{?|e)(-?\d+)\}?$", truth)
    return _replace(match, truth, f"10^{{{int(match[1]) - 1}}}") if match and truth[match.start()] == "1" else None


CORRUPTIONS: dict[str, Variant] = {
    "another last digit": last_digit,
    "a digit dropped": dropped_digit,
    "two digits exchanged": swapped_digits,
    "a zero appended": appended_zero,
    "a blank in a number": gap,
    "the other sign": negated,
    "a fraction upside down": exchanged_fraction,
    "maybe ... or not": maybe,
    "not ...": not_it,
    "... or another number": two_answers,
    "12345 = ...": false_equation,
    "x^2 = ...": square_equals,
    "at least ...": greater,
    "another base": other_base,
    "another case": other_case,
    "another letter": other_letter,
    "an item dropped": dropped_item,
    "the last item alone": last_item_alone,
    "an item repeated": repeated_item,
    "a point's order": other_order,
    "an interval's bracket": other_brackets,
    "a set for a point": set_for_point,
    "another exponent": other_exponent,
    "+ for -": other_sign,
    "another unit": other_unit,
    "a root left out": without_root,
    "pi left out": without_pi,
    "another function": other_function,
    "another power of ten": other_power_of_ten,
}


def _is_interval(parts: tuple[str, list[str], str]) -> bool:
    return len(parts[1]) == 2 and parts[0] in ("(", "[")


def as_fraction(truth: str, draw: random.Random) -> str | None:
    """Of one fraction alone: (1)/(2)x can be read in two ways."""
    match = re.fullmatch(rf"(-?){_FRACTION.pattern}", truth)
    return f"{match[1]}({match[2]})/({match[3]})" if match and "d" not in match[2] else None


def as_decimal(truth: str, draw: random.Random) -> str | None:
    match = re.fullmatch(r"(-?)\\[dt]?frac\{(\d+)\}\{(\d+)\}", truth)
    if match is None or int(match[3]) == 0:
        return None
    value = Fraction(int(match[2]), int(match[3]))
    return match[1] + str(float(value)) if 10**6 % value.denominator == 0 and value < 10**6 else None


def in_thousands(truth: str, draw: random.Random) -> str | None:
    return f"{int(truth):,}" if re.fullmatch(r"\d{4,15}", truth) else None


def with_zeros(truth: str, draw: random.Random) -> str | None:
    return f"{truth}.0" if _INTEGER.fullmatch(truth) else None


def named(truth: str, draw: random.Random) -> str | None:
    has_list = "," in truth and not re.search(r"[(\[]", truth)
    return None if "=" in truth or _is_prose(truth) or has_list or re.search(r"[<>]|\\[lg]e", truth) else f"x = {truth}"


def with_noun(truth: str, draw: random.Random) -> str | None:
    return rf"{truth}\text{{ ways}}" if _is_number(truth) else None


def in_sentence(truth: str, draw: random.Random) -> str:
    return rf"\text{{The answer is }}{truth}"


def spaced(truth: str, draw: random.Random) -> str | None:
    return None if _is_prose(truth) else re.sub(r"(?<=[\w})])\s*([+\-=])\s*(?=[\w\\(])", r" \1 ", truth)


def rotated(truth: str, draw: random.Random) -> str | None:
    parts = _items(truth)
    if parts is None or parts[0] in ("(", "["):
        return None
    return _joined(parts[0], parts[1][1:] + parts[1][:1], parts[2])


def with_left(truth: str, draw: random.Random) -> str | None:
    return (
        truth.replace("(", r"\left(").replace(")", r"\right)")
        if "(" in truth and r"\left" not in truth and r"\big" not in truth
        else None
    )


RENDERINGS: dict[str, Variant] = {
    "as it is": lambda truth, draw: truth,
    "in dollars": lambda truth, draw: f"${truth}$" if "$" not in truth else None,
    "in brackets": lambda truth, draw: rf"\({truth}\)" if "$" not in truth else None,
    "with a full stop": lambda truth, draw: f"{truth}.",
    "bold": lambda truth, draw: rf"\mathbf{{{truth}}}" if not _is_prose(truth) else None,
    "in blue": lambda truth, draw: rf"\textcolor{{blue}}{{{truth}}}",
    "with dfrac": lambda truth, draw: truth.replace(r"\frac", r"\dfrac") if r"\frac" in truth else None,
    "as a / b": as_fraction,
    "as a decimal": as_decimal,
    "with thousands": in_thousands,
    "with .0": with_zeros,
    "x = ...": named,
    "... ways": with_noun,
    "the answer is ...": in_sentence,
    "with blanks": spaced,
    "a list in another order": rotated,
    "with left and right": with_left,
}
