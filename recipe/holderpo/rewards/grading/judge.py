"""Whether an answer is the truth: its structure is compared here; what needs algebra is a question.

A question is about two expressions without text, unit, relation or list around them, and goes to a grading process.
"""

import re
from fractions import Fraction
from itertools import permutations

from recipe.holderpo.rewards.grading import reading
from recipe.holderpo.rewards.grading.decision import Ask, Decision, all_of, any_of
from recipe.holderpo.rewards.grading.intervals import NAME, ORDER, Interval, reals
from recipe.holderpo.rewards.grading.reading import clean, encloses, parse_number, plain, split_top, words
from recipe.holderpo.rewards.grading.terms import parse_terms
from recipe.holderpo.rewards.grading.units import UNITS, split_unit

# Two numbers this close, relatively, are one answer: 0.333333 for 1/3.
RELATIVE_TOLERANCE = Fraction(1, 10**6)
MAX_UNORDERED = 6  # elements of an unordered list that are compared by algebra, each with each


def judge(answer: str, truth: str) -> Decision:
    """Whether an answer, as it was written, is the truth: docs/grading.md has the rules."""
    given, true = clean(answer), clean(truth)
    if given == true:
        return bool(given)
    if not given or not true or reading.has_gap(given) or reading.has_gap(true):
        return False
    decision = compare(given, true)
    separated = reading.is_separated(answer), reading.is_separated(truth)
    if decision is not False or separated[0] == separated[1]:
        return decision
    lists = (re.sub(r"[$\s]", "", text) for text in (answer, truth))  # 100,200 may be one where the other is one
    return compare(
        *(text if found else cleaned for text, found, cleaned in zip(lists, separated, (given, true), strict=True))
    )


def compare(given: str, true: str) -> Decision:
    """Two cleaned answers."""
    given, true = strip_parentheses(given), strip_parentheses(true)
    if given == true:
        return True
    for rule in (_prose, _reals, _equations, _lists):
        decision = rule(given, true)
        if decision is not None:
            return decision
    return _quantities(given, true)


def strip_parentheses(text: str) -> str:
    """Without the brackets around the whole, unless they are those of a pair."""
    while text[:1] == "(" and text[-1:] == ")" and encloses(text) and len(elements(text)[1]) == 1:
        text = text[1:-1]
    return text


# --- text ---


def _prose(given: str, true: str) -> Decision | None:
    """Words for words; None where both are mathematics, with a unit or a connecting word at most."""
    if _has_text(true) or (words(given) and re.fullmatch("[A-Z]", true)):  # east; (B) of several
        return plain(given) == plain(true)
    said = words(given)
    if any(word in reading.HEDGES for word in said):
        return False
    return None


def _has_text(text: str) -> bool:
    """Whether a truth is words, or has some that are neither a unit nor a connection."""
    value, _ = split_unit(text)
    left = [word for word in words(value) if word not in reading.CONNECTORS]
    return bool(left)


# --- sets of real numbers ---


def _reals(given: str, true: str) -> Decision | None:
    one, other = reals(given), reals(true)
    if one is not None and other is not None and (one.certain or other.certain):
        if one.name and other.name and one.name != other.name:
            return False
        if len(one.intervals) != len(other.intervals):
            return False
        return _unordered([[_same_interval(a, t) for t in other.intervals] for a in one.intervals])
    if ORDER.search(given) or ORDER.search(true):
        signs = sorted(ORDER.findall(given)), sorted(ORDER.findall(true))
        return _ask(given, true) if _letters(given) == _letters(true) and len(signs[0]) == len(signs[1]) else False
    return None


def _same_interval(a: Interval, t: Interval) -> Decision:
    if (a[1], a[3]) != (t[1], t[3]):
        return False
    return all_of([compare(a[0], t[0]), compare(a[2], t[2])])


# --- equations and names ---

_EQUALS = re.compile("=")
_LABEL = re.compile(
    rf"(?:{NAME.pattern}|\([a-zA-Z](?:,[a-zA-Z])+\)|[A-Z]{{2,3}}|[a-zA-Z]\(.*\)|[a-zA-Z](?:\+[a-zA-Z])+|\|[A-Za-z]+\|"
    r'|(?:m ?)?\\(?:angle|triangle|overline|widehat|operatorname) ?\{?[A-Z]+\}?|"[^"]*"|f\^\{-1\}\([a-z]\)|\\approx)'
)


