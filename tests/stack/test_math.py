"""The mathematical task with the smallest model: the builder's data, template, truncation, grader and metrics, for real."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from recipe.holderpo.data.__main__ import main as build_data

pytestmark = pytest.mark.stack


def test_the_math_task_trains_and_counts_what_it_could_not_grade(
    small_overrides: list[str], train: Callable[..., list[dict[str, float]]], tmp_path: Path
) -> None:
    problems = tmp_path / "sums.jsonl"
    problems.write_text(
        "".join(json.dumps({"question": f"{i}+1", "answer": f"#### {i + 1}"}) + "\n" for i in range(40))
    )
    held_out = tmp_path / "held.jsonl"
    held_out.write_text(json.dumps({"problem": "3-1", "answer": "['2\n']"}) + "\n")
    build_data(["--train", str(problems), "--eval", str(held_out), "--out", str(tmp_path / "data")])
    run_dir = tmp_path / "run"
    records = train(
        run_dir,
        *("task=math", "template=none", "trainer.total_training_steps=2", "trainer.test_freq=2"),
        *(f"data.train_files={tmp_path}/data/train.parquet", f"data.val_files=[{tmp_path}/data/eval_held.parquet]"),
        *("data.max_prompt_length=48", "data.max_response_length=12", "actor_rollout_ref.rollout.max_model_len=64"),
        "reward.custom_reward_function.path=pkg://recipe.holderpo.rewards.math",  # the small run's own comes first
        f"trainer.rollout_data_dir={run_dir}/rollouts",
    )
    assert [r["holder/p"] for r in records] == [2.0, -2.0]
    for record in records:
        # an untrained model: most responses are cut off, the others have no box
        assert record["critic/score/mean"] == 0.0
        assert 0 < record["reward/truncated"] <= 1
        assert record["reward/truncated"] + record["reward/no_answer"] == pytest.approx(1.0)
        assert record["reward/timeout"] == record["reward/crash"] == 0.0
        assert record["response_length/max"] <= 12
    assert records[-1]["val-core/held/acc/mean@1"] == 0.0
    rows = [json.loads(line) for line in (run_dir / "rollouts" / "1.jsonl").read_text().splitlines()]
    assert all(row["input"].strip().endswith("+1") for row in rows), "template=none is the bare problem"
