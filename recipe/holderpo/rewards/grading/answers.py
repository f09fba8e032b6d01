"""Finding a response's final answer, in time linear in the response's length."""

import json
import re
from collections.abc import Iterator
from typing import Any

# Longest answer that is looked at. The longest of MATH500, Minerva and OlympiadBench has 250 characters or so; a reader of
# a million digits is a denial of service.
MAX_ANSWER_CHARS = 1000
_BOXED = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])\s*")
_WORD = re.compile(r"[^\s{}$\\,;]+")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped character is one match, so that its brace is none
_BETWEEN_BOXES = re.compile(
    r"[\s$]*(?:[,;][\s$]*(?:(?:\\text\{)?\s*(?:and|or)\b\s*\}?)?|(?:\\text\{)?\s*(?:and|or)\b\s*\}?)[\s$]*(?:[a-zA-Z]\s*=\s*)?"
)
LONGEST_BETWEEN = 30  # characters
# Where the closing brace is looked for first, characters after the opening one, and for so many boxes. The last boxes of a
# response are nearly always closed there, and then a megabyte of formulas before them is not searched for braces.
NEAR, FEW = 2 * MAX_ANSWER_CHARS, 10


def extract_answer(text: str) -> str | None:
    """The final answer in a response: the content of its last whole \\boxed{}, or of its last <answer></answer> if that ends
    later. Boxes that only `and`, `or` or commas stand between are one answer: \\boxed{5} and \\boxed{6} is "5, 6".

    A box that is not closed is no answer. None: no answer."""
    tagged = text.rfind("</answer>")
    opening = text.rfind("<answer>", 0, max(tagged, 0))
    boxed = _final_boxes(text)
    if tagged >= 0 and opening >= 0 and (boxed is None or boxed[1] < tagged):
        content = text[opening + len("<answer>") : tagged]
        inside = _final_boxes(content)
        return inside[0] if inside else content.strip()
    return boxed[0] if boxed else None


def _final_boxes(text: str) -> tuple[str, int] | None:
    """The contents of the last boxes that belong together, joined, and where they end."""
    contents, first, end = list[str](), 0, 0
    for begin, content, stop in _boxes(text):
        if content is None:
            continue
        if contents:
            between = text[stop:first]
            if len(between) > LONGEST_BETWEEN or not _BETWEEN_BOXES.fullmatch(between):
                break
        else:
            end = stop
        contents.append(content)
        first = begin
    return (", ".join(dict.fromkeys(reversed(contents))), end) if contents else None


def boxes(text: str) -> Iterator[str | None]:
    """The contents of the \\boxed{} and \\fbox{} in a text, from the last to the first; None for one that is not closed.

    Without surrounding blanks. Braces may be nested or escaped; `\\boxed 5` counts as 5, `\\boxed5}` is none. Linear in the
    length of the text, whatever it holds."""
    return (content for _, content, _ in _boxes(text))


def _boxes(text: str) -> Iterator[tuple[int, str | None, int]]:
    """(where it begins, content, where it ends) of each box, from the last to the first."""
    found = [(match.start(), match.end()) for match in _BOXED.finditer(text)]
    closing: dict[int, int] | None = None  # of the whole text, once it is needed
    for number, (begin, start) in enumerate(reversed(found)):
        end = None
        if text.startswith("{", start):
            if closing is None and number < FEW:
                end = _closing_brace(text, start)
            if end is None:
                closing = _closing_braces(text) if closing is None else closing
                end = closing.get(start)
        if end is not None:
            yield begin, text[start + 1 : end].strip(), end + 1
        else:
            word = _WORD.match(text, start)
            if word and text[start - 1].isspace() and not text.startswith("}", word.end()):
                yield begin, word.group().rstrip("."), word.end()
            else:
                yield begin, None, start


def _closing_brace(text: str, start: int) -> int | None:
    """Position of the brace that closes the one at `start`; None if it is not closed within NEAR characters."""
    depth = 0
    for match in _BRACE.finditer(text, start, start + NEAR):
        depth += {"{": 1, "}": -1}.get(match.group(), 0)
        if depth == 0:
            return match.start()
    return None


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


def acceptable_answers(ground_truth: Any) -> list[str]:
    """The answers that a ground truth accepts: several if it is a sequence or a JSON array of strings, else itself."""
    if isinstance(ground_truth, str):
        if ground_truth.startswith('["'):
            try:
                answers = json.loads(ground_truth)
            except ValueError:
                return [ground_truth]
            if all(isinstance(answer, str) for answer in answers):
                return list(answers)
        return [ground_truth]
    several = ground_truth.tolist() if hasattr(ground_truth, "tolist") else ground_truth  # of numpy
    if isinstance(several, list | tuple):
        return [answer for part in several for answer in acceptable_answers(part)]
    return [several.decode(errors="replace") if isinstance(several, bytes) else str(several)]
