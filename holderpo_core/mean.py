"""The Hölder (power) mean of token ratios in log space, and its exact gradient (Eq. 1 and 3 of arXiv 2605.12058).

For the log-ratios d_t of one response's n tokens,

    log rho_p = log( (1/n) sum_t exp(p d_t) ) / p           (Eq. 1; p = 0 is the limit, the mean of d)
    d log rho_p / d d_t = W_t = softmax(p d)_t              (Eq. 3; p = 0 gives 1/n)

Neither the power sum nor its logarithm is ever formed as written: the first overflows, the second cancels near p = 0.
For any reference c and offset b (both one number per row) the identity

    z_t = p (d_t - c) + b,   s = mean_t expm1(z_t)
    log rho_p = c + (log1p(s) - b) / p,   W_t = (expm1(z_t) + 1) / (n (1 + s))

is exact. With c the row's mean and b = 0 the mean s is of the order of p^2, and nothing cancels as p passes through 0.
Where p (d - mean) would exceed 10, c is the row's extreme log-ratio and b = 10: every z_t <= 10, so nothing overflows;
1 + s >= exp(10) / n, so log1p keeps its digits; tokens near the extreme, which carry the weight, keep d_t - c exact.
The choice is a `torch.where` on (B,) tensors: no data-dependent branch, no host sync, one transcendental per token.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Largest exponent. A smaller one loses digits of 1 + s >= exp(MAX_EXPONENT) / n for long rows; a larger one, digits of
# exp(z), whose relative error is the rounding of z.
MAX_EXPONENT = 10.0
# Outside these bounds p acts, to rounding, as 0 and as ±inf, and products with p could leave float32's range.
SMALLEST_P = 1e-30
LARGEST_P = 1e20


@dataclass(frozen=True)
class MaskedRows:
    """Log-ratios that are safe to compute with, and the statistics of each row's unmasked tokens."""

    values: Tensor
    """(B, T): the log-ratios; masked positions hold the row's mean, which moves neither the mean nor the extremes."""
    keep: Tensor
    """(B, T): 1 at the unmasked tokens, 0 elsewhere."""
    nonempty: Tensor
    """(B,) bool: the rows with at least one unmasked token. The others count as one token with log-ratio 0."""
    count: Tensor
    """(B,): number of unmasked tokens, at least 1, as a float."""
    mean: Tensor
    """(B,): mean log-ratio."""
    max: Tensor
    """(B,): largest log-ratio."""
    min: Tensor
    """(B,): smallest log-ratio."""


@dataclass(frozen=True)
class HolderTerms:
    """The Hölder mean, its weights, and the weights' logarithm, which costs no further transcendental.

    Where a weight is 0, `scaled` is finite but means nothing."""

    log_mean: Tensor
    """(B,): log rho_p."""
    weights: Tensor
    """(B, T): W_t(p), summing to 1 over a row's unmasked tokens; 0 at masked ones."""
    scaled: Tensor
    """(B, T): z_t; log W_t = z_t - log_normalizer."""
    log_normalizer: Tensor
    """(B,): log(n (1 + s))."""


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64 tensors, float32 for every other float type."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def mask_rows(log_ratio: Tensor, response_mask: Tensor) -> MaskedRows:
    """Select the unmasked tokens of (B, T) log-ratios, whatever stands in masked positions (NaN and inf included)."""
    keep = response_mask.bool().int().to(log_ratio.dtype)  # by way of int: bool to float is three times slower on a CPU
    tokens = keep.sum(1)
    return summarize_rows(zero_masked(log_ratio, response_mask), keep, tokens > 0, tokens.clamp_(min=1))


def zero_masked(values: Tensor, response_mask: Tensor) -> Tensor:
    """`values` (float32 or float64) with 0 in masked positions, whatever stood there.

    `torch.where(mask, values, 0)` on the numbers' bits, in half its time on a CPU: torch vectorises no bool operand."""
    integer = torch.int32 if values.dtype == torch.float32 else torch.int64
    bits = response_mask.bool().to(integer).neg_()  # all ones, or all zeros
    return bits.bitwise_and_(values.view(integer)).view(values.dtype)


