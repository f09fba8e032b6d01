"""What an answer says, without its typesetting: one spelling of LaTeX, Unicode, words, units and numbers.

Pure functions on short strings. A cleaned answer has no blanks; what was text in it stands in "quotes".
"""

import re
from fractions import Fraction

from recipe.holderpo.rewards.grading.units import UNIT_LETTERS, UNIT_NAMES, UNITS

MAX_EXPONENT = 400  # exponents beyond it are not expanded into integers

_UNICODE = {
    "−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "÷": "/", "≤": r"\leq ", "≥": r"\geq ", "≠": r"\neq ",
    "∞": r"\infty ", "π": r"\pi ", "°": r"^{\circ}", "∪": r"\cup ", "∩": r"\cap ", "∅": r"\varnothing ", "∈": r"\in ",
    "±": r"\pm ", "ℝ": r"\mathbb{R}", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "λ": r"\lambda ", "²": "^{2}",
    "³": "^{3}", "½": r" \frac{1}{2}", "⅓": r" \frac{1}{3}", "⅔": r" \frac{2}{3}", "¼": r" \frac{1}{4}",
    "¾": r" \frac{3}{4}", "\u00a0": " ", "，": ",", "’": "'", '"': "''",
}  # fmt: skip
_SAME = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:left|right|displaystyle|textstyle|limits|bigl?|bigr|Bigl?|Bigr|biggl?|biggr)(?![a-zA-Z])\s*\.?", ""),
        (r"\\color\s*\{[a-zA-Z]*\}|\\(?:quad|qquad|enspace|thinspace)(?![a-zA-Z])|\\[,;: ]|~|\\hspace\{[^{}]*\}", " "),
        (r"\s*,\s*\\!\s*", "{,}"),  # 11,\!111: thousands
        (r"\\!", ""),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z]))|\\degree(?![a-zA-Z])", r"\\degree "),
        (r"\\(?:leqslant|leq|le)(?![a-zA-Z])", r"\\leq "),
        (r"\\(?:geqslant|geq|ge)(?![a-zA-Z])", r"\\geq "),
        (r"\\lt(?![a-zA-Z])", "<"),
        (r"\\gt(?![a-zA-Z])", ">"),
        (r"\\(?:emptyset|varnothing|O)(?![a-zA-Z])|\\\{\s*\\\}", r"\\varnothing "),
        (r"\\(?:lbrace)(?![a-zA-Z])", r"\\{"),
        (r"\\(?:rbrace)(?![a-zA-Z])", r"\\}"),
        (r"\\(?:langle)(?![a-zA-Z])", "("),
        (r"\\(?:rangle)(?![a-zA-Z])", ")"),
        (r"\\dots(?![a-zA-Z])", r"\\ldots "),
        (r"\\(?:cdot|ast)(?![a-zA-Z])", r"\\cdot "),
        (r"\\mathbb\s*(?:\{\s*R\s*\}|R)|\\R(?![a-zA-Z])", r"\\mathbb{R}"),
        (r"\\%", "%"),
        (r"\{([:,])\}(?!\d{3})", r"\1"),
        (r"\(\s*\\begin\s*\{array\}\s*\{[a-z| ]*\}", r"\\begin{pmatrix}"),
        (r"\\end\s*\{array\}\s*\)", r"\\end{pmatrix}"),
        (r"\\dot\s*\{?(\d)\}?(?:(\d*)\\dot\s*\{?(\d)\}?)?", r"\\overline{\1\2\3}"),
        (r"([_^])\s*([0-9a-zA-Z])", r"\1{\2}"),
    )
]
_STYLE = re.compile(r"\\(?:underline|boldsymbol|bm|mathbf|mathit|pmb|boxed|fbox|textcolor\s*\{[a-zA-Z]*\})\s*\{")
_TEXT = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|mathrm|mathsf|mbox|hbox|operatorname|rm)\s*\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}"
)
_MONEY = re.compile(r"\\\$\s*(-?\d+(?:(?:[,.]|\{,\})\d+)*)")
_FRACTION = re.compile(r"\\frac\s*(\{[^{}]*\}|[0-9a-zA-Z])\s*(\{[^{}]*\}|[0-9a-zA-Z])")
_ROOT = re.compile(r"\\sqrt\s*([0-9a-zA-Z])")
_BARE = re.compile(r'\\(?:begin|end)\s*\{[a-zA-Z*]+\}|\\[a-zA-Z]+|"[^"]*"|[A-Za-z]+(?:\.[a-z]\.)*')
_WORDS = re.compile(r"(\\[a-zA-Z]+)|([A-Za-z][A-Za-z .']*[A-Za-z.]|[A-Za-z])")
_THOUSANDS = re.compile(r"(?<![\d.,{}])\d{1,3}(?:(?:\{,\}\d{3})+| \d{3}(?: \d{3})*)(?![\d,]|\{,\})(?! \d)")
_COMMAS = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?(?= ?(?:\"|%|\\degree|$))")
_MIXED = re.compile(r"(?<![\d.,}_^a-zA-Z/])(\d+)(?: ?\\frac\{(\d+)\}\{(\d+)\}| (\d+)/(\d+))(?![\d.])")
_GAP = re.compile(r"\d +\.?\d|\d +\\frac\b")
_REPEATING = re.compile(r"(\d*)\.(\d*)\\overline\{(\d+)\}")

_AFTER_NUMBER = re.compile(r'[\d}"][\s~]*$')
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
_SCALED = re.compile(rf'(\d+(?:\.\d+)?) ?"({"|".join(_SCALES)})\b *([^"]*)"')
_NEW_ROW = "\u240a"  # stands for the \\\\ of a matrix, whose second half is no command

CONNECTORS = ("or", "and")
HEDGES = frozenset(
    ("maybe", "not", "perhaps", "possibly", "possible", "probably", "either", "neither", "nor", "might", "could", "unless",
     "except", "wrong", "incorrect", "unknown", "none", "guess", "unsure", "undefined", "no", "isn't", "never", "false")
)  # fmt: skip
"""Words that take an answer back."""
_NUMBER_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
_PHRASES = {
    "infinity": r"\infty",
    "allrealnumbers": r"\mathbb{R}",
    "allreals": r"\mathbb{R}",
    "realnumbers": r"\mathbb{R}",
    "emptyset": r"\varnothing",
    "theemptyset": r"\varnothing",
    "percent": "%",
    "degrees": r"\degree",
    "degree": r"\degree",
    "pi": r"\pi",
} | {word: str(number) for number, word in enumerate(_NUMBER_WORDS)}
_LEAD_IN = re.compile(
    r'^"(?:(?:so|thus|hence|therefore),? )?(?:the )?(?:(?:final|correct|right|numerical) )?'
    r'(?:answer|value|result|solution)(?: (?:is|equals))?[:=]?(?:"| (?=[^"]))',
    re.IGNORECASE,
)


def _is_word(unit: str) -> bool:
    return len(unit) > 1 and unit.isalpha()


_BARE_WORDS = {
    *(CONNECTORS + _NUMBER_WORDS + ("am", "pm")), *HEDGES, *_PHRASES, *filter(_is_word, (*UNITS, *UNIT_NAMES)),
} - {"pi", "no"}  # fmt: skip
"""What is a word also without \\text, beside all that has four letters or more and a vowel: other letters are a product."""


def clean(text: str) -> str:
    """One spelling for answers that differ in typesetting alone: Unicode, blanks, $, styles, \\left, \\dfrac, degrees,
    thousands, mixed numbers, words for numbers. Equal results mean equal answers; unequal ones mean nothing."""
    for character, latex in _UNICODE.items():
        if character in text:
            text = text.replace(character, latex)
    text = re.sub(r"√\s*(\d+|\w|\([^()]*\))", r"\\sqrt{\1}", text)
    text = text.replace("\\\\", _NEW_ROW)
    text = _MONEY.sub(r"\1\\text{ dollars}", text)
    text = re.sub(r"\\\$|\$|\\[()]|(?<!\\)\\[\[\]]|\*\*|__", "", text)
    for pattern, replacement in _SAME:
        text = pattern.sub(replacement, text)
    while styled := _STYLE.search(text):
        text = _without(text, styled)
    text = _TEXT.sub(_quoted, text)
    text = _BARE.sub(_quoted_word, text)
    text = re.sub(r'" *"', " ", text)
    text = _FRACTION.sub(lambda m: f"\\frac{_braced(m[1])}{_braced(m[2])}", text)
    text = _ROOT.sub(r"\\sqrt{\1}", text)
    text = re.sub(r"\s+", " ", text).strip().rstrip(".,;").strip()
    text = _THOUSANDS.sub(lambda m: m[0].replace("{,}", "").replace(" ", ""), text)
    if commas := _COMMAS.match(text):
        text = commas[0].replace(",", "") + text[commas.end() :]
    text = _REPEATING.sub(_repeating, text)
    text = _MIXED.sub(_mixed, text)
    text = re.sub(r'"[^"]*"', lambda m: _phrase(m[0]), text)
    text = text.replace(_NEW_ROW, r"\\")
    text = _SCALED.sub(_scaled, text)
    if _GAP.search(text):
        return text  # with its blank: what no number has
    text = re.sub(r'("[^"]*")|(\\[a-zA-Z]+) +(?=[a-zA-Z])| +', lambda m: m[1] or (f"{m[2]} " if m[2] else ""), text)
    return _LEAD_IN.sub(lambda m: "" if m[0].endswith('"') else '"', text).rstrip(".")


def has_gap(text: str) -> bool:
    """Whether a cleaned text has a blank between digits, which is neither thousands nor a mixed number."""
    return bool(_GAP.search(text))


def is_separated(text: str) -> bool:
    """Whether a text as it was written is a number with commas between groups of three digits, or a list."""
    return bool(_COMMAS.fullmatch(text.replace("$", "").strip()))


def _without(text: str, styled: "re.Match[str]") -> str:
    """A text without a style's command and the braces around what it applies to."""
    depth = 1
    for position in range(styled.end(), len(text)):
        depth += (text[position] == "{") - (text[position] == "}")
        if depth == 0:
            return f"{text[: styled.start()]} {text[styled.end() : position]} {text[position + 1 :]}"
    return text[: styled.start()] + text[styled.end() :]


def _quoted(match: "re.Match[str]") -> str:
    inner = match[1].replace('"', "").strip()
    if len(inner) == 1 and inner.isalpha() and match[0].startswith((r"\mathrm", r"\operatorname", r"\rm")):
        return f'"{inner}"' if inner in UNIT_LETTERS and _AFTER_NUMBER.search(match.string, 0, match.start()) else inner
    if re.search(r"[\d\\]", inner):  # a number, or mathematics, among the words
        return _WORDS.sub(lambda m: m[1] or f'"{m[2]}"', inner)
    return f'"{inner}"' if inner else " "


def _quoted_word(match: "re.Match[str]") -> str:
    word = match[0]
    if word[0] in '\\"':
        return word
    if word.lower() in _BARE_WORDS or "." in word or (len(word) >= 4 and len({*word.lower()} & {*"aeiouy"}) > 0):
        return f'"{word}"'
    return word


def _phrase(quoted: str) -> str:
    """A phrase that is mathematics, as such; else its letters and digits in quotes, without blanks at its ends."""
    inner = quoted.strip('" ')
    compact = re.sub(r"[\s.]", "", inner).lower()
    if compact in ("am", "pm"):
        return f'"{compact}"'
    known = _PHRASES.get(compact)
    return known if known is not None else f'"{" ".join(inner.split())}"'


def _braced(part: str) -> str:
    return part if part.startswith("{") else f"{{{part}}}"


def _mixed(match: "re.Match[str]") -> str:
    whole, above, below = int(match[1]), int(match[2] or match[4]), int(match[3] or match[5])
    return f"\\frac{{{whole * below + above}}}{{{below}}}" if 0 < above < below else match[0]


def _scaled(match: "re.Match[str]") -> str:
    """42"million" as 42000000."""
    value, rest = Fraction(match[1]) * _SCALES[match[2]], match[3]
    number = str(value) if value.denominator == 1 else f"\\frac{{{value.numerator}}}{{{value.denominator}}}"
    return number + (f'"{rest}"' if rest else "")


def _repeating(match: "re.Match[str]") -> str:
    whole, fixed, period = match[1] or "0", match[2], match[3]
    below = (10 ** len(period) - 1) * 10 ** len(fixed)
    above = int(whole + fixed + period) - int(whole + fixed)
    return f"\\frac{{{above}}}{{{below}}}"


_DECIMAL = r"(?:\d+\.\d*|\.\d+|\d+)"
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?)(?:"
    rf"\\frac\{{(?P<above>[+-]?{_DECIMAL})\}}\{{(?P<below>[+-]?{_DECIMAL})\}}"
    rf"|(?P<numerator>{_DECIMAL})/(?P<denominator>{_DECIMAL})"
    rf"|(?P<decimal>{_DECIMAL})(?:(?:\\times|\\cdot|\*)10\^\{{?(?P<power>[+-]?\d{{1,4}})\}}?|[eE](?P<exponent>[+-]?\d{{1,4}}))?"
    rf"|10\^\{{?(?P<ten>[+-]?\d{{1,4}})\}}?"
    rf")"
)


