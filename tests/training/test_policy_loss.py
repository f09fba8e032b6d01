"""Loss mode `holder` as verl calls it: which key of the actor's config goes where, and numbers that are not finite."""

import math
from typing import Any

import pytest
import torch
from verl.trainer.ppo.core_algos import get_policy_loss_fn
from verl.workers.config import FSDPActorConfig

from holderpo_core import SignedP, holder_policy_loss
from recipe.holderpo.policy_loss import HolderLossConfig, compute_policy_loss_holder, measured


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


CLIP_RATIO = {"clip_ratio": 0.3, "clip_ratio_low": None, "clip_ratio_high": None}  # one key for both, as verl allows


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss"),
    [(1.5, 1.0, -1.3), (0.5, -1.0, 0.9), (1.5, -1.0, 1.5), (0.5, 1.0, -0.5)],  # Eq. 15 by hand: low 0.1, high 0.3
)
@pytest.mark.parametrize("keys", [{"clip_ratio_low": 0.1, "clip_ratio_high": 0.3}, CLIP_RATIO])
def test_the_lower_and_the_upper_clip_are_the_configs(
    ratio: float, advantage: float, loss: float, keys: dict[str, Any]
) -> None:
    config = FSDPActorConfig(
        strategy="fsdp2", rollout_n=1, use_dynamic_bsz=True, policy_loss=HolderLossConfig(p=1.0), **keys
    )  # fmt: skip
    if keys is CLIP_RATIO and loss == 0.9:
        loss = 0.7
    log_prob = torch.full((1, 3), math.log(ratio))
    found, _ = compute_policy_loss_holder(
        torch.zeros(1, 3), log_prob, torch.full((1, 3), advantage), torch.ones(1, 3), config=config
    )
    assert found.item() == pytest.approx(loss, rel=1e-6)


def test_the_divisor_is_the_global_batch_over_the_ranks() -> None:
    config = FSDPActorConfig(strategy="fsdp2", rollout_n=1, use_dynamic_bsz=True, policy_loss=HolderLossConfig(p=0.0))
    config.global_batch_info.update(global_batch_size=12, dp_size=3)
    zeros, ones = torch.zeros(2, 3), torch.ones(2, 3)
    loss, _ = compute_policy_loss_holder(zeros, zeros, ones, ones, config=config)
    assert loss.item() == pytest.approx(-2 / 4)
    del config.global_batch_info["global_batch_size"]
    with pytest.raises(ValueError, match="global_batch_size is required"):
        compute_policy_loss_holder(zeros, zeros, ones, ones, config=config)


def make_batch() -> dict[str, Any]:
    """Four responses of 2 to 5 tokens, as verl passes them."""
    generator = torch.Generator().manual_seed(0)
    mask = (torch.arange(5) < torch.tensor([[5], [2], [3], [4]])).float()
    old_log_prob = -torch.rand(4, 5, generator=generator)
    return {
        "old_log_prob": old_log_prob,
        "log_prob": old_log_prob + 0.2 * torch.randn(4, 5, generator=generator),
        "advantages": torch.tensor([[1.0], [-0.5], [0.3], [-2.0]]) * mask,
        "response_mask": mask,
    }


def test_an_order_by_sign_reaches_the_loss_and_its_rows() -> None:
    batch = make_batch()
    config = FSDPActorConfig(strategy="fsdp2", rollout_n=1, use_dynamic_bsz=True, policy_loss=HolderLossConfig())
    config.policy_loss.p = SignedP(positive=-2.0, negative=3.0)
    loss, metrics = compute_policy_loss_holder(**batch, config=config)
    p = torch.tensor([-2.0, 3.0, -2.0, 3.0])
    expected, _ = holder_policy_loss(**batch, p=p)
    assert loss == expected and metrics["holder/p_mean"] == 0.5


def test_length_weights_multiply_the_advantages() -> None:
    batch = make_batch()
    weighted = HolderLossConfig(p=0.0, length_weighted=True)
    config = FSDPActorConfig(strategy="fsdp2", rollout_n=1, use_dynamic_bsz=True, policy_loss=weighted)
    loss, _ = compute_policy_loss_holder(**batch, config=config)
    lengths = torch.tensor([[5.0], [2.0], [3.0], [4.0]])
    expected, _ = holder_policy_loss(**(batch | {"advantages": batch["advantages"] * lengths}), p=0.0)
    assert loss == expected


@pytest.mark.parametrize(("name", "p"), [("vanilla", 1.0), ("gspo", 0.0), ("cispo", 1.0), ("sapo", 1.0)])
def test_a_measured_baseline_has_the_same_loss_and_the_holder_losss_metrics(name: str, p: float) -> None:
    batch = make_batch()
    config = FSDPActorConfig(strategy="fsdp2", rollout_n=1, use_dynamic_bsz=True)
    log_prob = batch["log_prob"].requires_grad_()
    mode = "seq-mean-token-mean"
    plain, plain_metrics = get_policy_loss_fn(name)(**batch, loss_agg_mode=mode, config=config)
    (gradient,) = torch.autograd.grad(plain, log_prob)
    found, metrics = measured(get_policy_loss_fn(name), p)(
        batch["old_log_prob"], log_prob, batch["advantages"], batch["response_mask"], mode, config
    )
    assert found == plain and torch.equal(torch.autograd.grad(found, log_prob)[0], gradient)
    _, measures = holder_policy_loss(**batch, p=p)
    assert metrics == plain_metrics | {f"holder/{key}": value for key, value in measures.items()}


def test_measures_of_a_baseline_take_its_mean_advantage_and_no_offence_at_nan() -> None:
    batch = make_batch()
    config = FSDPActorConfig(strategy="fsdp2", rollout_n=1, use_dynamic_bsz=True)
    batch["advantages"] = torch.tensor([[3.0, 1.0, 0, 0, 0], [2.0, 4.0, 0, 0, 0], [math.nan] * 5, [-1.0] * 5])
    _, metrics = measured(get_policy_loss_fn("vanilla"), 1.0)(**batch, loss_agg_mode="token-mean", config=config)
    means = torch.tensor([4 / 5, 3.0, 0.0, -1.0])
    _, measures = holder_policy_loss(**(batch | {"advantages": means}), p=1.0)
    assert metrics["holder/bound"] == pytest.approx(measures["bound"])
