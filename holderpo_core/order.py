"""The order of a training step: one p for all responses, one for each sign of the advantage, or one for each response."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from holderpo_core.diagnostics import effective_sample_size, herfindahl
from holderpo_core.mean import MaskedRows, compute_dtype, holder_terms, mask_rows, zero_masked
from holderpo_core.rows import per_row_value, share_beyond, token_bounds

BISECTIONS = 20  # of [0, 1]: p to 1e-6


@dataclass(frozen=True)
class SignedP:
    """p by the sign of a response's advantage A; A = 0 has no gradient whatever its p.

    rho grows with p (the power-mean inequality), so with positive <= c <= negative every response's A rho is at most that
    of p = c: a pessimistic bound, as PPO's clip is one, but smooth and without a threshold. Its weights go to the tokens that
    lag behind the update: those of low ratio where A > 0, those of high ratio where A < 0.
    """

    positive: float
    negative: float


@dataclass(frozen=True)
class TrajectoryP:
    """p in [0, 1] for each response, at which its effective sample size (over its tokens) is

        ESS(p) = ESS(1) + f (1 - ESS(1)),      f the share of its tokens beyond the clip's bounds:

    1 for a response within them, towards 0 as more tokens leave. A stand-in for PMPO (arXiv 2601.22521), whose map from f
    to ESS could not be read.
    """


Order = float | SignedP | TrajectoryP
"""What a rule of p decides for a training step."""


def response_p(
    order: Order,
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    clip_ratio_low: float,
    clip_ratio_high: float,
) -> float | Tensor:
    """p of an order as `holder_policy_loss` takes it: a number, or a tensor (B,) without a gradient.

    The arguments are those of `holder_policy_loss`."""
    if isinstance(order, (int, float)):
        return order
    with torch.no_grad(), torch.autocast(log_prob.device.type, enabled=False):
        dtype, mask = compute_dtype(log_prob.dtype), response_mask.bool()
        if isinstance(order, SignedP):
            values = advantages[:, None] if advantages.ndim == 1 else zero_masked(advantages.to(dtype), mask)
            return torch.where(values.amin(1) < 0, order.negative, order.positive).to(dtype)
        rows = mask_rows(log_prob.to(dtype) - old_log_prob.to(dtype), mask)
        advantage, _ = per_row_value(advantages, mask, rows)
        return _trajectory_p(rows, share_beyond(rows, *token_bounds(advantage, clip_ratio_low, clip_ratio_high)))


def _trajectory_p(rows: MaskedRows, beyond: Tensor) -> Tensor:
    """(B,): the p of `TrajectoryP` by bisection, where ESS falls with p (Thm 1's companion for sum W^2)."""

    def sample_size(p: Tensor) -> Tensor:
        copy = replace(rows, values=rows.values.clone())  # `holder_terms` overwrites them
        return effective_sample_size(herfindahl(holder_terms(copy, p).weights), rows.count)

    low, high = torch.zeros_like(rows.count), torch.ones_like(rows.count)
    at_one = sample_size(high)
    target = at_one + beyond * (1 - at_one)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        above = sample_size(middle) > target
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    # A response within its bounds, or whose tokens all have one ratio, has p = 1: every p has its sample size.
    return torch.where(target <= at_one, 1.0, (low + high) / 2)
