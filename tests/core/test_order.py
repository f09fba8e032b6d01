"""The order of each response: by the sign of its advantage, and by how far it has moved."""

import math

import pytest
import torch

from holderpo_core import SignedP, TrajectoryP, holder_weights, response_p


def arguments(log_ratio: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor | None = None) -> dict[str, object]:
    return {
        "log_prob": log_ratio - 1,
        "old_log_prob": torch.full_like(log_ratio, -1),
        "advantages": advantages,
        "response_mask": torch.ones_like(log_ratio) if mask is None else mask,
        "clip_ratio_low": 0.2,
        "clip_ratio_high": 0.2,
    }


def test_a_number_stays_one() -> None:
    zeros = torch.zeros(2, 3)
    assert response_p(1.5, **arguments(zeros, torch.ones(2))) == 1.5  # type: ignore[arg-type]


@pytest.mark.parametrize("wide", [False, True])
def test_signed_p_follows_the_advantage_whatever_stands_in_masked_positions(wide: bool) -> None:
    advantages = torch.tensor([1.0, -0.5, 0.0, 2.0])
    mask = torch.tensor([[1, 1, 0]]).expand(4, 3)
    if wide:
        advantages = torch.where(mask.bool(), advantages[:, None], torch.tensor(-math.inf))
    p = response_p(SignedP(-2.0, math.inf), **arguments(torch.zeros(4, 3), advantages, mask))  # type: ignore[arg-type]
    assert isinstance(p, torch.Tensor) and p.tolist() == [-2.0, math.inf, -2.0, -2.0]


def sample_sizes(log_ratio: torch.Tensor, p: torch.Tensor) -> list[float]:
    found = []
    for row, order in zip(log_ratio, p.tolist(), strict=True):
        weights = (order * row).softmax(0)
        found.append(1 / (len(row) * (weights**2).sum().item()))
    return found


def test_a_trajectorys_p_has_the_effective_sample_size_of_its_clipped_share() -> None:
    generator = torch.Generator().manual_seed(0)
    log_ratio = torch.randn(12, 50, generator=generator, dtype=torch.float64) * torch.linspace(0.05, 1.5, 12)[:, None]
    advantages = torch.where(torch.arange(12) % 2 == 0, 1.0, -1.0)
    p = response_p(TrajectoryP(), **arguments(log_ratio, advantages))  # type: ignore[arg-type]
    assert isinstance(p, torch.Tensor) and ((p >= 0) & (p <= 1)).all()
    beyond = torch.where(advantages[:, None] > 0, log_ratio > math.log(1.2), log_ratio < math.log(0.8)).double().mean(1)
    at_one = sample_sizes(log_ratio, torch.ones(12))
    for size, one, share, order in zip(sample_sizes(log_ratio, p), at_one, beyond.tolist(), p.tolist(), strict=True):
        assert size == pytest.approx(one + share * (1 - one), abs=2e-5)
        assert (order == 1) == (share == 0)
    assert 0 < (p < 1).sum() < 12, "some are within the bounds and some are not"


def test_a_trajectory_of_equal_ratios_and_one_without_a_token_have_p_1() -> None:
    log_ratio = torch.full((2, 4), 0.7)
    mask = torch.tensor([[1], [0]]).expand(2, 4)
    p = response_p(TrajectoryP(), **arguments(log_ratio, torch.ones(2), mask))  # type: ignore[arg-type]
    assert isinstance(p, torch.Tensor) and p.tolist() == [1.0, 1.0]
    assert holder_weights(log_ratio, mask, p)[0].tolist() == [0.25] * 4
