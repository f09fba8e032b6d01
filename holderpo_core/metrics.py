"""The metrics of the loss: how each is reduced, over the rows of a call and over micro-batches and ranks."""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

Reduction = Literal["max", "min", "sequence_mean", "token_mean", "sum"]

REDUCTION: dict[str, Reduction] = {
    "rho_mean": "sequence_mean",
    "rho_min": "min",
    "rho_max": "max",
    "clip_fraction": "sequence_mean",
    "sequence_clip_fraction": "sequence_mean",
    "token_clip_fraction": "sequence_mean",
    "log_ratio_max": "max",
    "log_ratio_min": "min",
    "log_ratio_std": "sequence_mean",
    "weight_entropy": "sequence_mean",
    "effective_sample_size": "sequence_mean",
    "bound": "sequence_mean",
    "second_moment": "sequence_mean",
    "ppo_kl": "token_mean",
    "p_mean": "sequence_mean",
    "sequences": "sum",
    "tokens": "sum",
}
"""How each metric of `holder_policy_loss` is reduced: the largest, the smallest, the mean over sequences (over calls:
weighted by `sequences`), the mean over tokens (weighted by `tokens`), or the sum."""


def reduce_rows(
    per_row: Mapping[str, Tensor], faults: Mapping[str, Tensor], nonempty: Tensor
) -> tuple[dict[str, float], dict[str, float]]:
    """The metrics of a call, and the sums of its faults, with one host sync.

    Args:
        per_row: the keys of `REDUCTION` -> (B,) values of each row; for a mean over tokens, the row's sum over its tokens;
            for `sequences` ones, for `tokens` the number of tokens.
        faults: name -> (B,).
        nonempty: (B,) bool; the other rows count nowhere.

    Returns:
        The metrics. Without a row: means and sums 0, and as extremes those of nothing, max -inf and min inf.
    """
    added = [name for name, how in REDUCTION.items() if how not in ("max", "min")]
    extreme = [name for name, how in REDUCTION.items() if how in ("max", "min")]
    signed = [-per_row[name] if REDUCTION[name] == "min" else per_row[name] for name in extreme]
    sums = torch.stack([*(per_row[name] for name in added), *faults.values()]).mul_(nonempty)
    largest = torch.stack(signed).masked_fill_(~nonempty, -math.inf)
    numbers = torch.cat((sums.sum(1), largest.amax(1))).tolist()  # the one host sync
    found = dict(zip([*added, *faults, *extreme], numbers, strict=True))
    divisor = {"sequence_mean": max(found["sequences"], 1.0), "token_mean": max(found["tokens"], 1.0), "min": -1.0}
    metrics = {name: found[name] / divisor.get(how, 1.0) for name, how in REDUCTION.items()}
    return metrics, {name: found[name] for name in faults}
