"""Diagnostics of a row's token weights W(p), from numbers that the Hölder mean already has: no exp or log per token.

All hold for p = 0 and p = ±inf too. A row without a token has a value, but should be left out of means.
"""

import torch
from torch import Tensor


def weight_entropy(weights: Tensor, scaled: Tensor, log_normalizer: Tensor) -> Tensor:
    """Shannon entropy of W(p), nats (Thm 1): -sum_t W_t log W_t with log W_t = scaled_t - log_normalizer.

    weights, scaled (B, T) and log_normalizer (B,) are those of `holderpo_core.mean.HolderTerms`. Returns (B,), >= 0;
    a row without a token gives 0."""
    mean_scaled: Tensor = torch.linalg.vecdot(weights, scaled)
    return (log_normalizer - mean_scaled).clamp_(min=0)


def normalized_entropy(entropy: Tensor, count: Tensor) -> Tensor:
    """Entropy over its largest value log n: 1 for uniform weights, towards 0 as one token takes all.

    entropy (B,) nats, count (B,) tokens >= 1. Returns (B,) in [0, 1]; one token alone is uniform: 1."""
    return torch.where(count > 1, (entropy / count.log()).clamp(max=1), 1.0)


def herfindahl(weights: Tensor) -> Tensor:
    """HHI(p) = sum_t W_t^2 (Thm 7), from 1/n (uniform) to 1.

    weights (B, T); returns (B,), 0 for a row without a token."""
    norm: Tensor = torch.linalg.vector_norm(weights, dim=1)
    return norm.square()


def effective_sample_size(concentration: Tensor, count: Tensor) -> Tensor:
    """1 / (n HHI(p)): the share of the tokens that effectively carry the gradient.

    concentration (B,) from `herfindahl`, count (B,) tokens >= 1. Returns (B,) in (0, 1]; a row without a token gives 1."""
    return (count * concentration).reciprocal_().clamp_(max=1)
