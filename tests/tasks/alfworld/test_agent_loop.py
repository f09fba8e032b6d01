"""Recorded episodes through the agent loop: prompts, masks, rewards and transcripts, with real environment workers.

The model is a recording, answer by answer; everything else is real.
"""

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, DictConfigWrap
from verl.workers.rollout.replica import TokenOutput

from holderpo_core import holder_policy_loss
from recipe.holderpo.tasks.alfworld.agent_loop import AlfworldAgentLoop
from recipe.holderpo.tasks.alfworld.environment import FastEnvironment
from recipe.holderpo.tasks.alfworld.games import task_type_of
from recipe.holderpo.tasks.alfworld.prompt import invalid_observation, next_message, step_prompt, task_of, write_answer
from recipe.holderpo.tasks.alfworld.report import as_story, main, read_transcripts, success, table
from recipe.holderpo.tasks.alfworld.warm_start import demonstration, train_tokenizer

pytestmark = pytest.mark.usefixtures("ray_cluster")
LOOP = asyncio.new_event_loop()  # one for all tests, since the workers' pool belongs to it, as it does in verl's worker
WRONG = ["go to the moon", write_answer("", "go to the moon")]


@pytest.fixture(scope="module")
def tokenizer(train_games: list[Path]) -> Any:
    return train_tokenizer([demonstration(game) for game in train_games])


def recording(game: Path) -> list[str]:
    """A won episode with two answers that are no commands, after the first right one."""
    right = [m["content"] for m in demonstration(game) if m["role"] == "assistant"]
    return [right[0], *WRONG, *right[1:]]


class RecordedServer:
    """Gives the recorded answers in turn, with a log-probability that tells each token from every other."""

    def __init__(self, tokenizer: Any, answers: list[str]):
        self.tokenizer, self.answers = tokenizer, list(answers)
        self.prompts: list[list[int]] = []
        self.params: list[dict[str, Any]] = []
        self.request_ids: list[str] = []
        self.given = 0

    async def generate(self, request_id: str, prompt_ids: list[int], sampling_params: dict[str, Any]) -> TokenOutput:
        self.prompts.append(list(prompt_ids))
        self.params.append(sampling_params)
        self.request_ids.append(request_id)
        ids = [*self.tokenizer.encode(self.answers.pop(0)), self.tokenizer.eos_token_id][
            : sampling_params["max_tokens"]
        ]
        log_probs = [-(self.given + i + 1) / 1000 for i in range(len(ids))]
        self.given += len(ids)
        version = len(self.prompts)
        return TokenOutput(
            token_ids=ids,
            log_probs=log_probs,
            extra_fields={"min_global_steps": version, "max_global_steps": version},
        )


def play(
    tokenizer: Any, game: Path, answers: list[str], tmp_path: Path, **changes: Any
) -> tuple[list[AgentLoopOutput], RecordedServer]:
    config = OmegaConf.create({
        "deterministic": False, "seed": 1,
        "actor_rollout_ref": {"rollout": {"prompt_length": 300, "response_length": 2000}},
        "data": {},
        "algorithm": {"gamma": 0.5},
        "alfworld": {
            "samples": "episode", "prompt": "compact", "max_steps": 50, "history": 2, "answer_tokens": 40,
            "success_reward": 10.0, "invalid_penalty": 0.1, "workers": 1, "episodes_per_worker": 2, "step_timeout": 60,
            "transcripts": str(tmp_path / "transcripts"),
        },
    })  # fmt: skip
    for key, value in changes.items():
        OmegaConf.update(config, key.replace("__", "."), value)
    server = RecordedServer(tokenizer, answers)
    assert isinstance(config, DictConfig)
    loop_of = lambda: AlfworldAgentLoop(  # noqa: E731  (made inside the running event loop, as verl does)
        trainer_config=DictConfigWrap(config), server_manager=server, tokenizer=tokenizer, processor=None,
        dataset_cls=SimpleNamespace, data_config=DictConfigWrap(config.data), hf_model_type="qwen2",
    )  # fmt: skip
    info = {"game_file": str(game), "task_type": task_type_of(game), "split": "valid_seen", "index": 0}

    async def run() -> list[AgentLoopOutput]:
        row = {"extra_info": info, "session_id": 3, "global_steps": 5, "raw_prompt": [{"content": "a task"}]}
        return await loop_of().run({"temperature": 1.0}, **row)

    return LOOP.run_until_complete(run()), server


