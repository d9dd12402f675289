from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from making import N_CLASSES, method_for, random_tasks, tasks_of_any_shape, training_classes
from onelook.errors import SettingsError
from onelook.methods import ActivationsToParameters
from onelook.tasks import Tasks
from reference import activations as reference

seeds = st.integers(0, 1000)
hiddens = st.sampled_from([0, 3])
some_examples = settings(max_examples=30, deadline=None)


def made(tasks: Tasks, seed: int | None = 0, hidden: int = 0) -> ActivationsToParameters:
    method = method_for(tasks, "activations", seed=seed, hidden=hidden)
    assert isinstance(method, ActivationsToParameters)
    return method


@given(tasks_of_any_shape(), seeds, hiddens)
@some_examples
def test_the_loss_is_over_all_training_classes_with_the_support_mean_for_those_of_the_task(
    tasks: Tasks, seed: int, hidden: int
) -> None:
    method = made(tasks, seed, hidden)
    expected = np.mean([reference.loss(method, tasks[i : i + 1]) for i in range(len(tasks))])
    assert method.loss(tasks).item() == pytest.approx(expected, rel=1e-10, abs=1e-10)


@given(tasks_of_any_shape(), hiddens)
@some_examples
def test_untrained_the_logits_are_ten_times_the_cosine_to_the_mean_of_unit_features(tasks: Tasks, hidden: int) -> None:
    logits = made(tasks, None, hidden)(tasks)
    for i in range(len(tasks)):
        support = functional.normalize(tasks.support[i], dim=-1)
        for label in range(tasks.n_way):
            mean = support[tasks.support_labels[i] == label].mean(0)
            expected = 10 * functional.cosine_similarity(tasks.query[i], mean.unsqueeze(0), dim=-1)
            torch.testing.assert_close(logits[i, :, label], expected, rtol=1e-10, atol=1e-10)


def test_the_means_that_are_kept_are_those_of_unit_features() -> None:
    method = ActivationsToParameters(6, N_CLASSES).double()
    features, labels = training_classes()
    method.prepare(features, labels)
    unit = functional.normalize(features, dim=1)
    expected = torch.stack([unit[labels == k].mean(0) for k in range(N_CLASSES)])
    torch.testing.assert_close(method.means, expected, rtol=1e-12, atol=1e-12)


def test_the_loss_reads_the_kept_means_of_exactly_the_classes_that_are_not_in_the_task() -> None:
    tasks = random_tasks(n_tasks=1)
    assert tasks.classes is not None
    before = made(tasks).loss(tasks)
    for name in range(N_CLASSES):
        method = made(tasks)
        method.means[name] += 1.0
        assert (method.loss(tasks) == before) == (name in tasks.classes[0].tolist())


def test_tasks_of_unnamed_classes_cannot_be_learned_from() -> None:
    tasks = random_tasks()
    with pytest.raises(ValueError, match="classes"):
        made(tasks).loss(replace(tasks, classes=None))


@pytest.mark.parametrize("wrong", [{"n_classes": 0}, {"hidden": -1}])
def test_impossible_settings_are_refused_with_what_was_found(wrong: dict[str, int]) -> None:
    ((key, value),) = wrong.items()
    with pytest.raises(SettingsError, match=f"{key}={value}"):
        ActivationsToParameters(**({"feature_size": 8, "n_classes": 3} | wrong))
