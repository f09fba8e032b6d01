"""Rule rewards of the embedded tasks, in the form of verl's ``reward.custom_reward_function``."""

from __future__ import annotations

import re
from typing import Any

from recipe.holderpo.rewards.grading.answers import boxes

NUMBER_PREFIX = "number/"
NUMBER = re.compile(r"[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")


def last_number(text: str) -> str | None:
    """The last decimal number in ``text``, thousands separators and a plus sign removed; None without one."""
    numbers = NUMBER.findall(text)
    return numbers[-1].replace(",", "").lstrip("+") if numbers else None


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any] | None = None, **kwargs: Any
) -> dict[str, float]:
    """1.0 if the response's answer equals ``ground_truth`` as text, surrounding blanks aside, else 0.0.

    The answer is the last number for data sources that begin with ``number/``, else the content of the last
    ``\\boxed{}``, and none if that is not closed. verl passes the response without special tokens.

    Returns:
        ``score``, the reward, and ``acc``, which verl's validation averages as its core metric; the same value.
    """
    number = data_source.startswith(NUMBER_PREFIX)
    answer = last_number(solution_str) if number else next(boxes(solution_str), None)
    score = float(answer is not None and answer.strip() == ground_truth.strip())
    return {"score": score, "acc": score}
