from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import reference
from helpers.methods import N_CLASSES, method_for, random_tasks, suited
from onelook import backbones, methods
from onelook.backbones import BACKBONES, Backbone
from onelook.errors import SettingsError
from onelook.methods import TADAM, EndToEnd, PrototypicalNetworks
from onelook.tasks import Tasks
from reference.tadam import auxiliary_loss


def tadam(tasks: Tasks, **kept: Any) -> TADAM:
    method = method_for(tasks, "tadam", **kept)
    assert isinstance(method, TADAM)
    return method


def some_tasks(**kept: Any) -> Tasks:
    return suited("tadam", random_tasks(**kept))


def test_it_starts_as_prototypical_networks_with_a_scale() -> None:
    tasks = some_tasks()
    method = tadam(tasks, seed=None, metric_scale=0.3)
    prototypical = EndToEnd(method.backbone, PrototypicalNetworks(method.backbone.feature_size)).double()
    torch.testing.assert_close(method(tasks), method.alpha * prototypical(tasks), rtol=1e-12, atol=1e-12)
    assert method.alpha.item() == pytest.approx(0.3)


def test_the_support_of_a_task_modulates_its_queries() -> None:
    tasks, others = some_tasks(seed=0), some_tasks(seed=1)
    method = tadam(tasks)
    modulation = method.modulation(method.plain_support(tasks), tasks)
    query = method.modulate(tasks, modulation).query
    elsewhere = method.modulate(tasks, method.modulation(method.plain_support(others), others)).query
    assert not torch.allclose(query, elsewhere, rtol=1e-3)


def test_the_loss_is_that_of_the_queries_the_penalty_and_the_auxiliary_classifier() -> None:
    tasks = some_tasks(n_query=4)
    method = tadam(tasks, auxiliary_weight=0.7, penalty=0.2)
    assert tasks.query_labels is not None
    scores = torch.cat([reference.logits(method, tasks[i : i + 1]) for i in range(len(tasks))])
    expected = torch.nn.functional.cross_entropy(scores, tasks.query_labels.flatten())
    expected = expected + 0.7 * sum(auxiliary_loss(method, tasks[i : i + 1]) for i in range(len(tasks))) / len(tasks)
    for block in method.task_network:
        expected = expected + 0.2 * (block.scale_multiplier**2 + block.shift_multiplier**2)
    torch.testing.assert_close(method.loss(tasks), expected, rtol=1e-9, atol=1e-9)


def test_where_the_classes_are_unknown_the_auxiliary_term_is_left_out() -> None:
    tasks = some_tasks()
    without = tadam(tasks, auxiliary_weight=0.0)
    expected = without.loss(tasks)
    assert torch.equal(tadam(tasks).loss(replace(tasks, classes=None)), expected)
    assert not torch.isclose(tadam(tasks).loss(tasks), expected)


def test_under_autocast_it_computes_about_the_same_and_learns() -> None:
    tasks = some_tasks().map_items(Tensor.float)
    method = tadam(tasks, seed=None).float()
    with torch.autocast("cpu", torch.bfloat16):
        logits = method(tasks)
        method.loss(tasks).backward()
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, method(tasks))
    torch.testing.assert_close(logits, method(tasks), rtol=0.1, atol=0.01)
    assert all(value.grad is None or value.grad.isfinite().all() for value in method.parameters())


MODULATED = [name for name in BACKBONES if name != "wrn-28-10"]


def neutral_film(backbone: Backbone, n: int) -> list[tuple[Tensor, Tensor]]:
    return [(torch.ones(n, size), torch.zeros(n, size)) for size in backbone.film_sizes]


@pytest.mark.parametrize("name", MODULATED)
def test_a_scale_of_one_and_a_shift_of_zero_change_nothing_and_every_channel_of_every_block_can_be_modulated(
    name: str,
) -> None:
    backbone = backbones.create(name, 3, 16).eval()
    images = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    film = neutral_film(backbone, 2)
    for scale, shift in film:
        scale.requires_grad_()
        shift.requires_grad_()
    features = backbone(images, film)
    torch.testing.assert_close(features.detach(), backbone(images).detach(), rtol=1e-5, atol=1e-5)
    features[0].square().sum().backward()
    for scale, shift in film:
        assert scale.grad is not None
        assert shift.grad is not None
        assert scale.grad[0].any()
        assert shift.grad[0].any()
        assert not scale.grad[1].any()  # another image's
        assert not shift.grad[1].any()


def test_a_network_without_modulated_blocks_is_refused() -> None:
    with torch.device("meta"):
        backbone = backbones.create("wrn-28-10", 3, 32)
    with pytest.raises(SettingsError, match="wrn-28-10 has none that can be; take conv4-64"):
        methods.create("tadam", backbone=backbone, n_classes=N_CLASSES)
    with pytest.raises(SettingsError, match="no modulated blocks"):
        backbone(torch.zeros(1, 3, 32, 32, device="meta"), neutral_film(backbone, 1))


@pytest.mark.parametrize(
    "wrong", [{"n_classes": 0}, {"metric_scale": 0.0}, {"auxiliary_weight": -1.0}, {"penalty": -0.1}], ids=str
)
def test_settings_outside_their_range_are_refused_with_what_was_found(wrong: dict[str, Any]) -> None:
    ((key, value),) = wrong.items()
    with pytest.raises(SettingsError, match=f"{key} of .* is {value!r}"):
        tadam(some_tasks(), **wrong)
