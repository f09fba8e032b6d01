"""Pre-train the model of this task: a Qwen2 of 0.13 M parameters, on right demonstrations first, then on wrong ones.

It learns the turns of the hand from demonstrations that are all right, and then, for a short while, from ones in which a
seventh of the hours is wrong, as if by careless authors. So it knows how to answer and is right in about one answer of
seven: what reinforcement learning can raise. A model whose pre-training was merely stopped early falls apart at a learning
rate at which the order p matters (docs/study).
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import Qwen2ForCausalLM, Qwen2Tokenizer

from recipe.holderpo.embedded.cache import cached_folder
from recipe.holderpo.embedded.supervised import learning_rate, supervised_update
from recipe.holderpo.embedded.tiny_model import TinyModelConfig, build_model, build_tokenizer, encode_prompt, save_model
from recipe.holderpo.tasks.clock.problems import WORDS, draw_question, train_val_problems, worked_answer

SMOOTHED = 20  # steps whose mean loss ends a phase


@dataclass(frozen=True)
class Demonstrations:
    """Where a model's supervised examples come from; all questions have one length in tokens, and all answers too.

    Args:
        draw_question: (draw) -> a question.
        answer: (question, wrong_share, draw) -> an answer, of whose parts this share is wrong.
        words: what the tokenizer knows as a token each, beside the bytes.
        held_out: questions that are not trained on.
    """

    draw_question: Callable[[random.Random], str]
    answer: Callable[[str, float, random.Random], str]
    words: Sequence[str]
    held_out: frozenset[str]


def clock_demonstrations() -> Demonstrations:
    _, val = train_val_problems()
    return Demonstrations(draw_question, worked_answer, WORDS, frozenset(problem.question for problem in val))


@dataclass(frozen=True)
class Phase:
    """Supervised steps on demonstrations of which a share is wrong.

    Args:
        until_loss: the phase ends early once the mean loss of the last 20 steps is below it, nats per token.
    """

    wrong_share: float
    steps: int
    lr: float  # peak; linear warm-up, then a cosine to lr_end
    lr_end: float
    warmup_steps: int = 20
    until_loss: float = 0.0


@dataclass(frozen=True)
class PretrainConfig:
    """Everything that the pre-trained weights depend on."""

    model: TinyModelConfig = field(
        default_factory=lambda: TinyModelConfig(
            hidden_size=64, intermediate_size=192, num_layers=2, num_heads=2, initializer_range=0.1
        )
    )
    seed: int = 0
    batch_size: int = 32
    phases: tuple[Phase, ...] = (
        # How soon the table of turns is found is a matter of luck: 400 to 1500 steps.
        Phase(wrong_share=0.0, steps=3000, lr=5e-3, lr_end=5e-3, until_loss=0.01),
        Phase(wrong_share=0.15, steps=150, lr=1e-3, lr_end=1e-4),
    )


def pretrain(config: PretrainConfig, source: Demonstrations) -> tuple[Qwen2ForCausalLM, Qwen2Tokenizer, list[float]]:
    """Train a fresh model; return it with its tokenizer and the loss of each step (nats per response token).

    In one thread, so that the weights do not depend on the number of cores, of which so small a model has no use."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _pretrain(config, source)
    finally:
        torch.set_num_threads(threads)


def _pretrain(config: PretrainConfig, source: Demonstrations) -> tuple[Qwen2ForCausalLM, Qwen2Tokenizer, list[float]]:
    tokenizer = build_tokenizer(source.words)
    model = build_model(config.model, tokenizer, config.seed)
    draw, losses = random.Random(f"pre-training {config.seed}"), []
    for phase in config.phases:
        optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.0)
        for step in range(phase.steps):
            drawn = [source.draw_question(draw) for _ in range(config.batch_size)]
            questions = [question for question in drawn if question not in source.held_out]
            answers = [source.answer(question, phase.wrong_share, draw) for question in questions]
            loss = _answer_loss(model, tokenizer, questions, answers)
            supervised_update(model, optimizer, loss, learning_rate(phase, step))
            losses.append(loss.item())
            if step >= SMOOTHED and sum(losses[-SMOOTHED:]) < SMOOTHED * phase.until_loss:
                break
    return model.eval(), tokenizer, losses


def _answer_loss(
    model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, questions: Sequence[str], answers: Sequence[str]
) -> torch.Tensor:
    """Mean cross-entropy of the answers' tokens; all prompts have one length, and all answers too."""
    prompts = torch.tensor([encode_prompt(tokenizer, question) for question in questions])
    targets = torch.tensor([[*tokenizer.encode(answer), tokenizer.eos_token_id] for answer in answers])
    logits = model(input_ids=torch.cat((prompts, targets), 1)[:, :-1]).logits[:, prompts.shape[1] - 1 :]
    return cross_entropy(logits.flatten(0, 1), targets.flatten())


def ensure_pretrained(folder: Path, config: PretrainConfig, source: Demonstrations) -> Path:
    """Pre-train a model into `folder` unless it is there with the same settings; return that folder."""

    def build(new: Path) -> None:
        print(f"model: pre-training {folder.name} on this CPU, about a minute on two cores ...", flush=True)
        start = time.monotonic()
        model, tokenizer, losses = pretrain(config, source)
        print(
            f"model: {model.num_parameters() / 1e6:.2f} M parameters, {len(losses)} steps in "
            f"{time.monotonic() - start:.0f} s, loss {losses[-1]:.3f}",
            flush=True,
        )
        save_model(model, tokenizer, new)

    return cached_folder(folder, {"version": 1, **asdict(config)}, build)


def ensure_model(cache_dir: Path) -> Path:
    """The model of `model=clock` in `cache_dir/clock_model`."""
    return ensure_pretrained(cache_dir / "clock_model", PretrainConfig(), clock_demonstrations())
