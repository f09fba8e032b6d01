"""What docs/study/signed_p.md proves of p by the sign of the advantage, as properties in float64."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from holderpo_core import SignedP, holder_policy_loss, log_holder_mean, response_p

log_ratios = st.lists(st.floats(-2, 2), min_size=2, max_size=12)
advantages = st.floats(-3, 3).filter(lambda a: abs(a) > 1e-3)
centers, deltas = st.floats(-3, 3), st.floats(0, 4)


def objective(log_ratio: Tensor, advantage: float, center: float, delta: float) -> Tensor:
    """A M_p(A) of one response, by way of the order and the loss."""
    arguments = (
        log_ratio[None],
        torch.zeros(1, len(log_ratio), dtype=torch.float64),
        torch.tensor([advantage], dtype=torch.float64),
        torch.ones(1, len(log_ratio)),
    )
    p = response_p(SignedP(center - delta, center + delta), *arguments, 0.2, 0.2)
    return -holder_policy_loss(*arguments, p=p, clip_level="none")[0]


def tensor(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@given(log_ratios, advantages, centers, deltas, st.floats(0, 2))
def test_it_is_a_bound_that_falls_as_delta_grows(d: list[float], a: float, c: float, delta: float, more: float) -> None:
    low, high = objective(tensor(d), a, c, delta + more).item(), objective(tensor(d), a, c, delta).item()
    assert low <= high + 1e-12 * abs(high)
    assert high <= objective(tensor(d), a, c, 0.0).item() + 1e-12 * abs(high)
    if max(d) - min(d) > 0.1 and more > 0.1:
        assert low < high


@given(st.floats(-2, 2), advantages, centers, deltas)
def test_it_is_the_surrogate_where_all_tokens_move_together(x: float, a: float, c: float, delta: float) -> None:
    assert objective(tensor([x] * 5), a, c, delta).item() == pytest.approx(a * math.exp(x), rel=1e-12)


@given(advantages, centers, deltas)
def test_at_the_sampling_policy_its_gradient_is_the_surrogates(a: float, c: float, delta: float) -> None:
    d = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(objective(d, a, c, delta), d)
    torch.testing.assert_close(gradient, torch.full_like(d, a / 6), rtol=1e-12, atol=0)


@given(log_ratios, advantages, centers, deltas)
def test_to_second_order_it_is_a_penalty_on_the_spread(d: list[float], a: float, c: float, delta: float) -> None:
    small = 1e-3
    x = tensor(d) * small
    plain, signed = objective(x, a, c, 0.0).item(), objective(x, a, c, delta).item()
    penalty = delta / 2 * abs(a) * (plain / a) * x.var(correction=0).item()
    # The next order: third cumulants, whose size is that of (2 small)^3 (|c| + delta)^2.
    assert plain - signed == pytest.approx(penalty, abs=abs(a) * (4 * small) ** 3 * (abs(c) + delta + 1) ** 2)


@given(log_ratios, log_ratios, advantages, centers, deltas, st.floats(0, 1))
def test_it_is_concave_in_the_ratios_where_the_orders_lie_on_both_sides_of_1(
    one: list[float], other: list[float], a: float, c: float, delta: float, share: float
) -> None:
    n = min(len(one), len(other))
    x, y = tensor(one[:n]).exp(), tensor(other[:n]).exp()
    delta = max(delta, abs(c - 1))
    between = objective((share * x + (1 - share) * y).log(), a, c, delta).item()
    ends = share * objective(x.log(), a, c, delta).item() + (1 - share) * objective(y.log(), a, c, delta).item()
    assert between >= ends - 1e-12 * (abs(ends) + abs(between))


def test_it_is_not_concave_where_both_orders_lie_below_1() -> None:
    """A < 0 and p = c + delta = 0.5: a multiple, below 0, of a concave mean."""
    x, y = tensor([0.2, 3.0]), tensor([3.0, 0.2])
    middle = objective(((x + y) / 2).log(), -1.0, 0.0, 0.5).item()
    assert middle < objective(x.log(), -1.0, 0.0, 0.5).item() / 2 + objective(y.log(), -1.0, 0.0, 0.5).item() / 2 - 0.1


@given(log_ratios, st.sampled_from([1.0, -1.0]), st.floats(0.1, 4))
def test_the_update_goes_to_the_tokens_that_lag_behind(d: list[float], a: float, delta: float) -> None:
    x = tensor(d).requires_grad_()
    (gradient,) = torch.autograd.grad(objective(x, a, 0.0, delta), x)
    order = (a * x.detach()).argsort()  # first the tokens that have been moved least in the direction of the update
    sizes = gradient.abs()[order]
    assert (sizes[:-1] >= sizes[1:] - 1e-12).all()


@given(log_ratios)
def test_order_minus_1_weighs_tokens_as_the_inverse_ratio(d: list[float]) -> None:
    x = tensor(d).requires_grad_()
    (weights,) = torch.autograd.grad(log_holder_mean(x[None], torch.ones(1, len(d)), -1.0).sum(), x)
    inverse = (-x.detach()).exp()
    torch.testing.assert_close(weights, inverse / inverse.sum(), rtol=1e-12, atol=0)
