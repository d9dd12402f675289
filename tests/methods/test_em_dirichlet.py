from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import gammaln
from scipy.stats import dirichlet
from torch import Tensor

from helpers.methods import method_for, random_tasks, tasks_of_any_shape
from onelook.errors import SettingsError
from onelook.methods import EMDirichlet
from onelook.methods.em_dirichlet import ALIKE, fit_dirichlet, log_density

sizes = st.tuples(st.integers(1, 3), st.integers(2, 6), st.floats(0.1, 30.0), st.integers(0, 1000))


def mean_logs(n_rows: int, n_way: int, spread: float, seed: int) -> Tensor:
    """Of 8 random groups of rows, in one task."""
    draw = torch.Generator().manual_seed(seed)
    rows = spread * torch.randn(8, n_rows, n_way, generator=draw, dtype=torch.float64)
    return rows.log_softmax(-1).mean(1).unsqueeze(0)


@given(sizes)
def test_the_density_fitted_has_the_mean_logarithms_asked_for_even_of_a_single_row(size: tuple[Any, ...]) -> None:
    wanted = mean_logs(*size)
    alpha = fit_dirichlet(torch.ones_like(wanted), wanted)
    assert (alpha > 0).all()
    found = torch.digamma(alpha) - torch.digamma(alpha.sum(-1, keepdim=True))
    torch.testing.assert_close(found, wanted - ALIKE, rtol=1e-9, atol=1e-9)


@given(sizes)
def test_it_does_not_matter_where_the_fit_begins(size: tuple[Any, ...]) -> None:
    wanted = mean_logs(*size)
    ones = torch.ones_like(wanted)
    elsewhere = fit_dirichlet(ones, mean_logs(*size[:3], seed=size[3] + 1))
    torch.testing.assert_close(fit_dirichlet(elsewhere, wanted), fit_dirichlet(ones, wanted), rtol=1e-6, atol=1e-6)


@given(sizes)
def test_the_fit_is_where_the_steps_of_majorisation_and_minimisation_stand_still(size: tuple[Any, ...]) -> None:
    wanted = mean_logs(*size)
    alpha = fit_dirichlet(torch.ones_like(wanted), wanted)
    # log Gamma(a) = log Gamma(a + 1) - log a; the first under a parabola, and the one of the sum under its tangent.
    slope = torch.digamma(alpha + 1)
    curvature = 2 * (alpha * slope - torch.lgamma(alpha + 1)) / alpha.square()
    b = slope - torch.digamma(alpha.sum(-1, keepdim=True)) - curvature * alpha - (wanted - ALIKE)
    step = (-b + (b.square() + 4 * curvature).sqrt()) / (2 * curvature)
    torch.testing.assert_close(step, alpha, rtol=1e-7, atol=1e-9)


def test_the_derivative_of_the_fit_is_that_of_the_solution() -> None:
    wanted = mean_logs(3, 4, 2.0, 0)

    def solution(y: Tensor) -> Tensor:
        return fit_dirichlet(torch.ones_like(y), y)

    assert torch.autograd.gradcheck(solution, wanted.requires_grad_())


def test_the_log_density_is_that_of_scipy() -> None:
    draw = torch.Generator().manual_seed(0)
    alpha = 3 * torch.rand(1, 4, 4, generator=draw, dtype=torch.float64) + 0.2
    z = torch.randn(1, 6, 4, generator=draw, dtype=torch.float64).softmax(-1)
    expected = [[dirichlet.logpdf(row.numpy(), a.numpy()) for a in alpha[0]] for row in z[0]]
    np.testing.assert_allclose(log_density(z.log(), alpha)[0].numpy(), expected, rtol=1e-9)
    uniform = log_density(z.log(), torch.ones_like(alpha))
    np.testing.assert_allclose(uniform.numpy(), gammaln(4), rtol=1e-12)


def test_the_price_of_classes_leaves_fewer_of_them() -> None:
    tasks = random_tasks(n_tasks=30, shots=(1, 1, 1, 1, 1), n_query=30, feature_size=16, noise=1.0)

    def entropy(class_weight: float) -> float:
        share = (
            method_for(tasks, "em-dirichlet", temperature=10.0, class_weight=class_weight)(tasks).softmax(-1).mean(1)
        )
        return float(-(share * share.clamp_min(1e-30).log()).sum(1).mean())

    assert entropy(0.0) > entropy(1.0) + 0.02
    assert entropy(1.0) > entropy(4.0) + 0.02


@given(tasks_of_any_shape())
def test_the_logits_are_log_probabilities(tasks: Any) -> None:
    logits = method_for(tasks, "em-dirichlet")(tasks)
    torch.testing.assert_close(logits.exp().sum(-1), torch.ones(logits.shape[:2], dtype=torch.float64))


@pytest.mark.parametrize("wrong", [{"class_weight": -1.0}, {"n_iterations": 0}, {"temperature": 0.0}])
def test_impossible_settings_are_refused_with_what_was_found(wrong: dict[str, Any]) -> None:
    ((key, value),) = wrong.items()
    with pytest.raises(SettingsError, match=f"{key} of .* is {value!r}"):
        EMDirichlet(8, **wrong)