def parse_number(text: str) -> Fraction | None:
    """The number that a cleaned answer spells out: an integer, decimal, fraction or power of ten; None for anything else."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    part = match.groupdict()
    sign = -1 if part["sign"] == "-" else 1
    exponent = int(part["power"] or part["exponent"] or part["ten"] or 0)
    if abs(exponent) > MAX_EXPONENT:
        return None
    if part["ten"]:
        return sign * Fraction(10) ** exponent
    if part["decimal"]:
        return sign * Fraction(part["decimal"]) * Fraction(10) ** exponent
    above, below = Fraction(part["above"] or part["numerator"]), Fraction(part["below"] or part["denominator"])
    return sign * above / below if below else None


_OPEN, _CLOSE = "([{", ")]}"


def split_top(text: str, separator: "re.Pattern[str]") -> list[str]:
    """A cleaned text split where `separator` matches outside all brackets and quotes; the separators are left out."""
    parts, depth, start, position = [], 0, 0, 0
    while position < len(text):
        if depth == 0 and (match := separator.match(text, position)):
            parts.append(text[start:position])
            start = position = match.end()
            continue
        character = text[position]
        if character == '"':
            position = max(text.find('"', position + 1), position)
        elif character in _OPEN:
            depth += 1
        elif character in _CLOSE:
            depth -= 1
        position += 1
    return [*parts, text[start:]]


def encloses(text: str) -> bool:
    """Whether the bracket that a text begins with ends with it."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character in _OPEN) - (character in _CLOSE)
        if depth == 0:
            return position == len(text) - 1
    return False


def words(text: str) -> list[str]:
    """The words in the quotes of a cleaned text, in lower case."""
    return [word.lower() for quoted in re.findall(r'"([^"]*)"', text) for word in re.findall(r"[\w']+", quoted)]


def plain(text: str) -> str:
    """Letters, digits and signs of a cleaned text, in lower case: for the comparison of prose."""
    return re.sub(r"[^\w+\-*/=<>\\]", "", text).lower()