def conversation(game: Path, answers: list[str]) -> list[dict[str, str]]:
    """The messages of an episode, written out independently of the agent loop."""
    environment = FastEnvironment()
    seen = environment.reset(game)
    messages = [{"role": "user", "content": step_prompt("compact", task_of(seen.text), [], 0, seen)}]
    for answer in answers:
        seen = (
            invalid_observation(seen)
            if answer in WRONG
            else environment.step(answer.split("<action>")[1].split("</action>")[0])
        )
        messages += [
            {"role": "assistant", "content": answer},
            {"role": "user", "content": next_message("compact", seen)},
        ]
    assert seen.won
    return messages[:-1]


def test_all_turns_of_an_episode_ask_the_server_that_has_the_earlier_ones_cached(
    tokenizer: Any, train_games: list[Path], tmp_path: Path
) -> None:
    first, second = (play(tokenizer, train_games[0], recording(train_games[0]), tmp_path)[1] for _ in range(2))
    assert len(first.request_ids) > 3 and len({*first.request_ids}) == len({*second.request_ids}) == 1
    assert (
        first.request_ids[0] != second.request_ids[0]
    )  # verl's balancer sends another episode where there is least to do


@pytest.mark.parametrize("which", range(6))  # each task type
def test_an_episode_is_one_sample_whose_mask_is_the_models_own_tokens(
    which: int, tokenizer: Any, train_games: list[Path], tmp_path: Path
) -> None:
    game = train_games[2 * which]
    answers = recording(game)
    (output,), server = play(tokenizer, game, answers, tmp_path)
    whole = output.prompt_ids + output.response_ids
    messages = conversation(game, answers)
    assert [*whole, *tokenizer.encode("\n")] == tokenizer.apply_chat_template(messages, return_dict=False)
    assert output.prompt_ids == server.prompts[0]
    assert whole[: len(server.prompts[-1])] == server.prompts[-1]  # what the model read is what it is trained on
    own = [token for token, mask in zip(output.response_ids, output.response_mask, strict=True) if mask]
    assert own == [t for answer in answers for t in [*tokenizer.encode(answer), tokenizer.eos_token_id]]
    assert output.response_logprobs == pytest.approx(
        [-(1 + sum(output.response_mask[:i])) / 1000 if m else 0.0 for i, m in enumerate(output.response_mask)]
    )
    assert output.reward_score == pytest.approx(10.0 - 0.2)
    assert output.extra_fields["min_global_steps"] == 1 and output.extra_fields["max_global_steps"] == len(answers)
    info = output.extra_fields["reward_extra_info"]
    assert (info["acc"], info["steps"], info["truncated"]) == (1.0, len(answers), 0.0)
    assert info["invalid_fraction"] == pytest.approx(2 / len(answers))
    assert sum(name.startswith("success_") for name in info) == 1


def test_steps_are_samples_with_prompts_of_their_own(tokenizer: Any, train_games: list[Path], tmp_path: Path) -> None:
    game = train_games[0]
    answers = recording(game)
    outputs, server = play(
        tokenizer, game, answers, tmp_path, alfworld__samples="step", actor_rollout_ref__rollout__response_length=40
    )
    assert len(outputs) == len(answers) and [output.prompt_ids for output in outputs] == server.prompts
    for number, output in enumerate(outputs):
        assert tokenizer.decode(output.response_ids, skip_special_tokens=True) == answers[number]
        assert output.response_mask == [1] * len(output.response_ids)
        prompt = tokenizer.decode(output.prompt_ids)
        assert "task: " in prompt and prompt.count("\n> ") == min(number, 2)  # the history window
        assert (number == 0) or (">" in prompt)
    assert [o.reward_score for o in outputs] == [None] * (len(outputs) - 1) + [10.0]
    for output in outputs:
        output.reward_score = 10.0  # as verl gives it to every sample of the episode
    scores = [float(output.as_dict()["rm_scores"].sum()) for output in outputs]
    assert scores == pytest.approx([10.0, 9.9, 9.9, *[10.0] * (len(outputs) - 3)])
    assert all("penalty" not in output.as_dict() for output in outputs)


