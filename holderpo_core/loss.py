"""The HölderPO policy loss: Hölder aggregation of token ratios with four ways of clipping (arXiv 2605.12058)."""

import math
from typing import Literal

import torch
from torch import Tensor

from holderpo_core.diagnostics import effective_sample_size, herfindahl, normalized_entropy, weight_entropy
from holderpo_core.mean import (
    LARGEST_P,
    MaskedRows,
    compute_dtype,
    holder_terms,
    mask_rows,
    row_p,
    summarize_rows,
    with_gradient,
)
from holderpo_core.metrics import reduce_rows
from holderpo_core.rows import per_row_value, share_beyond, spread, token_bounds

ClipLevel = Literal["sequence", "token", "none", "both"]
CLIP_LEVELS: tuple[ClipLevel, ...] = ("sequence", "token", "none", "both")

# rho = exp(log rho) is formed with log rho within ±20: rho from 2.1e-9 to 4.9e8, so neither rho nor rho^2 can overflow.
MAX_LOG_RHO = 20.0


class NotFiniteError(ValueError):
    """An advantage or a rollout weight of a response with tokens is nan or inf."""


def holder_policy_loss(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    p: float | Tensor,
    *,
    clip_level: ClipLevel = "sequence",
    clip_ratio_low: float = 0.2,
    clip_ratio_high: float = 0.2,
    rollout_is_weights: Tensor | None = None,
    batch_size: float | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """The HölderPO loss of a (micro-)batch of B responses of at most T tokens, and its metrics, with one host sync.

    With d = log_prob - old_log_prob and rho_i the Hölder mean of order p of response i's token ratios exp(d) (Eq. 1),
    the loss is

        -(1 / batch_size) sum_i w_i objective_i            over the responses with at least one token,

    where w is `rollout_is_weights` (1 if None) and, by `clip_level`, with A_i the advantage, objective is

    - "sequence" (Eq. 2, 15; Alg. 1): min(rho A, clip(rho, 1 - low, 1 + high) A)
    - "token" (Eq. 11): rho A, with d clipped before it is aggregated, on the side that PPO clips:
      d <= log(1 + high) where A > 0, d >= log(1 - low) where A < 0
    - "none" (Eq. 7): rho A
    - "both": as "sequence", with d clamped to [-log(1 + low), log(1 + high)] before it is aggregated, whatever the sign
      of A (the clamp of the authors' code, symmetric in log space for low = high)

    Where a clip binds, the gradient of that response ("sequence") or token (the two token clips) is exactly 0 (Eq. 13,
    16). log rho is clamped to [-20, 20] before the exponential; a response beyond has gradient 0, that of the clamped
    value, so that one which has left the trust region by a factor exp(20) cannot take over the update.

    Args:
        log_prob: (B, T) log pi_theta of the sampled tokens, nats; any float dtype; the only argument with a gradient.
        old_log_prob: (B, T) log pi_old, nats; a constant.
        advantages: (B,), or (B, T) with one value over a response's unmasked tokens, as GRPO's are.
        response_mask: (B, T) bool or 0/1: the response tokens. Other positions of every argument may hold anything.
        p: order of the Hölder mean, see `log_holder_mean`: a number, or a tensor (B,) with one for each response; a constant.
        clip_level: "sequence", "token", "none" or "both".
        clip_ratio_low, clip_ratio_high: epsilon of the lower bound, in [0, 1), and of the upper bound, >= 0 and finite.
        rollout_is_weights: None, (B,), or (B, T) with one value over a response's unmasked tokens: rollout-correction
            weights, pi_old over the sampling policy, one per response, >= 0; a constant.
        batch_size: what the sum is divided by, in responses. None: those with a token in this call, at least 1. To make
            an update independent of its split, pass the number of responses of the whole update over the number of
            data-parallel ranks whose gradients are averaged (verl: global_batch_size / dp_size).

    Returns:
        The loss, a scalar of float64 for float64 log-probabilities, else float32; and the metrics, plain floats, to be
        reduced over micro-batches and ranks as `REDUCTION` says. "Sequences" are the responses with at least one token:
        - rho_mean, rho_min, rho_max (ratio): the aggregated ratio before the sequence clip, after a token clip.
        - clip_fraction (0 to 1), mean over sequences: whether the sequence clip binds ("sequence", "both"), the share
          of the sequence's tokens that the clip moves ("token"), 0 ("none").
        - sequence_clip_fraction, token_clip_fraction (0 to 1), means over sequences, whatever `clip_level` is: whether the
          sequence clip binds or would bind on rho, and the share of the sequence's tokens beyond the token clip's bounds,
          both on the side that PPO clips.
        - log_ratio_max, log_ratio_min (nats): extremes of d over tokens before any clip, the envelopes of Fig. 2.
        - log_ratio_std (nats), mean over sequences: spread of d within the response before any clip,
          sqrt(mean (d - mean d)^2). p matters where |p| times it is some tenths.
        - weight_entropy (0 to 1), mean over sequences: entropy of W(p) over log n (Thm 1); 1 for a single token.
        - effective_sample_size (0 to 1), mean over sequences: 1 / (n sum_t W_t^2) (Thm 7).
        - bound (advantage^2), mean over sequences: A^2 rho^2, the factor of the variance bound of Thm 2.
        - second_moment (advantage^2), mean over sequences: A^2 rho^2 sum_t W_t^2, the factor of Thm 7.
        - ppo_kl (nats), mean over tokens: -d, the k1 estimator of KL(pi_old, pi_theta).
        - p_mean, mean over sequences: p, beyond ±1e20 as ±1e20.
        - sequences, tokens (counts).
        A call without a token has loss 0, means 0 and, as its extremes, those of nothing (max -inf, min inf), which
        leave the extremes of other micro-batches as they are.

    Raises:
        TypeError: p is neither a Python number nor a tensor of floats.
        ValueError: p is nan, of any response with tokens; clip_level, a clip ratio, batch_size or a shape is out of its
            range; an advantage of a response with tokens is not constant over them; likewise a rollout weight, or it is
            negative.
        NotFiniteError (a ValueError): one of these is not finite.
    """
    _check_options(clip_level, clip_ratio_low, clip_ratio_high, batch_size)
    _check_shapes(log_prob, old_log_prob, advantages, response_mask, rollout_is_weights)
    with torch.no_grad(), torch.autocast(log_prob.device.type, enabled=False):
        dtype = compute_dtype(log_prob.dtype)
        mask = response_mask.bool()
        rows = mask_rows(log_prob.to(dtype) - old_log_prob.to(dtype), mask)
        nonempty, count, order = rows.nonempty, rows.count, row_p(p, rows)
        ones = torch.ones_like(count)
        faults = {"p": order.isnan().to(dtype)}
        advantage, faults["advantages"] = per_row_value(advantages, mask, rows)
        scale = ones / -(nonempty.sum().clamp_(min=1) if batch_size is None else batch_size)
        if rollout_is_weights is not None:
            rollout_weight, fault = per_row_value(rollout_is_weights, mask, rows)
            faults["rollout_is_weights"] = fault + (rollout_weight < 0)
            scale *= rollout_weight

        lower, upper = token_bounds(advantage, clip_ratio_low, clip_ratio_high)
        before_clip = {
            "log_ratio_max": rows.max,
            "log_ratio_min": rows.min,
            "log_ratio_std": spread(rows),
            "token_clip_fraction": share_beyond(rows, lower, upper),
            "ppo_kl": rows.mean * -count,
        }
        clipped_mask: Tensor | None = None
        if clip_level == "token":
            clipped = torch.maximum(rows.values, lower[:, None])
            rows, clipped_mask = _replace_tokens(rows, torch.minimum(clipped, upper[:, None], out=clipped))
        elif clip_level == "both":
            clipped = rows.values.clamp(-math.log1p(clip_ratio_low), math.log1p(clip_ratio_high))
            rows, clipped_mask = _replace_tokens(rows, clipped)

        terms = holder_terms(rows, order)
        del rows  # its (B, T) tensors are the largest temporaries
        entropy = normalized_entropy(weight_entropy(terms.weights, terms.scaled, terms.log_normalizer), count)
        concentration = herfindahl(terms.weights)
        if clipped_mask is not None:
            # to 0: a clipped token does not move with theta
            terms.weights.addcmul_(terms.weights, clipped_mask.to(dtype), value=-1)

        log_rho = terms.log_mean.clamp(-MAX_LOG_RHO, MAX_LOG_RHO)
        rho = log_rho.exp()
        surrogate = rho * advantage
        slope = surrogate.masked_fill(log_rho != terms.log_mean, 0.0)  # d surrogate / d log_mean
        pessimistic = rho.clamp(1 - clip_ratio_low, 1 + clip_ratio_high) * advantage
        binds = pessimistic < surrogate
        objective, clip_fraction = surrogate, torch.zeros_like(ones)
        if clip_level in ("sequence", "both"):
            objective, clip_fraction = torch.where(binds, pessimistic, surrogate), binds.to(dtype)
            slope = slope.masked_fill_(binds, 0.0)
        elif clip_level == "token":
            clip_fraction = before_clip["token_clip_fraction"]

        loss_value = (objective * scale).sum()
        coefficient = slope * scale

        metrics, fault_sums = reduce_rows(
            before_clip
            | {
                "rho_mean": rho,
                "rho_min": rho,
                "rho_max": rho,
                "clip_fraction": clip_fraction,
                "sequence_clip_fraction": binds.to(dtype),
                "weight_entropy": entropy,
                "effective_sample_size": effective_sample_size(concentration, count),
                "bound": surrogate.square(),
                "second_moment": surrogate.square() * concentration,
                "p_mean": order.clamp(-LARGEST_P, LARGEST_P),
                "sequences": ones,
                "tokens": count,
            },
            faults,
            nonempty,
        )

    if fault_sums["p"] != 0:
        row = int(order.isnan().nonzero()[0])
        raise ValueError(f"p of row {row} is nan; allowed is any real number, inf and -inf")
    if fault_sums["advantages"] != 0:
        _raise_row_error("advantages", advantages, response_mask, minimum=-math.inf)
    if rollout_is_weights is not None and fault_sums["rollout_is_weights"] != 0:
        _raise_row_error("rollout_is_weights", rollout_is_weights, response_mask, minimum=0.0)
    return with_gradient(log_prob, loss_value, terms.weights, coefficient), metrics


def _replace_tokens(rows: MaskedRows, clipped: Tensor) -> tuple[MaskedRows, Tensor]:
    """The rows with (B, T) `clipped` for their values, both overwritten; and (B, T) int8, 1 at the tokens that differ."""
    # int8 from floats: torch's comparisons, and its products with bool, are several times slower on a CPU.
    clipped_mask = rows.values.sub_(clipped).sign_().abs_().mul_(rows.keep).to(torch.int8)
    return summarize_rows(clipped.mul_(rows.keep), rows.keep, rows.nonempty, rows.count), clipped_mask


def _raise_row_error(name: str, values: Tensor, response_mask: Tensor, minimum: float) -> None:
    """Raise the error that the faults of `per_row_value` announced, naming the first row at fault."""
    for i, (row, mask) in enumerate(zip(values, response_mask.bool(), strict=True)):
        unmasked = row[mask] if values.ndim == 2 else row[None] if mask.any() else row[:0]
        if unmasked.numel() == 0:
            continue
        low, high = unmasked.min().item(), unmasked.max().item()
        if not (math.isfinite(low) and math.isfinite(high)):
            raise NotFiniteError(
                f"{name} of row {i} contains nan or inf; every value at a response token must be finite"
            )
        if low < minimum:
            raise ValueError(f"{name} of row {i} contains {low}; allowed is {minimum} and more")
        if low != high:
            raise ValueError(
                f"{name} of row {i} runs from {low} to {high} over its tokens; HölderPO needs one value per response, "
                "as group-normalised outcome rewards give"
            )
    raise AssertionError(f"{name}: a fault was counted that is not there")


def _check_options(clip_level: str, clip_ratio_low: float, clip_ratio_high: float, batch_size: float | None) -> None:
    if clip_level not in CLIP_LEVELS:
        raise ValueError(f"clip_level is {clip_level!r}; allowed are {', '.join(CLIP_LEVELS)}")
    if not 0 <= clip_ratio_low < 1:
        raise ValueError(f"clip_ratio_low is {clip_ratio_low}; allowed is 0 <= clip_ratio_low < 1")
    if not 0 <= clip_ratio_high < math.inf:
        raise ValueError(f"clip_ratio_high is {clip_ratio_high}; allowed is 0 <= clip_ratio_high < inf")
    if batch_size is not None and not 0 < batch_size < math.inf:
        raise ValueError(f"batch_size is {batch_size}; allowed is a finite number above 0, or None")


def _check_shapes(
    log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, response_mask: Tensor, rollout_is_weights: Tensor | None
) -> None:
    shape = log_prob.shape
    if log_prob.ndim != 2 or log_prob.numel() == 0:
        raise ValueError(f"log_prob has shape {tuple(shape)}; allowed is (B, T) with B, T >= 1")
    for name, tensor in (("old_log_prob", old_log_prob), ("response_mask", response_mask)):
        if tensor.shape != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; allowed is log_prob's, {tuple(shape)}")
    for name, per_row in (("advantages", advantages), ("rollout_is_weights", rollout_is_weights)):
        if per_row is not None and per_row.shape not in (shape, shape[:1]):
            raise ValueError(
                f"{name} has shape {tuple(per_row.shape)}; allowed is {tuple(shape[:1])} or {tuple(shape)}"
            )
