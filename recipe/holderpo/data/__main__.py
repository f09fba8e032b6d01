"""Build verl parquet files for training and evaluation.

    python -m recipe.holderpo.data --train math_3to5 --eval aime24 amc math500 minerva olympiad_bench --out data/math
    python -m recipe.holderpo.data --train mine=problems.jsonl --eval math500=/data/math500.parquet --out data/mine

A source is a name (math_3to5, gsm8k, aime24, amc, math500, minerva, olympiad_bench, aime25: from the Hugging Face hub),
NAME=PLACE or a PLACE: a .jsonl, .json or .parquet file, a folder of them, or a hub id, with a column problem (or question)
and a column answer. Writes OUT/train.parquet, OUT/eval_NAME.parquet and OUT/data.json, which records where everything came
from, its hashes and what was left out.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from rich.console import Console
from rich.progress import track

from recipe.holderpo import atomic
from recipe.holderpo.data import build
from recipe.holderpo.data.sources import SOURCES, DataError, Row, parse_source
from recipe.holderpo.data.templates import TEMPLATES, prompt_ids
from recipe.holderpo.report.text_table import text_table

OVERLAP_CHOICES = ("refuse", "drop", "keep")


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m recipe.holderpo.data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--train", nargs="+", default=[], metavar="SOURCE", help="training problems; several are joined"
    )
    parser.add_argument("--eval", nargs="+", default=[], metavar="SOURCE", help="evaluation sets, one file each")
    parser.add_argument("--out", type=Path, required=True, help="folder for the files")
    parser.add_argument(
        "--overlap",
        choices=OVERLAP_CHOICES,
        default="refuse",
        help="training problems that are also in an evaluation set: stop, leave them out of training, or keep them",
    )
    parser.add_argument(
        "--tokenizer", help="folder or hub id: count prompt tokens, and leave over-long prompts out of training"
    )
    parser.add_argument(
        "--template", choices=TEMPLATES, default="qwen_math", help="the template counted with (%(default)s)"
    )
    parser.add_argument(
        "--max-prompt-length", type=int, default=1024, help="in tokens, template included (%(default)s)"
    )
    parsed = parser.parse_args(argv)
    if not parsed.train and not parsed.eval:
        parser.error("nothing to do: give --train, --eval or both")
    if parsed.max_prompt_length < 1:
        parser.error(f"--max-prompt-length is {parsed.max_prompt_length}; allowed is 1 and more")
    return parsed


def token_counter(tokenizer: str, template: str) -> Callable[[str], int]:
    """Number of tokens of a problem's prompt under a template."""
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(tokenizer)
    except (OSError, ValueError) as error:
        raise DataError(f"--tokenizer {tokenizer}: {' '.join(str(error).split())[:200]}") from error
    return lambda problem: len(prompt_ids(loaded, problem, TEMPLATES[template]))


def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    console = Console(stderr=True)

    def progress(rows: list[Row], name: str) -> Iterable[Row]:
        return track(rows, description=f"{name:>16}", console=console)

    try:
        make(options, progress)
    except DataError as error:
        sys.exit(f"error: {error}")


def make(options: argparse.Namespace, progress: Callable[[list[Row], str], Iterable[Row]]) -> None:
    train = [build.load(*parse_source(argument), progress) for argument in options.train]
    # A benchmark is what it is: nothing of it is left out, or its figures could not be compared with others'.
    evaluation = [build.load(*parse_source(argument), progress, keep_duplicates=True) for argument in options.eval]
    check_distinct([*train, *evaluation])
    build.drop_repeated(train)
    if options.tokenizer is not None:
        count = token_counter(options.tokenizer, options.template)
        for data in (*train, *evaluation):
            build.find_over_long(data, count, options.max_prompt_length, drop=data in train)
    shared = build.overlap(train, evaluation)
    if shared and options.overlap == "refuse":
        found = ", ".join(f"{len(keys)} of {name}" for name, keys in shared.items())
        raise DataError(
            f"training problems that are also in an evaluation set: {found}; --overlap drop leaves them out"
        )
    if options.overlap == "drop":
        for data in train:
            build.drop_keys(data, set().union(*shared.values()))
    for data in train:
        if not data.problems:
            reasons = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in data.counts.items() if count)
            raise DataError(f"nothing is left of {data.name}: {reasons}")
    try:
        write(train, evaluation, options)
    except OSError as error:
        raise DataError(f"--out {options.out} cannot be written: {error.strerror}") from error
    report([*train, *evaluation])


def check_distinct(sets: list[build.DataSet]) -> None:
    """
    Raises:
        DataError: two sets have one name, or are the same file under two.
    """
    names: dict[str, str] = {}
    for data in sets:
        other = names.setdefault(data.origin["sha256"], data.name)
        if [one.name for one in sets].count(data.name) > 1:
            raise DataError(f"{data.name} is given twice; NAME=PLACE gives a set another name")
        if other != data.name:
            raise DataError(f"{other} and {data.name} are the same rows: {data.origin['place']}")


def write(train: list[build.DataSet], evaluation: list[build.DataSet], options: argparse.Namespace) -> None:
    files: dict[str, str] = {}
    if train:
        rows = [record for data in train for record in build.records(data, "train")]
        files["train.parquet"] = build.write_parquet(rows, options.out / "train.parquet")
    for data in evaluation:
        name = f"eval_{data.name}.parquet"
        files[name] = build.write_parquet(build.records(data, "test"), options.out / name)
    manifest = {
        "sources": {data.name: {**data.origin, "counts": data.counts} for data in (*train, *evaluation)},
        "overlap": options.overlap,
        "max_prompt_length": options.max_prompt_length if options.tokenizer else None,
        "template": options.template if options.tokenizer else None,
        "tokenizer": options.tokenizer,
        "sha256": files,
    }
    atomic.write_text(options.out / "data.json", json.dumps(manifest, indent=2) + "\n")


def report(sets: list[build.DataSet]) -> None:
    """Print how many problems of each set were kept, and why the others were left out, to standard error."""
    head = ["problems", *(column.replace("_", " ") for column in sets[0].counts)]
    print(text_table([head, *([data.name, *map(str, data.counts.values())] for data in sets)]), file=sys.stderr)
    for data in sets:
        expected = SOURCES[data.name].count if data.name in SOURCES else None
        if expected is not None and expected != len(data.problems):
            print(f"note: {data.name} has {len(data.problems)} problems; {expected} were expected", file=sys.stderr)


if __name__ == "__main__":
    main()
