"""Pre-training: what it trains on, that it learns, and how its accuracy is measured."""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from recipe.holderpo.embedded.dataset import Problem
from recipe.holderpo.embedded.tiny_model import TinyModelConfig, build_tokenizer
from recipe.holderpo.tasks.arithmetic import pretrain as pretrain_module
from recipe.holderpo.tasks.arithmetic.pretrain import (
    BARE_STYLE,
    BOXED_STYLE,
    EXAMPLE_LENGTH,
    MAX_NEW_TOKENS,
    PretrainConfig,
    encode_examples,
    ensure_tiny_model,
    learning_rate,
    outcomes,
    pretrain,
)
from recipe.holderpo.tasks.arithmetic.problems import train_val_problems


def test_examples() -> None:
    """Response tokens, and only they, have labels; the prompt is the chat template's."""
    tokenizer = build_tokenizer()
    problems = [Problem("1+2+3", "6"), Problem("0-9-9", "-18")]
    input_ids, labels = encode_examples(tokenizer, problems, BOXED_STYLE, length=28)
    assert input_ids.shape == labels.shape == (2, 28)
    text = "<|im_start|>u\n0-9-9<|im_end|>\n<|im_start|>a\n\\boxed{-18}<|im_end|>"
    assert tokenizer.decode(input_ids[1]) == text + "<|endoftext|>" * 3
    assert len(tokenizer.encode(text)) == EXAMPLE_LENGTH
    assert len(tokenizer.encode("\\boxed{-18}<|im_end|>")) == MAX_NEW_TOKENS
    assert tokenizer.decode(labels[0][labels[0] >= 0]) == "\\boxed{6}<|im_end|>"
    assert tokenizer.decode(labels[1][labels[1] >= 0]) == "\\boxed{-18}<|im_end|>"
    assert bool((labels[labels >= 0] == input_ids[labels >= 0]).all())


def test_learning_rate() -> None:
    config = replace(PretrainConfig(), steps=120, warmup_steps=20, lr=1.0, lr_end=0.1)
    assert learning_rate(config, 0) == pytest.approx(1 / 20)
    assert learning_rate(config, 19) == learning_rate(config, 20) == 1.0
    assert learning_rate(config, 119) == pytest.approx(0.1)
    rates = [learning_rate(config, step) for step in range(20, 120)]
    assert rates == sorted(rates, reverse=True)


def test_learns_more_than_the_answers_frequencies() -> None:
    """No model that ignores the question can go below the entropy of the responses; even a smaller one does so soon."""
    model = TinyModelConfig(hidden_size=64, intermediate_size=192, num_layers=1, num_heads=2)
    config = replace(PretrainConfig(), model=model, steps=150, batch_size=64, lr=1e-2)
    counts = Counter(problem.answer for problem in train_val_problems()[0])
    responses = {}  # response -> probability
    for answer, count in counts.items():
        for style, share in ((BOXED_STYLE, config.boxed_share), (BARE_STYLE, 1 - config.boxed_share)):
            responses[style.format(answer)] = share * count / counts.total()
    entropy = -sum(p * math.log(p) for p in responses.values())
    tokens = sum(p * (len(response) + 1) for response, p in responses.items())
    *_, losses = pretrain(config)
    assert losses[0] > 4.0  # nearly uniform over 259 tokens
    assert sum(losses[-20:]) / 20 < 0.95 * entropy / tokens


def test_outcomes_of_a_model_that_always_gives_one_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stub for `generate`: the rewards must come out problem by problem, sample by sample."""
    tokenizer = build_tokenizer()

    class Stub:
        def generate(self, input_ids: torch.Tensor, **kwargs: object) -> torch.Tensor:
            answers = [r"\boxed{3}", "3", r"\boxed{3}", r"\boxed{4}", r"\boxed{4}", r"\boxed{3}"]
            replies = [tokenizer.encode(answer + "<|im_end|>") for answer in answers]
            width = max(map(len, replies))
            padded = [reply + [tokenizer.pad_token_id] * (width - len(reply)) for reply in replies]
            return torch.cat([input_ids, torch.tensor(padded)], dim=1)

    problems = [Problem("1+2+0", "3"), Problem("2+2-0", "4")]
    rewards = outcomes(Stub(), tokenizer, problems, samples=3, seed=0)  # type: ignore[arg-type]
    assert rewards.tolist() == [[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]]


def test_same_seed_same_samples_and_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(PretrainConfig(), steps=3, warmup_steps=1, batch_size=8)
    model, tokenizer, losses = pretrain(config)
    assert losses == pretrain(config)[2]
    _, val = train_val_problems()
    assert torch.equal(outcomes(model, tokenizer, val[:4], 2, seed=5), outcomes(model, tokenizer, val[:4], 2, seed=5))

    folder = ensure_tiny_model(tmp_path, config)
    weights = folder / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert ensure_tiny_model(tmp_path, config) == folder
    assert weights.stat().st_mtime_ns == before

    def interrupted(config: PretrainConfig) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pretrain_module, "pretrain", interrupted)
    with pytest.raises(KeyboardInterrupt):  # other settings: it must build again
        ensure_tiny_model(tmp_path, replace(config, seed=1))
    assert list(tmp_path.iterdir()) == [folder]
