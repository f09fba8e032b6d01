"""Sampling parameters of one request: greedy rows, and seeds that depend on step, prompt and sample alone."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop

from recipe.holderpo.seeds import request_seed
from recipe.holderpo.training import agent_loop
from recipe.holderpo.training.agent_loop import HolderSingleTurnAgentLoop

SAMPLING = {"temperature": 0.7, "top_p": 0.9, "top_k": 5, "logprobs": True}


@pytest.fixture
def params_of(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`params_of(deterministic, **row)`: the sampling parameters that reach verl's own loop."""

    async def run(self: Any, sampling_params: dict[str, Any], priority: int = 0, **kwargs: Any) -> dict[str, Any]:
        return sampling_params

    monkeypatch.setattr(SingleTurnAgentLoop, "run", run)

    def params(deterministic: bool, **changes: Any) -> dict[str, Any]:
        loop = HolderSingleTurnAgentLoop.__new__(HolderSingleTurnAgentLoop)
        loop.config = SimpleNamespace(deterministic=deterministic, seed=7)
        row: dict[str, Any] = {
            "extra_info": {},
            "global_steps": 3,
            "session_id": 0,
            "raw_prompt": [{"role": "user"}],
        } | changes
        return asyncio.run(loop.run(SAMPLING, **row))

    return params


def test_a_greedy_row_is_greedy_and_leaves_the_shared_parameters_alone(params_of: Any) -> None:
    assert params_of(False, extra_info={"greedy": True}) == SAMPLING | {"temperature": 0.0, "top_p": 1.0, "top_k": -1}
    assert SAMPLING["temperature"] == 0.7
    seed = request_seed(7, 3, 0, str([{"role": "user"}]))
    likeliest = SAMPLING | {"temperature": 1.0, "top_p": 1.0, "top_k": 1, "seed": seed}
    assert params_of(True, extra_info={"greedy": True}) == likeliest


def test_no_seed_unless_deterministic(params_of: Any) -> None:
    assert params_of(False) == SAMPLING
    assert params_of(True) == SAMPLING | {"seed": request_seed(7, 3, 0, str([{"role": "user"}]))}


@pytest.mark.parametrize(
    "change", [{"global_steps": 4}, {"session_id": 1}, {"raw_prompt": [{"role": "user", "content": "2"}]}]
)
def test_step_sample_and_prompt_change_the_seed(params_of: Any, change: dict[str, Any]) -> None:
    assert params_of(True, **change)["seed"] != params_of(True)["seed"]


def test_a_prompt_is_tokenized_once_for_all_of_its_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[str]()

    async def build(self: Any, messages: Any, **others: Any) -> list[int]:
        asked.append(messages[0]["content"])
        await asyncio.sleep(0.01)
        return [len(messages[0]["content"])]

    monkeypatch.setattr(SingleTurnAgentLoop, "__init__", lambda self: None)
    monkeypatch.setattr(SingleTurnAgentLoop, "ct_build_initial_tokens", build)
    monkeypatch.setattr(agent_loop, "PROMPTS_KEPT", 2)

    async def run() -> list[Any]:
        loop = HolderSingleTurnAgentLoop()

        def tokens(text: str, **others: Any) -> Any:
            return asyncio.create_task(loop.ct_build_initial_tokens([{"content": text}], mm_inputs_out={}, **others))

        given_up, first, second, other = tokens("a"), tokens("a"), tokens("a"), tokens("bb")
        await asyncio.sleep(0)
        given_up.cancel()
        (await first).append(0)  # whoever changes its own list changes no other
        await tokens("ccc")  # and now "a" is forgotten
        return [await second, await other, await tokens("bb"), await tokens("a"), await tokens("a", images=["x"])]

    assert asyncio.run(run()) == [[1], [2], [2], [1], [1]]
    assert asked == ["a", "bb", "ccc", "a", "a"]


def test_a_prompt_whose_tokens_could_not_be_made_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    fails = [True, False]

    async def build(self: Any, messages: Any, **others: Any) -> list[int]:
        if fails.pop(0):
            raise MemoryError
        return [1]

    monkeypatch.setattr(SingleTurnAgentLoop, "__init__", lambda self: None)
    monkeypatch.setattr(SingleTurnAgentLoop, "ct_build_initial_tokens", build)

    async def run() -> list[int]:
        loop = HolderSingleTurnAgentLoop()
        with pytest.raises(MemoryError):
            await loop.ct_build_initial_tokens([{"content": "a"}])
        await asyncio.sleep(0)
        return await loop.ct_build_initial_tokens([{"content": "a"}])

    assert asyncio.run(run()) == [1]
