"""The final table, against numbers computed here with NumPy from the same synthetic run."""

from pathlib import Path

import numpy as np
import pytest

from recipe.holderpo.config.errors import ConfigError
from recipe.holderpo.report.record import RunRecord
from recipe.holderpo.report.summary import final_table

STEPS = 12
PARTS = ("gen", "old_log_prob", "update_actor", "update_weights")


def _write(folder: Path, *, seed: int, holder: bool = True) -> dict[str, np.ndarray]:
    """12 steps, validated in steps 0, 5, 7, 10 and 12. Returns what was written."""
    rng = np.random.default_rng(seed)
    data = {name: rng.uniform(0.5, 2.0, STEPS) for name in PARTS}
    data["step"] = sum(data.values()) + rng.uniform(0.1, 0.2, STEPS)
    data["reward"] = rng.uniform(0, 1, STEPS)
    data["sampled"], data["greedy"] = rng.uniform(0.2, 0.9, (2, 5))
    data["testing"] = rng.uniform(5, 9, 4)
    data["p"] = np.linspace(2, -2, STEPS)
    record = RunRecord(folder)
    validated = [0, 5, 7, 10, 12]
    for step in range(STEPS + 1):
        metrics: dict[str, float] = {}
        if step:
            metrics |= {f"timing_s/{name}": data[name][step - 1] for name in (*PARTS, "step")}
            metrics["critic/score/mean"] = data["reward"][step - 1]
            if holder:
                metrics["holder/p"] = data["p"][step - 1]
        if step in validated:
            i = validated.index(step)
            metrics["val-core/arithmetic/acc/mean@8"] = data["sampled"][i]
            metrics["val-core/arithmetic_greedy/acc/mean@1"] = data["greedy"][i]
            if step:
                metrics["timing_s/testing"] = data["testing"][i - 1]
        record.step(step, metrics)
    return data


def _rows(table: str) -> dict[str, str]:
    """Label -> the rest of the line, for one run."""
    rows = {}
    for line in table.split("\n\n")[0].splitlines()[1:]:
        label, _, value = line.strip().partition("   ")
        rows[label.strip()] = value.strip()
    return rows


def test_numbers(tmp_path: Path) -> None:
    data = _write(tmp_path / "run", seed=1)
    rows = _rows(final_table(tmp_path / "run"))
    for kind in ("sampled", "greedy"):
        accuracy = 100 * data[kind]
        assert rows[f"validated ({kind}) at steps"] == "0, 5, 12"  # 5 and 7 are as near to the middle, 6: the earlier
        assert rows[f"{kind} accuracy, first"] == f"{accuracy[0]:.1f} %"
        assert rows[f"{kind} accuracy, middle"] == f"{accuracy[1]:.1f} %"
        assert rows[f"{kind} accuracy, last"] == f"{accuracy[4]:.1f} %"
        assert rows[f"{kind} accuracy, change"] == f"{accuracy[4] - accuracy[0]:+.1f} points"
    assert rows["p, first -> last step"] == "+2.00 -> -2.00"
    assert rows["mean training reward, first 5 steps"] == f"{data['reward'][:5].mean():.3f}"
    assert rows["mean training reward, last 5 steps"] == f"{data['reward'][-5:].mean():.3f}"
    assert rows["steps"] == "12"
    assert rows["training, without validation"] == f"{data['step'].sum():.0f} s"
    assert rows["validation during training"] == f"{data['testing'].sum():.0f} s"
    assert rows["median step"] == f"{np.median(data['step']):.2f} s"
    labels = ("generation", "old log-probabilities", "actor update", "weight sync to vLLM")
    for part, label in zip(PARTS, labels, strict=True):
        assert rows[label] == f"{np.median(data[part]):.2f} s"
    other = data["step"] - sum(data[part] for part in PARTS)
    assert rows["other"] == f"{np.median(other):.2f} s"


