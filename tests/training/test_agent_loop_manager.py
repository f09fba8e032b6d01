"""What is done together: results go to those who asked, an error to the one whose it is, and puts keep their order."""

import asyncio
import inspect
import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from verl.protocol import DataProto

from recipe.holderpo.training import agent_loop_manager
from recipe.holderpo.training.agent_loop_manager import REWARD_SECONDS, Puts, Together, rewards_together
from recipe.holderpo.training.samples import Samples


class Called:
    """Doubles numbers, and notes what it was called with."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.calls = list[list[int]]()
        self.seconds = seconds
        self.at_once = self.most_at_once = 0

    async def __call__(self, numbers: list[int]) -> list[int]:
        self.calls.append(list(numbers))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(self.seconds)
        self.at_once -= 1
        if -1 in numbers:
            raise ValueError("minus one")
        return [2 * number for number in numbers]


def results(together: Together[int, int], waves: list[list[int]]) -> list[Any]:
    """Of numbers that are handed in, those of a wave at the same moment, the next wave when the first call has begun."""

    async def run() -> list[Any]:
        tasks = []
        for wave in waves:
            tasks += [asyncio.create_task(together(number)) for number in wave]
            await asyncio.sleep(0.02)
        return await asyncio.gather(*tasks, return_exceptions=True)

    return asyncio.run(run())


def test_one_call_at_a_time_takes_all_that_waits() -> None:
    called = Called(seconds=0.05)
    assert results(Together(called), [[1, 2, 3], [4], [5, 6]]) == [2, 4, 6, 8, 10, 12]
    assert called.calls == [[1, 2, 3], [4, 5, 6]] and called.most_at_once == 1


def test_calls_that_may_overlap_are_of_a_moment() -> None:
    called = Called(seconds=0.2)
    assert results(Together(called, seconds=0.005), [[1, 2], [3]]) == [2, 4, 6]
    assert called.calls == [[1, 2], [3]] and called.most_at_once == 2


@pytest.mark.parametrize("seconds", [None, 0.005])
def test_an_error_is_of_the_one_whose_it_is(seconds: float | None) -> None:
    called = Called()
    first, wrong, last, later = results(Together(called, seconds), [[1, -1, 3], [4]])
    assert (first, last, later) == (2, 6, 8) and isinstance(wrong, ValueError)
    assert called.calls == [[1, -1, 3], [1], [-1], [3], [4]]


def test_one_that_has_given_up_disturbs_nobody() -> None:
    together = Together(Called(seconds=0.05))

    async def run() -> list[Any]:
        tasks = [asyncio.create_task(together(number)) for number in (1, 2, 3)]
        await asyncio.sleep(0.01)
        tasks[1].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, cancelled, last = asyncio.run(run())
    assert (first, last) == (2, 6) and isinstance(cancelled, asyncio.CancelledError)


def test_rewards_of_a_moment_are_one_call_of_the_worker() -> None:
    asked = list[int]()

    async def compute_score_batch(data: Samples) -> list[dict[str, float]]:
        asked.append(len(data))  # as verl's worker takes a batch apart
        return [{"reward_score": float(data[i : i + 1].batch["responses"].sum())} for i in range(len(data))]

    worker = SimpleNamespace(compute_score_batch=SimpleNamespace(remote=compute_score_batch))
    samples = [DataProto(batch=TensorDict({"responses": torch.ones(1, n)}, batch_size=1)) for n in (3, 5)]

    async def run() -> list[Any]:
        handle = rewards_together(worker)
        return await asyncio.gather(*(handle.compute_score.remote(one) for one in samples))

    assert asyncio.run(run()) == [{"reward_score": 3.0}, {"reward_score": 5.0}] and asked == [2]
    assert 0 < REWARD_SECONDS < 0.05


def test_samples_of_a_prompt_share_nothing_that_a_reward_manager_writes_into() -> None:
    """As `HolderRewardManager` writes whether a response was cut off, before it waits for the grader."""
    prompt = {"extra_info": {"index": 7}}
    batch = TensorDict({"responses": torch.ones(1, 2)}, batch_size=1)
    sent = [DataProto(batch, {name: np.array([value]) for name, value in prompt.items()}) for _ in range(2)]
    arrived = pickle.loads(pickle.dumps(Samples(sent)))
    first, second = (arrived[i : i + 1] for i in range(len(arrived)))
    first.non_tensor_batch["extra_info"][0]["truncated"] = True
    assert second.non_tensor_batch["extra_info"][0] == {"index": 7}
    assert first.non_tensor_batch["extra_info"][0] == {"index": 7, "truncated": True}


def test_samples_and_states_are_put_together_by_partition_and_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state that is put after a sample's put has ended comes after it."""
    put = list[tuple[Any, ...]]()

    async def kv_batch_put(*, keys: Any, partition_id: Any, tags: Any, fields: Any = None) -> None:
        lengths = None if fields is None else [len(row) for row in fields["responses"].unbind()]
        put.append((partition_id, keys, [tag["status"] for tag in tags], lengths))
        await asyncio.sleep(0.01)

    monkeypatch.setattr(agent_loop_manager, "tq", SimpleNamespace(async_kv_batch_put=kv_batch_put))
    puts = Puts()

    async def episode(keys: list[str], length: int, partition: str = "train", **more: Any) -> None:
        fields = [{"responses": torch.ones(length), **more} for _ in keys]
        tags = [{"status": "success"} for _ in keys]
        await puts.async_kv_batch_put(keys=keys, fields=fields, tags=tags, partition_id=partition)
        await puts.async_kv_put(key=keys[0][0], partition_id=partition, tag={"status": "finished"})

    async def run() -> None:
        await asyncio.gather(
            episode(["a_0", "a_1"], 2), episode(["b_0"], 3), episode(["c_0"], 4, partition="val"), episode(["d_0"], 5, x=1),
            *(episode([f"{name}_0"], n, position_ids=torch.ones(4, n)) for name, n in (("e", 2), ("f", 3))),
        )  # fmt: skip

    asyncio.run(run())
    assert put[0] == ("train", ["a_0", "a_1", "b_0"], ["success"] * 3, [2, 2, 3])
    assert put[1:3] == [("val", ["c_0"], ["success"], [4]), ("train", ["d_0"], ["success"], [5])]
    assert put[3:5] == [("train", ["e_0"], ["success"], [2]), ("train", ["f_0"], ["success"], [3])], (
        "(4, L): each alone"
    )
    assert put[5:] == [("train", ["a", "b", "d", "e", "f"], ["finished"] * 5, None), ("val", ["c"], ["finished"], None)]


