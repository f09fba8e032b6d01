"""The ALFWorld agent in verl's agent loop: one call of `run` plays one episode and returns its training samples.

`alfworld.samples=step` makes every step a sample (prompt: task, history window, admissible commands; response: one answer),
as in GiGPO's protocol. `alfworld.samples=episode` makes the whole conversation one sample, in which the environment's words
carry mask 0. Either way the Hölder mean runs over the model's own tokens of a sample: of one answer, or of all answers of
the episode.
"""

import json
import logging
import os
import socket
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopMetrics, AgentLoopOutput

from recipe.holderpo.report.finished import note_finished
from recipe.holderpo.seeds import request_seed
from recipe.holderpo.tasks.alfworld.environment import Observation
from recipe.holderpo.tasks.alfworld.prompt import (
    Answer,
    PromptTooLong,
    Turn,
    fitted_prompt,
    invalid_observation,
    next_message,
    read_answer,
    scene,
    step_prompt,
    task_of,
)
from recipe.holderpo.tasks.alfworld.task_types import TASKS
from recipe.holderpo.tasks.alfworld.workers import EnvironmentPool, Episode, EpisodeLost

logger = logging.getLogger(__name__)


class StepOutput(AgentLoopOutput):
    """A sample with a penalty of its own, which verl's broadcast of the episode's reward would overwrite."""

    penalty: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        output = super().as_dict()
        output.pop("penalty", None)
        output["rm_scores"][-1] -= self.penalty
        return output


class EpisodeHistory:
    """What happened in an episode so far: `played` below."""

    def __init__(self) -> None:
        self.task = ""
        self.request_id = uuid4().hex  # one for all turns: they go to the server that has the earlier ones cached
        self.turns: list[Turn] = []
        self.answers: list[tuple[str, Answer]] = []  # text, what was read in it
        self.commands: list[list[str]] = []  # those that the room allowed before each answer
        self.won = False
        self.truncated = False  # no room for a further answer in the sample
        self.generate_seconds = 0.0
        self.environment_seconds = 0.0

    @property
    def invalid(self) -> int:
        return sum(not answer.admissible for _, answer in self.answers)


