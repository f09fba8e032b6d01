"""The rule rewards, case by case, and through verl's own loader and reward manager conventions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe.holderpo.rewards.boxed import compute_score, last_number
from recipe.holderpo.rewards.grading.answers import boxes, extract_answer

BOXES = [
    # text, content of its last box, final answer of a mathematical response
    (r"\boxed{17}", "17", "17"),
    (r"so \boxed{3}, no, \boxed{4}.", "4", "4"),
    (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}", r"\frac{1}{2}"),
    (r"\boxed{a{b{c}}d} }", "a{b{c}}d", "a{b{c}}d"),
    (r"\boxed{\boxed{5}}", "5", "5"),
    (r"\boxed{}", "", ""),
    ("\\boxed{ 17\n}", "17", "17"),
    (r"\boxed 17", "17", "17"),
    ("17", None, None),
    ("", None, None),
    ("boxed{17}", None, None),
    (r"\boxed{17", None, None),
    (r"\boxed{1{7}", None, None),
    (r"\boxed{17} and \boxed{18", None, "17"),
    (r"\boxed{17} <answer>18</answer>", "17", "18"),
]


@pytest.mark.parametrize(("text", "last", "final"), BOXES)
def test_the_last_box_and_the_final_answer(text: str, last: str | None, final: str | None) -> None:
    """An open last box is no answer for the rule reward; a mathematical response falls back to the box before it."""
    assert next(boxes(text), None) == last
    assert extract_answer(text) == final


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("3 + 4 = 7", "7"),
        ("The answer is 7.", "7"),
        ("7, or rather -8", "-8"),
        ("about 1,234.50 in all", "1234.50"),
        ("+12", "12"),
        ("3-4", "-4"),
        ("none", None),
        ("", None),
    ],
)
def test_last_number(text: str, answer: str | None) -> None:
    assert last_number(text) == answer


@pytest.mark.parametrize(
    ("data_source", "text", "truth", "score"),
    [
        ("arithmetic", r"\boxed{17}", "17", 1.0),
        ("arithmetic_greedy", r"\boxed{ 17 }", "17", 1.0),
        ("arithmetic", r"\boxed{-3}", "-3", 1.0),
        ("arithmetic", r"\boxed{3}", "-3", 0.0),
        ("arithmetic", r"\boxed{017}", "17", 0.0),
        ("arithmetic", r"\boxed{17} \boxed{18}", "17", 0.0),
        ("arithmetic", r"\boxed{17} \boxed{18", "17", 0.0),
        ("arithmetic", "17", "17", 0.0),
        ("arithmetic", r"\boxed{}", "17", 0.0),
        ("number/addition", "3 + 4 = 7", "7", 1.0),
        ("number/addition_greedy", "3 + 4 = 7, so 7!", "7", 1.0),
        ("number/addition", "It is 8.", "7", 0.0),
        ("number/addition", "seven", "7", 0.0),
    ],
)
def test_compute_score(data_source: str, text: str, truth: str, score: float) -> None:
    result = compute_score(data_source=data_source, solution_str=text, ground_truth=truth, extra_info={}, other=1)
    assert result == {"score": score, "acc": score}


def scan(text: str, start: int) -> str:
    """The content of the box whose first character is at `start`: character by character, for texts without backslashes."""
    depth, position = 1, start
    while depth:
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        position += 1
    return text[start : position - 1]


@given(before=st.text(), inside=st.text(alphabet="ab{} 1"))
def test_any_text_before_a_box_is_without_effect(before: str, inside: str) -> None:
    text = inside + "}" * (inside.count("{") + 1)  # closed, whatever its braces
    assert next(boxes(before + r"\boxed{" + text), None) == scan(text, 0).strip()
