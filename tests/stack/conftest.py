"""Short runs of the real stack (verl, Ray, FSDP2 on gloo, vLLM) with an untrained model of some ten thousand parameters.

A start costs a minute, so each run here is looked at for several reasons, and ends in one of the ways that are tested.
"""

from collections.abc import Callable, Iterator

import pytest
from fault_injection.smallest_run import smallest_run
from fault_injection.watched_run import Run


@pytest.fixture(scope="session")
def small_overrides(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides for the smallest real run: 8 prompts x 4 samples, mini-batches of 4 prompts, no validation."""
    return smallest_run(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def new_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Run]]:
    """`new_run(*overrides)`: a run in a folder of its own, which is ended with the module at the latest."""
    runs: list[Run] = []

    def make(*overrides: str, kind: type[Run] = Run) -> Run:
        runs.append(kind(tmp_path_factory.mktemp("run"), overrides))
        return runs[-1]

    yield make
    for run in runs:
        run.end()
