"""The evaluation with a real engine: killed in the middle, it goes on and ends as if it had not been."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recipe.holderpo.data.__main__ import main as build_data

pytestmark = pytest.mark.stack

ROOT = Path(__file__).parents[2]
PROBLEMS = 40


def start(*overrides: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "recipe.holderpo.evaluation", "hardware=cpu", *overrides]
    return subprocess.Popen(
        command, cwd=ROOT, env=dict(os.environ), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def answers(folder: Path) -> list[tuple[int, int, str, float]]:
    rows = map(json.loads, (folder / "generations" / "sums.jsonl").read_text().splitlines())
    return sorted((row["index"], row["sample"], row["answer"], row["score"]) for row in rows)


def test_a_killed_evaluation_goes_on(small_overrides: list[str], tmp_path: Path) -> None:
    model = next(o.split("=", 1)[1] for o in small_overrides if o.startswith("actor_rollout_ref.model.path="))
    problems = tmp_path / "sums.jsonl"
    problems.write_text(
        "".join(json.dumps({"problem": f"{i}+1", "answer": str(i + 1)}) + "\n" for i in range(PROBLEMS))
    )
    build_data(["--eval", f"sums={problems}", "--out", str(tmp_path / "data")])
    overrides = [
        f"model={model}", "benchmarks=[sums]", f"data_dir={tmp_path}/data", "template=model", f"out_dir={tmp_path}/out",
        "max_tokens=8", "n=4", "temperature=1.0", "k=[1,4]", "chunk=1", "engine.max_model_len=64",
        "engine.kv_cache_memory_bytes=134217728",
    ]  # fmt: skip
    whole = start(*overrides, "run=whole", "chunk=16")
    output, _ = whole.communicate(timeout=300)
    assert whole.returncode == 0, output[-4000:]
    expected = answers(tmp_path / "out" / "whole")
    assert len(expected) == 4 * PROBLEMS and len({text for _, _, text, _ in expected}) > PROBLEMS
    results = json.loads((tmp_path / "out" / "whole" / "results.json").read_text())
    assert set(results) == {"whole", "whole pass@1", "whole pass@4"}
    mean = sum(score for *_, score in expected) / len(expected)
    assert results["whole"]["sums"]["accuracy"] == pytest.approx(mean)

    killed = start(*overrides, "run=killed")
    generations = tmp_path / "out" / "killed" / "generations" / "sums.jsonl"
    deadline = time.monotonic() + 200
    while not generations.exists() or generations.stat().st_size == 0:
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    done = len(answers(tmp_path / "out" / "killed"))
    assert 0 < done < len(expected)
    again = start(*overrides, "run=killed")
    output, _ = again.communicate(timeout=300)
    assert again.returncode == 0, output[-4000:]
    assert answers(tmp_path / "out" / "killed") == expected
