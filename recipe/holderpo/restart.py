"""A run that lost one of its processes (a rollout server, an actor) goes on from its last checkpoint by itself."""

import sys
from collections.abc import Callable, Iterator

import ray
from omegaconf import DictConfig
from ray.exceptions import RayTaskError

from recipe.holderpo.checkpoint import Checkpoint
from recipe.holderpo.resume import find_checkpoint

# Ray's and vLLM's names for it. An error that crossed processes has them in its text alone.
LOST = (
    "ActorDiedError",
    "ActorUnavailableError",
    "WorkerCrashedError",
    "NodeDiedError",
    "OwnerDiedError",
    "EngineDeadError",
)


def lost_process(error: BaseException) -> str | None:
    """The name for the loss of a process, if that is what the error comes from; None for any other error."""
    texts = [f"{type(link).__name__}: {link}" for link in _chain(error)]
    return next((name for name in LOST for text in texts if name in text), None)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and everything that it came from, over Ray's process boundaries too."""
    while error is not None:
        yield error
        error = error.cause if isinstance(error, RayTaskError) else error.__cause__ or error.__context__


def with_restarts(
    train: Callable[[DictConfig, Checkpoint | None], None], config: DictConfig, checkpoint: Checkpoint | None
) -> None:
    """Call `train`, and again after the loss of a process, at most `config.restarts` times. Other errors are raised."""
    for left in range(config.restarts, -1, -1):
        try:
            return train(config, checkpoint)
        except Exception as error:
            lost = lost_process(error)
            if lost is None or left == 0:
                raise
        ray.shutdown()
        print(f"lost a process ({lost}); restarts left: {left - 1}", file=sys.stderr, flush=True)
        checkpoint = find_checkpoint(config)
        if checkpoint is None:
            print("there is no checkpoint yet: the run begins again", file=sys.stderr, flush=True)
