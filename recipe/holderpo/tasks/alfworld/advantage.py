"""Group-relative advantages for samples that are single steps of episodes, with a penalty of each step's own."""

from typing import Any

import numpy as np
import torch

from recipe.holderpo.tasks.registry import EXTRA_FIELDS

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
    scores = token_level_rewards.double().sum(-1)
    return _over_tokens(_normalised(scores, index, _divides(config)), token_level_rewards, response_mask)


def gigpo(
    token_level_rewards: torch.Tensor, response_mask: torch.Tensor, index: np.ndarray, config: Any = None, **_: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """GiGPO (arXiv 2505.10978): the advantage of the episode plus that of the step among those from the same state.

    The episode's is `step_grpo`. The step's compares, among all steps of a group's episodes before which the agent saw the
    same (the anchor state), the discounted return from there, less the step's own penalty; a step whose state was seen once
    has 0. The weight between both is 1, the paper's.

    Args:
        as `step_grpo`; each sample's `anchor` (what was seen) and `step_return` come with `EXTRA_FIELDS`, as the agent loop
        wrote them (discounted by `algorithm.gamma`). A sample without them, as those that fill a batch, is a state seen once.

    Returns:
        advantages and returns, the same (B, T) tensor.

    Raises:
        LookupError: the trainer has not set `EXTRA_FIELDS`.
    """
    samples = EXTRA_FIELDS.get()
    scores = token_level_rewards.double().sum(-1)
    returns = torch.tensor(
        [sample["step_return"] if "anchor" in sample else 0.0 for sample in samples], dtype=torch.float64
    )
    anchors = np.array(
        [
            f"{group}\n{sample['anchor']}" if "anchor" in sample else f"alone {row}"
            for row, (group, sample) in enumerate(zip(index, samples, strict=True))
        ]
    )
    divide = _divides(config)
    advantages = _normalised(scores, index, divide) + _normalised(returns, anchors, divide)
    return _over_tokens(advantages, token_level_rewards, response_mask)


def _divides(config: Any) -> bool:
    return bool(config is None or config.get("norm_adv_by_std_in_grpo", True))


def _normalised(scores: torch.Tensor, index: np.ndarray, divide: bool) -> torch.Tensor:
    """(score - mean), over std where asked for, among the rows of the same index; 0 for one that is alone. All (B,), float64.

    In float32 the mean of equal scores may differ from them by a unit in the last place, which the division by a standard
    deviation of about 0 turns into advantages of order 1."""
    advantages = torch.zeros_like(scores)
    for group in np.unique(index):
        rows = torch.from_numpy(np.flatnonzero(index == group))
        if len(rows) == 1:
            continue  # nothing to compare it with
        centred = scores[rows] - scores[rows].mean()
        advantages[rows] = centred / (scores[rows].std() + EPSILON) if divide else centred
    return advantages


def _over_tokens(
    advantages: torch.Tensor, rewards: torch.Tensor, response_mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    result = advantages.to(rewards.dtype).unsqueeze(-1) * response_mask
    return result, result
