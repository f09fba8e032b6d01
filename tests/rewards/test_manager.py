"""What the reward function learns of a response's end, through verl's own naive manager."""

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from verl import DataProto

from recipe.holderpo.rewards.manager import HolderRewardManager

EOS, PAD, LIMIT = 2, 0, 4  # LIMIT: data.max_response_length


def _reward(responses: list[list[int]], **columns: Any) -> tuple[list[dict[str, Any]], dict]:
    """What the reward function was given, and what the manager returned, for samples with these tokens."""
    width = LIMIT + 1  # padding follows also where the limit is reached
    rows = [tokens + [PAD] * (width - len(tokens)) for tokens in responses]
    prompt = torch.full((len(rows), 3), 9)
    mask = torch.tensor([[0, 1, 1] + [1] * len(tokens) + [0] * (width - len(tokens)) for tokens in responses])
    batch = DataProto.from_dict(
        {"prompts": prompt, "responses": torch.tensor(rows), "attention_mask": mask},
        {
            name: np.array([value] * len(rows), dtype=object)
            for name, value in ({"data_source": "math", "reward_model": {"ground_truth": "7"}} | columns).items()
        },
    )
    calls = []

    def compute_score(**given: Any) -> dict[str, float]:
        calls.append(given)
        return {"score": 0.25, "acc": 1.0}

    tokenizer = SimpleNamespace(eos_token_id=EOS, decode=lambda ids, **_: " ".join(map(str, ids.tolist())))
    config = OmegaConf.create({"data": {"max_response_length": LIMIT}})

    async def run() -> dict[str, Any]:
        return await HolderRewardManager(config, tokenizer, compute_score).run_single(batch)

    return calls, asyncio.run(run())


@pytest.mark.parametrize(
    ("tokens", "truncated"),
    [
        ([5, 6, 7, 8], True),  # fills the limit and never ended
        ([5, 6, 7, EOS], False),  # fills the limit, and its last token ends it
        ([5, EOS, 7, 8], True),  # an EOS elsewhere ends nothing
        ([5, EOS], False),
        ([5, 6], False),  # short without an EOS: stopped by something else than the limit
        ([], False),
    ],
)
def test_truncated_means_filled_and_not_ended(tokens: list[int], truncated: bool) -> None:
    (call,), result = _reward([tokens], extra_info={"index": 3})
    assert call["extra_info"]["truncated"] is truncated and call["extra_info"]["index"] == 3
    assert call["solution_str"] == " ".join(map(str, tokens)) and call["ground_truth"] == "7"
    assert result == {"reward_score": 0.25, "reward_extra_info": {"score": 0.25, "acc": 1.0}}


def test_of_an_episode_with_several_samples_the_last_counts() -> None:
    for responses, truncated in (([[5, EOS], [5, 6, 7, 8]], True), ([[5, 6, 7, 8], [5, EOS]], False)):
        (call,), _ = _reward(responses, extra_info={})
        assert call["extra_info"]["truncated"] is truncated


def test_data_without_extra_info_is_named() -> None:
    with pytest.raises(KeyError, match="the data set has no column extra_info"):
        _reward([[5]])
