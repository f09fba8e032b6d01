"""Several evaluations side by side: `python -m recipe.holderpo.evaluation.compare DIR ... [--markdown | --csv | --json]`."""

import argparse
import json
import math
import sys
from pathlib import Path

from recipe.holderpo.config.errors import ConfigError, print_error
from recipe.holderpo.evaluation import table
from recipe.holderpo.evaluation.metrics import Estimate


def read_results(folder: Path) -> dict[str, dict[str, Estimate]]:
    """What an evaluation wrote to results.json.

    Raises:
        FileNotFoundError: it has not finished.
        ConfigError: the file is another one, damaged, or cannot be read.
    """
    file = folder / "results.json"
    try:
        document = json.loads(file.read_bytes())
        return {
            label: {
                name: Estimate(
                    _number(e["accuracy"]), math.nan if e["standard_error"] is None else _number(e["standard_error"])
                )
                for name, e in row.items()
                if name != "average"
            }
            for label, row in document.items()
        }
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(
            f"{file} is damaged ({type(error).__name__}: {error}); without it, it is written anew"
        ) from None


def _number(value: object) -> float:
    if type(value) not in (int, float):
        raise TypeError(f"{value!r:.80} is no number")
    return float(value)  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="outputs/eval/NAME")
    kind = parser.add_mutually_exclusive_group()
    for name, form in (("markdown", table.as_markdown), ("csv", table.as_csv), ("json", table.as_json)):
        kind.add_argument(f"--{name}", dest="form", action="store_const", const=form, default=table.as_text)
    options = parser.parse_args()
    results, lines = dict[str, dict[str, Estimate]](), list[str]()
    for folder in options.folders:
        try:
            for label, row in read_results(folder).items():
                results[label if label not in results else f"{folder.name}/{label}"] = row
        except FileNotFoundError as error:
            lines.append(f"{error.filename} does not exist; it is written when an evaluation has finished")
        except ConfigError as error:
            lines += error.lines
    if lines:
        print_error(ConfigError(*lines))
        sys.exit(2)
    print(options.form(results))


if __name__ == "__main__":
    main()
