"""`holder_policy_loss` against a float64 reference, verl's own losses, and its own promises."""

import math
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from verl.trainer.ppo.core_algos import get_policy_loss_fn
from verl.workers.config import FSDPActorConfig

from holderpo_core import CLIP_LEVELS, REDUCTION, ClipLevel, holder_policy_loss, holder_weights

LOW, HIGH = 0.2, 0.3


def make_batch(
    batch: int = 12, length: int = 40, spread: float = 0.25, dtype: torch.dtype = torch.float64
) -> dict[str, Any]:
    """Responses of 1 to `length` tokens and one without, junk in masked positions, advantages of both signs and one zero;
    ratios far enough apart that every clip binds somewhere and not everywhere."""
    generator = torch.Generator().manual_seed(0)
    shift = torch.linspace(-0.4, 0.4, batch, dtype=torch.float64)[torch.randperm(batch, generator=generator)]
    old = -torch.rand(batch, length, generator=generator, dtype=torch.float64)
    new = old + shift[:, None] + spread * torch.randn(batch, length, generator=generator, dtype=torch.float64)
    lengths = torch.randint(2, length + 1, (batch,), generator=generator)
    lengths[:3] = torch.tensor([1, 0, length])
    mask = torch.arange(length) < lengths[:, None]
    advantages = torch.randn(batch, generator=generator, dtype=torch.float64)
    advantages[-1] = 0
    new[~mask], old[~mask] = math.nan, math.inf
    return {
        "log_prob": new.to(dtype).requires_grad_(),
        "old_log_prob": old.to(dtype),
        "advantages": advantages.to(dtype),
        "response_mask": mask,
    }


def reference_objectives(batch: dict[str, Any], p: float, clip_level: ClipLevel) -> tuple[list[Tensor], list[float]]:
    """Row by row, by the paper's formulas on plain autograd: the objectives and the rho of the rows with a token."""
    objectives, rhos = [], []
    for new, old, a, mask in zip(*batch.values(), strict=True):
        if not mask.any():
            continue
        d = new[mask] - old[mask]
        advantage = a if a.ndim == 0 else a[mask][0]
        if clip_level == "token" and advantage != 0:
            r = d.exp()
            clipped = r.clamp(1 - LOW, 1 + HIGH)
            d = (torch.minimum(r, clipped) if advantage > 0 else torch.maximum(r, clipped)).log()
        if clip_level == "both":
            d = d.clamp(-math.log(1 + LOW), math.log(1 + HIGH))
        rho = d.mean().exp() if p == 0 else (((p * d).logsumexp(0) - math.log(len(d))) / p).exp()
        objective = rho * advantage
        if clip_level in ("sequence", "both"):
            objective = torch.minimum(objective, rho.clamp(1 - LOW, 1 + HIGH) * advantage)
        objectives.append(objective)
        rhos.append(rho.item())
    return objectives, rhos


def holder(batch: dict[str, Any], p: float | Tensor, **options: Any) -> tuple[Tensor, dict[str, float], Tensor]:
    """Loss, metrics and gradient, with this module's clip ratios."""
    loss, metrics = holder_policy_loss(**batch, p=p, clip_ratio_low=LOW, clip_ratio_high=HIGH, **options)
    (gradient,) = torch.autograd.grad(loss, batch["log_prob"])
    return loss.detach(), metrics, gradient


@pytest.mark.parametrize("clip_level", CLIP_LEVELS)
@pytest.mark.parametrize("p", [2.0, 1.0, 0.3, 0.0, -1.0, -2.0])
def test_loss_gradient_and_rho_equal_the_reference(clip_level: ClipLevel, p: float) -> None:
    batch = make_batch()
    loss, metrics, gradient = holder(batch, p, clip_level=clip_level)
    objectives, rhos = reference_objectives(batch, p, clip_level)
    expected = -torch.stack(objectives).mean()
    (expected_gradient,) = torch.autograd.grad(expected, batch["log_prob"])
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-15)
    assert (gradient[~batch["response_mask"]] == 0).all()
    assert metrics["rho_mean"] == pytest.approx(sum(rhos) / len(rhos), rel=1e-12)
    assert metrics["rho_max"] == pytest.approx(max(rhos), rel=1e-12)
    assert metrics["rho_min"] == pytest.approx(min(rhos), rel=1e-12)


