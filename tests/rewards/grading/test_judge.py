"""The judge against a mathematician's verdicts, and against wrong and right answers made of right ones."""

import random
from fractions import Fraction
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rewards.grading.judged import RIGHT, UNDECIDED, WRONG

from benchmarks.answer_variants import CORRUPTIONS, RENDERINGS, Variant
from recipe.holderpo.data.answers import normalize_ground_truth
from recipe.holderpo.rewards.grading.answers import acceptable_answers
from recipe.holderpo.rewards.grading.decision import AllOf, AnyOf, Ask, Decision, all_of, any_of, decide, questions
from recipe.holderpo.rewards.grading.judge import judge
from recipe.holderpo.rewards.grading.reading import clean, parse_number
from recipe.holderpo.rewards.math import compute_score

REAL = Path(__file__).parents[4] / "shared" / "data"  # present on some machines alone
A, B, C = Ask("a", "1"), Ask("b", "2"), Ask("c", "3")


def score(answer: str, truth: str) -> float:
    return compute_score("", f"so \\boxed{{{answer}}}", truth)["score"]


def judged_otherwise(pairs: list[tuple[str, str]], right: bool) -> list[tuple[str, str]]:
    return [(answer, truth) for answer, truth in pairs if score(answer, truth) != right]


def test_right_answers_score_1() -> None:
    pairs = [(answer, truth) for truth, answers in RIGHT.items() for answer in answers]
    assert len(pairs) > 250 and judged_otherwise(pairs, right=True) == []


def test_wrong_answers_score_0() -> None:
    pairs = [(answer, truth) for truth, answers in WRONG.items() for answer in answers]
    assert len(pairs) > 250 and judged_otherwise(pairs, right=False) == []


@pytest.mark.parametrize(("pair", "kept"), UNDECIDED.items())
def test_conventions_that_are_kept(pair: tuple[str, str], kept: tuple[bool, str]) -> None:
    assert score(*pair) == kept[0], kept[1]


def truths_of_files() -> list[list[str]]:
    """Acceptable answers of each problem of the benchmark files that are there."""
    found = []
    for file in sorted(REAL.glob("eval_*.parquet")):
        for answer in pd.read_parquet(file).answer:
            plain = answer.tolist() if hasattr(answer, "tolist") else answer
            found.append(acceptable_answers(normalize_ground_truth(plain)))
    return found


@pytest.mark.parametrize(("variants", "right", "share"), [(CORRUPTIONS, False, 0.01), (RENDERINGS, True, 0.005)])
def test_variants_of_right_answers(variants: dict[str, Variant], right: bool, share: float) -> None:
    """All kinds for each truth of the judged pairs, one for each of the files; `benchmarks/judging.py` has all for all."""
    graded, otherwise = 0, list[tuple[str, str, str]]()
    for acceptable, kinds in [
        *(([truth], len(variants)) for truth in RIGHT),
        *((found, 1) for found in truths_of_files()),
    ]:
        draw = random.Random(f"{acceptable} {right}")
        for kind in draw.sample([*variants], kinds):
            answer = variants[kind](acceptable[0], draw)
            if answer is None or (not right and answer in acceptable):
                continue
            graded += 1
            if any(score(answer, truth) for truth in acceptable) != right:
                otherwise.append((kind, answer, acceptable[0]))
    assert graded >= 400 and len(otherwise) <= share * graded, otherwise


@given(st.text(max_size=60), st.sampled_from([*RIGHT]))
def test_no_text_breaks_the_judge(text: str, truth: str) -> None:
    for pair in ((text, truth), (truth, text), (text, text)):
        assert isinstance(judge(*pair), Decision)


@given(st.text(alphabet='0123456789,.(){}[]\\/+-=<>^_$%x "~!', max_size=40), st.sampled_from([*RIGHT]))
def test_no_formula_breaks_the_judge(text: str, truth: str) -> None:
    assert isinstance(judge(text, truth), Decision) and isinstance(judge(truth, text), Decision)


def test_deep_and_long_answers_are_judged() -> None:
    for unit in ("(", "\\{1,", "[", "{", "x=", "\\frac{", "\\text{a ", "\\mathbf{", '"', "1,", "\\pm", "5_{"):
        text = unit * (1000 // len(unit))
        assert isinstance(judge(text, "5"), Decision) and isinstance(judge("5", text), Decision)


@given(st.fractions(max_denominator=10**6), st.booleans())
def test_every_spelling_of_a_fraction_is_that_number(value: Fraction, display: bool) -> None:
    sign, positive = "-" if value < 0 else "", abs(value)
    latex = f"{sign}\\{'d' * display}frac{{{positive.numerator}}}{{{positive.denominator}}}"
    assert parse_number(clean(latex)) == parse_number(clean(f"{value.numerator}/{value.denominator}")) == value


@given(st.integers(-(10**15), 10**15))
def test_thousands_commas_do_not_matter(value: int) -> None:
    assert parse_number(clean(f"{value:,}")) == value


@given(st.integers(1, 99), st.integers(1, 98), st.integers(2, 99))
def test_a_mixed_number_is_the_sum(whole: int, above: int, below: int) -> None:
    if above < below:
        for spelling in (
            f"{whole} {above}/{below}",
            f"{whole}\\frac{{{above}}}{{{below}}}",
            f"{whole}\\ \\frac{{{above}}}{{{below}}}",
        ):
            assert parse_number(clean(spelling)) == whole + Fraction(above, below)


@given(st.integers(0, 99), st.text("0123456789", max_size=3), st.text("0123456789", min_size=1, max_size=4))
def test_a_repeating_decimal_is_its_limit(whole: int, fixed: str, period: str) -> None:
    number = parse_number(clean(f"{whole}.{fixed}\\overline{{{period}}}"))
    digits = Fraction(f"{whole}.{fixed}{period * 60}")
    assert number is not None and abs(number - digits) <= Fraction(1, 10**50)


def test_what_depends_on_algebra_is_asked_and_only_that() -> None:
    assert judge("2", "2.0") is True and judge("2", "3") is False
    assert judge("x+1", "1+x") is True and judge("x+1", "x+2") is False
    assert judge("2^{x+1}", "2^{1+x}") == Ask("2^{x+1}", "2^{1+x}")
    assert judge("(2^{x+1}, 2)", "(2^{1+x}, 2)") == Ask("2^{x+1}", "2^{1+x}")
    assert list(questions(judge(r"\{2^2,2\}", r"\{2^3,2\}"))) == [Ask("2^{2}", "2^{3}")]


def test_decisions() -> None:
    assert all_of([True, A]) == A and all_of([False, A]) is False and all_of([]) is True
    assert any_of([True, A]) is True and any_of([False, A]) == A and any_of([]) is False
    nested = any_of([all_of([A, B]), C])
    assert nested == AnyOf((AllOf((A, B)), C)) and list(questions(nested)) == [A, B, C]
    for values in ([a, b, c] for a in (True, False) for b in (True, False) for c in (True, False)):
        assert decide(nested, dict(zip((A, B, C), values, strict=True))) == ((values[0] and values[1]) or values[2])
