from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from helpers.methods import N_CLASSES, method_for, random_tasks, tasks_of_any_shape, training_classes
from onelook.errors import SettingsError
from onelook.methods import DynamicFewShot, FeatureAveraging
from onelook.tasks import Tasks
from reference import dynamic as reference

seeds = st.integers(0, 1000)


def made(tasks: Tasks, seed: int | None = 0) -> DynamicFewShot:
    method = method_for(tasks, "dynamic", seed=seed)
    assert isinstance(method, DynamicFewShot)
    return method


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@given(tasks_of_any_shape(), seeds)
def test_without_the_attended_part_it_is_feature_averaging_as_which_it_begins(tasks: Tasks, seed: int) -> None:
    method = made(tasks, seed)
    with torch.no_grad():
        method.attended_diagonal.zero_()
    averaging = FeatureAveraging(method.feature_size).double()
    averaging.load_state_dict({"diagonal": method.diagonal, "scale": method.scale})
    close(method(tasks), averaging(tasks))
    close(made(tasks, None)(tasks), FeatureAveraging(method.feature_size).double()(tasks))


@given(tasks_of_any_shape(), seeds)
def test_in_the_loss_the_classes_of_a_task_lend_nothing_to_that_task(tasks: Tasks, seed: int) -> None:
    method = made(tasks, seed)
    assert tasks.classes is not None
    assert tasks.query_labels is not None
    losses = [
        functional.cross_entropy(
            reference.logits(method, tasks[i : i + 1], frozenset(tasks.classes[i].tolist())), tasks.query_labels[i]
        )
        for i in range(len(tasks))
    ]
    close(method.loss(tasks), torch.stack(losses).mean())


def test_base_classes_of_the_task_get_no_gradient_and_the_others_do() -> None:
    tasks = random_tasks(n_tasks=1)
    method = made(tasks)
    method.loss(tasks).backward()
    assert tasks.classes is not None
    own = torch.zeros(N_CLASSES, dtype=torch.bool)
    own[tasks.classes[0]] = True
    for parameter in (method.base_weights, method.keys):
        assert parameter.grad is not None
        assert not parameter.grad[own].any()
        assert parameter.grad[~own].any(1).all()


def test_the_answer_in_use_does_not_know_the_classes_of_the_task() -> None:
    tasks = random_tasks()
    assert tasks.classes is not None
    method = made(tasks)
    others = replace(tasks, classes=(tasks.classes + 1) % N_CLASSES)
    assert torch.equal(method(others), method(tasks))
    assert not torch.equal(method.loss(others), method.loss(tasks))


def test_a_sharp_attention_takes_the_weight_of_the_base_class_that_resembles_the_example() -> None:
    tasks = random_tasks(n_tasks=1, shots=(1, 1), feature_size=6)
    method = made(tasks, None)
    with torch.no_grad():
        method.gamma.fill_(1e6)
        method.attention_query.weight.copy_(torch.eye(6))
        method.diagonal.zero_()
        method.attended_diagonal.fill_(1.0)
        method.keys[5] = 3 * tasks.support[0, 0]
    weights = method.init(tasks)[0, tasks.support_labels[0, 0]]
    close(weights, functional.normalize(method.base_weights[5], dim=0).detach())


def test_base_weights_and_keys_begin_as_the_means_of_unit_features() -> None:
    method = DynamicFewShot(6, N_CLASSES).double()
    features, labels = training_classes()
    method.prepare(features, labels)
    unit = functional.normalize(features, dim=1)
    expected = torch.stack([unit[labels == k].mean(0) for k in range(N_CLASSES)])
    close(method.base_weights.detach(), expected)
    close(method.keys.detach(), expected)
    assert all(p.requires_grad and p.is_leaf for p in (method.base_weights, method.keys))


def test_tasks_of_all_training_classes_or_of_unnamed_ones_cannot_be_learned_from() -> None:
    tasks = random_tasks(shots=(1,) * N_CLASSES)
    with pytest.raises(SettingsError, match=f"there are {N_CLASSES} and tasks of {N_CLASSES}"):
        made(tasks).loss(tasks)
    with pytest.raises(ValueError, match="classes"):
        made(tasks).loss(replace(tasks, classes=None))


@pytest.mark.parametrize("wrong", [{"n_classes": 0}, {"attention_scale": 0.0}])
def test_impossible_settings_are_refused_with_what_was_found(wrong: dict[str, float]) -> None:
    ((key, value),) = wrong.items()
    with pytest.raises(SettingsError, match=f"{key} of .* is {value}"):
        DynamicFewShot(**({"feature_size": 8, "n_classes": 3} | wrong))  # type: ignore[arg-type]
