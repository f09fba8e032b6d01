"""What HölderPO uses of verl 0.9.1 and TransferQueue 0.1.10 that is not meant to be used from outside.

Each name is here with the reason, and tests/training/test_verl_internals.py fails when one of them is gone or has changed.
Methods of verl's classes that HölderPO's classes override are listed in `OVERRIDDEN`.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import hydra
import transfer_queue.interface as _queue
from ray.actor import ActorHandle
from verl.trainer.main_ppo import TaskRunnerV1

if TYPE_CHECKING:  # they import every engine that verl has; the driver needs none
    import torch
    from transfer_queue import KVBatchMeta
    from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
    from verl.trainer.ppo.v1.trainer_base import PPOTrainer

# verl decorates its task runner with @ray.remote, and Ray's actor classes cannot be subclassed.
TaskRunner: type = TaskRunnerV1.__ray_metadata__.modified_class

# verl has no other hooks at these points of a step.
OVERRIDDEN: dict[str, str] = {
    "_build_replay_buffer": "how often finished samples are looked for",
    "_init_resource_pool_mgr": "the worker class of each role",
    "_load_checkpoint": "the last part of `init`; restores the state of HölderPO's parts",
    "_save_checkpoint": "a checkpoint is committed when it is complete, and a failed save does not end the run",
    "_compute_advantage": "what the agent loop wrote beside a sample, for GiGPO",
    "_update_actor": "p travels with the batch",
    "_compute_metrics": "called once per step with all its metrics: the record, the limits of `guard`",
    "_validate": "validation metrics belong to the record too",
    "_fetch_one_gen_batch": "names of prompts, for deterministic=true",
    "_balance_batch": "order of samples, for deterministic=true",
}


def time_phases(phase: Callable[[str], AbstractContextManager[None]]) -> None:
    """Enter `phase` with the name of each part of a step that verl's trainers time: a function that each imports by its name,
    and the one place where they say what they are about to do."""
    from verl.trainer.ppo.v1 import trainer_base, trainer_colocate_async, trainer_separate_async, trainer_sync

    for module in (trainer_base, trainer_sync, trainer_colocate_async, trainer_separate_async):
        timer = getattr(module.marked_timer, "verls", module.marked_timer)

        @contextmanager
        def timed(name: str, *args: Any, timer: Callable[..., Any] = timer, **kwargs: Any) -> Iterator[None]:
            with phase(name), timer(name, *args, **kwargs):
                yield

        timed.verls = timer  # type: ignore[attr-defined]
        module.marked_timer = timed


def modules_of(worker: Any) -> "list[torch.nn.Module]":
    """The models that a training worker computes with: the actor's, and the reference's where it has one of its own."""
    return [part.engine.module for part in (worker.actor, worker.ref) if part is not None]


def poll_replay_buffer_every(buffer: "ReplayBuffer", seconds: float) -> "ReplayBuffer":
    """verl looks for finished samples every 2 s, a constructor argument that its trainers do not pass on."""
    buffer.poll_interval = seconds
    return buffer


def actor_config(loss_fn: Callable[..., Any]) -> Any:
    """The actor's config inside the loss function that verl's worker makes, a `functools.partial` of its `ppo_loss`."""
    return loss_fn.keywords["config"]  # type: ignore[attr-defined]


def wrap_save(worker: Any, wrap: Callable[[Callable[..., None]], Callable[..., None]]) -> None:
    """Replace the writing of a rank's checkpoint files, which verl's worker leaves to its engine's checkpoint manager."""
    manager = worker.actor.engine.checkpoint_manager
    manager.save_checkpoint = wrap(manager.save_checkpoint)


@contextmanager
def files_of_a_save(take: Callable[[Any, str], None]) -> Iterator[None]:
    """In the block, `take` is called with what verl's checkpoint manager would write with `torch.save`, and the file's path.

    verl has an `async_save`, for Megatron alone; unnecessary once its FSDP manager has it."""
    import torch
    from verl.utils.checkpoint import fsdp_checkpoint_manager

    class Torch:
        save = staticmethod(take)

        def __getattr__(self, name: str) -> Any:
            return getattr(torch, name)

    fsdp_checkpoint_manager.torch = Torch()
    try:
        yield
    finally:
        fsdp_checkpoint_manager.torch = torch


