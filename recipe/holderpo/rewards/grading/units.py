"""Units of measurement at the end of an answer."""

import re
from fractions import Fraction

_LENGTHS: dict[str, Fraction] = {  # mm
    "mm": Fraction(1), "cm": Fraction(10), "m": Fraction(1000), "km": Fraction(10**6), "inch": Fraction("25.4"),
    "foot": Fraction("304.8"), "yard": Fraction("914.4"), "mile": Fraction(1609344),
}  # fmt: skip
UNITS: dict[str, tuple[str, Fraction]] = {
    **{name: ("length", size) for name, size in _LENGTHS.items()},
    **{f"{name}^2": ("area", size**2) for name, size in _LENGTHS.items()},
    **{f"{name}^3": ("volume", size**3) for name, size in _LENGTHS.items()},
    **{name: ("time", Fraction(size)) for name, size in {"s": 1, "minute": 60, "hour": 3600, "day": 86400}.items()},
    **{name: ("money", Fraction(size)) for name, size in {"cent": 1, "dollar": 100}.items()},
    **{name: ("mass", Fraction(size)) for name, size in {"g": 1, "kg": 1000}.items()},
    **dict.fromkeys(("week", "month", "year", "unit", "unit^2", "unit^3"), ("", Fraction(1))),
    **dict.fromkeys(("radian", "pound", "J", "N"), ("", Fraction(1))),
}  # fmt: skip
"""Units that are told apart: what each measures, and its size. Of those without a measure, none is worth another."""
UNIT_NAMES = {
    "centimeter": "cm", "centimetre": "cm", "millimeter": "mm", "meter": "m", "metre": "m", "kilometer": "km", "in": "inch",
    "inche": "inch", "feet": "foot", "ft": "foot", "yd": "yard", "mi": "mile", "sec": "s", "second": "s", "min": "minute",
    "hr": "hour", "h": "hour", "gram": "g", "kilogram": "kg", "rad": "radian", "lb": "pound", "joule": "J", "newton": "N",
    "yr": "year",
}  # fmt: skip

UNIT_LETTERS = "JNKCVWAFHTmsgLh"
# A unit in a cleaned answer: words, or a letter after a number (5m) or a stroke ("km"/h); with an exponent.
_ONE = r'(?:"[^"]+"|\\degree|(?<=[\d])[JNmsgh]|(?<=/)[msgh])(?:\^\{?-?\d\}?)?'
_UNIT = re.compile(r"(.*[\d})a-zA-Z%])((?:%|\\degree ?[CFK]?|(?:/|\\cdot)?" + _ONE + r")+)")


def split_unit(text: str) -> tuple[str, str]:
    """A cleaned answer as (value, unit): 5"cm"^{2} is ("5", "cm^2"); % and \\degree are units. No unit: ""."""
    match = _UNIT.fullmatch(text)
    if match is None:
        return text, ""
    return match[1], unit_name(match[2])


def unit_name(text: str) -> str:
    """One name for a unit: singular, in the form of `UNITS` where it is one of them; of a compound one, its parts sorted."""
    text = re.sub(r'[{}"]|\\cdot', " ", text).strip()
    if text == "%":
        return "%"
    text = re.sub(r"\b(square|sq\.?|cubic|cu\.?) *(\w+)", lambda m: f"{m[2]}^{2 if m[1][0] == 's' else 3}", text)
    text = re.sub(r"\bmph\b", "mile/hour", re.sub(r"\bper\b", "/", text))
    powers: dict[str, int] = {}
    for stroke, word, power in re.findall(r"(/?)\s*(\\?[A-Za-z'.]+)(?:\s*\^\s*(-?\d))?", text):
        name = _unit_word(word.rstrip("."))
        powers[name] = powers.get(name, 0) + int(power or 1) * (-1 if stroke else 1)
    return " ".join(name if power == 1 else f"{name}^{power}" for name, power in sorted(powers.items()))


def _unit_word(word: str) -> str:
    singular = word if word in UNITS or len(word) < 3 else word.removesuffix("s")
    singular = singular if singular in UNITS or len(singular) == 1 else singular.lower()
    return UNIT_NAMES.get(singular, singular)
