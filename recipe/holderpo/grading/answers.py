"""Finding a response's final answer, and the comparisons that need no computer algebra. Pure functions on short strings."""

import json
import re
from fractions import Fraction

# Longest answer that is looked at. The longest of MATH500, Minerva and OlympiadBench has 250 characters or so; a reader of
# a million digits is a denial of service.
MAX_ANSWER_CHARS = 1000
# Two numbers this close, relatively, are one answer: 0.333333 for 1/3.
RELATIVE_TOLERANCE = Fraction(1, 10**6)
# Exponents beyond this are not expanded into integers.
MAX_EXPONENT = 400

_BOXED = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])\s*")
_ANSWER_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def extract_answer(text: str) -> str | None:
    """The final answer in a response: the content of its last whole \\boxed{}, else of its last <answer></answer>.

    Braces may be nested or escaped; `\\boxed 5` counts as 5. A box that is not closed is no answer. None: no answer."""
    for match in reversed(list(_BOXED.finditer(text))):
        content = _argument(text, match.end())
        if content is not None:
            return content.strip()
    tags = _ANSWER_TAG.findall(text)
    return tags[-1].strip() if tags else None


def _argument(text: str, start: int) -> str | None:
    """The LaTeX argument at `start`: what a pair of braces holds, or else one word; None if the brace is never closed."""
    if not text.startswith("{", start):
        word = re.match(r"[^\s{}$\\,;]+", text[start:])
        return word.group().rstrip(".") if word else None
    depth = 0
    position = start
    while position < len(text):
        character = text[position]
        if character == "\\":
            position += 1  # the next character is escaped: \{ and \} do not count
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return text[start + 1 : position]
        position += 1
    return None


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
_THOUSANDS = re.compile(r"(?<![\d.])\d{1,3}(?:(?:,|\{,\})\d{3})+(?![\d])")
_NAME = re.compile(r"^[a-zA-Z](?:_\{?\w\}?)?=(?=.)")
# Units that follow a number and do not change which answer is meant, in the problems' own words.
_UNIT_WORDS = (
    r"(?:(?:square|cubic)?(?:cm|mm|km|m|in|ft|inches|inch|feet|foot|units?|meters?|centimeters?|miles?|yards?|degrees?|"
    r"dollars?|cents?|hours?|minutes?|seconds?|days?|weeks?|years?|mph|pounds?|grams?|kg|g|s)(?:\^\{?[23]\}?)?)"
)
_UNIT = re.compile(rf"(?<=[\d}}]){_UNIT_WORDS}$")


def normalize(answer: str) -> str:
    """One spelling for answers that differ in typesetting alone: spaces, $, \\left, \\dfrac, degrees, thousands commas,
    `x=`, a trailing unit or full stop. Equal results mean equal answers; unequal ones mean nothing."""
    answer = answer.strip().strip("$").strip()
    answer = re.sub(r"\\[()\[\]]", "", answer) if answer.startswith(("\\(", "\\[")) else answer
    answer = re.sub(r"\\(?:left|right|displaystyle|bigl?|bigr|Bigl?|Bigr)(?![a-zA-Z])", "", answer)
    answer = re.sub(r"\\[dtc]frac(?![a-zA-Z])", r"\\frac", answer)
    answer = _DEGREES.sub("", answer)
    answer = answer.replace("\\$", "").replace("\\%", "%").replace("−", "-").replace("\\dots", "\\ldots")
    answer = _TEXT.sub(r"\1", answer)
    answer = _SPACES.sub("", answer)
    answer = re.sub(r"(?<=\\frac)(\d)(\d)(?!\d)", r"{\1}{\2}", answer)
    answer = _NAME.sub("", answer)
    answer = _THOUSANDS.sub(lambda match: re.sub(r"[,{}]", "", match.group()), answer)
    answer = _UNIT.sub("", answer)
    return answer.rstrip(".")


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
    of the same numbers in any order."""
    answer, truth = normalize(answer), normalize(truth)
    if answer == truth:
        return bool(answer)
    one, other = parse_collection(answer), parse_collection(truth)
    if one is not None and other is not None and one[:2] == other[:2]:
        return _match_elements(one[2], other[2], ordered=one[0] != "\\{")
    number, true_number = parse_number(answer), parse_number(truth)
    if number is None or true_number is None:
        return None
    return abs(number - true_number) <= RELATIVE_TOLERANCE * max(abs(number), abs(true_number))


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
