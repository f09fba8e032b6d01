"""Ground truths as data sets spell them, turned into what the grader reads. Pure functions."""

import ast
import json
import re
from collections.abc import Iterable
from typing import Any

from recipe.holderpo.rewards.grading.answers import extract_answer

_WHOLE_DECIMAL = re.compile(r"[+-]?\d+\.0+")


def normalize_ground_truth(answer: Any) -> str:
    """A ground truth as a string; a JSON array of strings if there are several acceptable ones.

    Lists, and strings that are a Python list of strings ("['9.6\\n']"), become their elements; 142.0 and "142.0" become
    142; GSM8K's "... #### 72" becomes 72; white space and surrounding $ are removed.

    Raises:
        ValueError: the answer is empty or missing, or bytes that are not UTF-8.
    """
    answers = [_one(item) for item in _elements(answer)]
    answers = list(dict.fromkeys(a for a in answers if a))
    if not answers:
        raise ValueError(f"no answer in {answer!r}")
    return answers[0] if len(answers) == 1 else json.dumps(answers, ensure_ascii=False)


def _elements(answer: Any) -> Iterable[Any]:
    if isinstance(answer, str) and answer.lstrip().startswith(("['", '["')):
        try:
            parsed = ast.literal_eval(answer.strip().replace("\n", "\\n"))
        except (ValueError, SyntaxError):
            return [answer]
        return parsed if all(isinstance(item, str) for item in parsed) else [answer]
    if isinstance(answer, (list, tuple)):
        return answer
    return [answer]


def _one(answer: Any) -> str:
    if answer is None or answer != answer:  # nan
        return ""
    text = (answer.decode() if isinstance(answer, bytes) else str(answer)).strip()
    if "####" in text:  # GSM8K: the reasoning, then the answer
        text = text.rsplit("####", 1)[1].strip()
    text = text.strip("$").strip() if text.count("$") == 2 and text.startswith("$") and text.endswith("$") else text
    return text.split(".")[0] if _WHOLE_DECIMAL.fullmatch(text) else text


def answer_of_solution(solution: str) -> str:
    """The final answer of a worked solution (MATH): the content of its last \\boxed{}.

    Raises:
        ValueError: there is none.
    """
    answer = extract_answer(solution)
    if not answer:
        raise ValueError("the solution has no \\boxed{} answer")
    return answer


def problem_key(problem: str) -> str:
    """What two spellings of one problem share: letters, digits and operators without case, spaces and LaTeX spacing."""
    text = re.sub(r"\\[,;:! ]|\\(?:left|right|displaystyle|quad|qquad)(?![a-zA-Z])", "", problem)
    text = re.sub(r"\\[dt]frac(?![a-zA-Z])", r"\\frac", text)
    return re.sub(r"[\s${}]+", "", text).casefold().rstrip(".?!")
