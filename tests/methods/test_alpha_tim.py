from typing import Any

import pytest
import torch
from hypothesis import given

from helpers.methods import method_for, random_tasks, tasks_of_any_shape
from onelook.errors import SettingsError
from onelook.methods import AlphaTIM
from onelook.tasks import Tasks


@given(tasks_of_any_shape())
def test_with_the_entropy_of_shannon_it_is_tim_by_descent(tasks: Tasks) -> None:
    weights = {"support_weight": 0.3, "marginal_weight": 1.2, "conditional_weight": 0.7, "n_iterations": 15}
    expected = method_for(tasks, "tim", solver="gd", **weights)(tasks)
    assert torch.equal(method_for(tasks, "alpha-tim", alpha=1.0, **weights)(tasks), expected)


@given(tasks_of_any_shape())
def test_alpha_close_to_one_is_close_to_shannon(tasks: Tasks) -> None:
    near, shannon = (method_for(tasks, "alpha-tim", alpha=alpha, n_iterations=15)(tasks) for alpha in (1 + 1e-7, 1.0))
    torch.testing.assert_close(near, shannon, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("shots", "alpha"), [((1, 1), 2.0), ((5, 5), 7.0), ((9, 9), 7.0), ((3, 3), 4.5), ((1, 3, 2), 3.25), ((1, 9), 7.0)]
)
def test_alpha_follows_from_the_mean_shots_of_the_task(shots: tuple[int, ...], alpha: float) -> None:
    tasks = random_tasks(shots=shots)
    by_shots, given_alpha, other = (
        method_for(tasks, "alpha-tim", alpha=value, n_iterations=5)(tasks) for value in (0.0, alpha, alpha + 0.5)
    )
    assert torch.equal(by_shots, given_alpha)
    assert not torch.equal(by_shots, other)


def test_a_great_alpha_shares_out_less_evenly_than_shannon_the_queries_that_are_all_of_one_class() -> None:
    tasks = random_tasks(n_tasks=20, shots=(1, 1), n_query=20, feature_size=16)
    tasks = Tasks(tasks.support, tasks.support_labels, tasks.support[:, :1] + 0.5 * tasks.query, 2)

    def imbalance(alpha: float) -> float:
        method = method_for(tasks, "alpha-tim", alpha=alpha, n_iterations=200, learning_rate=1e-3)
        return float((method(tasks).softmax(-1).mean(1) - 0.5).abs().amax(1).mean())

    assert imbalance(7.0) > imbalance(1.0) + 0.1


@pytest.mark.parametrize(
    "wrong", [{"alpha": 0.5}, {"alpha": -1.0}, {"n_iterations": -1}, {"temperature": 0.0}, {"conditional_weight": -0.1}]
)
def test_impossible_settings_are_refused_with_what_was_found(wrong: dict[str, Any]) -> None:
    ((key, value),) = wrong.items()
    with pytest.raises(SettingsError, match=f"{key} of .* is {value!r}"):
        AlphaTIM(8, **wrong)
