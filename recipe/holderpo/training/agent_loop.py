"""One prompt, one answer, with two things that verl's own loop leaves out: greedy validation beside sampled, and a seed
of its own for each request."""

from typing import Any

from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, register
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop

from recipe.holderpo.report.finished import note_finished
from recipe.holderpo.seeds import request_seed


@register("holder_single_turn")
class HolderSingleTurnAgentLoop(SingleTurnAgentLoop):
    """verl's single-turn loop. Rows with `extra_info.greedy` are decoded greedily, whatever the validation's settings.

    With `deterministic=true` every request carries a seed of its own, so that its text does not depend on which requests
    the engine happens to serve beside it. Greedy rows too: vLLM's CPU sampler ignores all seeds of a batch in which one
    row has none, and it counts temperature 0 as such a row; the likeliest token alone (top_k=1) is the same text.
    """

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