def _equations(given: str, true: str) -> Decision | None:
    sides, true_sides = split_top(given, _EQUALS), split_top(true, _EQUALS)
    if len(_parts(given)) > 1 or len(_parts(true)) > 1:  # x=1, y=2: element by element
        return None
    if len(sides) == len(true_sides) == 1:
        return None
    if not all(sides):
        return False
    if len(true_sides) == 1:
        return _value_of(sides, true)
    if len(true_sides) > 2:
        return _ask(given, true) if len(sides) == len(true_sides) else False
    (name, value) = true_sides
    if len(sides) == 1:
        return compare(given, value) if _LABEL.fullmatch(name) else False
    if len(sides) > 2:
        return False
    if _LABEL.fullmatch(name) and _LABEL.fullmatch(sides[0]) and (sides[0] == name or name not in _letters(sides[1])):
        return compare(sides[1], value) if sides[0] == name else False
    if _letters(given) != _letters(true):
        return False
    straight = all_of([compare(sides[0], name), compare(sides[1], value)])
    crossed = all_of([compare(sides[1], name), compare(sides[0], value)])
    return any_of([straight, crossed, _ask(given, true)])


def _value_of(sides: list[str], true: str) -> Decision:
    """x=5, f(2)=5 or 2+3=5 for 5: what is not a name must be equal to the truth, each side of it."""
    values = [side for side in sides if not _LABEL.fullmatch(side)] or sides[-1:]
    return all_of([compare(value, true) for value in values])


# --- lists ---

_COMMA = re.compile(r'(?:[,;]|"and"|"or")+')


def _parts(text: str) -> list[str]:
    return [part for part in split_top(text, _COMMA) if part]


def elements(text: str) -> tuple[str, list[str]]:
    """(brackets, elements) of a cleaned list: brackets "()", "[]", "{}", a mixture, or "" of one without."""
    if text.startswith(r"\{") and text.endswith(r"\}"):
        return "{}", _parts(text[2:-2])
    if text[:1] in ("(", "[") and text[-1:] in (")", "]") and encloses(text):
        return text[0] + text[-1], _parts(text[1:-1])
    return "", _parts(text)


def _lists(given: str, true: str) -> Decision | None:
    (brackets, items), (true_brackets, true_items) = elements(given), elements(true)
    items, true_items = _expanded(items), _expanded(true_items)
    if len(items) == len(true_items) == 1:
        same = (items[0], true_items[0]) == (given, true)
        return compare(items[0], true_items[0]) if "{}" in (brackets, true_brackets) and not same else None
    if len(items) != len(true_items):
        return False
    ordered = "{}" not in (brackets, true_brackets) and (brackets + true_brackets) != ""
    if ordered:
        if (brackets and true_brackets and brackets != true_brackets) or {"[)", "(]"} & {brackets, true_brackets}:
            return False  # another kind of pair; a half-open interval for a list
        return all_of([compare(a, t) for a, t in zip(items, true_items, strict=True)])
    if {brackets, true_brackets} not in ({"{}"}, {"{}", ""}, {""}):
        return False  # a point is no set
    return _unordered([[compare(a, t) for t in true_items] for a in items])


def _expanded(items: list[str]) -> list[str]:
    """Each a\\pm b as a+b and a-b."""
    found = []
    for item in items:
        if re.search(r"\\(?:pm|mp)(?![a-zA-Z])", item):
            for plus, minus in (("+", "-"), ("-", "+")):
                one = re.sub(r"\\pm ?", plus, item)
                found.append(re.sub(r"\\mp ?", minus, one).removeprefix("+"))
        else:
            found.append(item)
    return found


def _unordered(matrix: list[list[Decision]]) -> Decision:
    """Whether each of one list is one of the other, each used once."""
    count = len(matrix)
    rows, columns = [*range(count)], [*range(count)]
    for row in [*rows]:  # what is certain is taken away first
        for column in columns:
            if matrix[row][column] is True:
                rows.remove(row)
                columns.remove(column)
                break
    if any(all(matrix[row][column] is False for column in columns) for row in rows):
        return False
    if len(rows) > MAX_UNORDERED:
        return False
    return any_of(
        [
            all_of([matrix[row][column] for row, column in zip(rows, order, strict=True)])
            for order in permutations(columns)
        ]
    )


# --- values ---

_BASE = re.compile(r"\(?(-?[0-9A-F]+)\)?_\{?(\d+)\}?")
_TRIGONOMETRIC = re.compile(r"(\\(?:sin|cos|tan|cot|sec|csc)(?:\^\{?-?\d\}?)?) ?\(?\{?(\d+(?:\.\d+)?)\\degree ?\}?\)?")


def _quantities(given: str, true: str) -> Decision:
    given, true = (_TRIGONOMETRIC.sub(r"\1(\\frac{\2\\pi}{180})", text) for text in (given, true))
    (value, unit), (true_value, true_unit) = split_unit(given), split_unit(true)
    if words(value) or words(true_value):
        return False  # text that is neither a unit nor taken for one
    factors = unit_factors(unit, true_unit)
    if factors is None or (true_unit == r"\degree" and unit == "" and r"\pi" in value):
        return _angles(value, unit, true_value, true_unit)
    based, true_based = _BASE.fullmatch(value), _BASE.fullmatch(true_value)
    if based or true_based:
        return _bases(value, based, true_value, true_based)
    number, true_number = parse_number(value), parse_number(true_value)
    if number is not None and true_number is not None:
        return any(same_number(number * factor, true_number) for factor in factors)
    return any_of([_ask(value if factor == 1 else f"({value})\\cdot({factor})", true_value) for factor in factors])


