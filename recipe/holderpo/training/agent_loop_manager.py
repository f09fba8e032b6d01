"""verl's agent loops with less to do for each sample: what verl does one by one is done for all that wait at the same moment.

In verl 0.9.1 a sample makes an agent loop of its own through `hydra.utils.instantiate`, a call of a reward worker, and a put
into the transfer queue; a prompt makes two further puts. `benchmarks/samples.py` compares. What a sample is, and in which
order the queue hears of samples and of their prompt, is as with verl: a prompt is finished when all its samples are put.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from itertools import chain
from types import SimpleNamespace
from typing import Any, Generic, TypeVar

import ray
import transfer_queue as tq
from verl.protocol import DataProto
from verl.trainer.ppo.v1 import AgentLoopManagerTQ
from verl.utils.rollout_trace import rollout_trace_attr
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from recipe.holderpo.training.samples import Samples
from recipe.holderpo.training.verl_internals import (
    agent_loop_target,
    agent_loop_worker,
    new_agent_loop,
    put_samples_through,
)

Episode = tuple[str, list[str], list[dict[str, Any]], list[dict[str, Any]]]
"""Partition; key, fields and tag of each of its samples."""
Item = TypeVar("Item")
Result = TypeVar("Result")


# Rewards that are asked for within so many seconds are one call. A slow reward holds up those of its call, and no other.
REWARD_SECONDS = 0.005
# Reward functions of this package, which may be asked again where one of a call has failed. A user's own, which may ask a
# judge that is paid, is asked for each sample by itself, as verl does.
OWN = "pkg://recipe.holderpo."


class Together(Generic[Item, Result]):
    """Has what coroutines of one event loop hand in treated together.

    An error of a call of several is found again by calls of one each, so that it is of those alone whose error it is.

    Args:
        treat: from some items to their results.
        seconds: None: one call at a time, for all that waits when it begins. Else a call begins so many seconds after the
            first item that waits for it, and calls may overlap.
    """

    def __init__(
        self, treat: Callable[[list[Item]], Awaitable[Sequence[Result]]], seconds: float | None = None
    ) -> None:
        self.treat, self.seconds = treat, seconds
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._tasks: set[asyncio.Task[None]] = set()  # the event loop holds them weakly
        self._collecting = False

    async def __call__(self, item: Item) -> Result:
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if not self._collecting:
            self._collecting = True
            task = asyncio.create_task(self._run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await future

    async def _run(self) -> None:
        if self.seconds is not None:
            await asyncio.sleep(self.seconds)
            waiting, self._waiting, self._collecting = self._waiting, [], False
            await self._treat(waiting)
            return
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            await self._treat(waiting)
        self._collecting = False

    async def _treat(self, waiting: list[tuple[Item, "asyncio.Future[Result]"]]) -> None:
        try:
            results = await self.treat([item for item, _ in waiting])
        except Exception as error:
            if len(waiting) > 1:
                await asyncio.gather(*(self._treat([one]) for one in waiting))
            elif not waiting[0][1].done():
                waiting[0][1].set_exception(error)
            return
        for (_, future), result in zip(waiting, results, strict=True):
            if not future.done():  # its sample was given up meanwhile
                future.set_result(result)


def rewards_together(worker: Any) -> Any:
    """In the place of a reward worker's handle: `compute_score.remote` of a sample."""

    async def treat(samples: list[DataProto]) -> Sequence[dict[str, Any]]:
        found: Sequence[dict[str, Any]] = await worker.compute_score_batch.remote(Samples(samples))
        return found

    return SimpleNamespace(compute_score=SimpleNamespace(remote=Together(treat, REWARD_SECONDS)))


class Puts:
    """In the place of the transfer queue's module, where agent loops put samples and what has become of prompts."""

    def __init__(self) -> None:
        self._episodes = Together(self._put_episodes)
        self._states = Together(self._put_states)

    async def async_kv_put(self, *, key: str, partition_id: str, tag: dict[str, Any]) -> None:
        await self._states((partition_id, key, tag))

    async def async_kv_batch_put(
        self, *, keys: list[str], fields: list[dict[str, Any]], tags: list[dict[str, Any]], partition_id: str
    ) -> None:
        """The samples of an episode."""
        await self._episodes((partition_id, keys, fields, tags))

    async def _put_states(self, states: list[tuple[str, str, dict[str, Any]]]) -> Sequence[None]:
        partitions = defaultdict(list)
        for partition, key, tag in states:
            partitions[partition].append((key, tag))
        for partition, rows in partitions.items():
            keys, tags = zip(*rows, strict=True)
            await tq.async_kv_batch_put(keys=[*keys], tags=[*tags], partition_id=partition)
        return [None] * len(states)

    async def _put_episodes(self, episodes: list[Episode]) -> Sequence[None]:
        """A put for each set of fields, which is one in most runs. An episode's samples have one."""
        groups = defaultdict(list)
        for partition, keys, fields, tags in episodes:
            positions = getattr(fields[0].get("position_ids"), "shape", ())
            of_one_length = positions if len(positions) > 1 else ()  # with images: no nested tensor has these
            groups[partition, frozenset(fields[0]), of_one_length].append((keys, fields, tags))
        for (partition, *_), rows in groups.items():
            keys, fields, tags = ([*chain.from_iterable(column)] for column in zip(*rows, strict=True))
            columns = list_of_dict_to_tensordict(fields)
            await tq.async_kv_batch_put(keys=keys, fields=columns, tags=tags, partition_id=partition)
        return [None] * len(episodes)


class AgentLoopWorker(agent_loop_worker()):  # type: ignore[misc]
    def __init__(
        self, config: Any, llm_client: Any, teacher_client: Any = None, reward_loop_worker_handles: Any = None
    ) -> None:
        if reward_loop_worker_handles is not None and str(config.reward.custom_reward_function.path).startswith(OWN):
            reward_loop_worker_handles = [rewards_together(worker) for worker in reward_loop_worker_handles]
        super().__init__(config, llm_client, teacher_client, reward_loop_worker_handles)
        put_samples_through(Puts())
        self._shared: dict[str, Any] = {}  # agent loop -> the one for all samples; None: each makes its own

    async def _run_agent_loop(
        self, sampling_params: dict[str, Any], trajectory: dict[str, Any], *, agent_name: str, **kwargs: Any
    ) -> None:
        """verl's, with one agent loop for all samples where its class allows it by `SHARED`."""
        if agent_name not in self._shared:
            # not of a base class: a subclass may hold something of its sample
            is_shared = vars(agent_loop_target(agent_name)).get("SHARED", False)
            self._shared[agent_name] = new_agent_loop(self, agent_name) if is_shared else None
        loop = self._shared[agent_name]
        if loop is None:
            await super()._run_agent_loop(sampling_params, trajectory, agent_name=agent_name, **kwargs)
            return
        attributes = {name: trajectory[name] for name in ("step", "sample_index", "rollout_n", "validate")}
        with rollout_trace_attr(**attributes, name="agent_loop", trace=kwargs.pop("trace", True)):
            output = await loop.run(sampling_params, **kwargs)
            await self._agent_loop_postprocess(output, trajectory["validate"], **kwargs)


class HolderAgentLoopManager(AgentLoopManagerTQ):
    """For `actor_rollout_ref.rollout.agent.agent_loop_manager_class`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.agent_loop_workers_class = ray.remote(AgentLoopWorker)
