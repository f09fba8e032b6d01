"""Finding the answer in a response."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe.holderpo.rewards.grading import answers
from recipe.holderpo.rewards.grading.answers import acceptable_answers, extract_answer

EXTRACTED = {
    r"so \boxed{42}.": "42",
    r"\boxed{1} no, \boxed{\frac{1}{2}}": r"\frac{1}{2}",
    r"\boxed{\{1, 2\}}": r"\{1, 2\}",
    r"\boxed{ x^{2^{3}} }": "x^{2^{3}}",
    r"\boxed 7 is it": "7",
    r"\boxed-10}": None,
    r"\boxed 10}": None,
    r"\boxed10": None,
    r"\boxed{3} no, \boxed4}": "3",
    r"\fbox{9}": "9",
    r"\boxed{3} and then \boxed{4": "3",  # the last one is cut off
    r"\boxed{4": None,
    "no box": None,
    "": None,
    "<think> 3? </think> <answer> 5 </answer>": "5",
    r"<answer>the sum is \boxed{6}</answer>": "6",
    r"<think>\boxed{6}</think> <answer>5</answer>": "5",
    r"<answer>5</answer>, or better \boxed{6}": "6",
    r"\boxed{6} <answer>5": "6",
    r"5</answer> <answer>": None,
    r"\boxed{5} and \boxed{6}": "5, 6",
    r"$x=\boxed{5}$ or $x = \boxed{6}$": "5, 6",
    r"\boxed{5}, \boxed{6}, and \boxed{7}.": "5, 6, 7",
    r"\boxed{5}, \boxed{5}": "5",
    r"\boxed{5} minus one is \boxed{4}": "4",
    r"\boxed{5} \boxed{6}": "6",
    r"\boxed{\boxed{5}}": "5",
    r"\boxed{}": "",
    r"\boxedx{3}": None,
    "\\boxed{a\\}": None,  # the closing brace is escaped
}


@pytest.mark.parametrize("text", EXTRACTED)
def test_extract_answer(text: str) -> None:
    assert extract_answer(text) == EXTRACTED[text]


@given(st.text(alphabet="ab{}\\ ", max_size=30))
def test_a_box_of_balanced_braces_is_found_whole(content: str) -> None:
    depth, escaped = 0, False
    for character in content:
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = True
        elif character in "{}":
            depth += 1 if character == "{" else -1
            if depth < 0:
                return
    if depth == 0 and not escaped:
        assert extract_answer(f"first \\boxed{{0}} then \\boxed{{{content}}} end") == content.strip()


def test_several_acceptable_answers_are_a_json_array_of_strings() -> None:
    assert acceptable_answers('["9.6", "9.60"]') == ["9.6", "9.60"]
    assert acceptable_answers("[1, 2]") == ["[1, 2]"]  # an interval
    assert acceptable_answers('["a') == ['["a']


@pytest.mark.parametrize(
    ("truth", "answers"),
    [
        (5, ["5"]),
        (0.5, ["0.5"]),
        (["5", 6], ["5", "6"]),
        (np.array(["5", "x"]), ["5", "x"]),
        (np.int64(5), ["5"]),
        (b"5", ["5"]),
    ],
)
def test_truths_of_other_types(truth: object, answers: list[str]) -> None:
    assert acceptable_answers(truth) == answers


PIECES = ["a", " ", ",", "{", "}", "\\", "$", r"\boxed{", r"\boxed ", " and "]


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join), st.integers(0, 8))
def test_where_the_closing_brace_is_looked_for_makes_no_difference(text: str, near: int) -> None:
    """Near by for the last few boxes, and in the whole text: the same answer, wherever the one gives way to the other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answers, "FEW", 0)
        whole = extract_answer(text), list(answers.boxes(text))
        patch.setattr(answers, "FEW", 2)
        patch.setattr(answers, "NEAR", near)
        assert (extract_answer(text), list(answers.boxes(text))) == whole


def test_a_long_response_is_not_searched_for_braces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A megabyte of formulas has some hundred thousand braces; those of the last boxes are closed near by."""
    matched, brace = 0, answers._BRACE

    class Counted:
        def finditer(self, *arguments: Any) -> Iterator[re.Match[str]]:
            nonlocal matched
            for match in brace.finditer(*arguments):
                matched += 1
                yield match

    monkeypatch.setattr(answers, "_BRACE", Counted())
    formulas = "so \\left( a_{1}+\\frac{1}{2} \\right)^{n} = 3, " * 22_500
    assert len(formulas) > 10**6
    ends = {r"\boxed{\frac{1}{2}}": r"\frac{1}{2}", r"\boxed{1} or \boxed{2}": "1, 2", "<answer>5</answer>": "5"}
    for end, answer in ends.items():
        assert extract_answer(r"\boxed{0}" + formulas + end) == answer
    assert matched < 100


def test_extraction_is_linear_in_unclosed_boxes() -> None:
    """200,000 characters of boxes that are never closed: a quadratic scan would take minutes."""
    assert extract_answer("\\boxed{3}" + "\\boxed{" * 25_000) == "3"
    assert extract_answer("\\boxed{" * 25_000) is None


def test_extraction_is_linear_in_tags_and_boxes() -> None:
    """A megabyte of each, in seconds at most; quadratic, it would be hours."""
    assert extract_answer("<answer>" * 125_000) is None
    assert extract_answer("<answer>" * 125_000 + "</answer>") == ""
    assert extract_answer("</answer>" * 110_000) is None
    assert extract_answer("\\boxed " * 125_000 + "\\boxed{3}") == "3"
    assert extract_answer("\\boxed{3}" + "{" * 10**6) == "3"
