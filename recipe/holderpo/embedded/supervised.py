"""What the supervised training of small models shares: one update, and the learning rate of each step."""

import math
from typing import Protocol

import torch

IGNORED = -100  # label of tokens without loss


def supervised_update(model: torch.nn.Module, optimizer: torch.optim.Optimizer, loss: torch.Tensor, lr: float) -> None:
    """One optimiser step with gradients clipped to norm 1."""
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad()


class RateSettings(Protocol):
    """What `learning_rate` depends on."""

    @property
    def lr(self) -> float: ...
    @property
    def lr_end(self) -> float: ...
    @property
    def warmup_steps(self) -> int: ...
    @property
    def steps(self) -> int: ...


def learning_rate(config: RateSettings, step: int) -> float:
    """Linear warm-up to `lr`, cosine to `lr_end` in the last step."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - 1 - config.warmup_steps)
    return config.lr_end + (config.lr - config.lr_end) * (1 + math.cos(math.pi * done)) / 2