@pytest.mark.parametrize("clip_level", CLIP_LEVELS)
@pytest.mark.parametrize("p", [2.0, 0.0, -2.0])
def test_gradcheck(clip_level: ClipLevel, p: float) -> None:
    batch = make_batch(batch=6, length=5)
    batch["log_prob"] = batch["log_prob"].detach().nan_to_num(0.0).requires_grad_()

    def loss(log_prob: Tensor) -> Tensor:
        return holder_policy_loss(**(batch | {"log_prob": log_prob}), p=p, clip_level=clip_level)[0]

    assert torch.autograd.gradcheck(loss, (batch["log_prob"],))


@pytest.mark.parametrize("clip_level", CLIP_LEVELS)
def test_gradient_is_exactly_zero_where_the_clip_binds_and_only_there(clip_level: ClipLevel) -> None:
    batch = make_batch()
    mask, advantages = batch["response_mask"], batch["advantages"]
    _, metrics, gradient = holder(batch, 2.0, clip_level=clip_level)
    d = (batch["log_prob"] - batch["old_log_prob"]).detach()
    if clip_level == "sequence":
        rho = ((2 * d).exp().masked_fill(~mask, 0).sum(1) / mask.sum(1)).sqrt()
        bound = ((advantages > 0) & (rho > 1 + HIGH)) | ((advantages < 0) & (rho < 1 - LOW))
        bound = bound[:, None].expand_as(mask)
    elif clip_level == "token":
        above, below = d > math.log(1 + HIGH), d < math.log(1 - LOW)
        bound = ((advantages > 0)[:, None] & above) | ((advantages < 0)[:, None] & below)
    elif clip_level == "none":
        bound = torch.zeros_like(mask)
    else:
        bound = (d > math.log(1 + HIGH)) | (d < -math.log(1 + LOW))
    bound = bound & mask
    assert (gradient[bound] == 0).all()
    live = mask & ~bound & (advantages != 0)[:, None]
    if clip_level != "both":  # there the sequence clip binds too; the reference test covers it
        assert bool((gradient[live] != 0).all())
        fraction = bound.double().sum(1) / mask.sum(1)
        assert metrics["clip_fraction"] == pytest.approx(fraction[mask.any(1)].mean().item(), rel=1e-12)
        assert (0 < metrics["clip_fraction"] < 1) == (clip_level != "none")


def test_clip_fraction_of_both_counts_sequences() -> None:
    log_ratio = torch.tensor([[0.5, 0.5], [0.5, -0.5], [-0.5, -0.5], [-0.5, -0.5]], dtype=torch.float64)
    advantages = torch.tensor([1.0, 1.0, -1.0, 1.0], dtype=torch.float64)
    # low = 0.1, high = 0.2: the clamp leaves rho = 1.2, ..., 1 / 1.1; only 1 / 1.1 = 0.909 > 0.9, so nothing binds ...
    call: dict[str, Any] = {
        "old_log_prob": torch.zeros_like(log_ratio),
        "advantages": advantages,
        "response_mask": torch.ones(4, 2),
    }
    loss, metrics = holder_policy_loss(
        log_ratio, **call, p=1.0, clip_level="both", clip_ratio_low=0.1, clip_ratio_high=0.2, batch_size=1
    )
    assert metrics["clip_fraction"] == 0
    assert metrics["rho_max"] == pytest.approx(1.2) and metrics["rho_min"] == pytest.approx(1 / 1.1)
    assert loss.item() == pytest.approx(-(1.2 + (1.2 + 1 / 1.1) / 2 - 1 / 1.1 + 1 / 1.1))
    # ... and without the token clamp two of the four sequences bind.
    _, metrics = holder_policy_loss(log_ratio, **call, p=1.0, clip_ratio_low=0.1, clip_ratio_high=0.2)
    assert metrics["clip_fraction"] == 0.5


# p of each response


