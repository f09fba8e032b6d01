"""The table at the end of a run: what was gained, what it cost, where the time went, and where to look."""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, median

from recipe.holderpo.report.record import METRICS_FILE, accuracy, read_run
from recipe.holderpo.report.text_table import text_table

NONE = "-"
REWARD_STEPS = 5
OUTPUTS = {
    "config": "config.yaml",
    "metrics": METRICS_FILE,
    "checkpoints": "checkpoints",
    "generations": "generations",
    "curves": "curves.png",
    "page": "report.html",
}
# verl's timers inside its "step" timer, and what the table calls them; what is left over is "other".
STEP_PARTS = {
    "gen": "generation",
    "old_log_prob": "old log-probabilities",
    "update_actor": "actor update",
    "update_weights": "weight sync to vLLM",
}


def final_table(*run_dirs: str | Path) -> str:
    """The final table of one run, or of several side by side, followed by the paths of what each wrote.

    Raises:
        ConfigError: a folder has no metrics.jsonl that can be read, or an empty one.
    """
    folders = [Path(run_dir) for run_dir in run_dirs]
    columns = [_column(read_run(folder)) for folder in folders]
    names = _short_names(folders)
    blocks = [text_table([["", *names], *([label, *(column[label] for column in columns)] for label in columns[0])])]
    for folder in folders:
        written = [[name, str(folder / file)] for name, file in OUTPUTS.items() if (folder / file).exists()]
        blocks.append(text_table(written, justify="left"))
    return "\n\n".join(blocks)


def _column(records: list[dict[str, float]]) -> dict[str, str]:
    """The table's cells of one run, by row label, in order."""
    training = [record for record in records if record["step"] > 0]
    cells: dict[str, str] = {}
    for title, greedy in (("sampled", False), ("greedy", True)):
        steps, values = _validations(records, greedy)
        cells[f"validated ({title}) at steps"] = ", ".join(str(step) for step in steps) or NONE
        cells |= {
            f"{title} accuracy, first": _percent(values[:1]),
            f"{title} accuracy, middle": _percent(values[1:-1]),
            f"{title} accuracy, last": _percent(values[1:][-1:]),
            f"{title} accuracy, change": f"{100 * (values[-1] - values[0]):+.1f} points" if len(values) > 1 else NONE,
        }
    p = [record["holder/p"] for record in training if "holder/p" in record]
    cells["p, first -> last step"] = f"{p[0]:+.2f} -> {p[-1]:+.2f}" if p else NONE
    rewards = [record["critic/score/mean"] for record in training if "critic/score/mean" in record]
    cells[f"mean training reward, first {REWARD_STEPS} steps"] = _value(rewards[:REWARD_STEPS], mean, "{:.3f}")
    cells[f"mean training reward, last {REWARD_STEPS} steps"] = _value(rewards[-REWARD_STEPS:], mean, "{:.3f}")
    last = int(records[-1]["step"])
    cells["steps"] = str(last) if last == len(training) else f"{len(training)} of {last}"  # some have no line
    step_seconds = _timings(training, "step")
    cells["training, without validation"] = _value(step_seconds, sum, "{:.0f} s")
    cells["validation during training"] = _value(_timings(training, "testing"), sum, "{:.0f} s")
    cells["median step"] = _value(step_seconds, median, "{:.2f} s")
    for timer, label in STEP_PARTS.items():
        cells[f"  {label}"] = _value(_timings(training, timer), median, "{:.2f} s")
    cells["  other"] = _value([_other_seconds(r) for r in training if "timing_s/step" in r], median, "{:.2f} s")
    return cells


def _validations(records: list[dict[str, float]], greedy: bool) -> tuple[list[int], list[float]]:
    """Steps and accuracies of the first validation, the one nearest to the middle of both, and the last."""
    found = [(int(r["step"]), value) for r in records if (value := accuracy(r, greedy=greedy)) is not None]
    if len(found) > 2:
        middle = (found[0][0] + found[-1][0]) / 2
        found = [found[0], min(found[1:-1], key=lambda item: abs(item[0] - middle)), found[-1]]
    return [step for step, _ in found], [value for _, value in found]


def _timings(records: list[dict[str, float]], timer: str) -> list[float]:
    key = f"timing_s/{timer}"
    return [record[key] for record in records if key in record]


def _other_seconds(record: dict[str, float]) -> float:
    return record["timing_s/step"] - sum(record.get(f"timing_s/{timer}", 0.0) for timer in STEP_PARTS)


def _percent(values: Sequence[float]) -> str:
    return f"{100 * values[0]:.1f} %" if values else NONE


def _value(values: list[float], reduce: Callable[[list[float]], float], form: str) -> str:
    return form.format(reduce(values)) if values else NONE


def _short_names(folders: list[Path]) -> list[str]:
    """The folders' last parts; the full paths where these are the same."""
    names = [folder.name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]
