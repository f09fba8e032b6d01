"""The study's lab is the real thing: loss and gradient of one off-policy batch are those of verl's engine with our loss, and
GRPO's arm is verl's own loss."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from holderpo_core import Order, SignedP
from recipe.holderpo.embedded.tiny_model import TinyModelConfig, build_model, build_tokenizer, save_model
from recipe.holderpo.study.lab import Batch, Run
from recipe.holderpo.study.settings import RunSettings
from recipe.holderpo.tasks.clock.problems import WORDS

ROOT = Path(__file__).parents[2]
SHAPE = TinyModelConfig(hidden_size=64, intermediate_size=96, num_layers=2, num_heads=2, initializer_range=0.1)
CASES: dict[str, tuple[Order, str, float]] = {
    "p=2": (2.0, "sequence", 0.2),
    "p=-1.3, narrow": (-1.3, "sequence", 0.03),
    "signed": (SignedP(-2.0, 2.0), "sequence", 0.2),
    "p=0, token": (0.0, "token", 0.2),
    "vanilla": (1.0, "token", 0.2),
}


@pytest.fixture(scope="module")
def off_policy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Batch, Path]:
    """A run, a batch that an earlier policy of its sampled, and a folder with the policy as it is now."""
    folder, tokenizer = tmp_path_factory.mktemp("lab"), build_tokenizer(WORDS)
    save_model(build_model(SHAPE, tokenizer, 1), tokenizer, folder / "start")
    run = Run(RunSettings(arm="p0", seed=3, lr=3e-3), folder / "start")
    problems, _ = run.task.problems
    batch = run.sample(problems[:4])
    batch.advantages = torch.randn(32, generator=torch.Generator().manual_seed(4))  # an untrained model has no reward
    run.update(batch, 0.0)
    save_model(run.qwen, tokenizer, folder / "now")
    return run, batch, folder


@pytest.mark.stack
def test_loss_and_gradient_are_those_of_the_stack(off_policy: tuple[Run, Batch, Path]) -> None:
    run, batch, folder = off_policy
    tensors = {name: getattr(batch, name) for name in ("ids", "mask", "old_log_prob", "advantages")}
    torch.save(tensors | {"cases": CASES}, folder / "batch.pt")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    arguments = [str(folder / "now"), str(folder / "batch.pt"), str(folder / "out.pt"), port]
    environment = os.environ | {"VERL_PLATFORM": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    script = str(Path(__file__).with_name("lab_gradients.py"))
    done = subprocess.run(
        [sys.executable, script, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    of_stack = torch.load(folder / "out.pt")
    clipped = {}
    for name, (order, clip_level, clip) in CASES.items():
        run.settings = replace(run.settings, clip=clip, clip_level=clip_level)  # type: ignore[arg-type]
        run.qwen.zero_grad()
        loss, metrics = run.loss(batch, torch.arange(32), order)
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in run.qwen.parameters() if p.grad is not None])
        expected, expected_loss = of_stack[name]
        assert loss.item() == pytest.approx(expected_loss, abs=1e-6), name
        difference = (gradient - expected).norm() / expected.norm()
        assert difference < 1e-6, f"{name}: relative difference {difference:.1e}"
        clipped[name] = metrics["clip_fraction"]
        assert metrics["log_ratio_std"] > 0.05
    assert all(0 < clipped[name] < 1 for name in clipped if name != "signed"), clipped
