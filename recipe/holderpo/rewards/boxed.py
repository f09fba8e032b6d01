"""Rule rewards of the embedded tasks, in the form of verl's ``reward.custom_reward_function``."""

from __future__ import annotations

import re
from typing import Any

BOX = "\\boxed{"
NUMBER_PREFIX = "number/"
NUMBER = re.compile(r"[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")


def last_boxed(text: str) -> str | None:
    """Content of the last ``\\boxed{...}`` in ``text``, braces inside it balanced; None without one or left open."""
    start = text.rfind(BOX)
    if start < 0:
        return None
    start += len(BOX)
    depth = 1
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[start:position]
    return None


def last_number(text: str) -> str | None:
    """The last decimal number in ``text``, thousands separators and a plus sign removed; None without one."""
    numbers = NUMBER.findall(text)
    return numbers[-1].replace(",", "").lstrip("+") if numbers else None


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any] | None = None, **kwargs: Any
) -> dict[str, float]:
    """1.0 if the response's answer equals ``ground_truth`` as text, surrounding blanks aside, else 0.0.

    The answer is the last number for data sources that begin with ``number/``, else the content of the last
    ``\\boxed{}``. verl passes the response without special tokens.

    Returns:
        ``score``, the reward, and ``acc``, which verl's validation averages as its core metric; the same value.
    """
    answer = last_number(solution_str) if data_source.startswith(NUMBER_PREFIX) else last_boxed(solution_str)
    score = float(answer is not None and answer.strip() == ground_truth.strip())
    return {"score": score, "acc": score}