def summarize_rows(values: Tensor, keep: Tensor, nonempty: Tensor, count: Tensor) -> MaskedRows:
    """`MaskedRows` of (B, T) log-ratios that hold 0 in masked positions, and are overwritten; the rest as there."""
    mean = values.sum(1).div_(count)
    torch.lerp(mean[:, None], values, keep, out=values)  # exactly the mean where keep is 0, the value where it is 1
    return MaskedRows(values, keep, nonempty, count, mean, values.amax(1), values.amin(1))


def row_p(p: float | Tensor, rows: MaskedRows) -> Tensor:
    """p of each row as it is computed with, (B,) in the dtype of `rows`: 0 for |p| < 1e-30, and for a row without a token,
    whose log-ratio is 0 at any p, nan included.

    Raises TypeError for anything but a Python number or a tensor of floats, ValueError for a number that is nan and for a
    tensor of another shape than (B,)."""
    batch = len(rows.count)
    if isinstance(p, Tensor):
        if not p.is_floating_point():
            raise TypeError(f"p must be a Python float or a tensor of floats, got a tensor of {p.dtype}")
        if p.shape != (batch,):
            raise ValueError(f"p has shape {tuple(p.shape)}; allowed is a number, or one for each response: ({batch},)")
    elif isinstance(p, bool) or not isinstance(p, (int, float)):
        raise TypeError(f"p must be a Python float or a tensor of floats, got {type(p).__name__}")
    elif math.isnan(p):
        raise ValueError("p is nan; allowed is any real number, inf and -inf")
    else:
        # torch refuses to make a float32 of a number beyond its range
        p = torch.full_like(rows.count, math.copysign(math.inf, p) if abs(p) > LARGEST_P else p)
    p = p.detach().to(rows.count.dtype)
    return torch.where(rows.nonempty & ~(p.abs() < SMALLEST_P), p, 0.0)


def holder_terms(rows: MaskedRows, p: Tensor) -> HolderTerms:
    """Value and weights of the Hölder mean of `rows`, whose `values` are overwritten (they become `scaled`).

    p (B,) comes from `row_p`. The limits p = 0 and ±inf are the same expressions with other constants, so that rows of every
    kind can stand side by side: at 0 every z is 0, and at ±inf, with c the extreme and b = 0, it is 0 at the tokens that
    attain it and below -10^20 times their distance elsewhere."""
    values, keep, count = rows.values, rows.keep, rows.count
    infinite = p.abs() > LARGEST_P
    extreme = torch.where(p > 0, rows.max, rows.min)
    steep = ((extreme - rows.mean) * p > MAX_EXPONENT) | infinite
    reference = torch.where(steep, extreme, rows.mean)
    offset = (steep & ~infinite) * MAX_EXPONENT
    factor = p.clamp(-LARGEST_P, LARGEST_P)
    scaled = torch.addcmul(offset[:, None], values.sub_(reference[:, None]), factor[:, None], out=values)
    weights = torch.expm1(scaled).mul_(keep)
    total = weights.sum(1)
    # No token attains the extreme, only a mean that was rounded beyond it: all are equal, to rounding. Each weighs 1.
    unattained = total == -count
    total.masked_fill_(unattained, 0.0)
    log_mean = reference + (torch.log1p(total / count) - offset) / torch.where(p == 0, 1.0, p)
    normalizer = total.add_(count)
    weights.addcmul_(keep, (unattained + 1.0)[:, None]).div_(normalizer[:, None])
    return HolderTerms(log_mean, weights, scaled, normalizer.log_())


