from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from helpers.methods import method_for, random_tasks, tasks_of_any_shape
from onelook.errors import SettingsError
from onelook.methods import RelationNetworks
from onelook.tasks import Tasks
from reference import relation as reference


def relation_for(tasks: Tasks, seed: int | None = 0, **kept: Any) -> RelationNetworks:
    method = method_for(tasks, "relation", seed=seed, **kept)
    assert isinstance(method, RelationNetworks)
    return method


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@given(tasks_of_any_shape(feature_size=st.just(12)), st.sampled_from([0, 3, 12]), st.integers(0, 100))
def test_adding_two_convolutions_is_the_convolution_of_the_maps_laid_on_one_another(
    tasks: Tasks, channels: int, seed: int
) -> None:
    method = relation_for(tasks, seed, channels=channels)
    close(method(tasks), torch.stack([reference.logits(method, tasks[i : i + 1]) for i in range(len(tasks))]))


@given(tasks_of_any_shape(), st.integers(0, 100))
def test_the_loss_is_the_squared_error_of_scores_that_should_be_one_for_the_true_class_and_zero_for_others(
    tasks: Tasks, seed: int
) -> None:
    method = relation_for(tasks, seed)
    assert tasks.query_labels is not None
    scores = 1 / (1 + torch.exp(-method(tasks)))
    errors = [
        (scores[t, q, k] - float(tasks.query_labels[t, q] == k)) ** 2
        for t in range(len(tasks))
        for q in range(tasks.query.shape[1])
        for k in range(tasks.n_way)
    ]
    close(method.loss(tasks), torch.stack(errors).mean())


def test_the_other_loss_is_the_cross_entropy_of_the_same_scores_but_for_a_common_offset() -> None:
    tasks = random_tasks()
    assert tasks.query_labels is not None
    squared, entropy = relation_for(tasks), relation_for(tasks, loss_kind="cross-entropy")
    offset = (squared(tasks) - entropy(tasks)).flatten()
    close(offset, offset[0].expand_as(offset))
    close(entropy.loss(tasks), functional.cross_entropy(squared(tasks).flatten(0, 1), tasks.query_labels.flatten()))


def test_the_score_of_a_class_does_not_depend_on_the_other_classes() -> None:
    tasks, others = random_tasks(seed=1), random_tasks(seed=2)
    support = torch.where((tasks.support_labels == 1).unsqueeze(-1), tasks.support, others.support)
    method = relation_for(tasks)
    changed = method(Tasks(support, tasks.support_labels, tasks.query, tasks.n_way))
    close(changed[:, :, 1], method(tasks)[:, :, 1])
    assert (changed[:, :, 0] - method(tasks)[:, :, 0]).abs().max() > 1e-6


def test_a_support_row_shown_twice_changes_nothing_where_a_sum_of_maps_would() -> None:
    tasks = random_tasks(shots=(1, 1, 1))
    twice = Tasks(tasks.support.repeat(1, 2, 1), tasks.support_labels.repeat(1, 2), tasks.query, tasks.n_way)
    method = relation_for(tasks)
    close(method(twice), method(tasks))


def test_the_cells_of_a_map_are_neighbours_only_when_there_are_several() -> None:
    assert RelationNetworks(12, channels=3).first.weight.shape == (3, 6, 3, 3)
    assert RelationNetworks(12).first.weight.shape == (12, 24, 1, 1)


@pytest.mark.parametrize("wrong", [{"hidden": 0}, {"loss_kind": "hinge"}, {"channels": 5}, {"channels": -1}])
def test_impossible_settings_are_refused_with_what_was_found(wrong: dict[str, Any]) -> None:
    ((key, value),) = wrong.items()
    with pytest.raises(SettingsError, match=f"{key}( of .* is |=){value!r}"):
        RelationNetworks(8, **wrong)
