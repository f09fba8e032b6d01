"""What verl gets from loss mode `holder` for a batch that has a number which is none."""

import math

import pytest
import torch
from verl.workers.config import FSDPActorConfig

from recipe.holderpo.policy_loss import HolderLossConfig, compute_policy_loss_holder


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["advantages", "rollout_is_weights"])
def test_what_is_not_finite_makes_a_gradient_that_verl_leaves_out(where: str, bad: float) -> None:
    """One bad row: every parameter's gradient is nan, whichever row it comes from, and the metrics are numbers."""
    torch.manual_seed(0)
    config = FSDPActorConfig(
        strategy="fsdp2", rollout_n=1, use_dynamic_bsz=True, policy_loss=HolderLossConfig(p=2.0),
    )  # fmt: skip
    old_log_prob = -torch.rand(4, 6)
    parameter = torch.zeros(4, 6, requires_grad=True)
    inputs = {"advantages": torch.randn(4, 1).expand(4, 6).clone(), "rollout_is_weights": torch.ones(4, 6)}
    inputs[where][2] = bad
    loss, metrics = compute_policy_loss_holder(
        old_log_prob,
        old_log_prob + parameter,
        inputs["advantages"],
        torch.ones(4, 6),
        config=config,
        rollout_is_weights=inputs["rollout_is_weights"],
    )
    loss.backward()
    assert loss.isnan() and parameter.grad is not None and parameter.grad.isnan().all()
    assert all(math.isfinite(value) for value in metrics.values())
    assert metrics["holder/rho_mean"] == 1.0 and metrics["holder/tokens"] == 24


def test_a_number_at_a_masked_row_is_not_looked_at() -> None:
    config = FSDPActorConfig(strategy="fsdp2", rollout_n=1, use_dynamic_bsz=True, policy_loss=HolderLossConfig(p=2.0))
    advantages = torch.tensor([[1.0, 1.0], [math.nan, math.nan]])
    log_prob = torch.zeros(2, 2)
    loss, _ = compute_policy_loss_holder(
        log_prob, log_prob, advantages, torch.tensor([[1.0, 1.0], [0.0, 0.0]]), config=config
    )
    assert loss.item() == -1.0
