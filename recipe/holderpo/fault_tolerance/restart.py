"""A run that lost one of its processes resumes from its last checkpoint by itself."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import ray
from omegaconf import DictConfig, OmegaConf
from ray.exceptions import RayError, RayTaskError

from recipe.holderpo.fault_tolerance.attach import attach
from recipe.holderpo.fault_tolerance.checkpoint import Checkpoint, delete_from
from recipe.holderpo.fault_tolerance.collapse import Collapsed
from recipe.holderpo.fault_tolerance.resume import newest_checkpoint
from recipe.holderpo.fault_tolerance.stalls import Stalled
from recipe.holderpo.report.events import note_event

# Ray's and vLLM's names for it. An error that crossed processes has them in its text alone.
LOST = (
    "ActorDiedError",
    "ActorUnavailableError",
    "WorkerCrashedError",
    "NodeDiedError",
    "OwnerDiedError",
    "EngineDeadError",
)


SETTLE_SECONDS, POLL_SECONDS = 30.0, 1.0
"""For Ray to notice that a node is gone: its health checks take some 20 s."""


def lost_process(error: BaseException) -> str | None:
    """The name for the loss of a process, if that is what the error comes from; None for any other error."""
    texts = [f"{type(link).__name__}: {link}" for link in _chain(error)]
    return next((name for name in LOST for text in texts if name in text), None)


def unwrapped(error: BaseException) -> BaseException:
    """The error as it was raised, without what Ray wraps those of other processes in."""
    return error.cause if isinstance(error, RayTaskError) else error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and everything that it came from, over Ray's process boundaries too."""
    while error is not None:
        yield error
        error = error.cause if isinstance(error, RayTaskError) else error.__cause__ or error.__context__


def with_restarts(
    train: Callable[[DictConfig, Checkpoint | None], None], config: DictConfig, checkpoint: Checkpoint | None
) -> None:
    """Call `train`, and again after the loss of a process, when the run is stuck, or (where asked for) after a collapse,
    `config.restarts` times at most.

    Other errors are raised.
    """
    for left in range(config.restarts, -1, -1):
        try:
            return train(config, checkpoint)
        except Exception as error:
            reason, before = _reason(error, config)
            if reason is None or left == 0:
                raise
            ray.shutdown()
            if not nodes_are_there(config):
                raise
            print(f"{reason}; restarts left: {left - 1}", file=sys.stderr, flush=True)
            own = newest_checkpoint(config, before)
            if before < math.inf:
                if own is None:
                    raise  # nothing to go back to
                delete_from(Path(config.trainer.default_local_dir), before)
            elif own is None and checkpoint is None:
                print("there is no checkpoint yet: the run begins again", file=sys.stderr, flush=True)
            checkpoint = own or checkpoint
            step = 0 if checkpoint is None else checkpoint.step
            note_event(Path(config.run_dir), step, f"{reason}; went on from step {step}")


def nodes_are_there(config: DictConfig) -> bool:
    """Whether the cluster still has the nodes that the run needs; False also where it cannot be asked. A Ray of the run's own
    needs none.

    A lost node is on Ray's books for a while, and a run that started again would wait for it without end."""
    address = OmegaConf.select(config, "ray_kwargs.ray_init.address")
    if address in (None, "local"):
        return True
    try:
        attach(address)
        end = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < end:
            gpus = [node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"]]
            if sum(number >= config.trainer.n_gpus_per_node for number in gpus) < config.trainer.nnodes:
                return False
            time.sleep(POLL_SECONDS)
        return True
    except (ConnectionError, RuntimeError, RayError):
        return False
    finally:
        ray.shutdown()


def _reason(error: Exception, config: DictConfig) -> tuple[str | None, float]:
    """Why the run is to resume from a checkpoint, None if it is not; and the step that the checkpoint must be before."""
    if isinstance(error, Stalled):
        return (None if error.stopping else str(error)), math.inf
    if isinstance(error, Collapsed):
        collapsed = unwrapped(error)
        return (f"collapsed: {collapsed}" if config.guard.on_collapse == "rollback" else None), collapsed.args[1]
    lost = lost_process(error)
    return (f"lost a process ({lost})" if lost else None), math.inf
