"""What a step's record has beside verl's metrics and the loss's."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import transfer_queue as tq
from transfer_queue import KVBatchMeta

from recipe.holderpo.fault_tolerance.collapse import is_finite_update


def further_metrics(batch: KVBatchMeta, metrics: Mapping[str, float]) -> dict[str, float]:
    """`guard/nonfinite_updates`, and what the rewards say beside their mean."""
    data = tq.kv_batch_get(
        keys=batch.keys, partition_id=batch.partition_id, select_fields=["rm_scores", "extra_fields"]
    )
    real = _real_rows(batch)
    extra_fields, scores = data.pop("extra_fields").tolist(), data["rm_scores"]
    keys = [batch.keys[row] for row in real]
    rewards = [float(scores[row].sum()) for row in real]
    extras = [extra_fields[row].get("reward_extra_info", {}) for row in real]
    return {"guard/nonfinite_updates": float(not is_finite_update(metrics))} | reward_metrics(keys, rewards, extras)


def mean_reward(batch: KVBatchMeta) -> float:
    """Mean reward of a step's samples, without those that only fill the batch."""
    scores = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=["rm_scores"])["rm_scores"]
    return float(np.mean([float(scores[row].sum()) for row in _real_rows(batch)]))


def _real_rows(batch: KVBatchMeta) -> list[int]:
    return [row for row, tag in enumerate(batch.tags) if not tag.get("is_padding", False)]


def group_of(key: str) -> str:
    """The prompt of a sample, by verl's key <prompt>_<episode>_<number of the sample in its episode>."""
    return key.split("_")[0]


def reward_metrics(keys: list[str], rewards: list[float], extras: list[dict[str, Any]]) -> dict[str, float]:
    """What the rewards of a step's samples say.

    `group/zero_variance_fraction`: groups whose rewards are all equal, which have no gradient under a group-relative
    advantage; `group/all_wrong_fraction` and `group/all_right_fraction`: those of them whose rewards are at most 0, and above
    it. `reward/<name>`: the mean of every further number that the reward function returned for each episode.

    Args:
        keys: verl's key of each sample, <prompt>_<episode>_<number of the sample in its episode>.
        extras: what the reward function returned beside the reward; of several samples of an episode, the last one's counts.
    """
    groups: dict[str, list[float]] = defaultdict(list)
    last: dict[str, tuple[int, dict[str, Any]]] = {}
    for key, reward, extra in zip(keys, rewards, extras, strict=True):
        episode, number = key.rsplit("_", 1)
        groups[group_of(key)].append(reward)
        if episode not in last or int(number) > last[episode][0]:
            last[episode] = int(number), extra
    values: dict[str, list[float]] = defaultdict(list)
    for _, extra in last.values():
        for name, value in extra.items():
            if name not in ("score", "acc") and isinstance(value, int | float):
                values[name].append(float(value))
    equal = [group[0] for group in groups.values() if max(group) == min(group)]
    share = {
        "zero_variance": len(equal),
        "all_wrong": sum(reward <= 0 for reward in equal),
        "all_right": sum(reward > 0 for reward in equal),
    }
    return {f"group/{name}_fraction": number / len(groups) for name, number in share.items()} | {
        f"reward/{name}": float(np.mean(numbers)) for name, numbers in values.items()
    }
