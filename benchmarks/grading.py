"""The grader's agreement with itself over surface forms, its time limit, and its throughput against verl's own helper.

    python benchmarks/grading.py --problems eval_math500.parquet          # any file with a column answer
    python benchmarks/grading.py                                          # throughput and slow answers alone
    python benchmarks/grading.py --busy 4 --nice 19 --pairs 256 --rounds 1 --slow 4   # on a busy machine: takes long

- agreement: each answer of the file, in five other spellings, graded against itself as it stands in the file.
- throughput: 1,024 (answer, truth) pairs made up as MATH500 is (80 % numbers), a third of all wrong; ours and verl's
  (verl.utils.reward_score.math_verify, which has 4 processes) in turn, three times, on the same pairs in 32 threads. Then
  128 pairs that a grading process has to be asked about, since no comparison of terms decides them.
- slow: 30 answers that hang a verifier, with right ones behind them.

`--busy` starts so many processes that do nothing but use a CPU, and ends them. `--nice` lowers the priority of our grading
processes, so that they get hardly any CPU time beside those: how fast they are does not count then, but how many right
answers are lost.
"""

import argparse
import contextlib
import os
import random
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from threading import Event, Thread

import psutil

from recipe.holderpo.data.answers import normalize_ground_truth
from recipe.holderpo.data.sources import ANSWER_COLUMNS, find_column, read_source
from recipe.holderpo.rewards.grading.reading import clean, parse_number
from recipe.holderpo.rewards.math import compute_score

SLOW = ("9^{9^{9^9}}", "10000000!", "\\cup".join(f"[{i},{i + 1}]" for i in range(0, 120, 2)), "(" * 40 + "1" + ")" * 40)
ALGEBRA = ("(x+1)^2", "x^2+2x+1")  # a pair that a grading process is asked about
THREADS = 32
FAULTS: Counter[str] = Counter()  # of ours, over all answers
# Ends with its parent, however that ends.
BUSY_LOOP = "import os; parent = os.getppid()\nwhile os.getppid() == parent: pass"


@contextlib.contextmanager
def busy_machine(loops: int, nice: int) -> Iterator[None]:
    """`loops` busy loops beside this process, and our grading hosts with their processes at niceness `nice`."""
    command = [sys.executable, "-c", BUSY_LOOP]
    busy = [subprocess.Popen(command, start_new_session=True) for _ in range(loops)]
    ended = Event()

    def lower_priorities() -> None:
        others = {loop.pid for loop in busy}
        while not ended.wait(0.2):
            for child in psutil.Process().children():
                if child.pid not in others:
                    lower_priority(child.pid, nice)

    watch = Thread(target=lower_priorities)
    try:
        if nice:
            watch.start()
        yield
    finally:
        ended.set()
        if nice:
            watch.join()
        for loop in busy:
            loop.kill()
            loop.wait()


def lower_priority(pid: int, nice: int) -> None:
    """Of a process that leads a session, of its children, and of the session: Linux may divide the CPUs between sessions."""
    with contextlib.suppress(OSError):  # it has ended, or sessions do not count here
        if os.getsid(pid) == pid:
            os.setpriority(os.PRIO_PGRP, pid, nice)
            Path(f"/proc/{pid}/autogroup").write_text(str(nice))


def as_fraction(answer: str) -> str | None:
    number = parse_number(clean(answer))
    return None if number is None else f"\\frac{{{number.numerator}}}{{{number.denominator}}}"


def as_decimal(answer: str) -> str | None:
    """Where it ends: 3/8 is 0.375, 1/3 has none."""
    number = parse_number(clean(answer))
    if number is None or number.denominator > 10**4 or Fraction(str(float(number))) != number:
        return None
    return f"{float(number):.1f}" if number.denominator == 1 else str(float(number))


def with_unit(answer: str) -> str | None:
    return None if parse_number(clean(answer)) is None else f"{answer}\\text{{ cm}}"


def spaced(answer: str) -> str:
    return re.sub(r"([+\-=,<>/])", r" \1 ", answer) if "text" not in answer else f" {answer} "


def other_fraction(answer: str) -> str | None:
    if "frac" not in answer:
        return None
    return answer.replace("\\dfrac", "\\frac") if "dfrac" in answer else answer.replace("\\frac", "\\dfrac")


def with_degrees(answer: str) -> str | None:
    number = parse_number(clean(answer))
    return None if number is None or number.denominator != 1 else f"{answer}^{{\\circ}}"


FORMS: dict[str, Callable[[str], str | None]] = {
    "as it stands": lambda answer: answer,
    "fraction": as_fraction,
    "decimal": as_decimal,
    "unit": with_unit,
    "spacing": spaced,
    "dfrac / frac": other_fraction,
    "degrees": with_degrees,
}


def grade_all(pairs: list[tuple[str, str]], grade: Callable[[str, str], float]) -> list[float]:
    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(lambda pair: grade(*pair), pairs))


def ours(answer: str, truth: str) -> float:
    score = compute_score("math", f"... so the answer is \\boxed{{{answer}}}.", truth)
    FAULTS.update(name for name, value in score.items() if value and name not in ("score", "acc"))
    return score["score"]


def verls(answer: str, truth: str) -> float:
    from verl.utils.reward_score.math_verify import compute_score as verl_score

    return float(verl_score(f"... so the answer is \\boxed{{{answer}}}.", truth))


