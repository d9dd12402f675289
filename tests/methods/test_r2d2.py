import numpy as np
import pytest
import torch
from hypothesis import given
from sklearn.linear_model import Ridge

from helpers.methods import method_for, random_tasks, tasks_of_any_shape
from onelook import ops
from onelook.errors import SettingsError
from onelook.methods import RidgeRegression
from onelook.tasks import Tasks


@given(tasks_of_any_shape())
def test_untrained_the_logits_are_ten_times_the_predictions_of_scikit_learns_ridge_on_unit_features(
    tasks: Tasks,
) -> None:
    found = method_for(tasks, "r2d2", seed=None, initial_ridge=0.5)(tasks).detach().numpy()
    support, query = ops.normalise(tasks.support).numpy(), ops.normalise(tasks.query).numpy()
    for i in range(len(tasks)):
        hot = np.eye(tasks.n_way)[tasks.support_labels[i].numpy()]
        ridge = Ridge(alpha=0.5, fit_intercept=False, solver="svd").fit(support[i], hot)
        # The logarithm of the ridge is kept in float32.
        np.testing.assert_allclose(found[i], 10 * ridge.predict(query[i]), rtol=1e-6, atol=1e-6)


def test_the_lengths_of_features_do_not_matter_exactly_when_they_are_scaled_to_one() -> None:
    tasks = random_tasks()
    longer = Tasks(3 * tasks.support, tasks.support_labels, 2 * tasks.query, tasks.n_way)
    method, papers = (method_for(tasks, "r2d2", unit_length=unit) for unit in (True, False))
    torch.testing.assert_close(method(longer), method(tasks))
    assert not torch.allclose(papers(longer), papers(tasks))


def test_under_a_large_ridge_the_logits_are_scaled_sums_of_products_with_the_rows_of_each_class() -> None:
    tasks = random_tasks()
    method = RidgeRegression(6, initial_ridge=1e8, unit_length=False).double()
    products = tasks.query @ tasks.support.mT @ ops.one_hot(tasks.support_labels, 3, torch.float64)
    torch.testing.assert_close(1e8 * method(tasks), 10 * products, rtol=1e-5, atol=1e-5)


def test_gradients_of_features_ridge_and_scale_are_those_of_finite_differences() -> None:
    tasks = random_tasks(n_tasks=2)
    method = method_for(tasks, "r2d2")
    names, values = zip(*method.named_parameters(), strict=True)

    def logits(support: torch.Tensor, query: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        changed = Tasks(support, tasks.support_labels, query, tasks.n_way)
        return torch.func.functional_call(method, dict(zip(names, values, strict=True)), (changed,))

    inputs = (tasks.support.requires_grad_(), tasks.query.requires_grad_(), *values)
    assert torch.autograd.gradcheck(logits, inputs)


def test_a_ridge_that_is_not_positive_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"initial_ridge of .* is 0\.0"):
        RidgeRegression(8, initial_ridge=0.0)
