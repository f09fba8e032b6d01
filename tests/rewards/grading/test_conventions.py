"""What a benchmark says of its answers counts for its own problems, and can be turned off."""

from pathlib import Path

import pandas as pd
import pytest

from recipe.holderpo.data.answers import normalize_ground_truth
from recipe.holderpo.data.sources import BENCHMARKS, SOURCES
from recipe.holderpo.rewards.grading.answers import acceptable_answers
from recipe.holderpo.rewards.grading.conventions import CONVENTIONS, rule_for
from recipe.holderpo.rewards.grading.judge import judge
from recipe.holderpo.rewards.math import compute_score

REAL = Path(__file__).parents[4] / "shared" / "data"  # present on some machines alone

# (data source, answer, truth): with the conventions, without them
PAIRS = {
    ("aime24", "73", "073"): (1, 1),
    ("aime24", r"x = 073", "73"): (1, 1),
    ("aime25", r"73^\circ", "73"): (1, 1),
    ("aime24", r"\frac{146}{2}", "73"): (1, 1),
    ("aime24", "73.00001", "73"): (0, 1),  # within a millionth
    ("aime24", r"2^6+9", "73"): (0, 1),
    ("HuggingFaceH4/aime_2024", r"2^6+9", "73"): (0, 1),
    ("aime24", "-1", "-1"): (0, 1),
    ("aime24", "1000", "1000"): (0, 1),
    ("aime24", "999", "999"): (1, 1),
    ("aime24", "0", "0"): (1, 1),
    ("minerva", "9.62", "9.6"): (1, 0),
    ("minerva", "9.69", "9.6"): (1, 0),
    ("minerva", "9.50", "9.6"): (0, 0),
    ("minerva", "9.70", "9.6"): (0, 0),
    ("minerva", "-9.6", "9.6"): (0, 0),
    ("minerva", r"4.53 \times 10^{33}", "4.5e33"): (1, 0),
    ("minerva", r"4.53 \times 10^{32}", "4.5e33"): (0, 0),
    ("minerva", r"E = 4.47 \times 10^{33} \text{ erg/s}", "4.5e33"): (1, 0),
    ("minerva", r"0.121 \text{ m}", r"12.0 \text{ cm}"): (1, 0),
    ("minerva", r"12.1 \text{ kg}", r"12.0 \text{ cm}"): (0, 0),
    ("minerva", "200", "201"): (0, 0),  # whole numbers are counted
    ("minerva", "200.5", "200"): (0, 0),
    ("minerva", r"\frac{1}{3}", "0.333"): (1, 0),
    ("minerva", r"\sqrt{2}x", r"x\sqrt{2}"): (1, 1),
    ("minerva", "0", "0.0"): (1, 1),
    ("minerva", "1e-12", "0.0"): (0, 0),
    ("math500", "9.62", "9.6"): (0, 0),
    ("gsm8k", r"50\%", "50"): (1, 1),
    ("gsm8k", "50%", "50"): (1, 1),
    ("gsm8k", r"50\%", "0.5"): (0, 1),
    ("openai/gsm8k", "0.5", r"50\%"): (0, 1),
    ("gsm8k", r"\$18", "18"): (1, 1),
    ("math500", r"50\%", "0.5"): (1, 1),
    ("olympiad_bench", "2, 1", "1,2"): (1, 1),
    ("olympiad_bench", "1", "1,2"): (0, 0),
    ("olympiad_bench", "1, 2, 3", "1,2"): (0, 0),
}


@pytest.mark.parametrize(("asked", "scores"), PAIRS.items())
def test_pairs(asked: tuple[str, str, str], scores: tuple[int, int]) -> None:
    source, answer, truth = asked
    for conventions, score in zip((True, False), scores, strict=True):
        said = compute_score(source, rf"so \boxed{{{answer}}}", truth, conventions=conventions)
        assert said["score"] == score, f"conventions={conventions}"


def test_each_set_that_the_data_builder_names_has_its_convention_by_name_and_hub_id() -> None:
    by_name = {name: rule_for(name) for name in SOURCES}
    assert {name for name, rule in by_name.items() if rule is not judge} == {"aime24", "aime25", "minerva", "gsm8k"}
    assert {source.hub_id: rule_for(source.hub_id) for source in SOURCES.values()} == {
        SOURCES[name].hub_id: rule for name, rule in by_name.items()
    }
    assert set(CONVENTIONS) <= {*SOURCES, *(source.hub_id for source in SOURCES.values())}
    assert rule_for("aime24", conventions=False) is judge


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_truth_of_a_benchmark_is_right_by_its_convention(name: str) -> None:
    files = [*REAL.glob(f"eval_{name}.parquet"), *REAL.glob(f"eval_{name.replace('_', '')}.parquet")]
    answers = [answer for file in files for answer in pd.read_parquet(file).answer]
    for answer in answers:
        plain = answer.tolist() if hasattr(answer, "tolist") else answer
        for truth in acceptable_answers(normalize_ground_truth(plain)):
            assert rule_for(name)(truth, truth) is True, truth