@pytest.mark.parametrize("clip_level", CLIP_LEVELS)
def test_responses_with_a_p_of_their_own_add_up(clip_level: ClipLevel) -> None:
    batch = make_batch()
    orders = [0.0, 2.0, -2.0, math.inf, 1e-9, -math.inf, 0.3, 1.0, -1.0, 5.0, -0.4, 2.0]
    loss, metrics, gradient = holder(batch, torch.tensor(orders), clip_level=clip_level, batch_size=11)
    total = 0.0
    for i, p in enumerate(orders):
        one = {key: value[i : i + 1].detach() for key, value in batch.items()}
        one["log_prob"].requires_grad_()
        alone, alone_metrics, alone_gradient = holder(one, float(torch.tensor(p)), clip_level=clip_level, batch_size=11)
        torch.testing.assert_close(gradient[i], alone_gradient[0], rtol=1e-13, atol=0)
        total += alone.item()
        assert alone_metrics["sequences"] == 0 or metrics["rho_min"] <= alone_metrics["rho_min"] <= metrics["rho_max"]
    assert loss.item() == pytest.approx(total, rel=1e-13)


def test_p_by_the_sign_of_the_advantage_is_a_pessimistic_bound() -> None:
    """M_p grows with p, so p = c - delta sign(A) makes every objective at most that of p = c."""
    batch = make_batch()
    for center in (0.0, 1.0):
        middle = [x.item() for x in reference_objectives(batch, center, "none")[0]]
        for delta in (0.5, 2.0):
            p = center - delta * batch["advantages"].sign()
            loss, _, _ = holder(batch, p, clip_level="none")
            assert -loss.item() <= sum(middle) / len(middle) - 1e-4


# verl's own losses


def verl_loss(name: str, batch: dict[str, Any], low: float = LOW, high: float = HIGH) -> tuple[Tensor, Tensor]:
    config = FSDPActorConfig(
        strategy="fsdp2",
        rollout_n=8,
        ppo_micro_batch_size_per_gpu=8,
        clip_ratio_low=low,
        clip_ratio_high=high,
        clip_ratio_c=1e9,  # dual clip off
    )
    mask = batch["response_mask"]
    loss, _ = get_policy_loss_fn(name)(
        old_log_prob=batch["old_log_prob"],
        log_prob=batch["log_prob"],
        advantages=batch["advantages"][:, None] * mask,
        response_mask=mask.to(batch["log_prob"].dtype),
        loss_agg_mode="seq-mean-token-mean",
        config=config,
    )
    (gradient,) = torch.autograd.grad(loss, batch["log_prob"])
    return loss.detach(), gradient


def finite_batch(dtype: torch.dtype, empty_row: bool) -> dict[str, Any]:
    """verl multiplies by the mask, so masked positions must be finite for it; and its geo_mean counts empty rows."""
    batch = make_batch(batch=24)
    batch = {key: value.detach() for key, value in batch.items()}
    for key in ("log_prob", "old_log_prob"):
        batch[key] = torch.where(batch["response_mask"], batch[key], -0.5)
    if not empty_row:
        batch = {key: torch.cat((value[:1], value[2:])) for key, value in batch.items()}
    batch = {key: value.to(dtype) if value.is_floating_point() else value for key, value in batch.items()}
    batch["log_prob"].requires_grad_()
    return batch


TOLERANCE: dict[torch.dtype, dict[str, Any]] = {
    torch.float64: {"rtol": 1e-7, "atol": 1e-11},
    torch.float32: {"rtol": 2e-6, "atol": 2e-7},
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("name", "p", "clip_level", "low", "high", "empty_row"),
    [
        ("gspo", 0.0, "sequence", LOW, HIGH, True),
        ("vanilla", 1.0, "token", LOW, HIGH, True),
        # geo_mean clamps log-ratios to [-low, high]; ours to [log(1 - low), log(1 + high)]
        ("geo_mean", 0.0, "token", -math.log(1 - LOW), math.log(1 + HIGH), False),
    ],
)
def test_special_cases_equal_verls_losses(
    name: str, p: float, clip_level: ClipLevel, low: float, high: float, empty_row: bool, dtype: torch.dtype
) -> None:
    batch = finite_batch(dtype, empty_row)
    loss, _, gradient = holder(batch, p, clip_level=clip_level)
    expected, expected_gradient = verl_loss(name, batch, low, high)
    # verl adds 1e-8 to token counts, hence not to the last bit of float64
    torch.testing.assert_close(loss, expected, **TOLERANCE[dtype])
    torch.testing.assert_close(gradient, expected_gradient, **TOLERANCE[dtype])


