"""Redraw each run's curves and print the final table: `python -m recipe.holderpo.report RUN_DIR [RUN_DIR ...]`.

With `--html FILE`, one page instead, in one file that needs no network: runs side by side, where p acts, tokens, and the
answers of the validations. With `--png FILE`, one picture of all runs. With `--watch`, that page is served on this machine's
loopback address, and follows runs that are going.
"""

import argparse
import sys
from pathlib import Path

from recipe.holderpo.config.errors import ConfigError, print_error
from recipe.holderpo.report.record import METRICS_FILE, read_run


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m recipe.holderpo.report", description=__doc__)
    parser.add_argument("run_dirs", nargs="+", type=Path, metavar="RUN_DIR", help="folder with a metrics.jsonl")
    parser.add_argument("--html", type=Path, metavar="FILE", help="make this page, and draw and print nothing")
    parser.add_argument(
        "--png", type=Path, metavar="FILE", help="likewise one picture of all runs, with bands over seeds"
    )
    parser.add_argument("--watch", action="store_true", help="serve the page, which follows runs that are going")
    parser.add_argument(
        "--at", default="127.0.0.1:0", metavar="HOST:PORT", help="where to serve it; port 0 is a free one"
    )
    arguments = parser.parse_args()
    run_dirs: list[Path] = arguments.run_dirs
    try:
        if arguments.watch:
            from recipe.holderpo.report.watch import serve

            serve(run_dirs, *place(arguments.at))
        elif arguments.html is not None or arguments.png is not None:
            make(run_dirs, arguments.html, arguments.png)
        else:
            lines = [line for run_dir in run_dirs for line in unusable(run_dir)]
            if lines:
                raise ConfigError(*lines)
            draw_and_print(run_dirs)
    except ConfigError as error:
        print_error(error)
        sys.exit(2)


def place(at: str) -> tuple[str, int]:
    host, _, port = at.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"--at is {at!r}; allowed is HOST:PORT")
    return host, int(port)


def make(run_dirs: list[Path], html: Path | None, png: Path | None) -> None:
    """Page and picture of the folders that are runs; the others are named."""
    from recipe.holderpo.report.comparison import plot_comparison
    from recipe.holderpo.report.groups import grouped
    from recipe.holderpo.report.page.write import write_page

    records = {}
    for folder in {run_dir.resolve(): run_dir for run_dir in run_dirs}.values():
        try:
            records[folder] = read_run(folder)
        except ConfigError as error:
            print(f"note: left out: {error.lines[0]}", file=sys.stderr)
    if not records:
        raise ConfigError("none of these folders has a record; allowed are folders of runs")
    for option, file in (("--html", html), ("--png", png)):
        if file is None:
            continue
        try:
            if option == "--html":
                write_page(records, file)
            else:
                plot_comparison(grouped(records), file, title="")
        except OSError as error:
            raise ConfigError(f"{option} is {str(file)!r}, which cannot be written: {error.strerror}") from None
        print(f"{file}: {len(records)} runs, {file.stat().st_size / 1e6:.1f} MB")


def draw_and_print(run_dirs: list[Path]) -> None:
    from recipe.holderpo.report.curves import CURVES_FILE, plot_curves
    from recipe.holderpo.report.summary import final_table

    for run_dir in run_dirs:
        try:
            plot_curves(run_dir / METRICS_FILE, run_dir / CURVES_FILE, title=run_dir.resolve().name)
        except OSError as error:  # somebody else's folder: its table can be read all the same
            print(f"note: {run_dir / CURVES_FILE} is not redrawn: {error.strerror}", file=sys.stderr)
    print(final_table(*run_dirs))


def unusable(run_dir: Path) -> tuple[str, ...]:
    """What is wrong with a run's record, none or one line."""
    try:
        read_run(run_dir)
    except ConfigError as error:
        return error.lines
    return ()


if __name__ == "__main__":
    main()