def agreement(file: Path) -> None:
    rows, _ = read_source("answers", str(file))
    column = find_column(rows, ANSWER_COLUMNS, str(file), "answer")
    answers = [normalize_ground_truth(row[column]) for row in rows]
    print(f"| form | answers of {file.name} | graded equal |\n|---|---|---|")
    for name, form in FORMS.items():
        pairs = [(other, answer) for answer in answers if (other := form(answer)) is not None]
        scores = grade_all(pairs, ours)
        print(f"| {name} | {len(pairs)} | {100 * sum(scores) / len(scores):.1f} % |", flush=True)
        for (other, answer), score in zip(pairs, scores, strict=True):
            if not score:
                print(f"    not equal: {other!r} and {answer!r}")


def slow_answers(number: int) -> None:
    right = [ALGEBRA] * 64
    began = time.perf_counter()
    with ThreadPoolExecutor(100) as threads:
        slow = [threads.submit(ours, SLOW[i % len(SLOW)], "\\frac{1}{2}") for i in range(number)]
        scores = list(threads.map(lambda pair: ours(*pair), right))
        found = time.perf_counter() - began
        wrong = [future.result() for future in slow]
    took = time.perf_counter() - began
    print(
        f"{number} slow answers first: {sum(scores):.0f} of {len(right)} right ones score 1, the last after {found:.0f} s;"
    )
    print(f"the slow ones score {sum(wrong):.0f} and are done after {took:.0f} s (2 processes, 5 s of CPU time each)")


REALISTIC = ("integer", "integer", "integer", "fraction", "root", "pair", "interval", "polynomial", "set")
NEED_ALGEBRA = ("factors", "power", "nested root", "cosine")


def make_pairs(kinds: Sequence[str], number: int, seed: int = 0) -> list[tuple[str, str]]:
    rng = random.Random(seed)
    pairs = []
    for _ in range(number):
        a, b, c = (rng.randint(2, 40) for _ in range(3))
        kind = rng.choice(kinds)
        answer, truth = {
            "integer": (str(a * b), str(a * b)),
            "fraction": (f"{a}/{b}", f"\\frac{{{a}}}{{{b}}}"),
            "root": (f"{a}\\sqrt{{{b}}}", f"\\sqrt{{{a * a * b}}}"),
            "pair": (f"({a}, {b})", f"({a},{b})"),
            "interval": (f"[{a},{a + b})", f"[{a}, {a + b})"),
            "polynomial": (f"x^2+{a}x+{b}", f"{b}+{a}x+x^2"),
            "set": (f"\\{{{a},{a + b}\\}}", f"\\{{{a + b},{a}\\}}"),
            "factors": (f"(x-{a})(x-{b})", f"x^2-{a + b}x+{a * b}"),
            "power": (f"2^{{x+{a}}}", f"2^{{{a}+x}}"),
            "nested root": (f"\\sqrt{{{a + b}+2\\sqrt{{{a * b}}}}}", f"\\sqrt{{{a}}}+\\sqrt{{{b}}}"),
            "cosine": (f"{a}\\cos(\\frac{{\\pi}}{{3}})", f"\\frac{{{a}}}{{2}}"),
        }[kind]
        if rng.random() < 1 / 3:
            answer = answer.replace(str(a), str(a + c), 1) if str(a) in answer else str(a * b + c)
        pairs.append((answer, truth))
    return pairs


def throughput(name_of_pairs: str, pairs: list[tuple[str, str]], rounds: int) -> None:
    times: dict[str, list[float]] = {"ours": [], "verl": []}
    scores: dict[str, list[float]] = {}
    for grade in (ours, verls):  # the first call imports verl and starts the processes
        grade(*ALGEBRA)
        grade_all([ALGEBRA] * 64, grade)
    for _ in range(rounds):
        for name, grade in (("ours", ours), ("verl", verls)):
            began = time.perf_counter()
            scores[name] = grade_all(pairs, grade)
            times[name].append(time.perf_counter() - began)
    rate = {name: len(pairs) / statistics.median(seconds) for name, seconds in times.items()}
    lost = sum(verl > mine for mine, verl in zip(scores["ours"], scores["verl"], strict=True))
    ratios = [verl / mine for mine, verl in zip(times["ours"], times["verl"], strict=True)]
    print(
        f"{len(pairs)} answers{name_of_pairs}: ours {rate['ours']:.0f}/s, verl's {rate['verl']:.0f}/s, "
        f"ratio {statistics.median(ratios):.1f}"
    )
    print("    ratio of each round: " + ", ".join(f"{ratio:.1f}" for ratio in ratios))
    print(
        f"right: ours {sum(scores['ours']):.0f}, verl's {sum(scores['verl']):.0f}; right for verl and wrong for us: {lost}"
    )
    for pair, mine, verl in zip(pairs, scores["ours"], scores["verl"], strict=True):
        if mine != verl:
            print(f"    {pair}: ours {mine:.0f}, verl's {verl:.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=Path, help="a .parquet or .jsonl file with a column answer")
    parser.add_argument("--pairs", type=int, default=1024, help="pairs for the throughput")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the throughput")
    parser.add_argument("--slow", type=int, default=30, help="slow answers")
    parser.add_argument("--busy", type=int, default=0, help="busy loops beside this process")
    parser.add_argument("--nice", type=int, default=0, help="niceness of our grading processes")
    options = parser.parse_args()
    with busy_machine(options.busy, options.nice):
        if options.problems is not None:
            agreement(options.problems)
        throughput("", make_pairs(REALISTIC, options.pairs), options.rounds)
        throughput(" that need algebra", make_pairs(NEED_ALGEBRA, options.pairs // 8), options.rounds)
        slow_answers(options.slow)
        print("faults of ours: " + (", ".join(f"{number} {name}" for name, number in FAULTS.items()) or "none"))


if __name__ == "__main__":
    main()
