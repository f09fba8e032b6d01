"""The small model of the CPU run: a Qwen2 of under a million parameters, taught walkthroughs of tiny games.

It learns from good walkthroughs first, then for a short while from idle ones, in which the agent now and then looks around,
takes stock or examines something instead of continuing. So it knows what to say and what a task needs, and has a habit that
costs it the episodes which have not enough steps for it. That is what an hour of reinforcement learning on two cores can
correct; docs/alfworld.md has what it could not.
"""

import json
import random
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from tokenizers import AddedToken
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import Qwen2ForCausalLM, Qwen2Tokenizer

from recipe.holderpo.embedded.cache import cached_folder
from recipe.holderpo.embedded.supervised import IGNORED, learning_rate, supervised_update
from recipe.holderpo.embedded.tiny_model import START_TOKEN, TinyModelConfig, build_model, build_tokenizer, save_model
from recipe.holderpo.tasks.alfworld.dataset import ensure_games, game_settings
from recipe.holderpo.tasks.alfworld.environment import FastEnvironment
from recipe.holderpo.tasks.alfworld.games import game_files
from recipe.holderpo.tasks.alfworld.prompt import next_message, step_prompt, task_of, write_answer
from recipe.holderpo.tasks.alfworld.rooms import OPENABLE, ROOM_KINDS

# A token each: the answer's format, and the numbers of objects (" 1" would be two otherwise).
WHOLE = ("<think>", "</think>", "<action>", "</action>", *(f" {number}" for number in range(1, 10)))
VOCABULARY = 640
SORTED_BATCHES = 16  # drawn together and sorted by length
DETOURS = (0, 1, 2)  # a demonstration each of every game
# Of an idle walkthrough's commands, the share that does nothing for the task, and what they begin with.
IDLE_SHARE = 0.4
IDLE_COMMANDS = ("look", "inventory", "examine")

_TOOLS = {"SinkBasin", "Microwave", "Fridge"}
_RECEPTACLES = sorted({name for kind in ROOM_KINDS.values() for name in kind.always + kind.maybe} - _TOOLS)
# Names that may change places in a supervised example.
INTERCHANGEABLE = [
    sorted({name.lower() for kind in ROOM_KINDS.values() for name in kind.objects}),
    [name.lower() for name in _RECEPTACLES if name in OPENABLE],
    [name.lower() for name in _RECEPTACLES if name not in OPENABLE],
]
NAMES = re.compile(r"\b(" + "|".join(name for kind in INTERCHANGEABLE for name in kind) + r")\b")


@dataclass(frozen=True)
class WarmStartConfig:
    """Everything that the weights depend on beside the games."""

    model: TinyModelConfig = field(
        default_factory=lambda: TinyModelConfig(hidden_size=128, intermediate_size=256, num_layers=3, max_length=3072)
    )
    seed: int = 0
    steps: int = 1400
    idle_steps: int = 150
    batch_size: int = 8
    lr: float = 4e-3
    idle_lr: float = 1e-3
    lr_end: float = 3e-4
    warmup_steps: int = 20


def thoughts(commands: Sequence[str]) -> list[str]:
    """What a walkthrough is after at each of its steps: find mug, clean mug, place mug in cabinet, use desklamp."""
    found: list[str] = []
    for command in reversed(commands):
        words = [word for word in command.split() if not word.isdigit()]
        match words:
            case ["take", name, "from", _]:
                found.append(f"find {name}")
            case ["move", name, "to", place]:
                found.append(f"place {name} in {place}")
            case ["clean" | "heat" | "cool" | "use" as verb, name, *_]:
                found.append(f"{verb} {name}")
            case _:  # on the way to the next
                found.append(found[-1])
    return found[::-1]


def demonstration(game_file: Path, detours: int = 0, idle: float = 0.0) -> list[dict[str, str]]:
    """A game's walkthrough as the conversation that the agent loop would have had.

    Args:
        detours: other places that are looked into first.
        idle: the share of commands, in [0, 1), that do nothing for the task.
    """
    commands = json.loads(game_file.read_text())["walkthrough"]
    environment, draw = FastEnvironment(), random.Random(f"{game_file.parent}/{detours}")
    observation = environment.reset(game_file)
    said, messages = step_prompt("compact", task_of(observation.text), [], 0, observation), list[dict[str, str]]()
    plan = list(zip(thoughts(commands), commands, strict=True))
    places = [c for c in observation.admissible_commands if c.startswith("go to") and c != commands[0]]
    for place in draw.sample(places, min(detours, len(places))):
        plan.insert(0, (plan[0][0], place))
    while plan:
        thought, command = plan[0]
        if draw.random() < idle:
            command = draw.choice([c for c in observation.admissible_commands if c.split()[0] in IDLE_COMMANDS])
        else:
            plan.pop(0)
        messages += [
            {"role": "user", "content": said},
            {"role": "assistant", "content": write_answer(thought, command)},
        ]
        observation = environment.step(command)
        said = next_message("compact", observation)
        opening = command.replace("go to", "open")
        looks = command.startswith("go to") and opening in observation.admissible_commands
        if looks and not (plan and plan[0][1] == opening) and thought.startswith("find"):
            plan.insert(0, (thought, opening))
    assert observation.won, f"{game_file}: its walkthrough does not win"
    return messages


