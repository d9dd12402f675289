import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from onelook.methods import exchangeable
from onelook.methods.exchangeable import ExchangeableLayer, ExchangeableNetwork
from reference import exchangeable as reference

seeds = st.integers(0, 1000)
sizes = st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(2, 6))
"""Of tasks, queries and classes."""


def statistics(size: tuple[int, int, int], seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Of entries, queries, classes and the task, and the shares."""
    n_tasks, n_query, n_way = size
    draw = torch.Generator().manual_seed(seed)
    shapes = [(n_tasks, n_query, n_way, 3), (n_tasks, n_query, 2), (n_tasks, n_way, 4), (n_tasks, 1)]
    entries, queries, classes, task = (torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes)
    share = (2 * torch.randn(n_tasks, n_query, n_way, generator=draw, dtype=torch.float64)).softmax(-1)
    return entries, queries, classes, task, share


def network(seed: int, n_layers: int = 2) -> ExchangeableNetwork:
    """With other weights than those it begins with, which are silent."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = ExchangeableNetwork(3, 2, 4, 1, width=5, n_layers=n_layers, n_out=2).double()
        torch.nn.init.normal_(made.out.weight)
        torch.nn.init.normal_(made.out.bias)
    return made


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@given(sizes, seeds, st.integers(1, 3))
def test_a_batch_gives_what_the_loop_over_entries_gives(size: tuple[int, int, int], seed: int, n_layers: int) -> None:
    given_all = statistics(size, seed)
    made = network(seed, n_layers)
    found = made(*given_all).detach().numpy()
    for i in range(size[0]):
        entries, queries, classes, task, share = (x[i].numpy() for x in given_all)
        expected = reference.outputs(made, [list(row) for row in entries], list(queries), list(classes), task, share)
        np.testing.assert_allclose(found[i], expected, rtol=1e-9, atol=1e-9)


@given(sizes, seeds, st.integers(1, 10))
def test_blocks_of_queries_give_what_all_at_once_give(size: tuple[int, int, int], seed: int, block: int) -> None:
    made, given_all = network(seed), statistics(size, seed)
    whole, shifts = made.trace(*given_all)
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(exchangeable, "BLOCK", block)
        found, shifts_of_blocks = made.trace(*given_all)
    close(found, whole.detach())
    for one, other in zip(shifts_of_blocks, shifts, strict=True):
        close(one, other.detach())


@given(sizes, seeds, st.data())
def test_the_outputs_change_places_with_queries_and_classes(
    size: tuple[int, int, int], seed: int, data: st.DataObject
) -> None:
    row = torch.tensor(data.draw(st.permutations(range(size[1]))))
    column = torch.tensor(data.draw(st.permutations(range(size[2]))))
    entries, queries, classes, task, share = statistics(size, seed)
    made = network(seed)
    found = made(entries[:, row][:, :, column], queries[:, row], classes[:, column], task, share[:, row][:, :, column])
    close(found, made(entries, queries, classes, task, share)[:, row][:, :, column])


@given(sizes, seeds)
def test_a_table_that_is_there_twice_hears_of_each_row_what_it_heard_before(
    size: tuple[int, int, int], seed: int
) -> None:
    # Means and not sums over the queries: but for the 1e-3 that keeps a column without members finite.
    entries, *_, share = statistics(size, seed)
    layer = ExchangeableLayer(3).double()
    column_share = share / share.sum(1, keepdim=True)
    twice = layer(entries.repeat(1, 2, 1, 1), share.repeat(1, 2, 1), column_share.repeat(1, 2, 1) / 2)
    close(twice, layer(entries, share, column_share).repeat(1, 2, 1, 1))


def test_a_class_without_members_leaves_outputs_and_gradients_finite() -> None:
    entries, queries, classes, task, share = statistics((2, 4, 3), 0)
    share[..., 0] = 0
    share.requires_grad_()
    found = network(0)(entries, queries, classes, task, share)
    assert found.isfinite().all()
    found.sum().backward()
    assert share.grad is not None
    assert share.grad.isfinite().all()


def test_a_new_network_says_nothing_and_can_learn_to() -> None:
    made = ExchangeableNetwork(3, 2, 4, 1, width=5, n_layers=2, n_out=2).double()
    found = made(*statistics((2, 4, 3), 0))
    assert not found.any()
    found.sum().backward()
    assert made.out.weight.grad is not None
    assert made.out.weight.grad.any()
