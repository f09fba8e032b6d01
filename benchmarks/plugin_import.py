"""What the plugin adds to `import verl`: fresh processes with and without it, in turn; medians of the import's seconds.

python benchmarks/plugin_import.py --repeats 7
"""

import argparse
import os
import statistics
import subprocess
import sys

TIMED = "import time; began = time.perf_counter(); import verl; print(time.perf_counter() - began)"


def seconds(plugins: str, platform: str) -> float:
    env = os.environ | {"VERL_USE_EXTERNAL_PLUGINS": plugins, "VERL_PLATFORM": platform}
    done = subprocess.run([sys.executable, "-c", TIMED], env=env, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    ways = {"without the plugin": ("none", ""), "with it": ("auto", ""), "with it, CPU platform": ("auto", "cpu")}
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, arguments in ways.items():
            taken[way].append(seconds(*arguments))
    base = statistics.median(taken["without the plugin"])
    for way, values in taken.items():
        median = statistics.median(values)
        print(f"{way:24s} {median:6.2f} s  ({median - base:+.2f} s)")


if __name__ == "__main__":
    main()
