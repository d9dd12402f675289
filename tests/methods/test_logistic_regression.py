import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from helpers.methods import method_for, random_tasks, tasks_of_any_shape
from onelook.errors import SettingsError
from onelook.methods import LogisticRegression
from onelook.methods.logistic_regression import fit
from onelook.tasks import Tasks

lengths = st.sampled_from([0.01, 1.0, 100.0])


def regression_for(tasks: Tasks, **kept: float) -> LogisticRegression:
    method = method_for(tasks, "logistic-regression", **kept)
    assert isinstance(method, LogisticRegression)
    return method


@given(tasks_of_any_shape(), st.sampled_from([0.1, 1.0, 100.0]), lengths)
def test_no_derivative_of_the_objective_is_left_at_the_solution(tasks: Tasks, price: float, length: float) -> None:
    tasks = tasks.map_items(lambda x: length * x)
    weights, bias = (x.requires_grad_() for x in regression_for(tasks, C=price).solve(tasks))
    scores = tasks.support @ weights.mT + bias
    loss = functional.cross_entropy(scores.flatten(0, 1), tasks.support_labels.flatten(), reduction="sum")
    (weights.square().sum() / 2 + price * loss).backward()
    for value in (weights, bias):
        assert value.grad is not None
        assert value.grad.abs().max() < 1e-9 * price * max(length, 1.0)


def test_the_solution_is_differentiated() -> None:
    tasks = random_tasks(n_tasks=2, shots=(1, 2, 2), feature_size=3)
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
    _, bias = fit(torch.zeros(1, 4, 4, dtype=torch.float64), functional.one_hot(labels).double(), 1.0)
    torch.testing.assert_close(bias.softmax(-1), torch.tensor([[[0.75, 0.25]]], dtype=torch.float64))


def test_a_rare_class_at_a_high_price_is_fitted_too() -> None:
    # Steps of full length lead away from the solution here, until the system is singular.
    x = torch.randn(20, 25, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0] * 21 + [1, 2, 3, 4]).expand(20, 25)
    target = functional.one_hot(labels).double()
    dual, bias = fit(x @ x.mT, target, 1000.0)
    share = (x @ x.mT @ dual + bias).softmax(-1)
    torch.testing.assert_close(dual, 1000 * (target - share), atol=1e-6, rtol=0)


@pytest.mark.parametrize("wrong", [{"C": 0.0}, {"C": -1.0}])
def test_impossible_settings_are_refused_with_what_was_found(wrong: dict[str, float]) -> None:
    ((key, value),) = wrong.items()
    with pytest.raises(SettingsError, match=f"{key} of .* is {value}"):
        LogisticRegression(8, **wrong)


def test_a_transform_that_looks_at_the_other_queries_is_refused() -> None:
    with pytest.raises(SettingsError, match="root-task"):
        LogisticRegression(8, transform="root-task")
