"""The reward of a mathematical answer: 1 if the response's final answer equals the ground truth, else 0.

For verl: `reward.custom_reward_function.path=pkg://recipe.holderpo.rewards.math` with `name=compute_score` (any reward
manager), or with `name=compute_score_async` and the reward manager below, as conf/task/math.yaml has it.
"""

import asyncio
from concurrent.futures import Future
from typing import Any

from recipe.holderpo.rewards.grading.answers import MAX_ANSWER_CHARS, acceptable_answers, extract_answer
from recipe.holderpo.rewards.grading.client import Verdict, shared_grader
from recipe.holderpo.rewards.grading.conventions import Rule, rule_for
from recipe.holderpo.rewards.grading.decision import Ask, Decision, any_of, decide, questions

FAULTS = ("truncated", "no_answer", "timeout", "crash", "unreadable")


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: dict[str, Any] | None = None,
    *,
    workers: int = 2,
    timeout: float = 5.0,
    memory_mb: int = 2048,
    conventions: bool = True,
) -> dict[str, float]:
    """Grade one response.

    The final answer is the content of the last \\boxed{}, or of the last <answer></answer> if that ends later. Its structure
    (text, units, relations, lists, numbers) is compared here; what needs algebra goes to math-verify in an isolated process
    (recipe.holderpo.rewards.grading), which is killed when it exceeds `timeout`; that costs this answer alone.

    Args:
        data_source: the benchmark, whose conventions count (recipe.holderpo.rewards.grading.conventions); any other name
            has none.
        solution_str: the response's text.
        ground_truth: the right answer, as text or a number; a sequence, or a JSON array of strings, if several are.
        extra_info: `extra_info["truncated"]` true marks a response cut off at the length limit: score 0.
        workers: grading processes, 1 to 256, shared by all calls of this process with the same limits.
        timeout: seconds of CPU time for one comparison, or seconds in which its process sleeps or is stopped, 0.001 to
            86,400. Waiting for a CPU is not counted: a busy machine loses no answer.
        memory_mb: address space of a grading process, 1,024 to 1,048,576 MiB.
        conventions: false has every data source judged alike.

    Returns:
        `score` and `acc`, 1 or 0; and 1 in at most one of `truncated`, `no_answer` (none found), `timeout`, `crash`
        (the process died or ran out of memory) and `unreadable` (an answer that neither parses nor matches), else 0.

    Raises:
        RuntimeError: no grading process can be started.
        ValueError: `workers`, `timeout` or `memory_mb` is out of its bounds.
    """
    decided = _decide(rule_for(data_source, conventions), solution_str, ground_truth, extra_info)
    if isinstance(decided, dict):
        return decided
    asked = _submit(decided, workers, timeout, memory_mb)
    return _score(decided, {question: future.result() for question, future in asked.items()})


async def compute_score_async(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: dict[str, Any] | None = None,
    *,
    conventions: bool = True,
    **limits: Any,
) -> dict[str, float]:
    """`compute_score`, limits included, without a thread that waits for each answer: a slow one holds up no other."""
    decided = _decide(rule_for(data_source, conventions), solution_str, ground_truth, extra_info)
    if isinstance(decided, dict):
        return decided
    asked = _submit(decided, **limits)
    verdicts = await asyncio.gather(*map(asyncio.wrap_future, asked.values()))
    return _score(decided, dict(zip(asked, verdicts, strict=True)))


def _decide(
    rule: Rule, solution: str, ground_truth: Any, extra_info: dict[str, Any] | None
) -> dict[str, float] | Decision:
    """The score where no grading process is needed; else the decision that has questions for one."""
    if extra_info and extra_info.get("truncated"):
        return _scores(fault="truncated")
    answer = extract_answer(solution)
    if not answer:
        return _scores(fault="no_answer")
    if len(answer) > MAX_ANSWER_CHARS:
        return _scores(fault="unreadable")
    decision = any_of([rule(answer, truth) for truth in acceptable_answers(ground_truth)])
    return _scores(decision) if isinstance(decision, bool) else decision


def _submit(
    decision: Decision, workers: int = 2, timeout: float = 5.0, memory_mb: int = 2048
) -> "dict[Ask, Future[Verdict]]":
    grader = shared_grader(workers, timeout, memory_mb)
    return {question: grader.submit(question.answer, question.truth) for question in questions(decision)}


def _score(decision: Decision, verdicts: dict[Ask, Verdict]) -> dict[str, float]:
    right = decide(decision, {question: verdict.equal for question, verdict in verdicts.items()})
    faults = [verdict.fault for verdict in verdicts.values() if verdict.fault]
    return _scores(right, None if right or not faults else faults[0])


def _scores(right: bool = False, fault: str | None = None) -> dict[str, float]:
    return {"score": float(right), "acc": float(right), **{name: float(name == fault) for name in FAULTS}}