def test_unclipped_sequence_level_at_p_1_is_the_mean_ratio() -> None:
    batch = make_batch()
    ratio = (batch["log_prob"] - batch["old_log_prob"]).detach().exp()
    mask = batch["response_mask"]
    arithmetic = ratio.masked_fill(~mask, 0).sum(1) / mask.sum(1)
    expected = -(arithmetic * batch["advantages"])[mask.any(1)].mean()
    assert holder(batch, 1.0, clip_level="none")[0].item() == pytest.approx(expected.item(), rel=1e-12)


# batches, weights, dtypes


@pytest.mark.parametrize("clip_level", CLIP_LEVELS)
def test_token_advantages_and_weights_equal_one_a_sequence(clip_level: ClipLevel) -> None:
    batch = make_batch()
    mask = batch["response_mask"]
    weights = torch.linspace(0, 2, 12, dtype=torch.float64)
    loss, metrics, gradient = holder(batch, -1.0, clip_level=clip_level, rollout_is_weights=weights)

    wide = batch | {"advantages": torch.where(mask, batch["advantages"][:, None], math.nan)}
    wide_weights = torch.where(mask, weights[:, None], -math.inf)
    wide_result = holder(wide, -1.0, clip_level=clip_level, rollout_is_weights=wide_weights)
    assert loss == wide_result[0] and metrics == wide_result[1] and torch.equal(gradient, wide_result[2])

    objectives = torch.stack(reference_objectives(batch, -1.0, clip_level)[0])
    expected = -(objectives * weights[mask.any(1)]).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("clip_level", CLIP_LEVELS)
@pytest.mark.parametrize("split", [1, 5, 12])
def test_micro_batches_add_up_and_metrics_reduce_as_told(clip_level: ClipLevel, split: int) -> None:
    batch = make_batch()
    loss, metrics, gradient = holder(batch, 0.7, clip_level=clip_level, batch_size=8)
    parts, gradients = [], []
    for start in range(0, 12, split):
        part = {key: value[start : start + split].detach() for key, value in batch.items()}
        part["log_prob"].requires_grad_()
        parts.append(holder(part, 0.7, clip_level=clip_level, batch_size=8))
        gradients.append(parts[-1][2])
    assert sum(part[0].item() for part in parts) == pytest.approx(loss.item(), rel=1e-12)
    torch.testing.assert_close(torch.cat(gradients), gradient, rtol=1e-12, atol=1e-16)

    reduce: dict[str, Callable[[str], float]] = {
        "max": lambda key: max(part[1][key] for part in parts),
        "min": lambda key: min(part[1][key] for part in parts),
        "sum": lambda key: sum(part[1][key] for part in parts),
        "sequence_mean": lambda key: sum(part[1][key] * part[1]["sequences"] for part in parts) / metrics["sequences"],
        "token_mean": lambda key: sum(part[1][key] * part[1]["tokens"] for part in parts) / metrics["tokens"],
    }
    assert REDUCTION.keys() == metrics.keys()
    for key, value in metrics.items():
        assert reduce[REDUCTION[key]](key) == pytest.approx(value, rel=1e-12), key


def test_default_batch_size_is_the_number_of_sequences_with_a_token() -> None:
    batch = make_batch()
    default, _, default_gradient = holder(batch, 2.0)
    explicit, _, explicit_gradient = holder(batch, 2.0, batch_size=11)  # of 12 rows one is empty
    assert default.item() == pytest.approx(explicit.item(), rel=1e-14)
    torch.testing.assert_close(default_gradient, explicit_gradient, rtol=1e-14, atol=0)


@pytest.mark.parametrize("clip_level", CLIP_LEVELS)
@pytest.mark.parametrize("p", [2.0, 0.0, math.inf])
def test_call_without_a_token(clip_level: ClipLevel, p: float) -> None:
    batch = make_batch()
    batch["response_mask"] = torch.zeros_like(batch["response_mask"])
    batch["advantages"] = torch.full_like(batch["advantages"], math.nan)
    loss, metrics, gradient = holder(batch, p, clip_level=clip_level)
    assert loss == 0 and (gradient == 0).all()
    nothing = {"rho_max": -math.inf, "log_ratio_max": -math.inf, "rho_min": math.inf, "log_ratio_min": math.inf}
    assert metrics == {key: nothing.get(key, 0.0) for key in REDUCTION}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("clip_level", CLIP_LEVELS)
