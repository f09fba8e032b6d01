"""Several evaluations side by side: `python -m recipe.holderpo.evaluation.compare DIR ... [--markdown | --csv | --json]`."""

import argparse
import json
import math
import sys
from pathlib import Path

from recipe.holderpo.config.errors import ConfigError
from recipe.holderpo.evaluation import table
from recipe.holderpo.evaluation.metrics import Estimate


def read_results(folder: Path) -> dict[str, dict[str, Estimate]]:
    """What an evaluation wrote to results.json.

    Raises:
        FileNotFoundError: it has not finished.
        ConfigError: the file is another one, or damaged.
    """
    file = folder / "results.json"
    try:
        document = json.loads(file.read_text())
        return {
            label: {
                name: Estimate(e["accuracy"], math.nan if e["standard_error"] is None else e["standard_error"])
                for name, e in row.items()
                if name != "average"
            }
            for label, row in document.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{file} is damaged ({type(error).__name__}: {error}); without it, it is written anew"
        ) from None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="outputs/eval/NAME")
    kind = parser.add_mutually_exclusive_group()
    for name, form in (("markdown", table.as_markdown), ("csv", table.as_csv), ("json", table.as_json)):
        kind.add_argument(f"--{name}", dest="form", action="store_const", const=form, default=table.as_text)
    options = parser.parse_args()
    results: dict[str, dict[str, Estimate]] = {}
    for folder in options.folders:
        try:
            rows = read_results(folder)
        except FileNotFoundError as error:
            sys.exit(f"error: {error.filename} does not exist; it is written when an evaluation has finished")
        except NotADirectoryError:
            sys.exit(f"error: {folder} is a file; allowed are folders of evaluations, such as outputs/eval/NAME")
        except ConfigError as error:
            sys.exit(f"error: {error}")
        for label, row in rows.items():
            results[label if label not in results else f"{folder.name}/{label}"] = row
    print(options.form(results))


if __name__ == "__main__":
    main()
