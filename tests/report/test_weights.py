"""What the page computes for a p of the reader's, in a real browser, against holderpo_core in float64."""

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from report.browser import in_browser

from holderpo_core import CLIP_LEVELS, holder_policy_loss
from recipe.holderpo.report.page.write import page

LIMITS = {"inf": math.inf, "-inf": -math.inf}
ORDERS: list[float | str] = [*(i / 2 for i in range(-40, 41)), 0.1, -1e-9, 1e-31, 1e21, -1e21, "inf", "-inf"]
SCALES = (0.0, 1e-6, 0.02, 0.3, 3.0, 40.0)


def cases() -> list[tuple[dict[str, Any], Any, dict[str, Any]]]:
    """A response, a p and a clip for each."""
    chance, found = random.Random(7), []
    for p in ORDERS:
        for scale in SCALES:
            for level in CLIP_LEVELS:
                n = chance.choice((1, 2, 9, 40))
                sample = {
                    "mask": [1] + [chance.choice((0, 1, 1)) for _ in range(n - 1)],
                    "log_ratio": [chance.gauss(0.1, 1) * scale for _ in range(n)],
                    "advantage": chance.choice((-1.5, 0.0, 0.7)),
                }
                found.append((sample, p, {"level": level, "low": 0.2, "high": chance.choice((0.03, 0.28))}))
    return found


def test_weights_ratio_clips_and_sample_size_are_those_of_the_loss(tmp_path: Path) -> None:
    every = cases()
    (tmp_path / "run").mkdir()
    do = f"""
        const p = (given) => (given === "inf" ? Infinity : given === "-inf" ? -Infinity : given);
        result.found = {json.dumps(every)}.map(([sample, order, clip]) => respond(sample, p(order), clip));
    """
    seen = in_browser(page({tmp_path / "run": [{"step": 1, "time": 0.0}]}), tmp_path, do)
    assert seen["errors"] == [] and len(seen["found"]) == len(every) > 2000
    clipped = 0
    for (sample, p, clip), found in zip(every, seen["found"], strict=True):
        log_prob = torch.tensor([sample["log_ratio"]], dtype=torch.float64, requires_grad=True)
        mask, advantage = torch.tensor([sample["mask"]]), torch.tensor([sample["advantage"]], dtype=torch.float64)
        loss, metrics = holder_policy_loss(
            log_prob, torch.zeros_like(log_prob), advantage, mask, p if isinstance(p, float) else LIMITS[p],
            clip_level=clip["level"], clip_ratio_low=clip["low"], clip_ratio_high=clip["high"], batch_size=1,
        )  # fmt: skip
        (gradient,) = torch.autograd.grad(loss, log_prob)
        where = f"{sample}, p={p}, {clip}"
        assert found["rho"] == pytest.approx(metrics["rho_mean"], rel=1e-6), where
        assert found["size"] == pytest.approx(metrics["effective_sample_size"], abs=1e-6), where
        scale = -found["rho"] * sample["advantage"] * found["gradient"]
        assert [scale * weight for weight in found["weights"]] == pytest.approx(
            gradient[0].tolist(), abs=1e-6 * max(1.0, abs(scale))
        ), where
        tokens = sum(sample["mask"])
        clips = {"sequence": found["clipped"], "both": found["clipped"], "none": 0}
        assert clips.get(clip["level"], sum(found["clippedTokens"]) / tokens) == pytest.approx(metrics["clip_fraction"])
        clipped += bool(metrics["clip_fraction"])
    assert 100 < clipped < len(every) - 100, "or clips are not tried"


def test_a_response_without_a_token_of_the_models_has_no_weight(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    do = """
        const sample = { mask: [0, 0], log_ratio: [1, 2], advantage: 1 };
        result.found = respond(sample, 2, { level: "sequence", low: 0.2, high: 0.2 });
    """
    seen = in_browser(page({tmp_path / "run": [{"step": 1, "time": 0.0}]}), tmp_path, do)
    assert seen["errors"] == [] and seen["found"]["weights"] == [0, 0] and not seen["found"]["gradient"]
