"""Sums of plain terms, such as 2x^2-3x+1, 6\\sqrt{5} or \\frac{3\\pi}{4}: equal exactly if they have the same terms.

Terms are rational multiples of products of names, \\pi and square roots of whole numbers. Square roots of different
squarefree numbers, and different products of names, are linearly independent over the rationals; so each sum has one normal
form, and comparing two is certain both ways. It decides in microseconds what math-verify needs tens of milliseconds for.
"""

import math
import re
from collections import Counter
from fractions import Fraction

# What is left of a term without its coefficient: ((name, power) ..., squarefree number under the root).
Product = tuple[tuple[tuple[str, int], ...], int]
Sum = dict[Product, Fraction]

MAX_ROOT = 10**8  # numbers under a root beyond it are not factored
MAX_TERMS = 256  # a product of sums that may have more is not multiplied out
_GREEK = "pi|alpha|beta|gamma|delta|theta|lambda|mu|phi|omega|sigma|rho"
_FACTOR = re.compile(
    rf"(?P<times>\\cdot ?|\\times ?|\*)?(?:"
    rf"(?P<number>\d{{1,30}})"
    rf"|\\sqrt\{{(?P<root>\d{{1,9}})\}}"
    rf"|\\frac\{{(?P<above>(?:[^{{}}]|\{{[^{{}}]*\}})*)\}}\{{(?P<below>(?:[^{{}}]|\{{[^{{}}]*\}})*)\}}"
    rf"|(?P<name>(?:[a-zA-Z]|\\(?:{_GREEK})(?![a-zA-Z]) ?)(?:_\{{\w+\}})?)(?:\^\{{(?P<power>-?\d{{1,4}})\}})?"
    rf")|/(?P<divisor>\d{{1,30}})$"
)
_TERM = re.compile(r"([+-]?)((?:[^+\-{}]|\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\})+)")


def parse_terms(text: str) -> Sum | None:
    """The normal form of a cleaned expression: {product: coefficient}, without zeros; None if it is anything but such a sum.

    Decimals are left out, because they may be rounded, and so is what can be read in two ways, such as 1/2x or 2\\frac{3}{2}.
    """
    total: Sum = {}
    position = 0
    while position < len(text):
        term = _TERM.match(text, position)
        found = _parse_product(term[2]) if term and (term[1] or position == 0) else None
        if term is None or found is None:
            return None
        for product, coefficient in found.items():
            total[product] = total.get(product, Fraction(0)) + (-coefficient if term[1] == "-" else coefficient)
        position = term.end()
    return {product: coefficient for product, coefficient in total.items() if coefficient} if text else None


def _parse_product(text: str) -> Sum | None:
    """A term as a sum: of one product, or of several where it is a fraction of a sum."""
    total: Sum = {((), 1): Fraction(1)}
    position = 0
    while position < len(text):
        factor = _FACTOR.match(text, position)
        if factor is None or (position == 0 and (factor["times"] or factor["divisor"])):
            return None
        digits_meet = factor["number"] or (factor["above"] is not None and text[position - 1].isdigit())
        if position and digits_meet and not factor["times"]:
            return None
        found = _value(factor)
        if found is None or len(total) * len(found) > MAX_TERMS:
            return None
        total = _times(total, found)
        position = factor.end()
    # i^2 is -1, or the square of a name
    return total if all(power == 1 for names, _ in total for name, power in names if name == "i") else None


def _value(factor: "re.Match[str]") -> Sum | None:
    if factor["number"]:
        return {((), 1): Fraction(factor["number"])}
    if factor["divisor"]:
        return {((), 1): Fraction(1, int(factor["divisor"]))} if int(factor["divisor"]) else None
    if factor["root"]:
        return _root(int(factor["root"]))
    if factor["name"]:
        return {(((factor["name"].strip(), int(factor["power"] or 1)),), 1): Fraction(1)}
    above, below = parse_terms(factor["above"]), parse_terms(factor["below"])
    if above is None or below is None or len(below) != 1:
        return None
    ((names, root), coefficient) = next(iter(below.items()))
    inverse = {(tuple((name, -power) for name, power in names), root): 1 / (coefficient * root)}
    return _times(above, inverse)


def _root(number: int) -> Sum | None:
    """The square root of a whole number, as an integer times a root of a squarefree one."""
    if number > MAX_ROOT:
        return None
    outside, divisor = 1, 2
    while divisor * divisor <= number:
        while number % (divisor * divisor) == 0:
            outside, number = outside * divisor, number // (divisor * divisor)
        divisor += 1
    return {((), number): Fraction(outside)} if number else {}


def _times(one: Sum, other: Sum) -> Sum:
    total: Sum = {}
    for (names, root), coefficient in one.items():
        for (other_names, other_root), other_coefficient in other.items():
            powers = Counter(dict(names))
            for name, power in other_names:
                powers[name] += power
            common = math.gcd(root, other_root)  # both are squarefree, so what is left under the root is, too
            product = (
                tuple(sorted((name, power) for name, power in powers.items() if power)),
                root * other_root // common**2,
            )
            total[product] = total.get(product, Fraction(0)) + coefficient * other_coefficient * common
    return total
