"""What a benchmark says of its answers, by data source, beyond the rules of the judge. docs/grading.md gives the reasons."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from recipe.holderpo.rewards.grading.decision import Decision, any_of
from recipe.holderpo.rewards.grading.judge import judge, quantity, unit_factors
from recipe.holderpo.rewards.grading.reading import parse_number

Rule = Callable[[str, str], Decision]


@dataclass(frozen=True)
class Whole:
    """The answer is a whole number in a range: nothing rounded, and no expression that is still to be evaluated."""

    low: int
    high: int

    def __call__(self, answer: str, truth: str) -> Decision:
        number = parse_number(quantity(answer)[0])
        if number is None or number.denominator != 1 or not self.low <= number <= self.high:
            return False
        return judge(answer, truth)


@dataclass(frozen=True)
class Measured:
    """A truth with decimals is a measurement: a number this close to it, relatively, is right. Whole numbers are exact."""

    tolerance: Fraction

    def __call__(self, answer: str, truth: str) -> Decision:
        (value, unit), (true_value, true_unit) = quantity(answer), quantity(truth)
        number, true_number = parse_number(value), parse_number(true_value)
        if number is None or true_number is None or _is_whole(true_value):
            return judge(answer, truth)
        near = any(
            abs(number * factor - true_number) <= self.tolerance * abs(true_number)
            for factor in unit_factors(unit, true_unit) or ()
        )
        return any_of([near, judge(answer, truth)])


def _is_whole(value: str) -> bool:
    return value.lstrip("+-").isdecimal()


def percent_is_a_unit(answer: str, truth: str) -> Decision:
    """The question says whether percent are asked for, so that the sign adds nothing: 50% is 50, and never 0.5."""
    return judge(*(text.replace("\\%", "").replace("%", "") for text in (answer, truth)))


_AIME, _MINERVA, _GSM8K = Whole(0, 999), Measured(Fraction(1, 100)), percent_is_a_unit
CONVENTIONS: Mapping[str, Rule] = {
    **dict.fromkeys(("aime24", "aime25", "HuggingFaceH4/aime_2024", "math-ai/aime25"), _AIME),
    **dict.fromkeys(("minerva", "math-ai/minervamath"), _MINERVA),
    **dict.fromkeys(("gsm8k", "openai/gsm8k"), _GSM8K),
}
"""By `data_source`, as recipe.holderpo.data writes it (the name of the set) or as a hub id. Any other: the judge alone."""


def rule_for(data_source: str, conventions: bool = True) -> Rule:
    """What compares an answer with a truth of this data source."""
    return CONVENTIONS.get(data_source, judge) if conventions else judge
