from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from helpers.methods import method_for, random_tasks, tasks_of_any_shape
from onelook.errors import SettingsError
from onelook.methods import LogisticRegression
from onelook.methods.leave_one_out import GRID
from onelook.methods.logistic_regression import fit, leave_one_out, solve
from onelook.tasks import Tasks

lengths = st.sampled_from([0.01, 1.0, 100.0])


def regression_for(tasks: Tasks, **kept: Any) -> LogisticRegression:
    method = method_for(tasks, "logistic-regression", **kept)
    assert isinstance(method, LogisticRegression)
    return method


@given(tasks_of_any_shape(), st.sampled_from([0.1, 1.0, 100.0]), lengths)
def test_no_derivative_of_the_objective_is_left_at_the_solution(tasks: Tasks, price: float, length: float) -> None:
    tasks = tasks.map_items(lambda x: length * x)
    weights, bias = (x.requires_grad_() for x in solve(tasks, (price,)))
    scores = tasks.support @ weights.mT + bias
    loss = functional.cross_entropy(scores.flatten(0, 1), tasks.support_labels.flatten(), reduction="sum")
    (weights.square().sum() / 2 + price * loss).backward()
    for value in (weights, bias):
        assert value.grad is not None
        assert value.grad.abs().max() < 1e-9 * price * max(length, 1.0)


def test_the_solution_is_differentiated() -> None:
    tasks = random_tasks(n_tasks=1, shots=(1, 2, 2), n_query=2, feature_size=3)
    method = regression_for(tasks, C=3.0, transform="none")

    def logits(support: Tensor, query: Tensor) -> Tensor:
        return method(Tasks(support, tasks.support_labels, query, tasks.n_way))

    rows = (tasks.support.requires_grad_(), tasks.query.requires_grad_())
    assert torch.autograd.gradcheck(logits, rows, eps=1e-5, atol=1e-7)


def test_an_example_that_is_given_twice_counts_as_twice_the_price() -> None:
    tasks = random_tasks()
    twice = Tasks(tasks.support.repeat(1, 2, 1), tasks.support_labels.repeat(1, 2), tasks.query, tasks.n_way)
    torch.testing.assert_close(regression_for(twice, C=1.0)(twice), regression_for(tasks, C=2.0)(tasks))


def test_without_a_word_from_the_features_the_bias_tells_how_frequent_each_class_is() -> None:
    labels = torch.tensor([[0, 0, 0, 1]])
    _, bias = fit(torch.zeros(1, 4, 4, dtype=torch.float64), functional.one_hot(labels).double(), (1.0,))
    torch.testing.assert_close(bias.softmax(-1), torch.tensor([[[0.75, 0.25]]], dtype=torch.float64))


def test_a_rare_class_at_a_high_price_is_fitted_too() -> None:
    # Steps of full length lead away from the solution here, until the system is singular.
    x = torch.randn(20, 25, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0] * 21 + [1, 2, 3, 4]).expand(20, 25)
    target = functional.one_hot(labels).double()
    dual, bias = fit(x @ x.mT, target, (1000.0,))
    share = (x @ x.mT @ dual + bias).softmax(-1)
    torch.testing.assert_close(dual, 1000 * (target - share), atol=1e-6, rtol=0)


def test_where_no_class_has_two_examples_nothing_is_tuned() -> None:
    tasks = random_tasks(shots=(1, 1, 1))
    tuned = regression_for(tasks, tune=True, C=3.0)(tasks)
    torch.testing.assert_close(tuned, regression_for(tasks, C=3.0)(tasks), rtol=0, atol=1e-12)


def test_the_only_example_of_a_class_does_not_count() -> None:
    # A lone row far from everything would be lost at any price, most of all at a high one.
    tasks = random_tasks(n_tasks=30, shots=(3, 3, 1), noise=0.1)
    lone = tasks.support_labels.eq(2).unsqueeze(-1)
    moved = replace(tasks, support=tasks.support.where(~lone, -tasks.support))
    prices = [_chosen_price(regression_for(x, tune=True, transform="none"), x) for x in (tasks, moved)]
    assert ((prices[0] / prices[1]).log10().abs() < 0.01).double().mean() > 0.9
    assert prices[0].min() > 1


def test_leaving_one_out_by_one_step_is_near_to_leaving_it_out() -> None:
    tasks = random_tasks(n_tasks=4, shots=(3, 4, 4), feature_size=8, noise=0.5)
    gram, target = tasks.support @ tasks.support.mT, functional.one_hot(tasks.support_labels).double()
    price = torch.tensor(0.3, dtype=torch.float64).expand(4, 1, 1)
    scores = leave_one_out(gram, target, fit(gram, target, (0.3,)), price).log_softmax(-1)
    for left in range(target.shape[1]):
        rest = [i for i in range(target.shape[1]) if i != left]
        dual, bias = fit(gram[:, rest][:, :, rest], target[:, rest], (0.3,))
        expected = (gram[:, left, rest].unsqueeze(1) @ dual + bias).squeeze(1).log_softmax(-1)
        torch.testing.assert_close(scores[:, left], expected, rtol=0, atol=0.03)


def test_useless_features_are_given_a_low_price_and_good_ones_a_high_one() -> None:
    useless, good = (random_tasks(n_tasks=40, shots=(4,) * 4, feature_size=8, noise=noise) for noise in (100.0, 0.1))
    prices = [_chosen_price(regression_for(tasks, tune=True), tasks).log10().mean() for tasks in (useless, good)]
    assert prices[0] < -0.5
    assert prices[1] > 1.5


def _chosen_price(method: LogisticRegression, tasks: Tasks) -> Tensor:
    """C, by A = C (Y - P) at the solution."""
    tasks = method.preprocess(tasks)
    gram, target = tasks.support @ tasks.support.mT, functional.one_hot(tasks.support_labels).double()
    dual, bias = fit(gram, target, (method.C, *GRID))
    share = (gram @ dual + bias).softmax(-1)
    return (dual * (target - share)).sum((1, 2)) / (target - share).square().sum((1, 2))


@pytest.mark.parametrize("wrong", [{"C": 0.0}, {"C": -1.0}])
def test_impossible_settings_are_refused_with_what_was_found(wrong: dict[str, float]) -> None:
    ((key, value),) = wrong.items()
    with pytest.raises(SettingsError, match=f"{key} of .* is {value}"):
        LogisticRegression(8, **wrong)


def test_a_transform_that_looks_at_the_other_queries_is_refused() -> None:
    with pytest.raises(SettingsError, match="root-task"):
        LogisticRegression(8, transform="root-task")