def test_an_episode_ends_where_no_further_answer_fits(tokenizer: Any, train_games: list[Path], tmp_path: Path) -> None:
    game = train_games[0]
    (output,), server = play(
        tokenizer, game, recording(game), tmp_path, actor_rollout_ref__rollout__response_length=120
    )
    assert len(output.response_ids) <= 120 and output.response_mask[-1] == 1
    assert output.reward_score == pytest.approx(-0.1 * (len(server.prompts) - 1)) and len(server.prompts) < 4
    assert output.extra_fields["reward_extra_info"]["truncated"] == 1.0


def test_an_episode_ends_after_max_steps(tokenizer: Any, train_games: list[Path], tmp_path: Path) -> None:
    (output,), server = play(tokenizer, train_games[0], [WRONG[0]] * 9, tmp_path, alfworld__max_steps=4)
    assert len(server.prompts) == 4 and output.num_turns == 8
    assert output.reward_score == pytest.approx(-0.4)


def test_a_cut_off_answer_is_no_command(tokenizer: Any, train_games: list[Path], tmp_path: Path) -> None:
    (output,), _ = play(
        tokenizer, train_games[0], recording(train_games[0]), tmp_path, alfworld__answer_tokens=6, alfworld__max_steps=2
    )
    assert output.reward_score == pytest.approx(-0.2) and sum(output.response_mask) == 12


def test_each_steps_sample_has_what_was_seen_and_its_discounted_return(
    tokenizer: Any, train_games: list[Path], tmp_path: Path
) -> None:
    answers = recording(train_games[0])
    outputs, _ = play(tokenizer, train_games[0], answers, tmp_path, alfworld__samples="step")
    environment = FastEnvironment()
    seen = environment.reset(train_games[0])
    for number, (answer, output) in enumerate(zip(answers, outputs, strict=True)):
        assert output.extra_fields["anchor"] == seen.text
        penalty = 0.1 * (answer in WRONG)
        expected = 10.0 * 0.5 ** (len(answers) - 1 - number) - penalty
        assert output.extra_fields["step_return"] == pytest.approx(expected, rel=1e-12)
        if answer in WRONG:
            seen = invalid_observation(seen)
        else:
            seen = environment.step(answer.split("<action>")[1].split("</action>")[0])
    lost, _ = play(tokenizer, train_games[0], [WRONG[0]] * 2, tmp_path, alfworld__samples="step", alfworld__max_steps=2)
    assert [output.extra_fields["step_return"] for output in lost] == [-0.1, -0.1]


def test_a_broken_game_gives_no_sample(tokenizer: Any, tmp_path: Path) -> None:
    nowhere = tmp_path / "pick_and_place_simple-Mug-None-Desk-1" / "trial_0" / "game.tw-pddl"
    outputs, server = play(tokenizer, nowhere, [], tmp_path)
    assert outputs == [] and server.prompts == []
    (episode,) = read_transcripts(tmp_path)[5]
    assert not episode["won"] and episode["steps"] == []  # in a validation it counts as not won


def test_an_episode_whose_prompt_does_not_fit_is_left_out_and_counted(
    tokenizer: Any, train_games: list[Path], tmp_path: Path
) -> None:
    for samples in ("episode", "step"):
        before = AlfworldAgentLoop._pool.episodes_lost if AlfworldAgentLoop._pool else 0
        outputs, _ = play(
            tokenizer, train_games[0], [], tmp_path,
            alfworld__samples=samples, actor_rollout_ref__rollout__prompt_length=20,
        )  # fmt: skip
        assert outputs == [] and AlfworldAgentLoop._pool is not None
        assert AlfworldAgentLoop._pool.episodes_lost == before + 1


