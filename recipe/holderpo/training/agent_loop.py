"""One prompt, one answer, with two things that verl's own loop leaves out: greedy validation beside sampled, and a seed
of its own for each request."""

import asyncio
from typing import Any

from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, register
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop

from recipe.holderpo.report.finished import note_finished
from recipe.holderpo.seeds import request_seed

PROMPTS_KEPT = 1024


@register("holder_single_turn")
class HolderSingleTurnAgentLoop(SingleTurnAgentLoop):
    """verl's single-turn loop. Rows with `extra_info.greedy` are decoded greedily, whatever the validation's settings.

    With `deterministic=true` every request carries a seed of its own, so that its text does not depend on which requests
    the engine happens to serve beside it. Greedy rows too: vLLM's CPU sampler ignores all seeds of a batch in which one
    row has none, and it counts temperature 0 as such a row; the likeliest token alone (top_k=1) is the same text.
    """

    SHARED = True
    """One serves all samples of a process: what `run` knows of a sample is in its local variables."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._prompts: dict[str, asyncio.Task[list[int]]] = {}

    async def ct_build_initial_tokens(self, messages: list[dict[str, Any]], **others: Any) -> list[int]:
        """verl's, once for the samples of a prompt, which come one after another."""
        if any(others.values()):
            made: list[int] = await super().ct_build_initial_tokens(messages, **others)
            return made
        key = repr(messages)
        if key not in self._prompts:
            self._prompts[key] = asyncio.create_task(super().ct_build_initial_tokens(messages, **others))
            self._prompts[key].add_done_callback(lambda task: self._forget_failed(key, task))
            if len(self._prompts) > PROMPTS_KEPT:
                del self._prompts[next(iter(self._prompts))]
        return [*await asyncio.shield(self._prompts[key])]

    def _forget_failed(self, key: str, task: "asyncio.Task[list[int]]") -> None:
        if (task.cancelled() or task.exception() is not None) and self._prompts.get(key) is task:
            del self._prompts[key]

    async def run(self, sampling_params: dict[str, Any], priority: int = 0, **kwargs: Any) -> AgentLoopOutput:
        params = dict(sampling_params)
        if kwargs["extra_info"].get("greedy", False):
            if self.config.deterministic:
                params.update(temperature=1.0, top_p=1.0, top_k=1)
            else:
                params.update(temperature=0.0, top_p=1.0, top_k=-1)
        if self.config.deterministic:
            params["seed"] = request_seed(
                self.config.seed, int(kwargs["global_steps"]), kwargs["session_id"], str(list(kwargs["raw_prompt"]))
            )
        output: AgentLoopOutput = await super().run(params, priority=priority, **kwargs)
        note_finished()
        return output
