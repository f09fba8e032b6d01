"""What an agent loop hands a reward worker for several samples. Imports nothing: the worker would import it too."""

from typing import Any


class Samples:
    """Samples for `RewardLoopWorker.compute_score_batch`, which takes its batch apart by slices of one."""

    def __init__(self, samples: list[Any]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, one: slice) -> Any:
        return self.samples[one.start]
