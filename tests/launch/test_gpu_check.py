"""`doctor --gpu` on a CPU: its checks find what they are there for."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import holderpo_core
from recipe.holderpo import gpu_check
from recipe.holderpo.gpu_check import APART, Result, check_gpu, judge_steps, loss_is_exact, packed_gradient


def row(step: int, **values: float) -> dict[str, Any]:
    return {"step": step, "actor/grad_norm": 0.1, "rollout_corr/log_ppl_abs_diff": 1e-6} | values


def test_two_good_steps() -> None:
    result = judge_steps([row(1), row(2)], APART["cpu"])
    assert result.wrong is None and result.figures["step 2"]["rollout_corr/log_ppl_abs_diff"] == 1e-6


@pytest.mark.parametrize(
    ("rows", "wrong"),
    [
        ([row(1)], "1 of 2 steps"),
        ([row(1), row(2, **{"actor/grad_norm": math.nan})], "step 2: gradient of norm nan"),
        ([row(1, **{"actor/grad_norm": 0.0}), row(2)], "step 1: gradient of norm 0.0"),
        (
            [row(1), row(2, **{"rollout_corr/log_ppl_abs_diff": 0.3})],
            "step 2: trainer and vLLM are 0.3 nats a token apart",
        ),
        ([row(1), row(2, **{"rollout_corr/log_ppl_abs_diff": math.nan})], "step 2: trainer and vLLM are nan nats"),
    ],
)
def test_two_bad_steps(rows: list[dict[str, Any]], wrong: str) -> None:
    found = judge_steps(rows, APART["cpu"]).wrong
    assert found is not None and found.startswith(wrong)


def test_the_loss_and_one_that_is_wrong_at_one_p(monkeypatch: pytest.MonkeyPatch) -> None:
    assert loss_is_exact("cpu").wrong is None
    right = holderpo_core.holder_policy_loss

    def wrong(new: Any, old: Any, advantages: Any, mask: Any, p: float) -> Any:
        loss, metrics = right(new, old, advantages, mask, p=p)
        return (loss * 1.001 if p == 0.5 and loss.dtype == torch.float32 else loss), metrics

    monkeypatch.setattr(holderpo_core, "holder_policy_loss", wrong)
    assert "relative error 1.0e-03" in str(loss_is_exact("cpu").wrong)


def test_packed_sequences_and_ones_that_see_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    assert packed_gradient("cpu").wrong is None
    from transformers import Qwen2ForCausalLM

    forward = Qwen2ForCausalLM.forward

    def one_sequence(self: Any, ids: torch.Tensor, position_ids: torch.Tensor | None = None, **kwargs: Any) -> Any:
        return forward(self, ids, **kwargs)  # without positions the four are one

    monkeypatch.setattr(Qwen2ForCausalLM, "forward", one_sequence)
    assert "relative difference" in str(packed_gradient("cpu").wrong)


def test_the_report_has_every_check_and_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def broken(device: str) -> Result:
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(gpu_check, "loss_times", broken)
    monkeypatch.setattr(gpu_check, "two_steps", lambda device, folder: judge_steps([row(1), row(2)], 1.0))
    assert check_gpu("cpu", tmp_path / "gpu") == 1
    report = json.loads((tmp_path / "gpu" / "report.json").read_text())
    wrong = {result["name"]: result["wrong"] for result in report["results"]}
    assert wrong == {
        "loss": None, "loss benchmark": "RuntimeError: no kernel image", "packed gradient": None, "two steps": None
    }  # fmt: skip
    assert report["machine"]["torch"] == torch.__version__ and str(tmp_path) not in json.dumps(report)
    assert "FAIL  loss benchmark" in capsys.readouterr().out
