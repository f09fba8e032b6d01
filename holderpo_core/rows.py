"""What a response's row says before it is aggregated: its advantage, its spread, its tokens beyond a clip."""

import math

import torch
from torch import Tensor

from holderpo_core.mean import MaskedRows, zero_masked


def per_row_value(values: Tensor, mask: Tensor, rows: MaskedRows) -> tuple[Tensor, Tensor]:
    """The value that each row's unmasked tokens share, (B,), 0 for a row without a token; and its fault, (B,): how far
    the row's values lie apart, nan if one is not finite, 0 if all is well.

    values (B,) or (B, T), mask (B, T) bool."""
    values = values.to(rows.keep.dtype)
    if values.ndim == 1:
        row = torch.where(rows.nonempty, values, 0.0)
        return row, row - row
    values = zero_masked(values, mask)
    high, low = values.amax(1), values.amin(1)
    row = torch.where(high > -low, high, low)  # the shared value, as the others are the masked positions' 0
    torch.lerp(row[:, None], values, rows.keep, out=values)  # and now the masked positions hold it too
    return row, values.amax(1) - values.amin(1)


def spread(rows: MaskedRows) -> Tensor:
    """(B,): standard deviation of each row's log-ratios, by their number, to sqrt(eps) times the size of their mean."""
    # One pass, from sums of squares; the masked positions hold the mean.
    squares: Tensor = torch.linalg.vecdot(rows.values, rows.values)
    return ((squares - rows.values.shape[1] * rows.mean.square()) / rows.count).clamp_(min=0).sqrt_()


def token_bounds(advantage: Tensor, clip_ratio_low: float, clip_ratio_high: float) -> tuple[Tensor, Tensor]:
    """Lower and upper bound of a row's log-ratios, (B,) each, on the side that PPO clips: above where the advantage (B,) is
    positive, below where it is negative, infinite elsewhere."""
    lower = torch.full_like(advantage, -math.inf).masked_fill_(advantage < 0, math.log1p(-clip_ratio_low))
    upper = torch.full_like(advantage, math.inf).masked_fill_(advantage > 0, math.log1p(clip_ratio_high))
    return lower, upper


def share_beyond(rows: MaskedRows, lower: Tensor, upper: Tensor) -> Tensor:
    """(B,): the share of each row's tokens above `upper` or below `lower`, those of `token_bounds`."""
    # By signs, which are 1 beyond the bound and -1 within it: torch's comparisons are several times slower on a CPU.
    high = torch.isinf(lower)
    side = high.to(lower.dtype).mul_(2).sub_(1)
    bound = torch.where(high, upper, -lower)
    bound = torch.nextafter(bound, torch.full_like(bound, math.inf))  # a token at the bound is within
    signs = torch.addcmul(-bound[:, None], rows.values, side[:, None]).sign_().sum(1)
    length = rows.values.shape[1]
    masked = (length - rows.count) * (1 + (rows.mean * side - bound).sign())  # masked positions hold the mean
    return (signs + length - masked).div_(2 * rows.count)
