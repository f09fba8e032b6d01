"""What a whole training step of HölderPO costs against the same step with verl's GRPO, on the CPU run.

    python benchmarks/step.py --rounds 2 --steps 12

Runs `algo=holder` and `algo=grpo` in turn, `--rounds` times each, on the embedded model and task, without validation or
checkpoints. The first two steps of every run (warm-up) are left out. Prints, for each timing, the medians over all other
steps and their ratio.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from recipe.holderpo.report.record import read_metrics

ROOT = Path(__file__).parents[1]
TIMINGS = ("step", "gen", "old_log_prob", "update_actor", "update_weights", "adv")
WARM_UP = 2


def train(algo: str, steps: int, run_dir: Path) -> list[dict[str, float]]:
    command = [
        *(sys.executable, "-m", "recipe.holderpo.main", f"algo={algo}", f"run_dir={run_dir}"),
        *(f"trainer.total_training_steps={steps}", "trainer.val_before_train=false"),
        *("trainer.test_freq=-1", "trainer.save_freq=-1"),
    ]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return read_metrics(run_dir / "metrics.jsonl")[WARM_UP:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=12, help="steps per run, the two of warm-up included")
    args = parser.parse_args()
    records: dict[str, list[dict[str, float]]] = {"holder": [], "grpo": []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(args.rounds):
            for algo, seen in records.items():
                seen += train(algo, args.steps, Path(folder) / f"{algo}{turn}")
    counts = {algo: len(seen) for algo, seen in records.items()}
    print(f"median seconds over {counts['holder']} steps of holder and {counts['grpo']} of grpo\n")
    print("| part | holder | grpo | ratio |\n|---|---|---|---|")
    for timing in TIMINGS:
        holder, grpo = (
            statistics.median(r[f"timing_s/{timing}"] for r in records[algo]) for algo in ("holder", "grpo")
        )
        print(f"| {timing} | {holder:.3f} | {grpo:.3f} | {holder / grpo:.2f} |")


if __name__ == "__main__":
    main()
