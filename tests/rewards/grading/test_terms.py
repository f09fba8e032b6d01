"""Sums of plain terms against their values, to 80 digits, at numbers without a relation to each other."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from mpmath import MPContext

from recipe.holderpo.rewards.grading.judge import judge
from recipe.holderpo.rewards.grading.reading import clean
from recipe.holderpo.rewards.grading.terms import MAX_TERMS, Sum, parse_terms

mp = MPContext()
mp.dps = 80
# Numbers without a relation to each other, so that two different sums have different values.
VALUES = {"x": mp.exp(mp.mpf(1) / 3), "y": mp.log(7), "C_{1}": mp.cos(1), r"\pi": +mp.pi, r"\theta": mp.zeta(3)}
SPELT = {"x": "x", "y": "y", "C_{1}": "C_1", r"\pi": r"\pi ", r"\theta": r"\theta "}


@dataclass(frozen=True)
class Factor:
    latex: str
    value: Any
    after_a_sign: bool  # whether it begins with a digit or a fraction, and so cannot follow another factor


@st.composite
def factors(draw: st.DrawFn, depth: int = 1) -> Factor:
    kind = draw(st.sampled_from(["number", "root", "name", "power", "fraction"][: 4 + depth]))
    if kind == "number":
        number = draw(st.integers(0, 12))
        return Factor(str(number), mp.mpf(number), True)
    if kind == "root":
        number = draw(st.integers(0, 72))
        return Factor(f"\\sqrt{{{number}}}", mp.sqrt(number), False)
    if kind == "fraction":
        above, below = draw(sums(depth=0)), draw(factors(depth=0).filter(lambda factor: factor.value != 0))
        return Factor(f"\\frac{{{write(above)}}}{{{below.latex}}}", value(above) / below.value, True)
    name = draw(st.sampled_from([*VALUES]))
    if kind == "name":
        return Factor(SPELT[name], VALUES[name], False)
    power = draw(st.integers(-3, 12))
    return Factor(f"{SPELT[name]}^{{{power}}}", VALUES[name] ** power, False)


Product = tuple[str, list[Factor]]  # its sign, and what is multiplied


def sums(depth: int = 1) -> st.SearchStrategy[list[Product]]:
    product = st.tuples(st.sampled_from("+-"), st.lists(factors(depth), min_size=1, max_size=3))
    return st.lists(product, min_size=1, max_size=4)


def write(products: list[Product], dot: str = r"\cdot ") -> str:
    text = ""
    for sign, (first, *others) in products:
        text += sign + first.latex + "".join((dot if other.after_a_sign else "") + other.latex for other in others)
    return text.removeprefix("+")


def value(products: list[Product]) -> Any:
    return mp.fsum((-1 if sign == "-" else 1) * mp.fprod(one.value for one in several) for sign, several in products)


def size(products: list[Product]) -> Any:
    return 1 + mp.fsum(abs(mp.fprod(one.value for one in several)) for _, several in products)


def value_of_terms(terms: Sum) -> Any:
    return mp.fsum(
        mp.mpf(coefficient.numerator)
        / coefficient.denominator
        * mp.sqrt(root)
        * mp.fprod(VALUES[n] ** p for n, p in names)
        for (names, root), coefficient in terms.items()
    )


@given(sums(), st.sampled_from([r"\cdot ", r"\times ", "*"]))
def test_terms_have_the_value_of_the_sum(products: list[Product], dot: str) -> None:
    terms = parse_terms(clean(write(products, dot)))
    assert terms is not None
    assert abs(value_of_terms(terms) - value(products)) < size(products) * mp.mpf(10) ** -60
    for (names, root), coefficient in terms.items():
        assert coefficient and list(names) == sorted(names)
        assert all(root % (divisor * divisor) for divisor in range(2, root))


@given(sums(), sums(), st.data())
def test_two_sums_are_the_same_if_their_values_are(
    one: list[Product], other: list[Product], data: st.DataObject
) -> None:
    if data.draw(st.booleans()):  # one in another order
        other = [(sign, data.draw(st.permutations(several))) for sign, several in data.draw(st.permutations(one))]
    same = abs(value(one) - value(other)) < (size(one) + size(other)) * mp.mpf(10) ** -60
    assert (parse_terms(clean(write(one))) == parse_terms(clean(write(other)))) == same


@given(st.integers(0, 10**8), st.integers(1, 10**4), st.integers(1, 10**4))
def test_roots_are_reduced(number: int, above: int, below: int) -> None:
    square = Fraction(above, below) ** 2
    terms = parse_terms(f"\\frac{{{above}}}{{{below}}}\\sqrt{{{number}}}")
    assert terms is not None
    assert sum(coefficient**2 * root for (_, root), coefficient in terms.items()) == square * number


def test_what_is_no_sum_of_plain_terms_is_left_to_algebra() -> None:
    for text in (
        "", "+", "x++y", "f(x)", "(x+1)(x+2)", "1/2x", "x/y", "x2", r"2\frac{3}{2}", r"\frac{1}{2}3", "0.5x", "2^{10}",
        r"\sqrt[3]{5}", r"\sqrt{x}", r"\sqrt{123456789123}", r"\sqrt{999999999}", "e^{x}", "x^{y}", "i^2", r"\frac{1}{i}",
        r"\sin x", r"\frac{1}{x+1}", r"\frac{1}{0}", "x/0", "x!", "|x|", "x'", r"\infty", "5x=3", "x,y", '2"cm"', "9" * 31,
    ):  # fmt: skip
        assert parse_terms(clean(text)) is None, text
    assert parse_terms(r"\frac{x}{y}x^{2}y") == parse_terms("x^{3}")
    assert parse_terms("i") == parse_terms("0+i") != parse_terms("-i")


def test_products_of_sums_are_not_multiplied_out_without_end() -> None:
    fractions = "".join(f"\\frac{{a_{{{n}}}+b_{{{n}}}}}{{2}}" for n in range(60))
    assert parse_terms(fractions) is None
    terms = parse_terms("".join(f"\\frac{{a_{{{n}}}+b_{{{n}}}}}{{2}}" for n in range(8)))
    assert terms is not None and len(terms) == MAX_TERMS == 2**8


def test_the_judge_decides_sums_by_their_terms() -> None:
    for answer, truth, equal in (
        ("6+3x-x^2", "-x^2+3x+6", True),
        (r"\frac{3\sqrt{2}}{2}", r"\frac{3}{\sqrt{2}}", True),
        (r"\dfrac{1+\sqrt5}2", r"\frac12+\frac{\sqrt{5}}{2}", True),
        (r"2\pi r^2", r"2\pi r", False),
        ("6-5i", "6+5i", False),
        (r"5\sqrt{12}", r"10\sqrt{2}", False),
        ("2xy", "2yx", True),
    ):
        assert judge(answer, truth) is equal, (answer, truth)
