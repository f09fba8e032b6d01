"""The Hölder mean and its weights against mpmath, closed forms and the theorems of the paper (arXiv 2605.12058)."""

import itertools
import math
from collections.abc import Sequence

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from holderpo_core import effective_sample_size, herfindahl, holder_weights, log_holder_mean, weight_entropy
from holderpo_core.mean import holder_terms, mask_rows, row_p

EPS32 = 2.0**-24
P_VALUES = [0.0, *(s * p for s in (1, -1) for p in (1e-30, 1e-12, 1e-6, 1e-4, 1e-2, 0.3, 1.0, 2.0, 7.5, 20.0, 50.0))]


def exact(log_ratio: Sequence[float], p: float) -> tuple[mpmath.mpf, list[mpmath.mpf]]:
    """log rho_p and W(p) by their definitions (Eq. 1 and 3) with 100 digits."""
    with mpmath.workdps(100):
        d = [mpmath.mpf(float(x)) for x in log_ratio]
        powers = [mpmath.exp(p * x) for x in d]
        total = mpmath.fsum(powers)
        mean = mpmath.fsum(d) / len(d) if p == 0 else mpmath.log(total / len(d)) / mpmath.mpf(p)
        return mean, [x / total for x in powers]


def exact_entropy(weights: list[mpmath.mpf]) -> mpmath.mpf:
    with mpmath.workdps(100):
        return -mpmath.fsum(w * mpmath.log(w) for w in weights if w > 0)


def rows(seed: int) -> list[np.ndarray]:
    """Log-ratios that break power means: bulk, two clusters, spikes, heavy tails, equal values, one token."""
    rng = np.random.default_rng(seed)
    return [
        row.clip(-50, 50).astype(np.float32)
        for scale in (1e-3, 0.3, 5.0, 30.0)
        for row in (
            rng.normal(size=512) * scale,
            rng.choice([-1.0, 1.0], size=97) * scale + 1e-3 * rng.normal(size=97),
            (rng.random(301) < 0.01) * scale * 1.5,
            rng.standard_cauchy(size=200) * scale * 0.1,
            np.full(7, scale),
            np.array([-scale]),
        )
    ]


def full_mask(x: Tensor) -> Tensor:
    return torch.ones_like(x, dtype=torch.bool)


