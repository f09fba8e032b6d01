"""`python -m recipe.holderpo.study run EXPERIMENT ...`: the runs of experiments of docs/study/plan.md that are not there yet.

Each run writes one file when it is finished; one that was interrupted is run again. `collect` joins the files, sorted, in
docs/study/records.jsonl; `probe` is the frozen-batch probe; `report` makes the tables and the figure from both; `rerun`
repeats runs and compares every number.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from recipe.holderpo.atomic import write_text
from recipe.holderpo.config.errors import ConfigError, print_error
from recipe.holderpo.config.values import integer, wrong_value
from recipe.holderpo.fault_tolerance.run_files import check_can_write
from recipe.holderpo.fault_tolerance.signals import ExitStatus
from recipe.holderpo.study.plan import EXPERIMENTS, complete_seeds, runs
from recipe.holderpo.study.records import CACHE, collect, read_records, rerun, run_all

RECORDS = Path("docs/study/records.jsonl")
PROBE = RECORDS.with_name("probe.json")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m recipe.holderpo.study", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("experiments", nargs="+", choices=[*EXPERIMENTS])
    running.add_argument("--seeds", type=int, default=20, help="the first so many of the plan's")
    running.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    running.add_argument("--out", type=Path, default=Path("outputs/study"), help="a file for each run")
    collecting = commands.add_parser("collect")
    collecting.add_argument("--out", type=Path, default=Path("outputs/study"))
    commands.add_parser("report")
    probing = commands.add_parser("probe")
    probing.add_argument("--seed", type=int, default=21)
    again = commands.add_parser("rerun")
    again.add_argument("--count", type=int, default=3)
    again.add_argument("--seed", type=int, default=0, help="of the choice of runs")
    arguments = parser.parse_args()
    try:
        check(arguments)
        obey(arguments)
    except ConfigError as error:
        print_error(error)
        sys.exit(ExitStatus.REFUSED)


BOUNDS = {
    "jobs": integer(1, 1024),
    "seeds": integer(1, 1000),
    "count": integer(1, 10**6),
    "seed": integer(0, 2**31 - 1),
}


def check(arguments: argparse.Namespace) -> None:
    """What would be found wrong only after minutes.

    Raises:
        ConfigError: with a line for each wrong value.
    """
    given = {name: kind for name, kind in BOUNDS.items() if hasattr(arguments, name)}
    lines = [wrong_value(f"--{name}", getattr(arguments, name), kind) for name, kind in given.items()]
    if not RECORDS.parent.is_dir():
        lines.append(f"{RECORDS.parent} is not in {Path.cwd()}; allowed is the repository's root as the current folder")
    if any(lines):
        raise ConfigError(*filter(None, lines))
    if arguments.command == "run":
        check_can_write("--out", arguments.out)
    elif arguments.command != "rerun":
        check_can_write("the current folder's docs/study", RECORDS.parent)


def obey(arguments: argparse.Namespace) -> None:
    if arguments.command == "run":
        wanted = [settings for name in arguments.experiments for settings in runs(name, arguments.seeds)]
        run_all(wanted, arguments.out, RECORDS, arguments.jobs)
    elif arguments.command == "collect":
        print(f"{collect(arguments.out, RECORDS)} records in {RECORDS}")
    elif arguments.command == "rerun":
        sys.exit(0 if rerun(RECORDS, arguments.count, arguments.seed) else 1)
    elif arguments.command == "probe":
        from recipe.holderpo.study.probe import probe
        from recipe.holderpo.study.tasks import ensure_start

        start = ensure_start(CACHE, "clock", "noisy", "small")
        rows = {str(clip): probe(start, arguments.seed, clip) for clip in (0.2, 0.03)}
        write_text(PROBE, json.dumps(rows))
    else:
        records = read_records(RECORDS)
        complete = [name for name in EXPERIMENTS if complete_seeds(name, {record["key"] for record in records})]
        print(f"{len(records)} runs; experiments with a complete seed: {', '.join(complete) or 'none'}", flush=True)
        from recipe.holderpo.study.report import write_report

        write_report(records, read_probe(PROBE) if PROBE.exists() else {}, RECORDS.parent)


def read_probe(file: Path) -> dict[str, list[dict[str, Any]]]:
    """What `probe` wrote: clip -> rows.

    Raises:
        ConfigError: the file is damaged.
    """
    from recipe.holderpo.study.probe import probe_table

    try:
        probed: dict[str, list[dict[str, Any]]] = json.loads(file.read_bytes())
        for rows in probed.values():
            probe_table(rows)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{file} is damaged ({type(error).__name__}: {error}); `probe` makes it") from None
    return probed


if __name__ == "__main__":
    main()