def train_tokenizer(conversations: Sequence[list[dict[str, str]]]) -> Qwen2Tokenizer:
    """The tiny model's byte-level tokenizer with merges learnt from the games, so that most words are one token."""
    texts = [message["content"] for messages in conversations for message in messages]
    for whole in WHOLE:
        texts = [text.replace(whole, "\n") for text in texts]
    tokenizer = build_tokenizer().train_new_from_iterator(texts, vocab_size=VOCABULARY, show_progress=False)
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in WHOLE])
    tokenizer.model_max_length = WarmStartConfig().model.max_length
    return tokenizer


def renamed(messages: list[dict[str, str]], draw: random.Random) -> list[dict[str, str]]:
    """The conversation in a world where things of a kind have each other's names: mugs are books, drawers are safes.

    A few hundred games would be learnt by heart otherwise. Names of a room's tools and lamps stay.
    """
    names: dict[str, str] = {}
    for kind in INTERCHANGEABLE:
        names |= dict(zip(kind, draw.sample(kind, len(kind)), strict=True))
    return [
        message | {"content": NAMES.sub(lambda match: names[match.group()], message["content"])} for message in messages
    ]


def encode(tokenizer: Qwen2Tokenizer, messages: list[dict[str, str]]) -> tuple[list[int], list[int]]:
    """Token ids of a conversation and their labels: the answers, each with the token that ends it."""
    ids = tokenizer.apply_chat_template(messages, return_dict=False)
    start, end = tokenizer.convert_tokens_to_ids(START_TOKEN), tokenizer.eos_token_id
    assistant = tokenizer.encode("a")[0]
    labels, answers = [IGNORED] * len(ids), False
    for i, token in enumerate(ids):
        if token == start:
            answers = ids[i + 1] == assistant
            begin = i + 3  # after the role and its newline
        elif answers and i >= begin:
            labels[i] = token
            answers = token != end
    return ids, labels


def batched(
    conversations: Sequence[list[dict[str, str]]], config: WarmStartConfig
) -> Iterator[list[list[dict[str, str]]]]:
    """Batches without end, each of conversations of about the same length (padding would be 40 % otherwise)."""
    draw = random.Random(config.seed)
    while True:
        pool = sorted(draw.sample(conversations, SORTED_BATCHES * config.batch_size), key=len)
        batches = [pool[i : i + config.batch_size] for i in range(0, len(pool), config.batch_size)]
        for batch in draw.sample(batches, len(batches)):
            yield [renamed(messages, draw) for messages in batch]


def warm_start(
    config: WarmStartConfig, walkthroughs: Sequence[list[dict[str, str]]], idle: Sequence[list[dict[str, str]]]
) -> tuple[Qwen2ForCausalLM, Qwen2Tokenizer, list[float]]:
    """Train a fresh model on the one, then on the other; return it with its tokenizer and the loss of each step."""
    tokenizer = train_tokenizer(walkthroughs)
    model = build_model(config.model, tokenizer, config.seed)
    losses = learn(config, model, tokenizer, walkthroughs)
    idle_config = replace(config, steps=config.idle_steps, lr=config.idle_lr)
    return model.eval(), tokenizer, losses + learn(idle_config, model, tokenizer, idle)


def learn(
    config: WarmStartConfig,
    model: Qwen2ForCausalLM,
    tokenizer: Qwen2Tokenizer,
    conversations: Sequence[list[dict[str, str]]],
) -> list[float]:
    """`config.steps` updates of the model, in place; returns their losses."""
    batches = batched(conversations, config)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.01)
    losses = []
    for step in range(config.steps):
        examples = [encode(tokenizer, messages) for messages in next(batches)]
        ids, labels = (
            pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=padding)
            for rows, padding in zip(zip(*examples, strict=True), (tokenizer.pad_token_id, IGNORED), strict=True)
        )
        hidden = model.model(input_ids=ids[:, :-1]).last_hidden_state
        wanted = labels[:, 1:]
        answered = wanted != IGNORED  # logits of these alone: a fifth of all
        loss = cross_entropy(model.lm_head(hidden[answered]), wanted[answered])
        supervised_update(model, optimizer, loss, learning_rate(config, step))
        losses.append(loss.item())
        if (step + 1) % 200 == 0:
            print(f"model: step {step + 1} of {config.steps}, loss {losses[-1]:.3f}", flush=True)
    return losses


def ensure_warm_start(cache_dir: Path, config: WarmStartConfig | None = None) -> Path:
    """Make the model in ``cache_dir/alfworld_warm`` unless it is there with the same settings; return that folder."""
    config, games = config or WarmStartConfig(), ensure_games(cache_dir, "tiny")

    def build(folder: Path) -> None:
        start = time.monotonic()
        print("model: learning walkthroughs of tiny games on this CPU ...", flush=True)
        with ProcessPoolExecutor() as pool:
            files = [file for file in game_files(games, "train") for _ in DETOURS]
            walkthroughs, idle = (
                list(pool.map(partial(demonstration, idle=share), files, DETOURS * len(files), chunksize=9))
                for share in (0.0, IDLE_SHARE)
            )
        model, tokenizer, losses = warm_start(config, walkthroughs, idle)
        save_model(model, tokenizer, folder)
        print(
            f"model: {model.num_parameters() / 1e6:.2f} M parameters, {len(losses)} steps, loss {losses[-1]:.3f}, "
            f"{time.monotonic() - start:.0f} s",
            flush=True,
        )

    return cached_folder(
        cache_dir / "alfworld_warm", {"version": 4, "games": game_settings("tiny"), **asdict(config)}, build
    )
