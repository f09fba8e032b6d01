"""Finding a response's final answer, and the comparisons that need no computer algebra. Pure functions on short strings."""

import json
import re
from collections.abc import Iterator
from fractions import Fraction

# Longest answer that is looked at. The longest of MATH500, Minerva and OlympiadBench has 250 characters or so; a reader of
# a million digits is a denial of service.
MAX_ANSWER_CHARS = 1000
# Two numbers this close, relatively, are one answer: 0.333333 for 1/3.
RELATIVE_TOLERANCE = Fraction(1, 10**6)
# Exponents beyond this are not expanded into integers.
MAX_EXPONENT = 400

_BOXED = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])\s*")
_WORD = re.compile(r"[^\s{}$\\,;]+")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped character is one match, so that its brace is none
_ANSWER_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def extract_answer(text: str) -> str | None:
    """The final answer in a response: the content of its last whole \\boxed{}, else of its last <answer></answer>.

    A box that is not closed is no answer. None: no answer."""
    for content in boxes(text):
        if content is not None:
            return content
    tags = _ANSWER_TAG.findall(text)
    return tags[-1].strip() if tags else None


def boxes(text: str) -> Iterator[str | None]:
    """The contents of the \\boxed{} and \\fbox{} in a text, from the last to the first; None for one that is not closed.

    Without surrounding blanks. Braces may be nested or escaped; `\\boxed 5` counts as 5. Linear in the length of the text,
    whatever it holds."""
    starts = [match.end() for match in _BOXED.finditer(text)]
    closing = _closing_braces(text) if starts else {}
    for start in reversed(starts):
        if start in closing:
            yield text[start + 1 : closing[start]].strip()
        else:
            word = _WORD.match(text, start)
            yield word.group().rstrip(".") if word else None


def _closing_braces(text: str) -> dict[int, int]:
    """Position of each opening brace that is closed -> position of its closing one; escaped braces do not count."""
    closing: dict[int, int] = {}
    opened: list[int] = []
    for match in _BRACE.finditer(text):
        if match.group() == "{":
            opened.append(match.start())
        elif match.group() == "}" and opened:
            closing[opened.pop()] = match.start()
    return closing


def acceptable_answers(ground_truth: str) -> list[str]:
    """The answers that a ground truth accepts: several if it is a JSON array of strings, else itself."""
    if ground_truth.startswith('["'):
        try:
            answers = json.loads(ground_truth)
        except ValueError:
            return [ground_truth]
        if all(isinstance(answer, str) for answer in answers):
            return list(answers)
    return [ground_truth]


_SPACES = re.compile(r"\\[,;:! ]|\\q?quad(?![a-zA-Z])|~|\s+")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_DEGREES = re.compile(r"\^\{?\\circ\}?|\\degree(?![a-zA-Z])|°")
# Groups of three digits joined by a comma, {,}, or a comma and a thin space. A comma and a plain space joins a list.
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:(?:,|\{,\}|\s*,\s*\\!\s*|\\,)\d{3})+(?:\.\d+)?")
_NAME = re.compile(r"([a-zA-Z](?:_\{?\w\}?)?)=(?=.)")
_COMMAND = re.compile(r"\\[a-zA-Z]+")
# What may follow a number, in \text{} or after a space, without being part of the mathematics.
_UNIT_WORD = (
    r"(?:(?:square|cubic|sq\.?)\s*)?(?:cm|mm|km|m|in|ft|inch(?:es)?|feet|foot|units?|meters?|centimeters?|miles?|yards?|"
    r"degrees?|dollars?|cents?|hours?|minutes?|seconds?|days?|weeks?|years?|mph|pounds?|grams?|kg|g|s)(?:\s*\^\s*\{?[23]\}?)?"
)
_UNIT = re.compile(
    rf"(?<=[\d}}])(?:\s*\\(?:text|mathrm|mbox|textrm)\s*\{{\s*({_UNIT_WORD})\.?\s*\}}(\^\{{?[23]\}}?)?|\s+({_UNIT_WORD})\.?)\s*$"
)


def split_unit(answer: str) -> tuple[str, str]:
    """An answer as (what is left, its trailing unit): 5\\text{ cm} is ("5", "cm"). No unit: ""."""
    match = _UNIT.search(answer.strip().strip("$").strip())
    if match is None:
        return answer, ""
    unit = re.sub(r"[\s{}]", "", (match[1] or match[3]) + (match[2] or "")).removesuffix("s")
    return answer.strip().strip("$").strip()[: match.start()], unit


def normalize(answer: str) -> str:
    """One spelling for answers that differ in typesetting alone: spaces, $, \\left, \\dfrac, degrees, \\text, a trailing
    full stop, and thousands separators of a number. Equal results mean equal answers; unequal ones mean nothing."""
    answer = answer.strip().strip("$").strip()
    answer = re.sub(r"\\[()\[\]]", "", answer).strip() if answer.startswith(("\\(", "\\[")) else answer
    answer = re.sub(r"\\(?:left|right|displaystyle|bigl?|bigr|Bigl?|Bigr)(?![a-zA-Z])", "", answer)
    answer = re.sub(r"\\[dtc]frac(?![a-zA-Z])", r"\\frac", answer)
    answer = _DEGREES.sub("", answer)
    answer = answer.replace("\\$", "").replace("\\%", "%").replace("−", "-").replace("\\dots", "\\ldots").rstrip(".")
    if _THOUSANDS.fullmatch(answer.strip()):
        answer = re.sub(r"\s*,\s*\\!\s*|\\,|[,{}]", "", answer)
    answer = _TEXT.sub(r"\1", answer)
    answer = _SPACES.sub("", answer)
    return re.sub(r"(?<=\\frac)(\d)(\d)(?!\d)", r"{\1}{\2}", answer).rstrip(".")


