from typing import Any

import pytest
import torch
from hypothesis import given
from torch import Tensor
from torch.nn import functional

from helpers.methods import method_for, random_tasks, tasks_of_any_shape
from onelook import ops
from onelook.errors import SettingsError
from onelook.methods import LaplacianLogistic
from onelook.methods.label_spreading import normalise_graph
from onelook.methods.logistic_regression import fit
from onelook.tasks import Tasks


@given(tasks_of_any_shape())
def test_without_smoothness_it_is_logistic_regression(tasks: Tasks) -> None:
    found = method_for(tasks, "laplacian-logistic", smoothness=0.0, C=3.0, tune=False)(tasks)
    torch.testing.assert_close(found, method_for(tasks, "logistic-regression", C=3.0)(tasks), rtol=1e-7, atol=1e-7)


def test_the_penalty_of_the_graph_falls_as_its_weight_rises() -> None:
    tasks = random_tasks(n_tasks=10, n_query=12, feature_size=6)
    rows, target = torch.cat([tasks.support, tasks.query], 1), functional.one_hot(tasks.support_labels).double()
    graph = torch.eye(18) - normalise_graph(-8 * ops.squared_distance(rows, rows), 15)

    def penalty(smoothness: float) -> Tensor:
        method = method_for(tasks, "laplacian-logistic", smoothness=smoothness)
        assert isinstance(method, LaplacianLogistic)
        product = method.smooth(rows)
        scores = product[:, :, :6] @ fit(product[:, :6, :6], target, (1.0,)).dual
        return (scores * (graph @ scores)).sum((1, 2))

    found = torch.stack([penalty(smoothness) for smoothness in (0.0, 1.0, 10.0)])
    assert (found.diff(dim=0) < 0).all()
    assert (found[2] < found[0] / 3).all()


@pytest.mark.parametrize("wrong", [{"smoothness": -1.0}, {"C": 0.0}, {"gamma": 0.0}])
def test_impossible_settings_are_refused_with_what_was_found(wrong: dict[str, Any]) -> None:
    ((key, value),) = wrong.items()
    with pytest.raises(SettingsError, match=f"{key} of .* is {value}"):
        LaplacianLogistic(8, **wrong)
