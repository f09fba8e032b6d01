"""How often the grader, math-verify alone and verl's helper take a wrong answer for right, and a right one for wrong.

    python -m benchmarks.judging --problems eval_*.parquet [--every 5]

- pairs: those of tests/rewards/grading/judged.py, with a mathematician's verdicts.
- corruptions and renderings: wrong and right answers made of the truths of the files, kind by kind (answer_variants.py); of
  truths that are a number, every fifth.

In one process (verl's helper has its own), with 10 s for an answer, and no isolation: nothing here comes from a model.
"""

import argparse
import logging
import random
import re
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.answer_variants import CORRUPTIONS, RENDERINGS, Variant
from recipe.holderpo.data.answers import normalize_ground_truth
from recipe.holderpo.data.sources import ANSWER_COLUMNS, find_column, read_source
from recipe.holderpo.rewards.grading import verify
from recipe.holderpo.rewards.grading.answers import acceptable_answers
from recipe.holderpo.rewards.grading.decision import decide, questions
from recipe.holderpo.rewards.grading.judge import judge

TIMEOUT_S = 10
Grade = Callable[[str, str], bool]


def ours(answer: str, truth: str) -> bool:
    decision = judge(answer, truth)
    return decide(decision, {asked: bool(verify.verify(asked.answer, asked.truth)) for asked in questions(decision)})


def math_verify_alone(answer: str, truth: str) -> bool:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse
    from math_verify import verify as math_verify

    targets = LatexExtractionConfig(), ExprExtractionConfig()
    gold, given = (parse(f"\\boxed{{{text}}}", targets, parsing_timeout=None) for text in (truth, answer))
    return bool(math_verify(gold, given, timeout_seconds=None))


def verls_helper(answer: str, truth: str) -> bool:
    from verl.utils.reward_score.math_verify import compute_score  # in processes of its own

    return bool(compute_score(f"\\boxed{{{answer}}}", truth))


GRADERS: dict[str, Grade] = {"ours": ours, "math-verify": math_verify_alone, "verl": verls_helper}


class TookTooLong(Exception):
    """An answer exceeded TIMEOUT_S."""


def scores(grade: Grade, answer: str, truths: Iterable[str]) -> bool:
    for truth in truths:
        signal.alarm(TIMEOUT_S)
        try:
            if grade(answer, truth):
                return True
        except Exception:  # what a grader raises is no 1
            continue
        finally:
            signal.alarm(0)
    return False


def truths_of(files: list[Path], every: int) -> list[list[str]]:
    found: dict[str, list[str]] = {}
    for file in files:
        rows, _ = read_source("answers", str(file))
        column = find_column(rows, ANSWER_COLUMNS, str(file), "answers")
        for row in rows:
            truth = normalize_ground_truth(row[column])
            found.setdefault(truth, acceptable_answers(truth))
    numbers = 0
    chosen = []
    for truths in [*found.values()][::every]:
        is_number = bool(re.fullmatch(r"-?\d+(?:\.\d+)?", truths[0]))
        numbers += is_number
        if not is_number or numbers % 5 == 0:
            chosen.append(truths)
    return chosen


def table(title: str, variants: dict[str, Variant], right: bool, truths: list[list[str]]) -> None:
    print(f"\n{title}: judged otherwise\n\n| kind | of | {' | '.join(GRADERS)} |\n|{'---|' * (2 + len(GRADERS))}")
    totals = [0] * (1 + len(GRADERS))
    for kind, variant in variants.items():
        pairs = []
        for acceptable in truths:
            answer = variant(acceptable[0], random.Random(f"{kind} {acceptable[0]}"))
            if answer is not None and (right or answer not in acceptable):
                pairs.append((answer, acceptable))
        wrong = [sum(scores(grade, a, ts) != right for a, ts in pairs) for grade in GRADERS.values()]
        print(f"| {kind} | {len(pairs)} | {' | '.join(map(str, wrong))} |", flush=True)
        totals = [total + count for total, count in zip(totals, [len(pairs), *wrong], strict=True)]
    shares = " | ".join(f"{count} ({count / totals[0]:.2%})" for count in totals[1:])
    print(f"| all | {totals[0]} | {shares} |", flush=True)


def judged_pairs() -> None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from rewards.grading.judged import RIGHT, WRONG

    print(f"\njudged pairs: judged otherwise\n\n| | of | {' | '.join(GRADERS)} |\n|{'---|' * (2 + len(GRADERS))}")
    for name, judged, right in (("wrong ones scored 1", WRONG, False), ("right ones scored 0", RIGHT, True)):
        pairs = [(answer, truth) for truth, answers in judged.items() for answer in answers]
        wrong = [sum(scores(grade, a, [t]) != right for a, t in pairs) for grade in GRADERS.values()]
        print(f"| {name} | {len(pairs)} | {' | '.join(map(str, wrong))} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=Path, nargs="*", default=[], help="files with a column answer")
    parser.add_argument("--every", type=int, default=1, help="of the truths, one in so many")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)

    def stop(*_: object) -> None:
        raise TookTooLong

    for _ in range(8):  # verl's helper starts its processes
        verls_helper("1", "1")
    signal.signal(signal.SIGALRM, stop)
    judged_pairs()
    if truths := truths_of(options.problems, options.every):
        table("corruptions", CORRUPTIONS, False, truths)
        table("renderings", RENDERINGS, True, truths)


if __name__ == "__main__":
    main()
