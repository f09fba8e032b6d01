"""The frozen-batch probe: one batch, and the gradient that each order would take on it after k updates.

There is no training noise in it. For each order: the gradient's norm; the standard deviation of the mean over responses,
relative to the norm; its cosine to the gradient of a large fresh batch, with an interval over resampled responses; the
factors of Theorems 2 and 7.
"""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from holderpo_core import Order, SignedP
from recipe.holderpo.study.lab import Batch, Run
from recipe.holderpo.study.settings import RunSettings

ORDERS: dict[str, Order] = {
    **{f"p = {p:g}": p for p in (-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0)},
    "signed (-2, 2)": SignedP(-2.0, 2.0),
    "optimistic (2, -2)": SignedP(2.0, -2.0),
}
UPDATES = (0, 4, 8, 16)  # before the probe, on the batch itself
FRESH_PROMPTS = 64
RESAMPLES = 2000
LR = 2e-4


def probe(model_folder: Path, seed: int, clip: float | None) -> list[dict[str, Any]]:
    """The probe's rows, one for each number of updates and each order.

    The updates are those of p = 0 at the same clip, mini-batch after mini-batch, so that every order is asked at the same
    policies."""
    settings = RunSettings(arm="p0", seed=seed, clip=clip, lr=LR)
    run = Run(settings, model_folder)
    batch = run.sample(run.training_problems())
    rows = []
    for before, now in pairwise((0, *UPDATES)):
        _update(run, batch, before, now)
        fresh = _fresh_gradient(run)
        for name, order in ORDERS.items():
            gradients, metrics = _per_response_gradients(run, batch, order)
            rows.append({"updates": now, "order": name, **_summary(gradients, fresh)} | metrics)
    return rows


def _update(run: Run, batch: Batch, before: int, now: int) -> None:
    """Mini-batches `before` to `now` of p = 0, the batch begun again where it ends."""
    size = run.settings.mini_batch_prompts * run.settings.samples
    parts = torch.arange(len(batch.ids)).split(size)
    for index in range(before, now):
        part = Batch(
            *(
                values[parts[index % len(parts)]]
                for values in (batch.ids, batch.mask, batch.old_log_prob, batch.rewards)
            )
        )
        part.advantages = batch.advantages[parts[index % len(parts)]]
        run.settings = replace(run.settings, epochs=1)
        run.update(part, 0.0)


def _fresh_gradient(run: Run) -> Tensor:
    """The on-policy gradient of a large batch from the policy as it is, at which all orders agree."""
    problems, _ = run.task.problems
    picks = torch.randperm(len(problems), generator=run.generator)[:FRESH_PROMPTS].tolist()
    fresh = run.sample([problems[pick] for pick in picks])
    run.qwen.zero_grad()
    loss, _ = run.loss(fresh, torch.arange(len(fresh.ids)), 0.0)
    loss.backward()
    return _gradient(run)


def _per_response_gradients(run: Run, batch: Batch, order: Order) -> tuple[Tensor, dict[str, float]]:
    """(responses, parameters): the gradient of each response's loss, 0 where its advantage is; and the loss's metrics."""
    gradients = torch.zeros(len(batch.ids), sum(p.numel() for p in run.qwen.parameters()))
    for row in batch.advantages.nonzero().flatten().tolist():
        run.qwen.zero_grad()
        loss, _ = run.loss(batch, torch.tensor([row]), order)
        loss.backward()
        gradients[row] = _gradient(run)
    with torch.no_grad():
        _, metrics = run.loss(batch, torch.arange(len(batch.ids)), order)
    names = ("log_ratio_std", "effective_sample_size", "clip_fraction", "bound", "second_moment")
    return gradients, {name: metrics[name] for name in names}


def _gradient(run: Run) -> Tensor:
    return torch.cat([p.grad.flatten() for p in run.qwen.parameters() if p.grad is not None])


def _summary(gradients: Tensor, fresh: Tensor) -> dict[str, float]:
    """Norm of the mean gradient, standard deviation of that mean over the norm, and the cosine to `fresh` with its interval.

    All from the responses' inner products, so that the resamples cost no pass over the parameters."""
    count = len(gradients)
    products, along = (gradients @ gradients.T).double(), (gradients @ fresh).double() / fresh.norm().double()
    generator = torch.Generator().manual_seed(0)
    picks = torch.randint(count, (RESAMPLES, count), generator=generator)
    shares = torch.zeros(RESAMPLES, count, dtype=torch.float64).scatter_add_(
        1, picks, torch.full((RESAMPLES, count), 1 / count, dtype=torch.float64)
    )
    norms = torch.einsum("ri,ij,rj->r", shares, products, shares).sqrt()
    low, high = (shares @ along / norms).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    norm = products.mean().sqrt().item()
    variance = (products.diagonal().mean().item() - norm**2) / (count - 1)
    cosine = along.mean().item() / norm
    return {
        "norm": norm,
        "relative_std": variance**0.5 / norm,
        "cosine": cosine,
        "cosine_low": low,
        "cosine_high": high,
    }


def probe_table(rows: list[dict[str, Any]]) -> list[str]:
    """Markdown lines, a row for each number of updates and order."""
    head = ["updates", "order", "gradient norm", "its std / norm", "cosine to a fresh batch [95 %]"]
    head += ["spread", "ESS", "clipped", "A² rho² (Thm 2)", "with HHI (Thm 7)"]
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join(['---'] * len(head))} |"]
    for row in rows:
        cells = [str(row["updates"]), row["order"], f"{row['norm']:.3f}", f"{row['relative_std']:.2f}"]
        cells.append(f"{row['cosine']:.2f} [{row['cosine_low']:.2f}, {row['cosine_high']:.2f}]")
        cells += [f"{row['log_ratio_std']:.3f}", f"{row['effective_sample_size']:.3f}", f"{row['clip_fraction']:.1%}"]
        cells += [f"{row['bound']:.3f}", f"{row['second_moment']:.4f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines
