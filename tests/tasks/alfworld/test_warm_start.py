"""What the small model is taught: conversations of the agent loop's own form, and which tokens of them."""

import json
import random
from pathlib import Path

import pytest
import torch

from recipe.holderpo.embedded.tiny_model import TinyModelConfig
from recipe.holderpo.tasks.alfworld.environment import FastEnvironment
from recipe.holderpo.tasks.alfworld.prompt import next_message, read_answer, step_prompt, task_of
from recipe.holderpo.tasks.alfworld.warm_start import (
    IDLE_COMMANDS,
    IDLE_SHARE,
    NAMES,
    WarmStartConfig,
    demonstration,
    encode,
    renamed,
    thoughts,
    train_tokenizer,
    warm_start,
)
from recipe.holderpo.tasks.arithmetic.pretrain import IGNORED


def test_thoughts_name_what_comes_next() -> None:
    commands = [
        "go to drawer 1",
        "open drawer 1",
        "take mug 1 from drawer 1",
        "go to fridge 1",
        "cool mug 1 with fridge 1",
    ]
    assert thoughts([*commands, "go to desk 1", "move mug 1 to desk 1"]) == [
        *["find mug"] * 3,
        *["cool mug"] * 2,
        *["place mug in desk"] * 2,
    ]


@pytest.mark.parametrize("detours", [0, 1, 2])
@pytest.mark.parametrize("which", range(6))
def test_a_demonstration_is_an_episode_that_wins(which: int, detours: int, train_games: list[Path]) -> None:
    messages = demonstration(train_games[2 * which], detours, IDLE_SHARE)
    environment = FastEnvironment()
    seen = environment.reset(train_games[2 * which])
    assert messages[0]["content"] == step_prompt("compact", task_of(seen.text), [], 0, seen)
    idle = 0
    for said, answer in zip(messages[::2], messages[1::2], strict=True):
        if said is not messages[0]:
            assert said["content"] == next_message("compact", seen)
        read = read_answer(answer["content"], seen)
        assert read.command is not None and read.admissible
        seen = environment.step(read.command)
        idle += read.command.split()[0] in IDLE_COMMANDS
    assert seen.won
    needed = len(json.loads(train_games[2 * which].read_text())["walkthrough"])
    opened = sum("<action>open" in answer["content"] for answer in messages[1::2])
    # Every detour may open what it comes to, and so may the walkthrough.
    assert needed <= len(messages) // 2 - idle <= needed + detours + opened


def test_a_demonstration_idles_as_often_as_it_should(train_games: list[Path]) -> None:
    answers = [
        m["content"] for game in train_games for d in (0, 1, 2) for m in demonstration(game, d, IDLE_SHARE)[1::2]
    ]
    idle = sum(answer.split("<action>")[1].startswith(IDLE_COMMANDS) for answer in answers)
    assert abs(idle / len(answers) - IDLE_SHARE) < 4 * (IDLE_SHARE * (1 - IDLE_SHARE) / len(answers)) ** 0.5


def test_labels_are_the_answers(train_games: list[Path]) -> None:
    conversations = [demonstration(game, detours) for game in train_games for detours in (0, 2)]
    tokenizer = train_tokenizer(conversations)
    for messages in conversations:
        ids, labels = encode(tokenizer, messages)
        assert ids == tokenizer.apply_chat_template(messages, return_dict=False)
        learnt = [m["content"] for m in messages if m["role"] == "assistant"]
        assert [t for t in labels if t != IGNORED] == [
            t for text in learnt for t in [*tokenizer.encode(text), tokenizer.eos_token_id]
        ]
        assert all(label in (IGNORED, token) for token, label in zip(ids, labels, strict=True))


def test_renaming_changes_names_alone_and_keeps_them_apart(train_games: list[Path]) -> None:
    messages = demonstration(train_games[0], 1)
    other = renamed(messages, random.Random(1))
    assert [m["role"] for m in other] == [m["role"] for m in messages] and other != messages
    before = [NAMES.findall(m["content"]) for m in messages]
    after = [NAMES.findall(m["content"]) for m in other]
    pairs = {pair for a, b in zip(before, after, strict=True) for pair in zip(a, b, strict=True)}
    assert len({a for a, _ in pairs}) == len(pairs) == len({b for _, b in pairs})
    assert [NAMES.sub("X", m["content"]) for m in other] == [NAMES.sub("X", m["content"]) for m in messages]


def test_training_lowers_the_loss_and_follows_its_seed(train_games: list[Path]) -> None:
    walkthroughs = [demonstration(game) for game in train_games] * 4
    idle = [demonstration(game, idle=IDLE_SHARE) for game in train_games] * 4
    shape = TinyModelConfig(hidden_size=64, intermediate_size=64, num_layers=1, num_heads=2, max_length=2048)
    config = WarmStartConfig(model=shape, steps=24, idle_steps=8, batch_size=2, warmup_steps=2)
    model, tokenizer, losses = warm_start(config, walkthroughs, idle)
    assert len(losses) == 32 and sum(losses[20:24]) < 0.75 * sum(losses[:4])
    _, _, without = warm_start(config, walkthroughs, walkthroughs)
    assert without[:24] == losses[:24] and without[24:] != losses[24:], "the last steps are the idle agent's"
    again, _, _ = warm_start(config, walkthroughs, idle)
    assert torch.equal(model.lm_head.weight, again.lm_head.weight)
    assert tokenizer.model_max_length == WarmStartConfig().model.max_length
