from typing import Any

import pytest
import torch
from torch import Tensor

import reference
from helpers.methods import as_images, method_for, random_tasks, suited
from onelook import backbones
from onelook.backbones import Backbone
from onelook.errors import SettingsError
from onelook.methods import MAML
from onelook.tasks import Tasks

FORMS: list[dict[str, Any]] = [{}, {"order": 1}, {"adapt": "head"}, {"adapt": "head", "order": 1}]


def maml(tasks: Tasks, **kept: Any) -> MAML:
    method = method_for(tasks, "maml", **({"n_steps": 3, "step_size": 0.01} | kept))
    assert isinstance(method, MAML)
    return method


def gradients(method: MAML, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(method.parameters())))


@pytest.mark.parametrize("form", FORMS)
def test_the_meta_gradient_of_a_batch_is_that_of_its_tasks_one_by_one(form: dict[str, Any]) -> None:
    tasks = suited("maml", random_tasks(n_query=4))
    method = maml(tasks, **form)
    assert tasks.query_labels is not None
    one_by_one = torch.stack([reference.logits(method, tasks[i : i + 1]) for i in range(len(tasks))])
    expected = torch.nn.functional.cross_entropy(one_by_one.flatten(0, 1), tasks.query_labels.flatten())
    for found, slow in zip(gradients(method, method.loss(tasks)), gradients(method, expected), strict=True):
        torch.testing.assert_close(found, slow, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("adapt", ["all", "head"])
def test_the_first_order_form_takes_the_same_steps_but_learns_otherwise(adapt: str) -> None:
    tasks = suited("maml", random_tasks())
    first, second = maml(tasks, order=1, adapt=adapt), maml(tasks, order=2, adapt=adapt)
    torch.testing.assert_close(first(tasks), second(tasks), rtol=1e-12, atol=1e-12)
    pairs = zip(gradients(first, first.loss(tasks)), gradients(second, second.loss(tasks)), strict=True)
    assert any(not torch.allclose(a, b, rtol=1e-3) for a, b in pairs)


def test_the_first_order_meta_gradient_is_the_gradient_at_the_adapted_weights() -> None:
    tasks = suited("maml", random_tasks(n_tasks=1))
    method = maml(tasks, order=1)
    at_start = gradients(method, method.loss(tasks))
    start = {name: value[0].detach() for name, value in method.adapt_all(tasks).items()}
    there = maml(tasks, n_steps=0)
    named = dict(there.backbone.named_parameters()) | {f"head {k}": v for k, v in there.classifier.named_parameters()}
    with torch.no_grad():
        for name, value in named.items():
            value.copy_(start[name])
    for found, expected in zip(at_start, gradients(there, there.loss(tasks)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_without_steps_it_is_a_linear_classifier_that_ignores_the_support(form: dict[str, Any]) -> None:
    tasks = suited("maml", random_tasks())
    method = maml(tasks, n_steps=0, **form)
    expected = method.classifier(torch.stack([method.backbone(images) for images in tasks.query]))
    torch.testing.assert_close(method(tasks), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_steps_lower_the_loss_of_the_support(form: dict[str, Any]) -> None:
    tasks = suited("maml", random_tasks())
    asked = Tasks(tasks.support, tasks.support_labels, tasks.support, tasks.n_way, tasks.support_labels)
    losses = [float(maml(tasks, n_steps=n, step_size=1e-3, **form).loss(asked).detach()) for n in range(4)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


def test_in_use_no_graph_is_left() -> None:
    tasks = suited("maml", random_tasks())
    method = maml(tasks)
    with torch.no_grad():
        assert not any(value.requires_grad for value in method.adapt_all(tasks).values())
    assert all(value.grad is None for value in method.parameters())


@pytest.mark.parametrize("form", FORMS)
def test_under_autocast_it_computes_about_the_same_and_learns(form: dict[str, Any]) -> None:
    tasks = suited("maml", random_tasks()).map_items(Tensor.float)
    method = maml(tasks, step_size=1e-3, **form).float()
    with torch.autocast("cpu", torch.bfloat16):
        logits = method(tasks)
        loss = method.loss(tasks)
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, method(tasks))
    torch.testing.assert_close(logits, method(tasks), rtol=0.1, atol=0.1)
    assert all(gradient.isfinite().all() for gradient in gradients(method, loss))


def several(backbone: Backbone, n_tasks: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(1)
    return {
        name: value.detach() + 0.02 * torch.randn(n_tasks, *value.shape, generator=draw)
        for name, value in backbone.named_parameters()
    }


@pytest.mark.parametrize(("name", "image_size"), [("conv4-64", 32), ("conv4-128", 40), ("resnet12", 16)])
def test_features_by_several_networks_at_once_are_those_of_each(name: str, image_size: int) -> None:
    backbone = backbones.create(name, 3, image_size).eval()
    weights = several(backbone, 2)
    pixels = torch.randn(2, 3, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    found = backbone.compute_for_tasks(pixels, weights)
    assert found.shape == (2, 3, backbone.feature_size)
    for i in range(2):
        backbone.load_state_dict({key: value[i] for key, value in weights.items()}, strict=False)
        expected = backbone.features(pixels[i]).detach()
        torch.testing.assert_close(found[i], expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("name", ["conv4-64", "resnet12"])
def test_features_by_several_networks_are_refused_where_statistics_would_be_of_the_batch(name: str) -> None:
    backbone = backbones.create(name, 3, 16).train()
    with pytest.raises(ValueError, match="eval"):
        backbone.compute_for_tasks(torch.zeros(2, 1, 3, 16, 16), several(backbone, 2))


@pytest.mark.parametrize(
    "wrong", [{"n_way": 1}, {"n_steps": -1}, {"step_size": 0.0}, {"order": 3}, {"adapt": "body"}], ids=str
)
def test_settings_outside_their_range_are_refused_with_what_was_found(wrong: dict[str, Any]) -> None:
    ((key, value),) = wrong.items()
    with pytest.raises(SettingsError, match=f"{key} of .* is {value!r}"):
        maml(as_images(random_tasks()), **wrong)


@pytest.mark.parametrize("adapt", ["all", "head"])
def test_tasks_of_another_number_of_classes_are_refused(adapt: str) -> None:
    tasks = as_images(random_tasks())
    with pytest.raises(SettingsError, match="made for 3 classes, but the tasks have 2"):
        maml(tasks, adapt=adapt)(as_images(random_tasks(shots=(1, 1))))