class AlfworldAgentLoop(AgentLoopBase):
    """Plays `extra_info.game_file` with the model. Named in agent_loop.yaml; conf/task/alfworld.yaml has the settings."""

    _pool: EnvironmentPool | None = None  # shared by all episodes of this process

    @classmethod
    def pool(cls, settings: Any) -> EnvironmentPool:
        if cls._pool is None:
            cls._pool = EnvironmentPool(settings.workers, settings.episodes_per_worker, settings.step_timeout)
        return cls._pool

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> list[AgentLoopOutput]:
        """Play one episode.

        Returns:
            Its samples, one in all or one per step; none if the environment broke or the prompt does not fit (the group
            then lacks this episode).
        """
        self.settings = self.config.alfworld
        self.sampling_params, self.kwargs = sampling_params, kwargs
        pool, info = self.pool(self.settings), kwargs["extra_info"]
        played, play = (
            EpisodeHistory(),
            self._play_steps if self.settings.samples == "step" else self._play_conversation,
        )
        try:
            episode = await pool.start(info["game_file"])
            played.task = task_of(episode.observation.text)
            try:
                outputs = await play(episode, played)
            finally:
                await episode.close()
        except (EpisodeLost, PromptTooLong) as error:
            logger.error("an episode is skipped: %s", error)
            pool.episodes_lost += 1
            outputs = []
        if outputs:
            self._finish(outputs, played, pool)
        if self.settings.transcripts and info["split"] != "train":
            self._write_transcript(played, info)
        return outputs

    async def _play_steps(self, episode: Episode, played: EpisodeHistory) -> list[StepOutput]:
        """Every step with a prompt of its own; `anchor` and `step_return` beside it are for GiGPO."""
        outputs: list[StepOutput] = []
        anchors: list[tuple[str, int]] = []  # what was seen before each sample's step, and the step's number
        while not played.won and len(played.turns) < self.settings.max_steps:
            anchor = episode.observation.text, len(played.turns)
            prompt = fitted_prompt(
                self.settings.prompt, played.task, played.turns, self.settings.history, episode.observation, self._fits
            )
            prompt_ids = self._encode(prompt)
            token_ids, log_probs, extra = await self._generate(prompt_ids, self.rollout_config.response_length, played)
            await self._act(episode, played, token_ids)
            penalty = 0.0 if played.answers[-1][1].admissible else self.settings.invalid_penalty
            if not token_ids:  # an aborted request
                continue
            outputs.append(
                StepOutput(
                    prompt_ids=prompt_ids,
                    response_ids=token_ids,
                    response_mask=[1] * len(token_ids),
                    response_logprobs=log_probs,
                    penalty=penalty,
                    num_turns=2,
                    metrics=AgentLoopMetrics(),
                    extra_fields=extra,
                )
            )
            anchors.append(anchor)
        for output, (seen, number) in zip(outputs, anchors, strict=True):
            discount = self.config.algorithm.gamma ** (len(played.turns) - 1 - number)
            earned = self.settings.success_reward * played.won * discount
            output.extra_fields |= {"anchor": seen, "step_return": earned - output.penalty}
        return outputs

    async def _play_conversation(self, episode: Episode, played: EpisodeHistory) -> list[AgentLoopOutput]:
        """One conversation; its sample ends where no further answer fits into data.max_response_length."""
        room = self.rollout_config.response_length
        first = step_prompt(self.settings.prompt, played.task, [], 0, episode.observation)
        if not self._fits(first):
            raise PromptTooLong(f"the first prompt exceeds data.max_prompt_length={self.rollout_config.prompt_length}")
        messages = [{"role": "user", "content": first}]
        tokens = await self.ct_build_initial_tokens(messages)
        prompt_length, mask, extras = len(tokens), list[int](), []
        log_probs: list[float] | None = None
        while True:
            budget = min(self.settings.answer_tokens, room - len(mask))
            answer_ids, answer_log_probs, extra = await self._generate(tokens, budget, played)
            extras.append(extra)
            if answer_log_probs is not None and log_probs is None:
                log_probs = []
            merged, mask, log_probs = await self.ct_merge_assistant_token(
                tokens, answer_ids, mask, log_probs, assistant_logprobs=answer_log_probs
            )
            tokens = merged.token_ids
            observation = await self._act(episode, played, answer_ids)
            if played.won or len(played.turns) == self.settings.max_steps:
                break
            said = [*messages, {"role": "assistant", "content": played.answers[-1][0]}]
            messages = [*said, {"role": "user", "content": next_message(self.settings.prompt, observation)}]
            merged, new_mask, new_log_probs = await self.ct_merge_context_msg(said, messages, tokens, mask, log_probs)
            if len(new_mask) + self.settings.answer_tokens > room:
                played.truncated = True
                break
            tokens, mask, log_probs = merged.token_ids, new_mask, new_log_probs
        steps = [extra for extra in extras if extra.get("min_global_steps") is not None]
        output = AgentLoopOutput(
            prompt_ids=tokens[:prompt_length],
            response_ids=tokens[prompt_length:][:room],
            response_mask=mask[:room],
            response_logprobs=log_probs[:room] if log_probs is not None else None,
            num_turns=2 * len(played.turns),
            metrics=AgentLoopMetrics(),
            extra_fields=extras[-1]
            | ({"min_global_steps": min(extra["min_global_steps"] for extra in steps)} if steps else {}),
        )
        return [output]

    async def _act(self, episode: Episode, played: EpisodeHistory, token_ids: list[int]) -> Observation:
        """Read an answer and, if it is an admissible command, give it."""
        text = self.tokenizer.decode(token_ids, skip_special_tokens=True)
        before = episode.observation
        answer = read_answer(text, before)
        start = time.perf_counter()
        if answer.admissible:
            assert answer.command is not None
            observation = await episode.step(answer.command)
            note_finished()
        else:
            observation = episode.observation = invalid_observation(before)
        played.environment_seconds += time.perf_counter() - start
        played.turns.append(Turn(scene(before.text), answer.command or "(no command)"))
        played.answers.append((text, answer))
        played.commands.append(list(before.admissible_commands))
        played.won = observation.won
        return observation

    async def _generate(
        self, prompt_ids: list[int], max_tokens: int, played: EpisodeHistory
    ) -> tuple[list[int], list[float] | None, dict[str, Any]]:
        params = dict(self.sampling_params) | {"max_tokens": max_tokens}
        if self.config.deterministic:
            name = f"{self.kwargs['extra_info']['game_file']}/{len(played.turns)}"
            params["seed"] = request_seed(
                self.config.seed, int(self.kwargs["global_steps"]), self.kwargs["session_id"], name
            )
        start = time.perf_counter()
        output = await self.server_manager.generate(
            request_id=played.request_id, prompt_ids=prompt_ids, sampling_params=params
        )
        played.generate_seconds += time.perf_counter() - start
        token_ids = output.token_ids[:max_tokens]
        log_probs = output.log_probs[:max_tokens] if output.log_probs else None
        return token_ids, log_probs, dict(output.extra_fields)

    def _encode(self, prompt: str) -> list[int]:
        messages = [{"role": "user", "content": prompt}]
        ids: list[int] = self.continuous_token_builder.build_initial_tokens(messages)
        return ids

    def _fits(self, prompt: str) -> bool:
        return len(self._encode(prompt)) <= self.rollout_config.prompt_length

    def _finish(self, outputs: list[AgentLoopOutput], played: EpisodeHistory, pool: EnvironmentPool) -> None:
        """The episode's reward and what is recorded of it, at its last sample, from which verl takes them."""
        settings, last = self.settings, outputs[-1]
        reward = settings.success_reward * played.won
        if settings.samples == "episode":
            reward -= settings.invalid_penalty * played.invalid
        last.reward_score = reward
        steps = len(played.turns)
        last.metrics = AgentLoopMetrics(
            generate_sequences=played.generate_seconds, tool_calls=played.environment_seconds
        )
        task_type = self.kwargs["extra_info"]["task_type"]
        last.extra_fields["reward_extra_info"] = {
            "acc": float(played.won),
            f"success_{TASKS[task_type]}": float(played.won),
            "steps": float(steps),
            "invalid_fraction": played.invalid / steps,
            "truncated": float(played.truncated),
            "environment_workers_lost": float(pool.workers_lost),
            "episodes_lost": float(pool.episodes_lost),
        }

    def _write_transcript(self, played: EpisodeHistory, info: dict[str, Any]) -> None:
        """A line of JSON in a file of this process, since several processes and nodes may write at once."""
        folder = Path(self.settings.transcripts) / str(int(self.kwargs["global_steps"]))
        folder.mkdir(parents=True, exist_ok=True)
        line = {
            "task": played.task,
            "split": info["split"],
            "task_type": info["task_type"],
            "game_file": info["game_file"],
            "session": int(self.kwargs["session_id"]),
            "won": played.won,
            "time": time.time(),
            "steps": [
                {
                    "saw": turn.observation,
                    "commands": commands,
                    "answer": text,
                    "command": answer.command,
                    "admissible": answer.admissible,
                }
                for turn, commands, (text, answer) in zip(played.turns, played.commands, played.answers, strict=True)
            ],
        }
        with (folder / f"{socket.gethostname()}-{os.getpid()}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
