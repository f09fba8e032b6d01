"""`python -m recipe.holderpo.study run EXPERIMENT ...`: the runs of experiments of docs/study/plan.md that are not there yet.

Each run writes one file when it is finished; one that was interrupted is run again. `collect` joins the files, sorted, in
docs/study/records.jsonl; `probe` is the frozen-batch probe; `report` makes the tables and the figure from both; `rerun`
repeats runs and compares every number.
"""

import argparse
import json
import sys
from pathlib import Path

from recipe.holderpo.atomic import write_text
from recipe.holderpo.study.plan import EXPERIMENTS, runs
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
        from recipe.holderpo.study.report import write_report

        probed = json.loads(PROBE.read_text()) if PROBE.exists() else {}
        write_report(read_records(RECORDS), probed, RECORDS.parent)


if __name__ == "__main__":
    main()
