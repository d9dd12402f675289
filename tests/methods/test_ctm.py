from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from helpers.methods import method_for, random_tasks, tasks_of_any_shape
from onelook.errors import SettingsError
from onelook.methods import CategoryTraversal, PrototypicalNetworks
from onelook.tasks import Tasks
from reference import ctm as reference

of_two_by_two_cells = tasks_of_any_shape(feature_size=st.just(12))


def traversal_for(tasks: Tasks, seed: int | None = 0, **kept: Any) -> CategoryTraversal:
    method = method_for(tasks, "ctm", seed=seed, **kept)
    assert isinstance(method, CategoryTraversal)
    return method


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@given(of_two_by_two_cells, st.sampled_from(["prototypical", "cosine"]), st.integers(0, 100))
def test_maps_of_several_cells_give_what_the_slow_loop_gives(tasks: Tasks, metric: str, seed: int) -> None:
    method = traversal_for(tasks, seed, channels=3, metric=metric)
    close(method(tasks), torch.stack([reference.logits(method, tasks[i : i + 1]) for i in range(len(tasks))]))


@given(of_two_by_two_cells, st.integers(0, 100))
def test_the_mask_is_positive_and_one_on_average_over_the_channels_of_each_cell(tasks: Tasks, seed: int) -> None:
    mask = traversal_for(tasks, seed, channels=3).mask(tasks)
    assert (mask > 0).all()
    over_channels = mask.view(-1, 3, 4).mean(1)
    close(over_channels, torch.ones_like(over_channels))


@pytest.mark.parametrize("metric", ["prototypical", "cosine"])
def test_an_indifferent_projector_leaves_prototypical_networks_on_reshaped_features(metric: str) -> None:
    tasks = random_tasks(feature_size=12)
    method = traversal_for(tasks, channels=3, metric=metric)
    with torch.no_grad():
        method.projector.weight.zero_()
        method.projector.bias.zero_()
        method.scale.fill_(10.0)
    reshaped = tasks.map_items(lambda rows: method.reshaper(rows.view(-1, 3, 2, 2)).flatten(1))
    if metric == "cosine":
        close(method(tasks), PrototypicalNetworks(12, metric="cosine").double()(reshaped))
    else:
        close(method(tasks), 10 / 12 * PrototypicalNetworks(12).double()(reshaped))


def test_a_channel_that_the_mask_shuts_out_is_not_compared() -> None:
    tasks = random_tasks()
    method = traversal_for(tasks)
    with torch.no_grad():
        method.projector.bias[2] = -1e4
    logits = method(tasks)
    with torch.no_grad():
        method.reshaper[1].weight[2] += 1
        close(method(tasks), logits)
        method.reshaper[1].weight[3] += 1
    assert (method(tasks) - logits).abs().max() > 1e-6


def test_a_class_changes_how_a_query_is_compared_with_the_others() -> None:
    tasks, others = random_tasks(seed=1), random_tasks(seed=2)
    support = torch.where((tasks.support_labels == 0).unsqueeze(-1), others.support, tasks.support)
    method = traversal_for(tasks)
    difference = method(replace(tasks, support=support)) - method(tasks)
    assert difference[:, :, 1:].abs().max() > 1e-6


def test_renaming_the_classes_changes_the_answer_which_is_why_n_way_is_fixed() -> None:
    tasks = random_tasks()
    new_name = torch.tensor([1, 2, 0])
    renamed = Tasks(tasks.support, new_name[tasks.support_labels], tasks.query, tasks.n_way)
    method = traversal_for(tasks)
    assert (method(renamed)[:, :, new_name] - method(tasks)).abs().max() > 1e-6


@pytest.mark.parametrize("wrong", [{"n_way": 1}, {"metric": "relation"}, {"channels": 3}, {"channels": -1}])
def test_impossible_settings_are_refused_with_what_was_found(wrong: dict[str, Any]) -> None:
    ((key, value),) = wrong.items()
    with pytest.raises(SettingsError, match=f"{key}( of .* is |=){value!r}"):
        CategoryTraversal(8, **wrong)


def test_tasks_of_another_number_of_classes_are_refused_in_one_sentence() -> None:
    with pytest.raises(SettingsError, match=r"made for 5 classes, but the tasks have 3"):
        CategoryTraversal(8, n_way=5).double()(random_tasks(shots=(1, 1, 1), feature_size=8))
