from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from helpers.methods import N_CLASSES, method_for, random_tasks, tasks_of_any_shape, training_classes
from onelook.errors import SettingsError
from onelook.methods import ActivationsToParameters
from onelook.tasks import Tasks
from reference import activations as reference

seeds = st.integers(0, 1000)
hiddens = st.sampled_from([0, 3])


def made(tasks: Tasks, seed: int | None = 0, hidden: int = 0) -> ActivationsToParameters:
    method = method_for(tasks, "activations", seed=seed, hidden=hidden)
    assert isinstance(method, ActivationsToParameters)
    return method


@given(tasks_of_any_shape(), seeds, hiddens)
def test_the_loss_is_over_all_training_classes_with_both_kinds_of_statistics(
    tasks: Tasks, seed: int, hidden: int
) -> None:
    method = made(tasks, seed, hidden)
    expected = np.mean([reference.loss(method, tasks[i : i + 1]) for i in range(len(tasks))])
    assert method.loss(tasks).item() == pytest.approx(expected, rel=1e-10, abs=1e-10)


@given(tasks_of_any_shape(), hiddens)
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


def test_the_loss_reads_the_kept_mean_of_every_class_but_those_of_the_task_that_no_query_is_of() -> None:
    tasks = random_tasks(n_tasks=1)
    assert tasks.classes is not None
    assert tasks.query_labels is not None
    tasks = replace(tasks, query_labels=torch.zeros_like(tasks.query_labels))
    before = made(tasks).loss(tasks)
    for name in range(N_CLASSES):
        method = made(tasks)
        method.means[name] += torch.arange(6)
        assert (method.loss(tasks) == before) == (name in tasks.classes[0, 1:].tolist())


def test_training_does_not_teach_to_tell_few_examples_from_many() -> None:
    """Where a class looks the same in support and kept mean but for noise, trained phi must not fall below the start.

    A loss in which the right class alone is known by its support fails here: it finds the noise.
    """
    draw = torch.Generator().manual_seed(0)
    n_classes, size = 32, 48
    centres = torch.rand(n_classes, size, generator=draw)

    def items(labels: torch.Tensor) -> torch.Tensor:
        return centres[labels] + torch.rand(*labels.shape, size, generator=draw)

    def drawn(n_tasks: int) -> Tasks:
        classes = torch.stack([torch.randperm(n_classes, generator=draw)[:5] for _ in range(n_tasks)])
        support, query = (torch.arange(5).repeat_interleave(n).expand(n_tasks, -1).contiguous() for n in (1, 15))
        return Tasks(items(classes.gather(1, support)), support, items(classes.gather(1, query)), 5, query, classes)

    def accuracy(tasks: Tasks) -> float:
        assert tasks.query_labels is not None
        return float((method(tasks).argmax(-1) == tasks.query_labels).double().mean())

    method = ActivationsToParameters(size, n_classes)
    labels = torch.arange(n_classes).repeat_interleave(50)
    method.prepare(items(labels), labels)
    test = drawn(100)
    before = accuracy(test)
    optimiser = torch.optim.Adam(method.parameters(), 1e-3)
    for _ in range(100):
        optimiser.zero_grad()
        method.loss(drawn(8)).backward()
        optimiser.step()
    assert accuracy(test) > before - 0.02


def test_tasks_of_unnamed_classes_cannot_be_learned_from() -> None:
    tasks = random_tasks()
    with pytest.raises(ValueError, match="classes"):
        made(tasks).loss(replace(tasks, classes=None))


@pytest.mark.parametrize("wrong", [{"n_classes": 0}, {"hidden": -1}])
def test_impossible_settings_are_refused_with_what_was_found(wrong: dict[str, int]) -> None:
    ((key, value),) = wrong.items()
    with pytest.raises(SettingsError, match=f"{key} of .* is {value}"):
        ActivationsToParameters(**({"feature_size": 8, "n_classes": 3} | wrong))
