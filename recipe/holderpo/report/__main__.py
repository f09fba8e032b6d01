"""`python -m recipe.holderpo.report RUN_DIR [RUN_DIR ...]`: redraw each run's curves and print the final table."""

import argparse
import sys
from pathlib import Path

from recipe.holderpo.report.curves import CURVES_FILE, plot_curves
from recipe.holderpo.report.record import METRICS_FILE
from recipe.holderpo.report.summary import final_table


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m recipe.holderpo.report", description=__doc__)
    parser.add_argument("run_dirs", nargs="+", type=Path, metavar="RUN_DIR", help="folder with a metrics.jsonl")
    run_dirs: list[Path] = parser.parse_args().run_dirs
    try:
        for run_dir in run_dirs:
            plot_curves(run_dir / METRICS_FILE, run_dir / CURVES_FILE, title=run_dir.resolve().name)
        table = final_table(*run_dirs)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(table)


if __name__ == "__main__":
    main()
