from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeClassifierCV
from torch import Tensor

from helpers.methods import method_for, random_tasks
from onelook.errors import SettingsError
from onelook.methods import Ridge
from onelook.methods.leave_one_out import GRID
from onelook.tasks import Tasks


def test_it_is_the_classifier_of_scikit_learn_where_every_class_has_two_examples() -> None:
    tasks = random_tasks(n_tasks=12, shots=(2, 5, 3), feature_size=5)
    found = method_for(tasks, "ridge", transform="none", scale=1.0)(tasks)
    for i in range(len(tasks)):
        other = RidgeClassifierCV(alphas=GRID).fit(tasks.support[i].numpy(), tasks.support_labels[i].numpy())
        decision = other.decision_function(tasks.query[i].numpy())  # of labels -1 and 1
        np.testing.assert_allclose(2 * found[i].numpy() - 1, decision, rtol=1e-8, atol=1e-8)


def test_where_no_class_has_two_examples_nothing_is_tuned() -> None:
    tasks = random_tasks(shots=(1, 1, 1))
    tuned = method_for(tasks, "ridge", ridge=3.0)(tasks)
    assert torch.equal(tuned, method_for(tasks, "ridge", ridge=3.0, tune=False)(tasks))
    assert not torch.allclose(tuned, method_for(tasks, "ridge", ridge=1.0)(tasks))


def test_predictions_add_up_to_one_and_the_scale_makes_logits_of_them() -> None:
    tasks = random_tasks()
    one, ten = (method_for(tasks, "ridge", scale=scale)(tasks) for scale in (1.0, 10.0))
    torch.testing.assert_close(one.sum(-1), torch.ones_like(one[..., 0]))
    torch.testing.assert_close(10 * one, ten)


def test_useless_features_get_a_large_ridge_and_good_ones_a_small_one() -> None:
    spread = []
    for noise in (100.0, 0.1):
        tasks = random_tasks(n_tasks=40, shots=(4,) * 4, feature_size=8, noise=noise)
        spread.append(method_for(tasks, "ridge", scale=1.0)(tasks).std(-1).mean())
    assert spread[0] < 0.1
    assert spread[1] > 0.35


def test_the_solution_is_differentiated_with_the_ridge_that_was_chosen() -> None:
    tasks = random_tasks(n_tasks=1, shots=(1, 2, 2), n_query=2, feature_size=3)
    method = method_for(tasks, "ridge", transform="none")

    def logits(support: Tensor, query: Tensor) -> Tensor:
        return method(Tasks(support, tasks.support_labels, query, tasks.n_way))

    assert torch.autograd.gradcheck(logits, (tasks.support.requires_grad_(), tasks.query.requires_grad_()))


@pytest.mark.parametrize("wrong", [{"ridge": 0.0}, {"scale": -1.0}, {"transform": "root-task"}])
def test_impossible_settings_are_refused_with_what_was_found(wrong: dict[str, Any]) -> None:
    ((key, value),) = wrong.items()
    with pytest.raises(SettingsError, match=f"{key} of .*{value}"):
        Ridge(8, **wrong)