def evaluate(log_ratio: Tensor, p: float, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Value and gradient; the gradient is asserted to be `holder_weights`."""
    x = log_ratio.clone().requires_grad_()
    mask = full_mask(x) if mask is None else mask
    value = log_holder_mean(x, mask, p)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert torch.equal(gradient, holder_weights(x, mask, p).to(x.dtype))
    return value.detach(), gradient


@pytest.mark.parametrize("p", P_VALUES)
def test_float32_stays_within_its_error_bounds(p: float) -> None:
    for row in rows(seed=0):
        value, weights = evaluate(torch.from_numpy(row)[None], p)
        mean, exact_weights = exact(row.tolist(), p)
        assert abs(value.item() - mean) <= 2 * EPS32 * float(np.abs(row).max())
        largest = float(max(exact_weights))
        difference = max(abs(float(w) - e) for w, e in zip(weights[0].tolist(), exact_weights, strict=True))
        assert difference <= 1e-6 * largest


@pytest.mark.parametrize("p", P_VALUES)
def test_float64_is_computed_in_float64(p: float) -> None:
    for row in rows(seed=1):
        value, weights = evaluate(torch.from_numpy(row).double()[None], p)
        assert value.dtype == weights.dtype == torch.float64
        mean, exact_weights = exact(row.tolist(), p)
        assert abs(value.item() - mean) <= 4e-16 * float(np.abs(row).max())
        difference = max(abs(float(w) - e) for w, e in zip(weights[0].tolist(), exact_weights, strict=True))
        assert difference <= 4e-15 * float(max(exact_weights))


@pytest.mark.parametrize(
    "p", [1e3, -1e3, 1e6, 1e10, -1e10, 1e29, -1e29, 1e30, 1e31, 1e308, -1e308, math.inf, -math.inf]
)
@pytest.mark.parametrize("scale", [1.0, 50.0, 1e4])
def test_huge_p(p: float, scale: float) -> None:
    # Exact binary fractions, so that p * (difference) is either 0 or large and the limit is known in closed form.
    row = torch.tensor([[0.75, -0.5, 0.75, 0.25, -1.0, -1.0, -1.0]]) * scale
    value, weights = evaluate(row, p)
    ties = (row == (row.max() if p > 0 else row.min()))[0]
    shift = math.log(ties.sum().item() / 7) / p
    assert value.item() == pytest.approx((0.75 if p > 0 else -1.0) * scale + shift, rel=2e-7)
    torch.testing.assert_close(weights[0], ties / ties.sum(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("p", [2.0, -2.0, 0.0, 1e-12, 50.0])
def test_extreme_log_ratios(p: float) -> None:
    row = [1e4, -1e4, 0.0, 9999.0, 3.0]
    value, weights = evaluate(torch.tensor([row]), p)
    mean, exact_weights = exact(row, p)
    assert abs(value.item() - mean) <= 2 * EPS32 * 1e4
    assert weights[0].tolist() == pytest.approx([float(w) for w in exact_weights], abs=1e-6)


def test_infinite_p_of_equal_values_whose_mean_rounds_beyond_them() -> None:
    for value in np.random.default_rng(0).normal(size=200).astype(np.float32).tolist():
        row = torch.full((1, 11), value)
        mask = torch.arange(11)[None] < 7
        for p in (math.inf, -math.inf):
            mean, weights = evaluate(row, p, mask)
            assert abs(mean.item() - value) <= 4 * EPS32 * abs(value)  # the rounding of the mean
            torch.testing.assert_close(weights, mask / 7.0, rtol=1e-6, atol=0)


def test_p_passes_through_zero_without_a_jump() -> None:
    row = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 3000)).astype(np.float32))
    variance = row.double().var(correction=0).item()
    at_zero, weights_at_zero = evaluate(row, 0.0)
    for size in (1e-40, 1e-31, 1e-30, 1e-20, 1e-12, 1e-9, 1e-7):
        for p in (size, -size):
            value, weights = evaluate(row, p)
            assert abs(value.item() - at_zero.item()) <= EPS32 + size * variance
            torch.testing.assert_close(weights, weights_at_zero, rtol=3e-7 + 10 * size, atol=0)
    # A linear schedule's steps near 0: log rho grows by dp * Var(d) / 2 each (Thm 4's limit), to rounding.
    values = [log_holder_mean(row, full_mask(row), k * 1e-4).item() for k in range(-20, 21)]
    for low, high in itertools.pairwise(values):
        assert high - low == pytest.approx(1e-4 * variance / 2, abs=2 * EPS32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    half = torch.randn(4, 300, generator=torch.Generator().manual_seed(0)).to(dtype)
    x = half.clone().requires_grad_()
    value = log_holder_mean(x, full_mask(x), 2.0)
    value.sum().backward()
    reference = half.float().requires_grad_()
    reference_value = log_holder_mean(reference, full_mask(x), 2.0)
    reference_value.sum().backward()
    assert value.dtype == torch.float32 and torch.equal(value, reference_value)
    assert x.grad is not None and reference.grad is not None
    assert x.grad.dtype == dtype and torch.equal(x.grad, reference.grad.to(dtype))
    assert holder_weights(half, full_mask(x), 2.0).dtype == torch.float32


@pytest.mark.parametrize("p", [2.0, 0.0, -2.0, 1e-7, 40.0, math.inf, -math.inf])
@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf, 1e30, -7.0])
def test_masked_positions_have_no_effect(p: float, junk: float) -> None:
    generator = torch.Generator().manual_seed(0)
    row = torch.randn(6, 50, generator=generator) * 3 - 5
    mask = torch.rand(6, 50, generator=generator) < 0.6
    value, gradient = evaluate(torch.where(mask, row, junk), p, mask)
    clean_value, clean_gradient = evaluate(torch.where(mask, row, 0.0), p, mask)
    assert torch.equal(value, clean_value) and torch.equal(gradient, clean_gradient)
    assert (gradient[~mask] == 0).all()
    for i in range(6):
        alone, alone_gradient = evaluate(row[i][mask[i]][None], p)
        assert value[i].item() == pytest.approx(alone.item(), rel=4e-7)
        torch.testing.assert_close(gradient[i][mask[i]], alone_gradient[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("mask_dtype", [torch.bool, torch.int64, torch.float32, torch.bfloat16])
def test_mask_dtypes(mask_dtype: torch.dtype) -> None:
    row = torch.randn(3, 20, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(20)[None] < torch.tensor([[20], [7], [1]])
    assert torch.equal(log_holder_mean(row, mask.to(mask_dtype), 2.0), log_holder_mean(row, mask, 2.0))


@pytest.mark.parametrize("p", [2.0, 0.0, -2.0, math.inf, -math.inf])
def test_row_without_a_token(p: float) -> None:
    row = torch.full((3, 4), math.nan)
    row[1] = torch.tensor([0.1, 0.2, 0.3, 0.4])
    mask = torch.tensor([[0], [1], [0]]).expand(3, 4)
    value, gradient = evaluate(row, p, mask)
    assert value[[0, 2]].tolist() == [0.0, 0.0]
    assert (gradient[[0, 2]] == 0).all()
    assert value[1].item() == pytest.approx(float(exact(row[1].tolist(), max(min(p, 1e6), -1e6))[0]), abs=2e-6)


@pytest.mark.parametrize("p", [2.0, 0.0, -2.0, 1e-9, 0.5, 30.0])
def test_gradcheck(p: float) -> None:
    generator = torch.Generator().manual_seed(0)
    row = torch.randn(4, 9, generator=generator, dtype=torch.float64).mul_(1.5).requires_grad_()
    mask = torch.rand(4, 9, generator=generator) < 0.7
    mask[3] = False
    assert torch.autograd.gradcheck(lambda x: log_holder_mean(x, mask, p), (row,))


def test_second_derivative_is_refused() -> None:
    x = torch.randn(2, 5).requires_grad_()
    (gradient,) = torch.autograd.grad(log_holder_mean(x, full_mask(x), 2.0).exp().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.square().sum().backward()


def test_autocast_changes_nothing() -> None:
    x = torch.randn(4, 200, generator=torch.Generator().manual_seed(0))
    plain = evaluate(x, 2.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = evaluate(x, 2.0)
    assert torch.equal(plain[0], cast[0]) and torch.equal(plain[1], cast[1])


def test_input_is_left_as_it_was() -> None:
    x = torch.randn(4, 20)
    before = x.clone()
    for p in (2.0, 0.0, math.inf):
        log_holder_mean(x, full_mask(x), p)
    assert torch.equal(x, before)


def test_wrong_arguments() -> None:
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"p is nan; allowed is any real number, inf and -inf"):
        log_holder_mean(x, full_mask(x), math.nan)
    with pytest.raises(
        TypeError, match=r"p must be a Python float or a tensor of floats, got a tensor of torch\.int64"
    ):
        holder_weights(x, full_mask(x), torch.tensor([1, 2]))
    with pytest.raises(ValueError, match=r"p has shape \(3,\); allowed is a number, or one for each response: \(2,\)"):
        log_holder_mean(x, full_mask(x), torch.ones(3))
    with pytest.raises(ValueError, match=r"one shape \(B, T\).*got \(2, 3\) and \(2, 4\)"):
        log_holder_mean(x, torch.ones(2, 4), 1.0)
    with pytest.raises(ValueError, match=r"B, T >= 1, got \(2, 0\)"):
        log_holder_mean(torch.zeros(2, 0), torch.zeros(2, 0), 1.0)


# p of each row


ORDERS = [0.0, 1e-40, 1e-12, -1e-6, 0.3, 1.0, -2.0, 7.5, -50.0, 1e10, -1e29, math.inf, -math.inf]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_row_has_the_value_and_the_weights_of_its_own_p(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    row = (torch.randn(len(ORDERS), 60, generator=generator, dtype=torch.float64) * 2).to(dtype)
    mask = torch.rand(len(ORDERS), 60, generator=generator) < 0.7
    x = row.clone().requires_grad_()
    value = log_holder_mean(x, mask, torch.tensor(ORDERS, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(value.sum(), x)
    for i, p in enumerate(ORDERS):
        alone, alone_gradient = evaluate(row[i : i + 1], p, mask[i : i + 1])
        assert value[i] == alone and torch.equal(gradient[i], alone_gradient[0])
        if math.isfinite(p) and dtype != torch.bfloat16:
            kept = row[i][mask[i]]
            mean, exact_weights = exact(kept.tolist(), p)
            rounding = EPS32 if dtype == torch.float32 else 2.0**-53
            assert abs(value[i].item() - mean) <= 2 * rounding * kept.abs().max().item()
            largest = float(max(exact_weights))
            for w, e in zip(gradient[i][mask[i]].tolist(), exact_weights, strict=True):
                assert abs(w - e) <= 20 * rounding * max(1.0, min(abs(p), 50.0)) * largest


def test_gradcheck_with_a_p_for_each_row() -> None:
    generator = torch.Generator().manual_seed(0)
    row = torch.randn(6, 9, generator=generator, dtype=torch.float64).mul_(1.5).requires_grad_()
    mask = torch.rand(6, 9, generator=generator) < 0.7
    p = torch.tensor([2.0, 0.0, -2.0, 1e-9, 30.0, -0.5], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: log_holder_mean(x, mask, p), (row,))


def test_p_of_a_row_without_a_token_has_no_effect_and_nan_stays_in_its_row() -> None:
    row = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1], [0], [1], [0]]).expand(4, 5)
    p = torch.tensor([2.0, math.nan, math.nan, math.inf])
    x = row.clone().requires_grad_()
    value = log_holder_mean(x, mask, p)
    (gradient,) = torch.autograd.grad(value[[0, 1, 3]].sum(), x)
    assert value[0] == log_holder_mean(row[:1], mask[:1], 2.0)[0] and value[[1, 3]].tolist() == [0.0, 0.0]
    assert math.isnan(value[2].item()) and (gradient[[1, 3]] == 0).all()


def test_p_has_no_gradient() -> None:
    p = torch.ones(2, requires_grad=True)
    x = torch.randn(2, 5)
    assert not log_holder_mean(x, full_mask(x), p).requires_grad


# The theorems of the paper, in float64

log_ratios = st.lists(st.floats(-3, 3, width=32), min_size=2, max_size=40)
orders = st.floats(-6, 6)
theorem = settings(max_examples=150, deadline=None)


def terms64(log_ratio: list[float], p: float) -> tuple[Tensor, Tensor, float, float]:
    """d (T,), W(p) (T,), log rho_p and the entropy of W(p), float64."""
    d = torch.tensor(log_ratio, dtype=torch.float64)
    rows = mask_rows(d[None], full_mask(d[None]))
    terms = holder_terms(rows, row_p(p, rows))
    entropy = weight_entropy(terms.weights, terms.scaled, terms.log_normalizer)
    return d, terms.weights[0], terms.log_mean.item(), entropy.item()


@theorem
@given(log_ratios, orders)
def test_diagnostics_are_those_of_the_exact_weights(log_ratio: list[float], p: float) -> None:
    _, weights, _, entropy = terms64(log_ratio, p)
    _, exact_weights = exact(log_ratio, p)
    assert entropy == pytest.approx(float(exact_entropy(exact_weights)), abs=1e-12)
    hhi = float(mpmath.fsum(w * w for w in exact_weights))
    assert herfindahl(weights[None]).item() == pytest.approx(hhi, rel=1e-12)
    count = torch.tensor([float(len(log_ratio))], dtype=torch.float64)
    assert effective_sample_size(herfindahl(weights[None]), count).item() == pytest.approx(
        1 / (len(log_ratio) * hhi), rel=1e-12
    )


@pytest.mark.parametrize(("p", "tied"), [(math.inf, 2), (-math.inf, 1), (1e20, 2)])
def test_diagnostics_at_infinite_p(p: float, tied: int) -> None:
    _, weights, _, entropy = terms64([2.0, 2.0, 1.0, -1.0], p)
    assert entropy == pytest.approx(math.log(tied), abs=1e-12)
    assert herfindahl(weights[None]).item() == pytest.approx(1 / tied)


@theorem
@given(log_ratios, orders, orders)
def test_theorem_1_entropy_is_largest_at_zero_and_falls_with_abs_p(log_ratio: list[float], p: float, q: float) -> None:
    n = len(log_ratio)
    assert terms64(log_ratio, 0.0)[3] == pytest.approx(math.log(n), abs=1e-12)
    near, far = sorted((abs(p), abs(q)))
    for sign in (1, -1):
        d, weights, _, near_entropy = terms64(log_ratio, sign * near)
        _, _, _, far_entropy = terms64(log_ratio, sign * far)
        assert far_entropy <= near_entropy + 1e-12
        if near > 0.1 and far - near > 0.1 and (weights * (d - (weights * d).sum()) ** 2).sum() > 1e-3:
            assert far_entropy < near_entropy


@theorem
@given(log_ratios, st.floats(-4, 4))
def test_theorem_1_entropy_slope_is_minus_p_times_variance(log_ratio: list[float], p: float) -> None:
    step = 1e-4
    d, weights, _, _ = terms64(log_ratio, p)
    mean = (weights * d).sum()
    variance = (weights * (d - mean) ** 2).sum().item()
    slope = (terms64(log_ratio, p + step)[3] - terms64(log_ratio, p - step)[3]) / (2 * step)
    assert slope == pytest.approx(-p * variance, abs=2e-5)


@theorem
@given(log_ratios, st.floats(-4, 4))
def test_lemma_2_weight_slope(log_ratio: list[float], p: float) -> None:
    step = 1e-4
    d, weights, _, _ = terms64(log_ratio, p)
    slope = (terms64(log_ratio, p + step)[1] - terms64(log_ratio, p - step)[1]) / (2 * step)
    torch.testing.assert_close(slope, weights * (d - (weights * d).sum()), rtol=0, atol=2e-6)


@theorem
@given(log_ratios, orders, st.floats(0.05, 3))
def test_lemma_3_and_the_power_mean_inequality(log_ratio: list[float], p: float, step: float) -> None:
    d, weights, log_mean, _ = terms64(log_ratio, p)
    _, higher_weights, higher_log_mean, _ = terms64(log_ratio, p + step)
    assert higher_log_mean >= log_mean - 1e-14
    assert (higher_weights * d).sum() >= (weights * d).sum() - 1e-14
    if d.max() - d.min() > 0.1:  # strictly, once the spread is well above rounding
        assert higher_log_mean > log_mean
        assert (higher_weights * d).sum() > (weights * d).sum()
    assert d.min() - 1e-14 <= log_mean <= d.max() + 1e-14


@theorem
@given(st.lists(st.tuples(st.floats(-2, 2), log_ratios), min_size=1, max_size=5), orders, st.floats(0, 3))
def test_theorem_2_bound_grows_with_p(batch: list[tuple[float, list[float]]], p: float, step: float) -> None:
    def bound(order: float) -> float:
        return sum(a**2 * math.exp(2 * terms64(d, order)[2]) for a, d in batch) / len(batch)

    assert bound(p + step) >= bound(p) * (1 - 1e-13)


@theorem
@given(log_ratios, orders, st.integers(0, 2**31))
def test_theorem_7_gradient_norm_under_orthogonal_token_gradients(log_ratio: list[float], p: float, seed: int) -> None:
    # theta moves every token along its own orthogonal direction of length M: ||A grad rho||^2 = A^2 M^2 rho^2 HHI(p).
    n, length, advantage = len(log_ratio), 1.7, -0.6
    basis = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))[0]
    theta = torch.zeros(n, dtype=torch.float64, requires_grad=True)
    d = torch.tensor(log_ratio, dtype=torch.float64) + length * (basis @ theta)
    rho = log_holder_mean(d[None], full_mask(d[None]), p).exp()
    (gradient,) = torch.autograd.grad(advantage * rho.sum(), theta)
    _, weights, log_mean, _ = terms64(log_ratio, p)
    expected = advantage**2 * length**2 * math.exp(2 * log_mean) * herfindahl(weights[None]).item()
    assert gradient.square().sum().item() == pytest.approx(expected, rel=1e-10)


@theorem
@given(log_ratios, st.floats(0, 6), st.floats(0.01, 2))
def test_theorem_7_minimum_is_at_some_p_not_above_zero(log_ratio: list[float], p: float, step: float) -> None:
    # rho^2 HHI does not fall to the right of 0, so its minimum over the real line lies at p* <= 0.
    def second_moment(order: float) -> float:
        _, weights, log_mean, _ = terms64(log_ratio, order)
        return math.exp(2 * log_mean) * herfindahl(weights[None]).item()

    assert second_moment(p + step) >= second_moment(p) * (1 - 1e-12)


@theorem
@given(log_ratios, st.floats(-3, 3), st.floats(0.01, 3), st.floats(3.5, 6))
def test_theorem_3_rare_token_is_amplified(bulk: list[float], p: float, step: float, rare: float) -> None:
    # W_rare(p + step) = W_rare(p) r^step / E_W(p)[r^step], so the theorem's constant is C = 1 / E_W(p)[r^step].
    _, before, _, _ = terms64([*bulk, rare], p)
    d, after, _, _ = terms64([*bulk, rare], p + step)
    constant = 1 / (before * (step * d).exp()).sum().item()
    assert after[-1] >= before[-1]
    # As a product: a weight is exact to rounding of 1, not of itself, and the quotient of two small ones is not a test.
    growth = constant * math.exp(step * rare)
    assert after[-1].item() == pytest.approx(growth * before[-1].item(), rel=1e-12, abs=1e-15 * growth)