def split_name(answer: str) -> tuple[str, str]:
    """A normalised answer as (name, value): x=5 is ("x", "5"). Only where the value has no letter,
    `=` or comma of its own."""
    match = _NAME.match(answer)
    if match is None:
        return "", answer
    value = answer[match.end() :]
    if re.search(r"[a-zA-Z=,]", _COMMAND.sub("", value)):
        return "", answer
    return match[1], value


_INTEGER = r"\d+"
_DECIMAL = r"(?:\d+\.\d*|\.\d+|\d+)"
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?)(?:"
    rf"(?P<whole>{_INTEGER})?\\frac\{{(?P<above>[+-]?{_DECIMAL})\}}\{{(?P<below>[+-]?{_DECIMAL})\}}"
    rf"|(?P<numerator>{_DECIMAL})/(?P<denominator>{_DECIMAL})"
    rf"|(?P<decimal>{_DECIMAL})(?:(?:\\times|\\cdot|\*)10\^\{{?(?P<power>[+-]?\d{{1,4}})\}}?|[eE](?P<exponent>[+-]?\d{{1,4}}))?"
    rf")"
)


def parse_number(answer: str) -> Fraction | None:
    """The number that a normalised answer spells out: an integer, decimal, fraction (mixed ones included) or power of ten.

    None for anything else, percentages included, whose meaning depends on the problem."""
    match = _NUMBER.fullmatch(answer)
    if match is None:
        return None
    part = match.groupdict()
    sign = -1 if part["sign"] == "-" else 1
    if part["decimal"]:
        exponent = int(part["power"] or part["exponent"] or 0)
        return sign * Fraction(part["decimal"]) * Fraction(10) ** exponent if abs(exponent) <= MAX_EXPONENT else None
    above, below = Fraction(part["above"] or part["numerator"]), Fraction(part["below"] or part["denominator"])
    if below == 0:
        return None
    return sign * ((Fraction(part["whole"]) if part["whole"] else 0) + above / below)


_BRACKETS = ("(", "["), (")", "]"), ("\\{", "\\}")


def parse_collection(answer: str) -> tuple[str, str, list[str]] | None:
    """(opening bracket, closing bracket, elements) of a normalised pair, point, interval or set; None for anything else."""
    (openings, closings, (set_open, set_close)) = _BRACKETS
    if answer.startswith(set_open) and answer.endswith(set_close):
        opening, closing = set_open, set_close
    elif answer[:1] in openings and answer[-1:] in closings:
        opening, closing = answer[0], answer[-1]
    else:
        return None
    elements, depth = [""], 0
    for character in answer[len(opening) : len(answer) - len(closing)]:
        depth += (character in "([{") - (character in ")]}")
        if depth < 0:
            return None  # (1,2)(3,4)
        if character == "," and depth == 0:
            elements.append("")
        else:
            elements[-1] += character
    return (opening, closing, elements) if depth == 0 and len(elements) > 1 and all(elements) else None


def cheap_match(answer: str, truth: str) -> bool | None:
    """Whether the answers are equal, where that can be told without computer algebra; None where it cannot.

    Equal spellings and numbers are; so are pairs, points and intervals with equal elements between equal brackets, and sets
    of the same numbers in any order. A unit, a name (x=) or the truth's percent sign counts only if both have one."""
    (answer, unit), (truth, true_unit) = split_unit(answer), split_unit(truth)
    separated = any(_THOUSANDS.fullmatch(text.strip().strip("$").strip()) for text in (answer, truth))
    (name, answer), (true_name, truth) = split_name(normalize(answer)), split_name(normalize(truth))
    if (unit and true_unit and unit != true_unit) or (name and true_name and name != true_name):
        return None
    if truth.endswith("%") and not answer.endswith("%"):
        truth = truth[:-1]
    if answer == truth:
        return bool(answer)
    one, other = parse_collection(answer), parse_collection(truth)
    if one is not None and other is not None and one[:2] == other[:2]:
        return _match_elements(one[2], other[2], ordered=one[0] != "\\{")
    number, true_number = parse_number(answer), parse_number(truth)
    if number is None or true_number is None:
        return None
    if _same_number(number, true_number):
        return True
    return None if separated else False  # 100,200 may have been a list


def _same_number(one: Fraction, other: Fraction) -> bool:
    """Whole numbers must be the same; others may be rounded to six digits."""
    if one.denominator == other.denominator == 1:
        return one == other
    return abs(one - other) <= RELATIVE_TOLERANCE * max(abs(one), abs(other))


def _match_elements(answer: list[str], truth: list[str], ordered: bool) -> bool | None:
    if not ordered:
        numbers = [parse_number(element) for element in (*answer, *truth)]
        if None in numbers:
            return None
        return set(numbers[: len(answer)]) == set(numbers[len(answer) :])
    if len(answer) != len(truth):
        return False
    matches = [cheap_match(a, t) for a, t in zip(answer, truth, strict=True)]
    return False if False in matches else None if None in matches else True
