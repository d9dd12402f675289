import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import semi_supervised
from torch import Tensor

from helpers.methods import method_for, random_tasks, tasks_of_any_shape
from onelook import ops
from onelook.errors import SettingsError
from onelook.methods import LabelSpreading
from onelook.methods.label_spreading import normalise_graph
from onelook.tasks import Tasks
from reference import label_spreading as reference


def spreading_for(tasks: Tasks, **kept: float) -> LabelSpreading:
    method = method_for(tasks, "label-spreading", **kept)
    assert isinstance(method, LabelSpreading)
    return method


def rows_and_labels(tasks: Tasks, i: int) -> tuple[np.ndarray, list[int]]:
    rows = torch.cat([tasks.support[i], tasks.query[i]])
    unit = rows / rows.square().sum(1, keepdim=True).sqrt()
    return unit.numpy(), [*tasks.support_labels[i].tolist(), *(-1 for _ in tasks.query[i])]


def assert_equal_to_sklearn(method: LabelSpreading, tasks: Tasks, sklearn: semi_supervised.LabelSpreading) -> None:
    share = method.spread(tasks)
    share = share / share.sum(2, keepdim=True)
    for i in range(len(tasks)):
        with warnings.catch_warnings(action="ignore"):  # a tolerance of zero is never met
            sklearn.fit(*rows_and_labels(tasks, i))
        np.testing.assert_allclose(share[i].numpy(), sklearn.label_distributions_, atol=1e-9)


@given(tasks_of_any_shape(), st.sampled_from([0.2, 0.8]), st.sampled_from([1.0, 5.0]))
def test_the_complete_graph_gives_what_scikit_learn_gives(tasks: Tasks, alpha: float, gamma: float) -> None:
    method = spreading_for(tasks, n_neighbours=0, alpha=alpha, gamma=gamma)
    sklearn = semi_supervised.LabelSpreading(kernel="rbf", gamma=gamma, alpha=alpha, max_iter=200, tol=0)
    assert_equal_to_sklearn(method, tasks, sklearn)


def test_the_graph_of_nearest_neighbours_gives_what_scikit_learn_gives_on_that_graph() -> None:
    tasks = random_tasks(n_query=8)
    method = spreading_for(tasks, n_neighbours=4)

    def kernel(rows: np.ndarray, _: np.ndarray) -> np.ndarray:
        return reference.weights(method, rows)

    sklearn = semi_supervised.LabelSpreading(kernel=kernel, alpha=method.alpha, max_iter=200, tol=0)
    assert_equal_to_sklearn(method, tasks, sklearn)


@given(tasks_of_any_shape())
def test_with_a_small_alpha_the_labels_go_to_direct_neighbours_only(tasks: Tasks) -> None:
    method = spreading_for(tasks, n_neighbours=0, alpha=1e-7, gamma=1.0)
    n_support = tasks.support.shape[1]
    rows = torch.stack([torch.from_numpy(rows_and_labels(tasks, i)[0]) for i in range(len(tasks))])
    graph = normalise_graph(-method.gamma * ops.squared_distance(rows, rows), method.n_neighbours)
    hot = torch.eye(tasks.n_way, dtype=torch.float64)[tasks.support_labels]
    torch.testing.assert_close(
        method.spread(tasks)[:, n_support:] / 1e-7, graph[:, n_support:, :n_support] @ hot, atol=1e-6, rtol=1e-6
    )


def test_queries_that_no_label_reaches_are_undecided() -> None:
    # Two far clusters of three; all labels are in the first one.
    near, far = (torch.eye(4, dtype=torch.float64)[k].expand(3, 4) for k in (0, 2))
    noise = 0.01 * torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows: Tensor = torch.cat([near, far]) + noise
    tasks = Tasks(rows[None, :2], torch.tensor([[0, 1]]), rows[None, 2:], 2)
    logits = spreading_for(tasks, n_neighbours=2)(tasks)[0]
    torch.testing.assert_close(logits[1:], torch.full((3, 2), -np.log(2), dtype=torch.float64), atol=1e-9, rtol=0)
    assert (logits[0, 0] - logits[0, 1]).abs() > 1e-3


@pytest.mark.parametrize("wrong", [{"n_neighbours": -1}, {"alpha": 0.0}, {"alpha": 1.0}, {"gamma": 0.0}])
def test_impossible_settings_are_refused_with_what_was_found(wrong: dict[str, float]) -> None:
    ((key, value),) = wrong.items()
    with pytest.raises(SettingsError, match=f"{key} of .* is {value}"):
        LabelSpreading(8, **wrong)  # type: ignore[arg-type]
