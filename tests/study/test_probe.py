"""The probe's sums over inner products, against the gradients themselves."""

from pathlib import Path

import pytest
import torch

from recipe.holderpo.embedded.tiny_model import TinyModelConfig, build_model, build_tokenizer, save_model
from recipe.holderpo.study.lab import Run
from recipe.holderpo.study.probe import _gradient, _per_response_gradients, _summary, _update
from recipe.holderpo.study.settings import RunSettings
from recipe.holderpo.tasks.clock.problems import WORDS


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder, tokenizer = tmp_path_factory.mktemp("start"), build_tokenizer(WORDS)
    shape = TinyModelConfig(hidden_size=64, intermediate_size=64, num_layers=1, num_heads=2, initializer_range=0.1)
    save_model(build_model(shape, tokenizer, 1), tokenizer, folder)
    settings = RunSettings(arm="p0", seed=5, prompts=4, samples=4, mini_batch_prompts=1, lr=1e-3)
    return Run(settings, Path(folder))


def test_the_mean_of_the_responses_gradients_is_the_batchs(run: Run) -> None:
    batch = run.sample(run.training_problems())
    batch.advantages = torch.randn(16, generator=torch.Generator().manual_seed(1))
    batch.advantages[3] = 0.0
    _update(run, batch, 0, 5)
    gradients, metrics = _per_response_gradients(run, batch, -1.5)
    assert (gradients[3] == 0).all()
    run.qwen.zero_grad()
    loss, expected = run.loss(batch, torch.arange(16), -1.5)
    loss.backward()
    torch.testing.assert_close(gradients.mean(0), _gradient(run), rtol=0, atol=1e-6)
    assert metrics["bound"] == expected["bound"]
    assert metrics["log_ratio_std"] > 0.005, "the batch must be off-policy"


def test_the_summary_is_that_of_the_gradients() -> None:
    generator = torch.Generator().manual_seed(2)
    gradients = torch.randn(40, 7, generator=generator) + 0.5
    fresh = torch.randn(7, generator=generator)
    found = _summary(gradients, fresh)
    mean = gradients.double().mean(0)
    assert found["norm"] == pytest.approx(mean.norm().item(), rel=1e-5)
    spread = gradients.double().var(0, unbiased=True).sum().item() / 40
    assert found["relative_std"] == pytest.approx(spread**0.5 / mean.norm().item(), rel=1e-5)
    cosine = torch.cosine_similarity(mean, fresh.double(), dim=0).item()
    assert found["cosine"] == pytest.approx(cosine, rel=1e-5)
    draws = torch.randint(40, (4000, 40), generator=generator)
    cosines = torch.cosine_similarity(gradients[draws].mean(1), fresh[None], dim=1)
    low, high = cosines.quantile(torch.tensor([0.025, 0.975])).tolist()
    assert (found["cosine_low"], found["cosine_high"]) == pytest.approx((low, high), abs=0.03)
