"""The rule rewards, case by case, and through verl's own loader and reward manager conventions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe.holderpo.rewards.boxed import compute_score, last_boxed, last_number


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{17}", "17"),
        (r"so \boxed{3}, no, \boxed{4}.", "4"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{a{b{c}}d} }", "a{b{c}}d"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{}", ""),
        ("17", None),
        ("", None),
        ("boxed{17}", None),
        (r"\boxed 17", None),
        (r"\boxed{17", None),
        (r"\boxed{1{7}", None),
        (r"\boxed{17} and \boxed{18", None),
    ],
)
def test_last_boxed(text: str, answer: str | None) -> None:
    assert last_boxed(text) == answer


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


@given(before=st.text(), answer=st.text().filter(lambda s: "{" not in s and "}" not in s and "\\" not in s))
def test_any_text_before_the_box_is_without_effect(before: str, answer: str) -> None:
    assert last_boxed(before + r"\boxed{" + answer + "}") == answer
