"""Group-relative advantages for samples that are single steps of episodes, with a penalty of each step's own."""

from typing import Any

import numpy as np
import torch

EPSILON = 1e-6  # as in verl's GRPO


def step_grpo(
    token_level_rewards: torch.Tensor, response_mask: torch.Tensor, index: np.ndarray, config: Any = None, **_: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """(score - mean) / std over all samples of a group, constant over each sample's tokens.

    A group is one game played several times; its samples are all steps of these episodes, and a sample's score is its
    episode's reward less the step's own penalty (the protocol of GiGPO's GRPO baseline, arXiv 2505.10978). verl's own "grpo"
    takes one score for each episode, so a penalty could not tell a wrong step from the right ones beside it.

    Args:
        token_level_rewards: (B, T) float; a sample's score is the sum of its row.
        response_mask: (B, T).
        index: (B,) group of each sample.
        config: verl's algorithm config; `norm_adv_by_std_in_grpo=false` leaves the division out.

    Returns:
        advantages and returns, the same (B, T) tensor.
    """
    # In float32 the mean of equal scores may differ from them by a unit in the last place, which the division by a standard
    # deviation of about 0 turns into advantages of order 1.
    scores = token_level_rewards.double().sum(-1)
    advantages = torch.zeros_like(scores)
    divide = config is None or config.get("norm_adv_by_std_in_grpo", True)
    for group in np.unique(index):
        rows = torch.from_numpy(np.flatnonzero(index == group))
        if len(rows) == 1:
            continue  # nothing to compare it with
        centred = scores[rows] - scores[rows].mean()
        advantages[rows] = centred / (scores[rows].std() + EPSILON) if divide else centred
    result = advantages.to(token_level_rewards.dtype).unsqueeze(-1) * response_mask
    return result, result
