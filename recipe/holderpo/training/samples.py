"""What an agent loop hands a reward worker for several samples. Imports nothing of verl's: the worker would import it too."""

import copy
from typing import Any


class Samples:
    """Samples for `RewardLoopWorker.compute_score_batch`, which takes its batch apart by slices of one.

    Those of a prompt come with the same objects (its `extra_info`), which reward managers write into: each gets its own."""

    def __init__(self, samples: list[Any]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, one: slice) -> Any:
        sample = self.samples[one.start]
        sample.non_tensor_batch = copy.deepcopy(sample.non_tensor_batch)
        return sample
