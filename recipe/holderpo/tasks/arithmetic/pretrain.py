"""Pre-train the tiny model in about a minute on two CPU cores, to a level that reinforcement learning can raise.

Plain supervised learning on the training problems, stopped before every answer is right. The answers it learns from are
all right, but come in two styles, as from different authors: ``\\boxed{12}`` and a bare ``12``. Only the first earns a
reward. So the model samples a rewarded answer in 20-40 % of its attempts, the rest being bare answers and
miscalculations, and nearly every problem has mixed outcomes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import Qwen2ForCausalLM, Qwen2Tokenizer

from recipe.holderpo.embedded.cache import cached_folder
from recipe.holderpo.embedded.dataset import Problem
from recipe.holderpo.embedded.supervised import IGNORED, learning_rate, supervised_update
from recipe.holderpo.embedded.tiny_model import TinyModelConfig, build_model, build_tokenizer, encode_prompt, save_model
from recipe.holderpo.rewards.boxed import compute_score
from recipe.holderpo.tasks.arithmetic.problems import DATA_SOURCE, VAL_SAMPLES, train_val_problems

BOXED_STYLE, BARE_STYLE = "\\boxed{{{}}}", "{}"
EXAMPLE_LENGTH = 25  # of the longest prompt and response
MAX_NEW_TOKENS = 12  # of the longest right answer: \boxed{-18}<|im_end|>


@dataclass(frozen=True)
class PretrainConfig:
    """Everything that the pre-trained weights depend on."""

    model: TinyModelConfig = field(default_factory=TinyModelConfig)
    seed: int = 0
    steps: int = 500
    batch_size: int = 128
    lr: float = 3e-3  # peak; linear warm-up, then a cosine to lr_end
    lr_end: float = 1.5e-4
    warmup_steps: int = 20
    boxed_share: float = 0.5  # fraction of the answers written in a box


def encode_examples(
    tokenizer: Qwen2Tokenizer, problems: Sequence[Problem], style: str, length: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (input_ids, labels), both (problems, length) int64, right-padded; only response tokens have a label."""
    rows, labels = [], []
    for problem in problems:
        prompt = encode_prompt(tokenizer, problem.question)
        response = [*tokenizer.encode(style.format(problem.answer)), tokenizer.eos_token_id]
        rows.append(prompt + response)
        labels.append([IGNORED] * len(prompt) + response)
    return (
        torch.tensor([row + [tokenizer.pad_token_id] * (length - len(row)) for row in rows]),
        torch.tensor([row + [IGNORED] * (length - len(row)) for row in labels]),
    )


def pretrain(config: PretrainConfig) -> tuple[Qwen2ForCausalLM, Qwen2Tokenizer, list[float]]:
    """Train a fresh model; return it with its tokenizer and the loss of each step (nats per response token)."""
    tokenizer = build_tokenizer()
    model = build_model(config.model, tokenizer, config.seed)
    problems, _ = train_val_problems()
    boxed = encode_examples(tokenizer, problems, BOXED_STYLE, EXAMPLE_LENGTH)
    bare = encode_examples(tokenizer, problems, BARE_STYLE, EXAMPLE_LENGTH)
    generator = torch.Generator().manual_seed(config.seed)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.0)
    losses = []
    for step in range(config.steps):
        picks = torch.randint(len(problems), (config.batch_size,), generator=generator)
        in_box = torch.rand(config.batch_size, 1, generator=generator) < config.boxed_share
        input_ids, labels = (torch.where(in_box, a[picks], b[picks]) for a, b in zip(boxed, bare, strict=True))
        logits = model(input_ids=input_ids[:, :-1]).logits
        loss = cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
        supervised_update(model, optimizer, loss, learning_rate(config, step))
        losses.append(loss.item())
    return model.eval(), tokenizer, losses


@torch.no_grad()
def outcomes(
    model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, problems: Sequence[Problem], samples: int, seed: int
) -> torch.Tensor:
    """Rewards, (problems, samples) float32, of answers sampled at temperature 1; ``samples=0`` decodes one greedily."""
    prompts = [encode_prompt(tokenizer, problem.question) for problem in problems]
    length = max(map(len, prompts))
    padding = torch.tensor([length - len(prompt) for prompt in prompts])
    input_ids = torch.tensor([[tokenizer.pad_token_id] * (length - len(prompt)) + prompt for prompt in prompts])
    attention_mask = (torch.arange(length) >= padding[:, None]).long()
    count = max(1, samples)
    how = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0} if samples else {"do_sample": False}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sequences = model.generate(
            input_ids.repeat_interleave(count, 0),
            attention_mask=attention_mask.repeat_interleave(count, 0),
            max_new_tokens=MAX_NEW_TOKENS,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **how,
        )
    texts = tokenizer.batch_decode(sequences[:, length:], skip_special_tokens=True)
    answers = [problem.answer for problem in problems for _ in range(count)]
    rewards = [compute_score(DATA_SOURCE, text, answer)["score"] for text, answer in zip(texts, answers, strict=True)]
    return torch.tensor(rewards).view(len(problems), count)


def ensure_tiny_model(cache_dir: Path, config: PretrainConfig | None = None) -> Path:
    """Pre-train the model into ``cache_dir/tiny`` unless it is there with the same settings; return that folder."""
    config = config or PretrainConfig()

    def build(folder: Path) -> None:
        print("model: pre-training the tiny model on this CPU, about a minute on two cores ...", flush=True)
        start = time.monotonic()
        model, tokenizer, losses = pretrain(config)
        seconds = time.monotonic() - start
        _, val = train_val_problems()
        sampled = outcomes(model, tokenizer, val, VAL_SAMPLES, config.seed)
        greedy = outcomes(model, tokenizer, val, 0, config.seed).mean()
        print(
            f"model: {model.num_parameters() / 1e6:.2f} M parameters, {config.steps} steps in {seconds:.0f} s, "
            f"loss {losses[-1]:.3f}; held-out accuracy: sampled {sampled.mean():.3f}, greedy {greedy:.3f}, "
            f"best of {VAL_SAMPLES} {sampled.amax(1).mean():.3f}",
            flush=True,
        )
        save_model(model, tokenizer, folder)

    return cached_folder(cache_dir / "tiny", {"version": 1, **asdict(config)}, build)
