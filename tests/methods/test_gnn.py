import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from helpers.methods import method_for, random_tasks, tasks_of_any_shape
from onelook.errors import SettingsError
from onelook.methods import GraphNetwork
from onelook.methods.gnn import EdgeNetwork
from onelook.tasks import Tasks
from reference import gnn as reference

seeds = st.integers(0, 1000)


def gnn_for(tasks: Tasks, seed: int | None = 0, **kept: int) -> GraphNetwork:
    method = method_for(tasks, "gnn", seed=seed, **({"width": 8, "hidden": 6, "edge_hidden": 4} | kept))
    assert isinstance(method, GraphNetwork)
    return method


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@given(tasks_of_any_shape(), seeds, st.integers(1, 3))
def test_the_gradients_are_those_of_one_whole_graph_for_each_query(tasks: Tasks, seed: int, n_layers: int) -> None:
    method = gnn_for(tasks, seed, n_layers=n_layers)
    parameters = list(method.parameters())
    expected = torch.cat([reference.logits(method, tasks[i : i + 1]) for i in range(len(tasks))])
    assert tasks.query_labels is not None
    expected_loss = functional.cross_entropy(expected, tasks.query_labels.flatten())
    close(method.loss(tasks), expected_loss)
    for found, wanted in zip(
        torch.autograd.grad(method.loss(tasks), parameters), torch.autograd.grad(expected_loss, parameters), strict=True
    ):
        close(found, wanted)


def test_the_blocks_of_the_edge_network_are_one_map_of_the_whole_difference() -> None:
    draw = torch.Generator().manual_seed(0)
    shared = torch.randn(2, 1, 3, 4, generator=draw, dtype=torch.float64)
    own = torch.randn(2, 5, 3, 6, generator=draw, dtype=torch.float64)
    whole = torch.cat([shared.expand(-1, 5, -1, -1), own], -1)
    split, joint = EdgeNetwork([4, 6], 8).double(), EdgeNetwork([10], 8).double()
    joint.load_state_dict(split.state_dict())
    close(split([shared, own], [shared, own]), joint([whole], [whole]))


def test_an_edge_is_the_same_from_both_ends() -> None:
    rows = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight = EdgeNetwork([4], 8).double()([rows], [rows])
    close(weight, weight.mT)


def test_untrained_every_difference_makes_an_edge_lighter() -> None:
    network = EdgeNetwork([4], 8).double()
    with torch.no_grad():
        network.first.bias.zero_()
    difference = torch.randn(20, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    difference.requires_grad_()
    apart = difference.abs().detach()
    network([difference.view(20, 1, 1, 4)], [torch.zeros(20, 1, 1, 4, dtype=torch.float64)]).sum().backward()
    assert difference.grad is not None
    assert (difference.grad * difference.sign() < 0).all()
    near, far = (network([scale * apart.view(20, 1, 1, 4)], [0 * apart.view(20, 1, 1, 4)]) for scale in (0.5, 1.0))
    assert (near > far).all()


def test_a_query_like_no_other_hears_the_support_evenly_when_the_edges_say_nothing() -> None:
    # One layer, phi = 0 and logits that pass on the labels heard: the share of each class in the support.
    tasks = random_tasks(shots=(1, 2, 3))
    method = gnn_for(tasks, n_layers=1)
    with torch.no_grad():
        method.edges[0].rest[-1].weight.zero_()
        method.to_logits.weight.zero_()
        method.to_logits.weight[:, -3:] = torch.eye(3)
        method.to_logits.bias.zero_()
    shares = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64) / 6
    close(method(tasks), shares.expand(3, 5, 3))


@given(tasks_of_any_shape(), st.floats(0.5, 5))
def test_the_lengths_of_the_features_mean_next_to_nothing(tasks: Tasks, factor: float) -> None:
    method = gnn_for(tasks)
    longer = Tasks(factor * 1e4 * tasks.support, tasks.support_labels, factor * 1e4 * tasks.query, tasks.n_way)
    long = Tasks(1e4 * tasks.support, tasks.support_labels, 1e4 * tasks.query, tasks.n_way)
    torch.testing.assert_close(method(longer), method(long), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("wrong", [{"n_way": 1}, {"n_layers": 0}, {"width": 0}, {"hidden": 0}, {"edge_hidden": 0}])
def test_impossible_settings_are_refused_with_what_was_found(wrong: dict[str, int]) -> None:
    ((key, value),) = wrong.items()
    with pytest.raises(SettingsError, match=f"{key} of .* is {value}"):
        GraphNetwork(8, **wrong)


def test_tasks_of_another_number_of_classes_are_refused_in_one_sentence() -> None:
    with pytest.raises(SettingsError, match=r"made for 5 classes, but the tasks have 3"):
        GraphNetwork(8, n_way=5).double()(random_tasks(shots=(1, 1, 1), feature_size=8))