def quantity(answer: str) -> tuple[str, str]:
    """An answer, as it was written, as (value, unit), without the name before it: `x = 5 \\text{ cm}` is ("5", "cm")."""
    return split_unit(strip_parentheses(split_top(clean(answer), _EQUALS)[-1]))


def unit_factors(unit: str, true_unit: str) -> list[Fraction] | None:
    """What the answer's value may be multiplied with to be in the truth's unit; None if they measure different things."""
    if unit == true_unit:
        return [Fraction(1)]
    if "" in (unit, true_unit) and "%" not in (unit, true_unit):
        return [Fraction(1)] if unit != r"\degree" else None
    if "%" in (unit, true_unit):
        if unit == "%" and true_unit == "":
            return [Fraction(1), Fraction(1, 100)]
        return [Fraction(1), Fraction(100)] if unit == "" else None
    known, true_known = UNITS.get(unit), UNITS.get(true_unit)
    if known and true_known and known[0] and known[0] == true_known[0]:
        return [known[1] / true_known[1]]
    if known is None and true_known is None and {*re.findall(r"\w{3,}", unit)} & {*re.findall(r"\w{3,}", true_unit)}:
        return [Fraction(1)] if "/" not in unit + true_unit and "^" not in unit + true_unit else None
    return None


def _angles(value: str, unit: str, true_value: str, true_unit: str) -> Decision:
    """Degrees for radians with \\pi and the other way round; 90\\degree for 90."""
    if unit == r"\degree" and true_unit == "":
        if r"\pi" in true_value:
            return _ask(rf"\frac{{({value})\pi}}{{180}}", true_value)
        return compare(value, true_value)
    if true_unit == r"\degree" and unit in ("", "radian") and r"\pi" in value:
        return _ask(value, rf"\frac{{({true_value})\pi}}{{180}}")
    return False


def parse_base(match: "re.Match[str]") -> int | None:
    base = int(match[2])
    try:
        return int(match[1], base) if 2 <= base <= 36 and len(match[1]) < 100 else None
    except ValueError:
        return None


def _bases(value: str, based: "re.Match[str] | None", true_value: str, true_based: "re.Match[str] | None") -> bool:
    """The same digits in the same base, or without the base; a number in another base only if it is that number."""
    number = parse_base(based) if based else parse_number(value)
    if true_based:
        if based:
            return based[2] == true_based[2] and number == parse_base(true_based)
        return value.lstrip("0") == true_based[1].lstrip("0")
    return number is not None and number == parse_number(true_value)


def same_number(one: Fraction, other: Fraction) -> bool:
    """Whole numbers must be the same; others may be rounded to six digits."""
    if one.denominator == other.denominator == 1:
        return one == other
    return abs(one - other) <= RELATIVE_TOLERANCE * max(abs(one), abs(other))


# --- questions ---

_DERIVATIVE = re.compile(r"\\frac\{(?:d|\\partial) ?\^?\{?\d?\}?[^{}]*\}\{(?:d|\\partial) ?[^{}]*\}")
_GREEK = "alpha beta gamma delta theta lambda mu phi omega sigma rho hbar tau eta xi Delta Omega nu epsilon psi kappa"
_COMMAND = re.compile(rf"\\(?:begin|end)\{{[a-z*]+\}}|\\(?!(?:{_GREEK.replace(' ', '|')})(?![a-zA-Z]))[a-zA-Z]+")


def _letters(text: str) -> set[str]:
    """The names in an expression, case counts; without e and i, which are numbers more often."""
    return set(re.findall(r"\\[a-zA-Z]+|[a-zA-Z]", _COMMAND.sub(" ", text))) - {"e", "i"}


# A letter before a bracket is a factor, but for the usual names of functions.
_PRODUCT = re.compile(r"(?<![\\a-zA-Z])([abckmnpqrstuvwxz])\(")


def _ask(given: str, true: str) -> Decision:
    if given == true:
        return True
    if r"\varnothing" in (given, true) or r"\mathbb{R}" in (given, true):
        return False
    derivatives = {found: rf"\Lambda_{{{number}}}" for number, found in enumerate(
        dict.fromkeys(_DERIVATIVE.findall(given) + _DERIVATIVE.findall(true)), 1)}  # fmt: skip
    for found, symbol in derivatives.items():
        given, true = given.replace(found, f" {symbol} "), true.replace(found, f" {symbol} ")
    if _letters(given) != _letters(true):
        return False
    terms, true_terms = parse_terms(given), parse_terms(true)
    if terms is not None and true_terms is not None:
        return terms == true_terms
    return Ask(*(_PRODUCT.sub(r"\1\\cdot(", text) for text in (given, true)))