class _GradientInForward(torch.autograd.Function):
    """See `with_gradient`."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, value: Tensor, weights: Tensor, coefficient: Tensor) -> Tensor:
        ctx.save_for_backward(weights, coefficient)
        ctx.dtype = inputs.dtype
        return value.clone()  # an input returned as it is would be a view, which callers may not add to in place

    @staticmethod
    @once_differentiable  # type: ignore[misc,unused-ignore]
    def backward(ctx: Any, grad_value: Tensor) -> tuple[Tensor, None, None, None]:
        weights, coefficient = ctx.saved_tensors
        return (weights * (grad_value * coefficient)[:, None]).to(ctx.dtype), None, None, None


def with_gradient(inputs: Tensor, value: Tensor, weights: Tensor, coefficient: Tensor) -> Tensor:
    """`value` as a differentiable function of `inputs`, its gradient already formed by the caller, off the tape.

    inputs and weights (B, T), coefficient (B,); value is (B,), value[i] depending on row i alone, or a scalar:
    d value / d inputs[i, t] = coefficient[i] weights[i, t]. One multiplication is left for the backward pass, and
    `weights` is all of size (B, T) that is kept for it. Not differentiable twice."""
    result: Tensor = _GradientInForward.apply(inputs, value, weights, coefficient)  # type: ignore[no-untyped-call]
    return result


def _log_ratio_terms(log_ratio: Tensor, response_mask: Tensor, p: float | Tensor) -> HolderTerms:
    """The terms that the two public functions share, off the autograd tape and out of autocast's reach."""
    if log_ratio.ndim != 2 or log_ratio.shape != response_mask.shape or log_ratio.numel() == 0:
        raise ValueError(
            "log_ratio and response_mask must have one shape (B, T) with B, T >= 1, got "
            f"{tuple(log_ratio.shape)} and {tuple(response_mask.shape)}"
        )
    with torch.no_grad(), torch.autocast(log_ratio.device.type, enabled=False):
        rows = mask_rows(log_ratio.to(compute_dtype(log_ratio.dtype)), response_mask)
        return holder_terms(rows, row_p(p, rows))


def log_holder_mean(log_ratio: Tensor, response_mask: Tensor, p: float | Tensor) -> Tensor:
    """log rho_p of every row, the logarithm of the Hölder mean of its token ratios (Eq. 1); differentiable.

    Args:
        log_ratio: (B, T) log pi_theta - log pi_old, nats; any float dtype. Masked positions may hold anything.
        response_mask: (B, T) bool or 0/1; True (1) marks a response token.
        p: any real number, 0 (geometric mean), inf (maximum) or -inf (minimum), as a Python float for all rows or as a
            tensor (B,) of floats, one for each row. |p| < 1e-30 is computed as 0 and |p| > 1e20 as ±inf. Under
            torch.compile every new value of a Python float compiles anew; a tensor compiles once.

    Returns:
        (B,) nats; float64 for a float64 `log_ratio`, else float32. A row without a token gives 0.
        The gradient is `holder_weights` (Eq. 3), formed in the forward pass; exactly 0 in masked positions. At ±inf it
        is shared equally by the tokens that attain the extreme. It cannot be differentiated again.

    Raises:
        TypeError: p is neither a Python number nor a tensor of floats.
        ValueError: p is a number that is nan (in a tensor, it makes its row nan), or the shapes are not one (B, T) with
            B, T >= 1 and (B,).
    """
    terms = _log_ratio_terms(log_ratio, response_mask, p)
    return with_gradient(log_ratio, terms.log_mean, terms.weights, torch.ones_like(terms.log_mean))


def holder_weights(log_ratio: Tensor, response_mask: Tensor, p: float | Tensor) -> Tensor:
    """W(p): the share of every token in the gradient of its row's log rho_p, softmax(p * log_ratio) (Eq. 3).

    Arguments, dtypes and errors as for `log_holder_mean`. Returns (B, T), detached from autograd: each row sums to 1
    over its unmasked tokens; masked positions, and rows without a token, are 0.
    """
    return _log_ratio_terms(log_ratio, response_mask, p).weights
