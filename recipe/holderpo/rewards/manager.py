"""verl's naive reward manager, which also tells the reward function whether the response was cut off.

Selected by `reward.reward_manager.source=importlib` (conf/task/math.yaml).
"""

from typing import Any

from verl import DataProto
from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager

from recipe.holderpo.report.finished import note_finished


class HolderRewardManager(NaiveRewardManager):
    """Adds `truncated` to `extra_info`: the response fills data.max_response_length and its last token ends no sequence."""

    async def run_single(self, data: DataProto) -> dict[str, Any]:
        item = data[-1]
        responses = item.batch["responses"]
        length = int(item.batch["attention_mask"][-responses.shape[-1] :].sum())
        full = length >= self.config.data.max_response_length
        ended = int(responses[length - 1]) == self.tokenizer.eos_token_id
        extra_info = item.non_tensor_batch.get("extra_info")
        if extra_info is None:
            raise KeyError("the data set has no column extra_info; recipe.holderpo.data writes one")
        extra_info["truncated"] = full and not ended
        result: dict[str, Any] = await super().run_single(data)
        note_finished()
        return result