def test_known_table(tmp_path: Path) -> None:
    """The whole text once, so that its layout is seen in a review."""
    run = tmp_path / "tiny"
    record = RunRecord(run)
    record.step(0, {"val-core/a/acc/mean@8": 0.25})
    record.step(1, {"critic/score/mean": 0.5, "timing_s/step": 2.0, "timing_s/gen": 1.5})
    record.step(
        2, {"critic/score/mean": 0.7, "timing_s/step": 4.0, "timing_s/gen": 2.5, "val-core/a/acc/mean@8": 0.375}
    )
    (run / "checkpoints").mkdir()
    (run / "unrelated").mkdir()
    assert (
        final_table(run)
        == f"""\
                                             tiny
validated (sampled) at steps                 0, 2
sampled accuracy, first                    25.0 %
sampled accuracy, middle                        -
sampled accuracy, last                     37.5 %
sampled accuracy, change             +12.5 points
validated (greedy) at steps                     -
greedy accuracy, first                          -
greedy accuracy, middle                         -
greedy accuracy, last                           -
greedy accuracy, change                         -
p, first -> last step                           -
mean training reward, first 5 steps         0.600
mean training reward, last 5 steps          0.600
steps                                           2
training, without validation                  6 s
validation during training                      -
median step                                3.00 s
  generation                               2.00 s
  old log-probabilities                         -
  actor update                                  -
  weight sync to vLLM                           -
  other                                    1.00 s

metrics      {run}/metrics.jsonl
checkpoints  {run}/checkpoints"""
    )


def test_runs_side_by_side(tmp_path: Path) -> None:
    folders = [tmp_path / "seed-1", tmp_path / "seed-2", tmp_path / "grpo"]
    for seed, folder in enumerate(folders):
        _write(folder, seed=seed, holder=folder.name != "grpo")
    (folders[0] / "curves.png").touch()
    together = final_table(*folders).split("\n\n")
    alone = [_rows(final_table(folder)) for folder in folders]
    header, *lines = together[0].splitlines()
    assert header.split() == ["seed-1", "seed-2", "grpo"]
    assert len({len(line) for line in [header, *lines]}) == 1  # columns are flush right
    for line, label in zip(lines, alone[0], strict=True):
        assert line.strip().startswith(label)
        assert line.strip().removeprefix(label).split() == " ".join(rows[label] for rows in alone).split()
    assert alone[2]["p, first -> last step"] == "-"
    assert together[1].splitlines()[1] == f"curves   {folders[0] / 'curves.png'}"
    assert [block.splitlines()[0] for block in together[1:]] == [f"metrics  {f / 'metrics.jsonl'}" for f in folders]


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for parent in ("a", "b"):
        _write(tmp_path / parent / "run", seed=0)
    header = final_table(tmp_path / "a" / "run", tmp_path / "b" / "run").splitlines()[0]
    assert header.split() == [str(tmp_path / "a" / "run"), str(tmp_path / "b" / "run")]


def test_only_the_validation_before_training(tmp_path: Path) -> None:
    RunRecord(tmp_path).step(0, {"val-core/a/acc/mean@8": 0.25})
    rows = _rows(final_table(tmp_path))
    assert rows["sampled accuracy, first"] == "25.0 %"
    assert rows["sampled accuracy, last"] == rows["sampled accuracy, change"] == rows["median step"] == "-"
    assert rows["steps"] == "0"


def test_steps_without_a_line_are_told(tmp_path: Path) -> None:
    record = RunRecord(tmp_path)
    for step in (1, 2, 5):
        record.step(step, {})
    assert _rows(final_table(tmp_path))["steps"] == "3 of 5"


def test_nothing_recorded(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no metrics\.jsonl"):
        final_table(tmp_path)
    RunRecord(tmp_path).resume_from(0)
    with pytest.raises(ConfigError, match=r"no step is recorded in .*metrics\.jsonl"):
        final_table(tmp_path)
