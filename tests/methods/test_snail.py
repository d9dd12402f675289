from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from helpers.methods import method_for, random_tasks, tasks_of_any_shape
from onelook.errors import SettingsError
from onelook.methods import SNAIL
from onelook.methods.snail import AttentionBlock, Block, TemporalBlock
from onelook.tasks import Tasks
from reference import snail as reference

seeds = st.integers(0, 1000)


def snail_for(tasks: Tasks, seed: int | None = 0, **kept: int) -> SNAIL:
    method = method_for(tasks, "snail", seed=seed, **({"filters": 4, "max_support": 6} | kept))
    assert isinstance(method, SNAIL)
    return method


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def random_rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(tasks_of_any_shape(), seeds, st.integers(1, 20))
def test_loss_and_gradients_are_those_of_a_whole_sequence_for_each_query(
    tasks: Tasks, seed: int, max_support: int
) -> None:
    method = snail_for(tasks, seed, max_support=max_support)
    parameters = list(method.parameters())
    expected = torch.cat([reference.logits(method, tasks[i : i + 1]) for i in range(len(tasks))])
    assert tasks.query_labels is not None
    expected_loss = functional.cross_entropy(expected, tasks.query_labels.flatten())
    loss = method.loss(tasks)
    close(loss, expected_loss)
    expected_gradients = torch.autograd.grad(expected_loss, parameters)
    for found, wanted in zip(torch.autograd.grad(loss, parameters), expected_gradients, strict=True):
        close(found, wanted)


@pytest.mark.parametrize("block", [AttentionBlock(3, 4, 5), TemporalBlock(3, 4, 8)], ids=["attention", "temporal"])
def test_no_row_of_a_block_sees_a_later_one_and_the_last_sees_the_first(block: Block) -> None:
    block = block.double()
    rows, query = random_rows(2, 7, 3), random_rows(2, 1, 3, seed=1)
    of_support, of_query = block(rows, query)
    assert of_support.shape == (2, 7, block.size)
    for i in range(7):
        changed = rows.clone()
        changed[:, i] += 1
        support_now, query_now = block(changed, query)
        close(support_now[:, :i], of_support[:, :i])
        assert not torch.allclose(support_now[:, i], of_support[:, i])
        assert not torch.allclose(query_now, of_query)


@pytest.mark.parametrize(("length", "n_layers"), [(2, 1), (3, 2), (4, 2), (5, 3), (26, 5), (32, 5), (33, 6)])
def test_a_temporal_block_has_a_layer_for_each_doubling_and_reaches_no_further(length: int, n_layers: int) -> None:
    block = TemporalBlock(2, 3, length).double()
    assert len(block.layers) == n_layers
    reach = 2**n_layers  # the query and the rows before it
    rows, query = random_rows(1, reach + 3, 2), random_rows(1, 1, 2, seed=1)
    seen = []
    for i in range(reach + 3):
        changed = rows.clone()
        changed[:, i] += 1
        seen.append(not torch.equal(block(changed, query)[1], block(rows, query)[1]))
    assert seen == [False] * 4 + [True] * (reach - 1)


def test_attention_alone_reaches_rows_beyond_the_convolutions() -> None:
    tasks = random_tasks(shots=(4, 4, 4))
    method = snail_for(tasks, max_support=1)
    far = tasks.support.clone()
    far[:, 0] += 1 + random_rows(3, 6)
    assert not torch.allclose(method(replace(tasks, support=far)), method(tasks))


def test_attention_with_keys_of_zero_reads_the_mean_of_itself_and_what_came_before() -> None:
    block = AttentionBlock(3, 4, 3).double()
    with torch.no_grad():
        block.to_key.weight.zero_()
        block.to_value.weight.copy_(torch.eye(3))
        block.to_value.bias.zero_()
    rows, query = random_rows(2, 4, 3), random_rows(2, 5, 3, seed=1)
    of_support, of_query = block(rows, query)
    running = rows.cumsum(1) / torch.arange(1, 5).unsqueeze(-1)
    close(of_support, torch.cat([rows, running], -1))
    close(of_query, torch.cat([query, (rows.sum(1, keepdim=True) + query) / 5], -1))


@pytest.mark.parametrize("wrong", [{"n_way": 1}, {"filters": 3}, {"max_support": 0}])
def test_impossible_settings_are_refused_with_what_was_found(wrong: dict[str, int]) -> None:
    ((key, value),) = wrong.items()
    with pytest.raises(SettingsError, match=f"{key} of .* is {value}"):
        SNAIL(8, **wrong)


def test_tasks_of_another_number_of_classes_are_refused_in_one_sentence() -> None:
    with pytest.raises(SettingsError, match=r"made for 5 classes, but the tasks have 3"):
        SNAIL(8, n_way=5).double()(random_tasks(shots=(1, 1, 1), feature_size=8))