def wrap_load(worker: Any, wrap: Callable[[Callable[..., None]], Callable[..., None]]) -> None:
    """Replace the reading of a rank's checkpoint files, as `wrap_save` does the writing."""
    manager = worker.actor.engine.checkpoint_manager
    manager.load_checkpoint = wrap(manager.load_checkpoint)


def wrap_update(worker: Any, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Replace the update on one mini-batch, which verl's worker calls for each of a step and whose metrics it averages."""
    worker.actor.train_batch = wrap(worker.actor.train_batch)


def agent_loop_worker() -> type:
    """verl decorates the worker of its agent loops with @ray.remote, and Ray's actor classes cannot be subclassed."""
    from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ

    made: type = AgentLoopWorkerTQ.__ray_metadata__.modified_class
    return made


def agent_loop_target(name: str) -> Any:
    """What makes a registered agent loop: a class, or a function. Raises KeyError for a name that is not registered."""
    from verl.experimental.agent_loop import agent_loop

    return hydra.utils.get_object(agent_loop._agent_loop_registry[name]["_target_"])


def new_agent_loop(worker: Any, name: str) -> Any:
    """An agent loop, as verl's worker makes one for each sample."""
    from verl.experimental.agent_loop import agent_loop

    return hydra.utils.instantiate(
        agent_loop._agent_loop_registry[name],
        trainer_config=agent_loop.DictConfigWrap(worker.config),
        server_manager=worker.llm_client,
        tokenizer=worker.tokenizer,
        processor=worker.processor,
        hf_model_type=worker.hf_model_type,
        dataset_cls=worker.dataset_cls,
        data_config=agent_loop.DictConfigWrap(worker.config.data),
        tools=agent_loop.ToolListWrap(worker.tools),
    )


def put_samples_through(puts: Any) -> None:
    """In this process, give `puts` what verl's agent loops put into the transfer queue: the fields of a sample as they are,
    before a TensorDict is made of them. verl's worker calls both by names of its module."""
    from verl.trainer.ppo.v1 import agent_loop_tq

    agent_loop_tq.tq = puts
    agent_loop_tq.list_of_dict_to_tensordict = list


def data_parallel_size(trainer: "PPOTrainer") -> int:
    """Ranks over which verl divides a batch for the actor."""
    return max(trainer.actor_rollout_wg._dispatch_info["actor"]) + 1


def log_probs_of(trainer: "PPOTrainer", batch: "KVBatchMeta") -> None:
    """Compute `log_probs` of samples under the actor's present weights, into the queue, as verl does before an update.

    verl takes micro-batches of one size alone; these samples may be fewer."""
    rollout = trainer.config.actor_rollout_ref.rollout
    batch.extra_info |= {"calculate_entropy": False, "compute_loss": False, "temperature": rollout.temperature}
    if size := rollout.log_prob_micro_batch_size_per_gpu:
        batch.extra_info["micro_batch_size_per_gpu"] = math.gcd(size, len(batch) // data_parallel_size(trainer))
    trainer.actor_rollout_wg.compute_log_prob(batch)


def processes_of(trainer: "PPOTrainer") -> list[ActorHandle]:
    """What a sample or a weight passes through on its way. (The loss of a training worker ends the call to it.)

    Handles of the transfer queue's actors exist only as private variables of its module, and verl's trainer keeps those of
    its rollout servers in attributes.
    """
    managers = trainer._rollout_server_managers()
    loops = getattr(trainer, "agent_loop_manager", None)  # there from `fit` on
    storage = _queue._TQ_STORAGE or {}  # None where another run of the cluster has started it
    return [
        *(server for manager in managers for replica in manager.get_replicas() for server in replica.servers),
        *(manager.global_load_balancer for manager in managers),
        *trainer.reward_loop_manager.reward_loop_workers,
        *getattr(loops, "agent_loop_workers", ()),  # a manager of the user's own may have none
        _queue._TQ_CONTROLLER,
        *storage.get("SimpleStorage", {}).values(),
    ]
