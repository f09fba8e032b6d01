"""The lab's forward pass and sampling, against transformers."""

import torch
from transformers import Qwen2ForCausalLM

from recipe.holderpo.embedded.tiny_model import TinyModelConfig, build_model, build_tokenizer
from recipe.holderpo.study.model import FastQwen2, response_mask

CONFIG = TinyModelConfig(hidden_size=64, intermediate_size=96, num_layers=2, num_heads=2, initializer_range=0.2)


def small_model(seed: int = 3) -> Qwen2ForCausalLM:
    return build_model(CONFIG, build_tokenizer(), seed)


def test_logits_and_their_gradient_are_those_of_transformers() -> None:
    ids = torch.randint(0, 256, (5, 17), generator=torch.Generator().manual_seed(0))
    found, expected = small_model(), small_model()
    direction = torch.randn(5, 13, len(build_tokenizer()), generator=torch.Generator().manual_seed(1))
    ours, theirs = FastQwen2(found).logits(ids, first=4), expected(input_ids=ids).logits[:, 4:]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    (ours * direction).sum().backward()
    (theirs * direction).sum().backward()
    for (name, ours_one), theirs_one in zip(found.named_parameters(), expected.parameters(), strict=True):
        assert ours_one.grad is not None and theirs_one.grad is not None, name
        scale = theirs_one.grad.abs().max().item()
        torch.testing.assert_close(ours_one.grad, theirs_one.grad, rtol=0, atol=1e-5 * scale)


def test_the_cache_changes_nothing() -> None:
    model, ids = FastQwen2(small_model()), torch.randint(0, 256, (3, 12), generator=torch.Generator().manual_seed(2))
    whole = model.logits(ids)
    cache = model.new_cache(3, 12)
    parts = [model.logits(ids[:, :5], 0, cache)]
    parts += [model.logits(ids[:, at : at + 1], 0, cache, start=at) for at in range(5, 12)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-5)


def test_log_prob_of_sampled_tokens_is_that_of_transformers() -> None:
    model, prompt = small_model(), torch.randint(0, 256, (4, 6), generator=torch.Generator().manual_seed(4))
    tokens = FastQwen2(model).sample(prompt, 9, end=258, generator=torch.Generator().manual_seed(5))
    ids = torch.cat((prompt, tokens), 1)
    expected = model(input_ids=ids).logits[:, 5:-1].log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    torch.testing.assert_close(FastQwen2(model).log_prob(ids, 6), expected, rtol=0, atol=1e-5)


def test_samples_have_the_models_frequencies() -> None:
    """Of 20,000 second tokens after one prompt and the most frequent first token, against the exact probabilities."""
    model, rows = small_model(), 20_000
    prompt = torch.tensor([[65, 66, 67]])
    fast = FastQwen2(model)
    tokens = fast.sample(prompt.repeat(rows, 1), 2, end=258, generator=torch.Generator().manual_seed(6))
    first = int(tokens[:, 0].mode().values)
    second = tokens[tokens[:, 0] == first, 1]
    exact = model(input_ids=torch.tensor([[65, 66, 67, first]])).logits[0, -1].softmax(-1).detach()
    counted = torch.bincount(second, minlength=len(exact)) / len(second)
    deviation = (exact * (1 - exact) / len(second)).sqrt().clamp(min=1 / len(second))
    assert ((counted - exact).abs() < 5 * deviation).all()


def test_nothing_follows_the_end() -> None:
    model, prompt = FastQwen2(small_model()), torch.randint(0, 256, (64, 3), generator=torch.Generator().manual_seed(7))
    end = int(model.sample(prompt, 1, end=-1, generator=torch.Generator().manual_seed(8)).mode(0).values[0])
    tokens = model.sample(prompt, 30, end=end, generator=torch.Generator().manual_seed(8))
    ended = 0
    for row, mask in zip(tokens.tolist(), response_mask(tokens, end).tolist(), strict=True):
        length = row.index(end) + 1 if end in row else len(row)
        ended += length < len(row)
        assert mask == [True] * length + [False] * (len(row) - length)
        assert all(token == end for token in row[length:])
    assert ended > 0
