from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from helpers.methods import method_for, random_tasks, tasks_of_any_shape
from onelook.errors import SettingsError
from onelook.methods import MatchingNetworks
from onelook.tasks import Tasks

either = pytest.mark.parametrize("full_context", [False, True])


def matching_for(tasks: Tasks, seed: int | None = 0, **kept: Any) -> MatchingNetworks:
    method = method_for(tasks, "matching", seed=seed, **kept)
    assert isinstance(method, MatchingNetworks)
    return method


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@given(tasks_of_any_shape(), st.booleans(), st.integers(0, 100))
def test_the_logits_are_logarithms_of_probabilities(tasks: Tasks, full_context: bool, seed: int) -> None:
    probability = matching_for(tasks, seed, full_context=full_context)(tasks).exp()
    close(probability.sum(-1), torch.ones_like(probability[..., 0]))


@given(tasks_of_any_shape())
def test_without_context_and_with_one_example_each_the_answer_is_the_softmax_of_scaled_cosines(tasks: Tasks) -> None:
    tasks = replace(
        tasks,
        support_labels=torch.arange(tasks.support.shape[1]).expand(len(tasks), -1),
        n_way=tasks.support.shape[1],
        query_labels=None,
        classes=None,
    )
    cosine = torch.cosine_similarity(tasks.query.unsqueeze(2), tasks.support.unsqueeze(1), dim=-1)
    close(matching_for(tasks, seed=None, initial_scale=7.0)(tasks), (7 * cosine).log_softmax(-1))


def test_a_class_with_each_of_its_rows_twice_gets_twice_the_odds() -> None:
    tasks = random_tasks(shots=(1, 1, 1))
    row = tasks.support_labels == 0
    again = tasks.support[row].unsqueeze(1)
    twice = replace(
        tasks,
        support=torch.cat([tasks.support, again], 1),
        support_labels=torch.cat([tasks.support_labels, torch.zeros_like(tasks.support_labels[:, :1])], 1),
    )
    method = matching_for(tasks)
    before, after = method(tasks), method(twice)
    close(after[..., 0] - after[..., 1], before[..., 0] - before[..., 1] + torch.tensor(2.0).double().log())
    close(after[..., 2] - after[..., 1], before[..., 2] - before[..., 1])


@either
@pytest.mark.parametrize("factor", [0.1, 30.0])
def test_the_lengths_of_the_features_do_not_matter(full_context: bool, factor: float) -> None:
    tasks = random_tasks()
    method = matching_for(tasks, full_context=full_context)
    close(method(replace(tasks, support=factor * tasks.support, query=tasks.query / factor)), method(tasks))


def test_only_full_context_depends_on_the_order_of_the_support_rows_and_says_so() -> None:
    assert not MatchingNetworks(4).ordered_support
    assert MatchingNetworks(4, full_context=True).ordered_support


def test_in_context_a_support_row_changes_what_is_seen_in_all_others() -> None:
    tasks = random_tasks(shots=(2, 2, 2))
    method = matching_for(tasks, full_context=True)
    own = tasks.support @ method.projection.weight.mT
    changed = own.clone()
    changed[:, 2] += 1
    difference = (method._support_in_context(changed) - method._support_in_context(own)).abs().amax(-1)
    assert (difference > 1e-9).all()


def test_gates_that_are_shut_leave_the_features_out_of_context() -> None:
    tasks = random_tasks()
    method = matching_for(tasks, full_context=True)
    with torch.no_grad():
        for layer in (method.support_lstm, method.of_feature, method.of_state):
            for value in layer.parameters():
                value.zero_()
    mapped = tasks.map_items(lambda rows: rows @ method.projection.weight.mT)
    plain = MatchingNetworks(method.lstm_size).double()
    plain.scale.data = method.scale.data
    close(method(tasks), plain(mapped))


def test_more_reads_change_the_answer() -> None:
    tasks = random_tasks()
    answers = [matching_for(tasks, full_context=True, n_reads=n)(tasks) for n in (1, 2, 3)]
    assert (answers[0] - answers[1]).abs().max() > 1e-6
    assert (answers[1] - answers[2]).abs().max() > 1e-6


@pytest.mark.parametrize("wrong", [{"n_reads": 0}, {"lstm_size": 0}, {"initial_scale": 0.0}])
def test_impossible_settings_are_refused_with_what_was_found(wrong: dict[str, Any]) -> None:
    ((key, value),) = wrong.items()
    with pytest.raises(SettingsError, match=f"{key} of .* is {value}"):
        MatchingNetworks(8, **wrong)
