"""Success by task type, and episodes to read: `python -m recipe.holderpo.tasks.alfworld.report outputs/<run>`.

--step N     validation of that step (default: each one in the table, the newest for --show)
--show K     print K episodes, lost ones first
--task pick  only episodes of that task type
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from recipe.holderpo import atomic
from recipe.holderpo.evaluation.metrics import Estimate, mean_over_problems
from recipe.holderpo.evaluation.table import as_text
from recipe.holderpo.tasks.alfworld.task_types import SPLITS, TASKS

TRANSCRIPTS = "transcripts"
Transcript = dict[str, Any]


def read_transcripts(run_dir: Path, last_alone: bool = False) -> dict[int, list[Transcript]]:
    """Episodes by step (or those of the last step), in an order that does not depend on which process wrote them.

    Raises:
        FileNotFoundError: the run has none.
    """
    folders = [folder for folder in (run_dir / TRANSCRIPTS).glob("*") if folder.name.isdigit()]
    if not folders:
        raise FileNotFoundError(f"no episodes under {run_dir / TRANSCRIPTS}")
    found = {}
    for folder in sorted(folders, key=lambda folder: int(folder.name))[-1 if last_alone else 0 :]:
        lines = [line for file in sorted(folder.glob("*.jsonl")) for line in atomic.complete_lines(file)]
        # A validation that was interrupted and repeated has episodes twice; the later one counts.
        in_time = sorted(map(json.loads, lines), key=lambda episode: episode["time"])
        episodes = {(e["split"], e["game_file"], e["session"]): e for e in in_time}
        found[int(folder.name)] = [episodes[key] for key in sorted(episodes)]
    return found


def last_episodes(run_dir: Path) -> tuple[int, list[dict[str, Any]]] | None:
    """`Task.episodes`: those that were lost before those that were won."""
    if not (run_dir / TRANSCRIPTS).is_dir():
        return None
    step, episodes = max(read_transcripts(run_dir, last_alone=True).items())
    rows = [
        {name: episode[name] for name in ("task", "split", "won", "steps")} | {"kind": TASKS[episode["task_type"]]}
        for episode in sorted(episodes, key=lambda episode: bool(episode["won"]))
    ]
    return step, rows


def success(episodes: Iterable[Transcript]) -> dict[str, Estimate]:
    """Success by task type, in the order of the paper's Table 3, and over all episodes, with standard errors over games."""
    by_game: dict[tuple[str, str], list[float]] = {}
    for episode in episodes:
        by_game.setdefault((TASKS[episode["task_type"]], episode["game_file"]), []).append(float(episode["won"]))
    games = [(task, sum(won) / len(won)) for (task, _), won in by_game.items()]
    by_task = {name: [won for task, won in games if task == name] for name in TASKS.values()}
    row = {name: mean_over_problems(won) for name, won in by_task.items() if won}
    return row | {"all": mean_over_problems([won for _, won in games])}


def table(validations: dict[int, list[Transcript]]) -> str:
    """A row for each split and step."""
    rows = {}
    for split in SPLITS:
        for step, episodes in validations.items():
            chosen = [episode for episode in episodes if episode["split"] == split]
            if chosen:
                rows[f"{split}, step {step} ({len(chosen)} episodes)"] = success(chosen)
    return as_text(rows, head="validation")


def as_story(episode: Transcript) -> str:
    """An episode to read."""
    outcome = f"won in {len(episode['steps'])} steps" if episode["won"] else f"not won in {len(episode['steps'])} steps"
    kind = f"{TASKS[episode['task_type']]}, {episode['split']}"
    lines = [f"{episode['task']} ({kind}): {outcome}", f"  {episode['game_file']}"]
    for number, step in enumerate(episode["steps"], start=1):
        lines.append(f"  {number:2}  saw: {step['saw']}")
        lines.append(f"      answer: {' '.join(step['answer'].split())}")
        if not step["admissible"]:
            lines.append("      (no admissible command: nothing happens)")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--step", type=int)
    parser.add_argument("--show", type=int, default=0, metavar="K")
    parser.add_argument("--task", choices=TASKS.values())
    parsed = parser.parse_args(arguments)
    try:
        validations = read_transcripts(parsed.run_dir)
    except FileNotFoundError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if parsed.step is not None and parsed.step not in validations:
        print(f"error: --step is {parsed.step}; allowed are {', '.join(map(str, validations))}", file=sys.stderr)
        return 2
    if parsed.step is not None:
        validations = {parsed.step: validations[parsed.step]}
    print(table(validations))
    newest = validations[max(validations)]
    chosen = [e for e in newest if parsed.task in (None, TASKS[e["task_type"]])]
    for episode in sorted(chosen, key=lambda e: e["won"])[: parsed.show]:
        print("\n" + as_story(episode))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
