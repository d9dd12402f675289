"""EndToEnd is in no list of cases, because it is made of two; so the laws of the contract are stated again here."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.methods import (
    as_images,
    method_for,
    random_tasks,
    shaken,
    tasks_of_any_shape,
    tiny_network,
    training_classes,
)
from onelook.methods import EndToEnd
from onelook.tasks import Tasks

HEADS: list[tuple[str, dict[str, Any]]] = [("prototypical", {"transform": "cl2n"}), ("sib", {"n_way": 3})]

each_head = pytest.mark.parametrize(("name", "kept"), HEADS)


def end_to_end(name: str = "prototypical", seed: int = 0, **kept: Any) -> EndToEnd:
    network = tiny_network()
    features = random_tasks(feature_size=network.feature_size)
    method = EndToEnd(network, method_for(features, name, **kept)).double()
    shaken(method, seed)
    return method


@given(tasks=tasks_of_any_shape(), seed=st.integers(0, 100))
def test_the_logits_are_those_of_the_head_for_the_features_of_each_image(tasks: Tasks, seed: int) -> None:
    method = end_to_end(seed=seed)
    images = as_images(tasks)
    features = images.map_items(lambda rows: torch.cat([method.backbone(row[None]) for row in rows]))
    torch.testing.assert_close(method(images), method.head(features), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(method.loss(images), method.head.loss(features), rtol=1e-9, atol=1e-9)


@each_head
def test_a_batch_gives_what_its_tasks_give_one_by_one_in_training_too(name: str, kept: dict[str, Any]) -> None:
    tasks = as_images(random_tasks())
    method = end_to_end(name, **kept).train()
    one_by_one = torch.cat([method(tasks[i : i + 1]) for i in range(len(tasks))])
    torch.testing.assert_close(method(tasks), one_by_one, rtol=1e-9, atol=1e-9)


@each_head
def test_training_mode_is_evaluation_mode_and_nothing_is_written(name: str, kept: dict[str, Any]) -> None:
    tasks = as_images(random_tasks())
    method = end_to_end(name, **kept)
    before = copy.deepcopy(method.state_dict())
    first = method.train()(tasks)
    assert method.head.training
    assert torch.equal(method(tasks), first)
    assert torch.equal(method.eval()(tasks), first)
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())


@each_head
def test_gradients_may_be_switched_off_without_effect(name: str, kept: dict[str, Any]) -> None:
    tasks = as_images(random_tasks())
    method = end_to_end(name, **kept)
    with torch.inference_mode():
        assert torch.equal(method(tasks), method(tasks))
        found = method(tasks)
    torch.testing.assert_close(found.clone(), method(tasks).detach(), rtol=1e-9, atol=1e-9)


@each_head
def test_the_weights_gains_and_shifts_of_the_network_and_the_head_all_get_a_gradient(
    name: str, kept: dict[str, Any]
) -> None:
    method = end_to_end(name, **kept).train()
    method.loss(as_images(random_tasks(n_query=8))).backward()
    assert not [key for key, value in method.named_parameters() if value.grad is None or not value.grad.any()]


@each_head
def test_it_is_declared_what_its_head_is_declared(name: str, kept: dict[str, Any]) -> None:
    method = end_to_end(name, **kept)
    for declared in ("transductive", "assumes_balanced_queries", "needs_training_classes", "ordered_support", "n_way"):
        assert getattr(method, declared) == getattr(method.head, declared)


def test_the_head_is_prepared_by_features_of_the_images() -> None:
    method = end_to_end(transform="cl2n")
    features, labels = training_classes()
    images = as_images(Tasks(features[None], labels[None], features[None], int(labels.max()) + 1)).support[0]
    method.prepare(images, labels)
    expected = method.backbone(images).mean(0)
    torch.testing.assert_close(dict(method.head.named_buffers())["centre"], expected.detach())


def test_under_autocast_the_network_computes_in_few_digits_and_the_head_in_all() -> None:
    method = end_to_end("sib", n_way=3).float()
    tasks = as_images(random_tasks()).map_items(torch.Tensor.float)
    with torch.autocast("cpu", torch.bfloat16):
        features = tasks.map_items(method.backbone)
        logits = method(tasks)
    assert features.query.dtype == torch.bfloat16
    assert torch.equal(logits, method.head(features.map_items(torch.Tensor.float)))