def test_low_precision_inputs_are_computed_in_float32(dtype: torch.dtype, clip_level: ClipLevel) -> None:
    batch = make_batch(dtype=dtype)
    loss, metrics, gradient = holder(batch, 2.0, clip_level=clip_level)
    exact = {key: value.detach().double() if value.is_floating_point() else value for key, value in batch.items()}
    exact["log_prob"].requires_grad_()
    exact_loss, exact_metrics, exact_gradient = holder(exact, 2.0, clip_level=clip_level)
    assert loss.dtype == torch.float32 and gradient.dtype == dtype
    assert loss.item() == pytest.approx(exact_loss.item(), rel=2e-6)
    rounding = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11, torch.float32: 2e-6}[dtype]
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=rounding, atol=1e-7)
    assert metrics == pytest.approx(exact_metrics, rel=2e-6, abs=1e-7)


def test_autocast_changes_nothing() -> None:
    batch = make_batch(dtype=torch.float32)
    plain = holder(batch, 2.0, clip_level="token")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = holder(batch, 2.0, clip_level="token")
    assert plain[0] == cast[0] and plain[1] == cast[1] and torch.equal(plain[2], cast[2])


@pytest.mark.parametrize("p", [2.0, 0.0, -2.0, math.inf, 1e30])
@pytest.mark.parametrize("size", [30.0, 1e4])
def test_extreme_log_ratios_stay_finite_with_zero_gradient(p: float, size: float) -> None:
    log_prob = torch.tensor([[size, size], [-size, -size]]).requires_grad_()
    advantages = torch.tensor([-1.0, 1.0])  # the signs that PPO does not clip
    loss, metrics = holder_policy_loss(log_prob, torch.zeros(2, 2), advantages, torch.ones(2, 2), p, clip_level="none")
    (gradient,) = torch.autograd.grad(loss, log_prob)
    assert loss.item() == pytest.approx((math.exp(20) - math.exp(-20)) / 2, rel=1e-6)
    assert (gradient == 0).all()
    assert metrics["rho_max"] == pytest.approx(math.exp(20), rel=1e-6)
    assert metrics["bound"] == pytest.approx(math.exp(40) / 2, rel=1e-6)
    assert (metrics["log_ratio_max"], metrics["log_ratio_min"]) == (size, -size)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_broken_log_prob_at_a_token_is_not_hidden(bad: float) -> None:
    log_prob = torch.zeros(2, 3)
    log_prob[0, 1] = bad
    loss, metrics = holder_policy_loss(log_prob, torch.zeros(2, 3), torch.ones(2), torch.ones(2, 3), 1.0)
    assert math.isnan(loss.item()) and math.isnan(metrics["rho_mean"])


# metrics


@pytest.mark.parametrize("p", [2.0, 0.0, -2.0, math.inf, -math.inf])
def test_metrics_equal_their_definitions(p: float) -> None:
    batch = make_batch()
    mask = batch["response_mask"]
    d = (batch["log_prob"] - batch["old_log_prob"]).detach()
    _, metrics, _ = holder(batch, p, clip_level="none")
    entropies, sizes, bounds, moments, spreads, beyond, binds = [], [], [], [], [], [], []
    weights = holder_weights(d, mask, p)
    for row, a, keep, w in zip(d, batch["advantages"], mask, weights, strict=True):
        if not keep.any():
            continue
        n = int(keep.sum())
        entropy = -sum(x * math.log(x) for x in w[keep].tolist() if x > 0)
        entropies.append(entropy / math.log(n) if n > 1 else 1.0)
        sizes.append(1 / (n * sum(x * x for x in w.tolist())))
        x = row[keep]
        extremes = {math.inf: x.max(), -math.inf: x.min()}
        rho = extremes[p].exp() if p in extremes else x.mean().exp() if p == 0 else (p * x).exp().mean() ** (1 / p)
        bounds.append((a * rho).item() ** 2)
        moments.append((a * rho).item() ** 2 * sum(y * y for y in w.tolist()))
        spreads.append(x.std(correction=0).item())
        past = x > math.log(1 + HIGH) if a > 0 else x < math.log(1 - LOW)
        beyond.append((past & (a != 0)).double().mean().item())
        binds.append(float(rho > 1 + HIGH if a > 0 else (rho < 1 - LOW) & (a < 0)))
    assert metrics["weight_entropy"] == pytest.approx(sum(entropies) / 11, rel=1e-9)
    assert metrics["effective_sample_size"] == pytest.approx(sum(sizes) / 11, rel=1e-9)
    assert metrics["bound"] == pytest.approx(sum(bounds) / 11, rel=1e-9)
    assert metrics["second_moment"] == pytest.approx(sum(moments) / 11, rel=1e-9)
    assert metrics["log_ratio_std"] == pytest.approx(sum(spreads) / 11, rel=1e-9)
    assert metrics["token_clip_fraction"] == pytest.approx(sum(beyond) / 11, rel=1e-12)
    assert metrics["sequence_clip_fraction"] == pytest.approx(sum(binds) / 11, rel=1e-12)
    assert metrics["ppo_kl"] == pytest.approx(-d[mask].mean().item(), rel=1e-9)
    assert metrics["log_ratio_max"] == d[mask].max().item()
    assert metrics["log_ratio_min"] == d[mask].min().item()
    assert (metrics["sequences"], metrics["tokens"]) == (11.0, float(mask.sum()))
    assert all(type(value) is float for value in metrics.values())