def test_an_episode_that_cannot_be_put_has_no_sample_put_after_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """verl then clears its group from the queue."""
    put = list[list[str]]()

    async def kv_batch_put(*, keys: list[str], **_: Any) -> None:
        await asyncio.sleep(0.01 * len(keys))
        if "a_1" in keys:
            raise ConnectionError("the queue")
        put.append(keys)

    monkeypatch.setattr(agent_loop_manager, "tq", SimpleNamespace(async_kv_batch_put=kv_batch_put))

    async def episode(puts: Puts, name: str) -> None:
        keys = [f"{name}_{number}" for number in range(3)]
        fields: list[dict[str, Any]] = [{"responses": torch.ones(2)} for _ in keys]
        await puts.async_kv_batch_put(keys=keys, fields=fields, tags=[{}] * 3, partition_id="train")

    async def run() -> list[Any]:
        puts = Puts()
        return [*await asyncio.gather(episode(puts, "a"), episode(puts, "b"), return_exceptions=True)]

    wrong, right = asyncio.run(run())
    assert isinstance(wrong, ConnectionError) and right is None
    assert put == [["b_0", "b_1", "b_2"]], "all of the other episode, and nothing of this one"


def test_verl_calls_both_by_the_names_that_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    from verl.trainer.ppo.v1 import agent_loop_tq

    from recipe.holderpo.training.verl_internals import agent_loop_target, agent_loop_worker, put_samples_through

    for name in ("tq", "list_of_dict_to_tensordict"):
        monkeypatch.setattr(agent_loop_tq, name, getattr(agent_loop_tq, name))
    put_samples_through("puts")
    worker: Any = agent_loop_worker()
    post, run_prompt = (
        inspect.unwrap(method).__code__ for method in (worker._agent_loop_postprocess, worker._run_prompt)
    )
    assert agent_loop_tq.tq == "puts" and {"tq", "list_of_dict_to_tensordict"} <= {*post.co_names}
    assert {"tq", "async_kv_put"} <= {*run_prompt.co_names}
    import recipe.holderpo.training.agent_loop as ours

    assert agent_loop_target("holder_single_turn") is ours.HolderSingleTurnAgentLoop
    with pytest.raises(KeyError):
        agent_loop_target("nobody's")
