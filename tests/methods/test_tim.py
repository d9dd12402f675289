from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from helpers.methods import method_for, random_tasks, tasks_of_any_shape
from onelook import ops
from onelook.errors import SettingsError
from onelook.methods import TIM, PrototypicalNetworks
from onelook.methods.tim import LossWeights, descend
from onelook.tasks import Tasks


def tsallis(p: Tensor, alpha: float) -> Tensor:
    return -(p * p.log()).sum(-1) if alpha == 1 else (1 - p.pow(alpha).sum(-1)) / (alpha - 1)


def loss_of(weights: Tensor, tasks: Tasks, loss: LossWeights, alpha: float, temperature: float) -> Tensor:
    """The loss of each task."""

    def p(rows: Tensor) -> Tensor:
        return (-temperature / 2 * (rows.unsqueeze(2) - weights.unsqueeze(1)).square().sum(-1)).softmax(-1)

    own = p(tasks.support).gather(2, tasks.support_labels.unsqueeze(-1)).squeeze(-1)
    of_queries = p(tasks.query)
    information = loss.marginal * tsallis(of_queries.mean(1), alpha) - loss.conditional * tsallis(
        of_queries, alpha
    ).mean(1)
    return -loss.support * own.log().mean(1) - information


@given(tasks_of_any_shape(), st.sampled_from([1.0, 1.5, 2.0, 7.0]), st.integers(0, 100))
def test_the_first_step_of_the_descent_has_the_size_of_the_rate_and_the_sign_of_the_gradient_of_autograd(
    tasks: Tasks, alpha: float, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    loss = LossWeights(*(float(x) for x in torch.rand(3, generator=draw) + 0.1))
    means = ops.class_means(tasks.support, tasks.support_labels, tasks.n_way).requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(means, tasks, loss, alpha, 3.0).sum(), means)
    moved = descend(means, tasks, loss, alpha, 3.0, 1e-3, 1) - means
    torch.testing.assert_close(moved, -1e-3 * gradient / (gradient.abs() + 1e-8), rtol=1e-6, atol=1e-11)


@given(tasks_of_any_shape(n_query=st.integers(2, 6)))
def test_the_descent_goes_down(tasks: Tasks) -> None:
    loss = LossWeights(0.1, 1.0, 0.1)
    means = ops.class_means(tasks.support, tasks.support_labels, tasks.n_way)
    before = loss_of(means, tasks, loss, 1.0, 15.0)
    after = loss_of(descend(means, tasks, loss, 1.0, 15.0, 1e-4, 50), tasks, loss, 1.0, 15.0)
    assert (after <= before + 1e-9).all()


@pytest.mark.parametrize("solver", ["adm", "gd"])
def test_the_solvers_raise_the_information_between_queries_and_labels(solver: str) -> None:
    tasks = random_tasks(n_tasks=20, shots=(1, 1, 1, 1, 1), n_query=30, feature_size=16, noise=0.7)

    def information(n_iterations: int) -> Tensor:
        method = method_for(tasks, "tim", solver=solver, n_iterations=n_iterations, learning_rate=1e-3)
        p = method(tasks).softmax(-1)
        return tsallis(p.mean(1), 1) - tsallis(p, 1).mean(1)

    assert (information(100) > information(1)).double().mean() > 0.8


@pytest.mark.parametrize("solver", ["adm", "gd"])
def test_queries_that_are_all_of_one_class_are_shared_out_among_all(solver: str) -> None:
    tasks = random_tasks(n_tasks=20, shots=(1, 1), n_query=20, feature_size=16)
    tasks = Tasks(tasks.support, tasks.support_labels, tasks.support[:, :1] + 0.5 * tasks.query, 2)

    def imbalance(n_iterations: int) -> Tensor:
        method = method_for(tasks, "tim", solver=solver, n_iterations=n_iterations, learning_rate=1e-3)
        return (method(tasks).softmax(-1).mean(1) - 0.5).abs().amax(1)

    assert imbalance(1).mean() > 0.3
    assert imbalance(300).mean() < 0.1


@pytest.mark.parametrize("solver", ["adm", "gd"])
def test_without_labels_to_add_the_support_stays_where_it_is(solver: str) -> None:
    # Queries that are the class means themselves, with a posterior as sure as floats can be: nothing is to be changed.
    tasks = random_tasks(shots=(1, 1, 1))
    tasks = Tasks(tasks.support, tasks.support_labels, tasks.support, 3)
    method = method_for(tasks, "tim", solver=solver, temperature=1e4, n_iterations=10, transform="none")
    assert isinstance(method, TIM)
    expected = 5e3 * PrototypicalNetworks(6).double()(tasks)
    torch.testing.assert_close(method(tasks), expected, rtol=1e-6, atol=1e-6)


def test_only_the_ratios_of_the_weights_of_the_loss_matter_to_adam() -> None:
    tasks = random_tasks()
    one, other = (
        method_for(
            tasks,
            "tim",
            solver="gd",
            n_iterations=20,
            support_weight=0.1 * c,
            marginal_weight=c,
            conditional_weight=0.1 * c,
        )(tasks)
        for c in (1.0, 10.0)
    )
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_the_derivative_by_the_features_holds_the_steps_of_the_descent_fixed() -> None:
    tasks = random_tasks()
    query = tasks.query.clone().requires_grad_()
    method = method_for(tasks, "tim", solver="gd", n_iterations=20, transform="none")
    logits = method(Tasks(tasks.support, tasks.support_labels, query, tasks.n_way))
    means = ops.class_means(tasks.support, tasks.support_labels, tasks.n_way)
    weights = descend(means, tasks, LossWeights(0.1, 1.0, 0.1), 1.0, 15.0, 1e-4, 20)
    assert not torch.allclose(weights, means, atol=1e-4)
    (gradient,) = torch.autograd.grad(logits[..., 0].sum(), query)
    torch.testing.assert_close(gradient, 15.0 * (weights[:, :1] - tasks.query))


@pytest.mark.parametrize(
    "wrong",
    [
        {"solver": "sgd"},
        {"n_iterations": -1},
        {"temperature": 0.0},
        {"learning_rate": -0.1},
        {"support_weight": 0.0},
        {"marginal_weight": -1.0},
    ],
)
def test_impossible_settings_are_refused_with_what_was_found(wrong: dict[str, Any]) -> None:
    ((key, value),) = wrong.items()
    with pytest.raises(SettingsError, match=f"{key} of .* is {value!r}"):
        TIM(8, **wrong)