def test_a_token_at_its_bound_is_not_beyond_it() -> None:
    """As in the first mini-batch, where every ratio is 1, with a clip range of 0."""
    zeros, mask = torch.zeros(2, 4), torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])
    _, metrics = holder_policy_loss(
        zeros, zeros, torch.tensor([1.0, -1.0]), mask, 2.0, clip_ratio_low=0.0, clip_ratio_high=0.0
    )
    assert metrics["token_clip_fraction"] == 0 and metrics["log_ratio_std"] == 0


@pytest.mark.parametrize("clip_level", ["token", "both"])
def test_envelopes_and_kl_are_those_before_the_token_clip(clip_level: ClipLevel) -> None:
    batch = make_batch()
    clipped, unclipped = (holder(batch, 2.0, clip_level=level)[1] for level in (clip_level, "none"))  # type: ignore[arg-type]
    for key in ("log_ratio_max", "log_ratio_min", "ppo_kl", "tokens", "sequences"):
        assert clipped[key] == unclipped[key]
    assert abs(clipped["rho_mean"] - unclipped["rho_mean"]) > 1e-3  # whereas rho is the clipped tokens'


class CountScalarReads(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("clip_level", CLIP_LEVELS)
@pytest.mark.parametrize("p", [2.0, 0.0, math.inf, None])
@pytest.mark.parametrize("wide", [True, False])
def test_one_host_sync(clip_level: ClipLevel, p: float | None, wide: bool) -> None:
    batch = make_batch()
    order = torch.linspace(-2, 2, len(batch["advantages"])) if p is None else p
    weights = torch.ones_like(batch["advantages"])
    if wide:
        weights = weights[:, None].expand_as(batch["log_prob"])
        batch["advantages"] = batch["advantages"][:, None].expand_as(batch["log_prob"])
    original, lists = Tensor.tolist, []

    def tolist(tensor: Tensor) -> Any:
        lists.append(tensor)
        return original(tensor)

    with CountScalarReads() as reads, mock.patch.object(Tensor, "tolist", tolist):
        assert torch.ones(2)[0].item() == 1 and reads.count == 1  # the counter does count
        holder(batch, order, clip_level=clip_level, rollout_is_weights=weights)
    assert (reads.count - 1, len(lists)) == (0, 1)


# errors


def call(**changes: Any) -> None:
    arguments: dict[str, Any] = {
        "log_prob": torch.zeros(3, 4, requires_grad=True),
        "old_log_prob": torch.zeros(3, 4),
        "advantages": torch.ones(3, 4),
        "response_mask": torch.ones(3, 4),
        "p": 1.0,
    }
    holder_policy_loss(**(arguments | changes))


def changed(row: int, column: int, value: float, base: Tensor | None = None) -> Tensor:
    tensor = torch.ones(3, 4) if base is None else base.clone()
    tensor[row, column] = value
    return tensor


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"p": math.nan}, "p is nan; allowed is any real number"),
        ({"p": torch.tensor([1.0, math.inf, math.nan])}, "p of row 2 is nan; allowed is any real number, inf and -inf"),
        ({"p": torch.ones(3, 4)}, r"p has shape \(3, 4\); allowed is a number, or one for each response: \(3,\)"),
        ({"clip_level": "block"}, "clip_level is 'block'; allowed are sequence, token, none, both"),
        ({"clip_ratio_low": 1.0}, "clip_ratio_low is 1.0; allowed is 0 <= clip_ratio_low < 1"),
        ({"clip_ratio_low": math.nan}, "clip_ratio_low is nan"),
        ({"clip_ratio_high": -0.1}, "clip_ratio_high is -0.1; allowed is 0 <= clip_ratio_high < inf"),
        ({"batch_size": 0}, "batch_size is 0; allowed is a finite number above 0, or None"),
        ({"batch_size": math.inf}, "batch_size is inf"),
        ({"log_prob": torch.zeros(3)}, r"log_prob has shape \(3,\); allowed is \(B, T\) with B, T >= 1"),
        ({"old_log_prob": torch.zeros(3, 5)}, r"old_log_prob has shape \(3, 5\); allowed is log_prob's, \(3, 4\)"),
        ({"response_mask": torch.ones(3, 1)}, r"response_mask has shape \(3, 1\); allowed is log_prob's, \(3, 4\)"),
        ({"advantages": torch.ones(4)}, r"advantages has shape \(4,\); allowed is \(3,\) or \(3, 4\)"),
        ({"rollout_is_weights": torch.ones(3, 1)}, r"rollout_is_weights has shape \(3, 1\); allowed is \(3,\) or"),
        ({"advantages": changed(1, 2, 1.5)}, "advantages of row 1 runs from 1.0 to 1.5 over its tokens"),
        ({"advantages": changed(1, 2, -1.0)}, "advantages of row 1 runs from -1.0 to 1.0 over its tokens"),
        ({"advantages": changed(1, 2, 0.0)}, "advantages of row 1 runs from 0.0 to 1.0 over its tokens"),
        ({"advantages": changed(0, 0, 1.0 + 1e-6)}, "advantages of row 0 runs from 1.0 to 1.00000"),
        ({"advantages": changed(2, 0, math.nan)}, "advantages of row 2 contains nan or inf"),
        ({"advantages": changed(2, 3, math.inf)}, "advantages of row 2 contains nan or inf"),
        ({"advantages": torch.tensor([1.0, 2.0, math.nan])}, "advantages of row 2 contains nan or inf"),
        ({"advantages": torch.tensor([1.0, -math.inf, 0.0])}, "advantages of row 1 contains nan or inf"),
        ({"rollout_is_weights": changed(1, 0, 2.0)}, "rollout_is_weights of row 1 runs from 1.0 to 2.0"),
        ({"rollout_is_weights": changed(1, 0, math.nan)}, "rollout_is_weights of row 1 contains nan or inf"),
        ({"rollout_is_weights": torch.tensor([1.0, 0.0, -2.0])}, "rollout_is_weights of row 2 contains -2.0; allowed"),
    ],
)
def test_wrong_values_raise_errors_that_name_them(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(**changes)


def test_p_must_be_a_number() -> None:
    with pytest.raises(TypeError, match="p must be a Python float or a tensor of floats, got str"):
        call(p="2")


def test_faults_in_masked_positions_are_none() -> None:
    mask = torch.ones(3, 4)
    mask[1, 2:] = mask[2] = 0
    wide = changed(2, 0, math.nan, changed(1, 3, 7.0, changed(1, 2, math.inf)))
    call(response_mask=mask, advantages=wide, rollout_is_weights=wide.neg().where(mask == 0, torch.tensor(1.0)))


def test_a_caller_may_add_to_the_loss_in_place() -> None:
    """verl subtracts the entropy term with `-=`; the gradients of both terms must arrive."""
    log_prob = torch.tensor([[-1.0, -2.0], [-0.5, -1.5]], dtype=torch.float64, requires_grad=True)
    old, advantages, mask = log_prob.detach() - 0.05, torch.tensor([1.0, -1.0]), torch.ones(2, 2)
    (alone,) = torch.autograd.grad(holder_policy_loss(log_prob, old, advantages, mask, 2.0)[0], log_prob)
    loss, _ = holder_policy_loss(log_prob, old, advantages, mask, 2.0)
    loss -= 0.1 * log_prob.sum()
    (both,) = torch.autograd.grad(loss, log_prob)
    torch.testing.assert_close(both, alone - 0.1)