def test_seeds_of_a_deterministic_run_differ_by_step(tokenizer: Any, train_games: list[Path], tmp_path: Path) -> None:
    seeds = []
    for _ in range(2):
        _, server = play(tokenizer, train_games[0], recording(train_games[0]), tmp_path, deterministic=True)
        seeds.append([params["seed"] for params in server.params])
    assert seeds[0] == seeds[1] and len(set(seeds[0])) == len(seeds[0])


@pytest.mark.parametrize("p", [2.0, 1.0, 0.0, -1.0, -2.0])
def test_environment_tokens_never_enter_the_mean(
    p: float, tokenizer: Any, train_games: list[Path], tmp_path: Path
) -> None:
    (output,), _ = play(tokenizer, train_games[1], recording(train_games[1]), tmp_path)
    mask = torch.tensor([output.response_mask])
    generator = torch.Generator().manual_seed(0)
    log_prob = (0.3 * torch.randn(mask.shape, generator=generator, dtype=torch.float64)).requires_grad_()
    old = torch.zeros_like(log_prob)
    advantages = -2.0 * mask  # the unclipped side for ratios below 1
    options: dict[str, Any] = {"p": p, "clip_level": "none", "clip_ratio_low": 0.2, "clip_ratio_high": 0.2}
    loss, _ = holder_policy_loss(log_prob, old, advantages, mask, **options)
    loss.backward()
    own = log_prob.detach()[mask.bool()]
    mean = own.mean().exp() if p == 0 else (p * own).exp().mean() ** (1 / p)
    assert loss.item() == pytest.approx(2.0 * mean.item(), rel=1e-12)
    assert log_prob.grad is not None and not log_prob.grad[~mask.bool()].any() and log_prob.grad[mask.bool()].all()
    disturbed = torch.where(mask.bool(), log_prob.detach(), torch.full_like(log_prob, 50.0))
    assert holder_policy_loss(disturbed, old, advantages, mask, **options)[0].item() == loss.item()


def test_transcripts_and_their_table(
    tokenizer: Any, train_games: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for game in (train_games[0], train_games[2], train_games[2]):  # the last one again, as after an interruption
        play(tokenizer, game, recording(game), tmp_path)
    play(tokenizer, train_games[4], [WRONG[0]] * 5, tmp_path, alfworld__max_steps=5)
    ((step, episodes),) = read_transcripts(tmp_path).items()
    assert step == 5 and [episode["won"] for episode in episodes].count(True) == 2 and len(episodes) == 3
    row = success(episodes)
    assert row["all"].value == pytest.approx(2 / 3)
    names = ["pick", "look", "clean", "heat", "cool", "pick_two", "all"]
    assert list(row) == [name for name in names if name in row] and len(row) == 4  # the paper's column order
    assert "valid_seen, step 5 (3 episodes)" in table({5: episodes})
    story = as_story(next(episode for episode in episodes if not episode["won"]))
    assert "not won in 5 steps" in story and story.count("nothing happens") == 5
    assert main([str(tmp_path), "--show", "1"]) == 0
    assert story in capsys.readouterr().out
    assert main([str(tmp_path), "--step", "4"]) == 2 and "allowed are 5" in capsys.readouterr().err
    assert main([str(tmp_path / "none")]) == 2
    file = next((tmp_path / "transcripts/5").glob("*.jsonl"))
    line = json.loads(file.read_text().splitlines()[0])
    assert line["steps"][1]["answer"] == WRONG[0] and line["steps"][1]["command"] is None
    before, refused, after = line["steps"][:3]
    assert refused["commands"] == after["commands"] != before["commands"], "what was not allowed has changed nothing"
    assert before["command"] in before["commands"] and refused["command"] not in refused["commands"]
    # the validation was repeated by another process, whose file comes first by name: the later outcome counts
    again = line | {"time": line["time"] + 1000, "won": not line["won"]}
    file.with_name("0.jsonl").write_text(json.dumps(again) + '\n{"task": "put a mug')  # and was killed then
    assert success(read_transcripts(tmp_path)[5])["all"].value == pytest.approx(1 / 3)
