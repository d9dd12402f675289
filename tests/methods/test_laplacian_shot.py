from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from helpers.methods import method_for, tasks_of_any_shape
from onelook import ops
from onelook.errors import SettingsError
from onelook.methods import LaplacianShot, PrototypicalNetworks
from onelook.methods.laplacian_shot import neighbours
from onelook.tasks import Tasks


def laplacian_for(tasks: Tasks, **kept: Any) -> LaplacianShot:
    method = method_for(tasks, "laplacianshot", transform="l2n", **kept)
    assert isinstance(method, LaplacianShot)
    return method


@given(tasks_of_any_shape())
def test_without_smoothness_and_rectification_it_is_prototypical_networks(tasks: Tasks) -> None:
    prototypical = PrototypicalNetworks(tasks.query.shape[-1], transform="l2n").double()
    expected = prototypical(tasks).log_softmax(-1)
    torch.testing.assert_close(laplacian_for(tasks, smoothness=0.0, rectify=False)(tasks), expected)
    torch.testing.assert_close(laplacian_for(tasks, n_steps=0, rectify=False)(tasks), expected)


def energy(distance: Tensor, graph: Tensor, smoothness: float, log_y: Tensor) -> Tensor:
    """(T) the objective of the docstring."""
    y = log_y.exp()
    return (y * (distance + log_y - smoothness / 2 * graph @ y)).sum((1, 2))


@given(tasks_of_any_shape(n_query=st.integers(3, 12)), st.floats(0.1, 3), st.integers(1, 4))
def test_an_update_never_raises_the_energy_on_a_graph_that_is_symmetric_and_definite(
    tasks: Tasks, smoothness: float, n_neighbours: int
) -> None:
    # The bound of the paper needs this of W, and the graph of nearest neighbours need not have it. Here all hear all.
    method = laplacian_for(tasks, smoothness=smoothness, rectify=False)
    tasks = method.preprocess(tasks)
    distance = ops.squared_distance(tasks.query, ops.class_means(tasks.support, tasks.support_labels, tasks.n_way))
    n_query = tasks.query.shape[1]
    graph = torch.ones(len(tasks), n_query, n_query, dtype=torch.float64) / n_query * n_neighbours
    log_y = (-distance).log_softmax(-1)
    last = energy(distance, graph, smoothness, log_y)
    for _ in range(5):
        log_y = method.update(-distance, graph, log_y)
        now = energy(distance, graph, smoothness, log_y)
        assert (now <= last + 1e-9).all()
        last = now


@given(tasks_of_any_shape(n_query=st.integers(1, 8)), st.integers(1, 10))
def test_each_query_hears_its_nearest_ones_and_not_itself(tasks: Tasks, n_neighbours: int) -> None:
    graph = neighbours(tasks.query, n_neighbours)
    n_query = tasks.query.shape[1]
    assert not graph.diagonal(dim1=1, dim2=2).any()
    assert (graph.sum(2) == min(n_neighbours, n_query - 1)).all()
    distance = torch.cdist(tasks.query, tasks.query)
    for task_distance, task_graph in zip(distance, graph, strict=True):
        for i in range(n_query):
            others = torch.arange(n_query) != i
            heard, unheard = (task_distance[i][others & (task_graph[i] == one)] for one in (1, 0))
            if len(heard) and len(unheard):
                assert heard.max() <= unheard.min() + 1e-12


def test_a_query_between_two_classes_follows_its_neighbours() -> None:
    support = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)
    query = torch.tensor([[[0.7, 0.72], [0.9, 0.5], [0.92, 0.5], [0.1, 1.0]]], dtype=torch.float64)
    tasks = Tasks(support, torch.tensor([[0, 1]]), query, 2)
    alone, together = (laplacian_for(tasks, smoothness=s, n_neighbours=2, rectify=False)(tasks) for s in (0.0, 1.0))
    assert alone[0, 0].argmax() == 1
    assert together[0, 0].argmax() == 0
    assert (together[0, 1:].argmax(-1) == alone[0, 1:].argmax(-1)).all()


@pytest.mark.parametrize("wrong", [{"smoothness": -1.0}, {"n_neighbours": 0}, {"n_steps": -1}])
def test_impossible_settings_are_refused_with_what_was_found(wrong: dict[str, float]) -> None:
    ((key, value),) = wrong.items()
    with pytest.raises(SettingsError, match=f"{key} of .* is {value}"):
        LaplacianShot(8, **wrong)  # type: ignore[arg-type]
