"""Adaptation to a new domain: the laws of the head, the folder reader, and that it learns."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.nn import functional

from helpers.images import classes, write_files
from onelook.data.augment import Augmentation
from onelook.data.domains import Domains, GlyphDomainsConfig, glyph_domains, read_domains
from onelook.errors import DataError, SettingsError
from onelook.events import finish
from onelook.experiments.domain_head import DomainHead
from onelook.experiments.domains import VARIANTS, DomainsConfig, domains, make_head
from onelook.train.optimisation import Optimisation

SMALL = GlyphDomainsConfig(n_domains=3, n_classes=3, images_per_class=6, size=16)
SHORT = DomainsConfig(
    batch_size=5, pretrain_epochs=1, pretrain_batch_size=6, meta_steps=2, augmentation=Augmentation(1, False, 0.0)
)


@cache
def small() -> Domains:
    return finish(glyph_domains(SMALL))


def head_for(seed: int = 0, n_way: int = 3, feature_size: int = 6, **settings: Any) -> DomainHead:
    """Every parameter off its initial value, because ones and zeros hide errors."""
    head = make_head(feature_size, n_way, replace(DomainsConfig(), **settings)).double()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in head.parameters():
            value += 0.3 * torch.randn(value.shape, generator=draw, dtype=torch.float64)
    return head


def features(n_tasks: int = 2, n_images: int = 5, feature_size: int = 6, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n_tasks, n_images, 4, feature_size, generator=draw, dtype=torch.float64)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


# ------------------------------------------------------------------------------------------------ the head


def rotation_loss(head: DomainHead, theta: Tensor, turned: Tensor) -> Tensor:
    """Of one task, image by image, as the module's text has it."""
    losses = []
    for image in turned:
        for r in range(4):
            scores = []  # of the pairs, turn by turn
            for maps in (torch.zeros_like(head.maps[0]), *head.maps):
                for weight in theta:
                    turned_weight = weight + maps @ weight
                    scores.append(head.scale * (head.bias + functional.cosine_similarity(image[r], turned_weight, 0)))
            p = torch.stack(scores).softmax(0).view(4, -1).sum(1)
            losses.append(-p[r].log())
    return torch.stack(losses).mean()


@given(st.integers(0, 1000))
def test_the_rotation_step_is_automatic_differentiation_of_the_loss_that_is_written_down(seed: int) -> None:
    head, turned = head_for(seed), features(seed=seed)
    theta = head.start.expand(2, 3, 6).clone().requires_grad_()
    loss = torch.stack([rotation_loss(head, one, x) for one, x in zip(theta, turned, strict=True)]).sum()
    (gradient,) = torch.autograd.grad(loss, theta, create_graph=True)
    found, expected = head.init(turned), head.start - head.rotation_step_size * gradient
    close(found, expected)
    cotangent = torch.randn(found.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    parameters = [head.maps, head.rotation_step_size, head.scale]
    for one, other in zip(
        torch.autograd.grad(found, parameters, cotangent),
        torch.autograd.grad(expected, parameters, cotangent),
        strict=True,
    ):
        close(one, other)


@given(st.integers(0, 1000))
def test_the_synthetic_step_is_automatic_differentiation_with_xi_as_the_derivative(seed: int) -> None:
    head, x = head_for(seed, step_size=0.05), features(seed=seed)[:, :, 0]
    theta = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()
    scores = head.score(theta, x)
    (gradient,) = torch.autograd.grad(scores, theta, head.gradient_network(scores))
    close(head.step(theta, x), theta - 0.05 * gradient)


def write_domains(domains: Domains, folder: Path) -> None:
    """As PNG files in `folder`/domain/class, which `read_domains` reads as they were."""
    for domain, images in domains.items():
        for i, (pixels, label) in enumerate(zip(images.pixels[0], images.labels.tolist(), strict=True)):
            file = folder / domain / images.class_names[label] / f"{i:05d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            array = pixels.permute(1, 2, 0).numpy()
            Image.fromarray(array if array.shape[-1] == 3 else array[..., 0]).save(file)


@pytest.mark.parametrize("rotation", [False, True])
def test_many_tasks_at_once_are_one_after_the_other_in_any_mode(rotation: bool) -> None:
    head, turned = head_for(step_size=0.05), features(3)
    head.rotation = rotation
    alone = torch.cat([head(one.unsqueeze(0)) for one in turned])
    close(head(turned), alone)
    with torch.inference_mode():
        close(head.eval()(turned), alone)


def test_the_answer_of_an_image_depends_on_its_task_and_not_on_the_order_of_images() -> None:
    head, turned = head_for(step_size=0.05), features(1)
    order = torch.tensor([3, 0, 4, 1, 2])
    close(head(turned[:, order]), head(turned)[:, order])
    other = turned.clone()
    other[:, 4] += 1
    assert (head(other)[:, :4] - head(turned)[:, :4]).abs().max() > 1e-4


def test_a_head_without_rotation_and_steps_is_a_cosine_classifier() -> None:
    head, turned = head_for(n_steps=0), features(1)
    head.rotation = False
    cosine = functional.cosine_similarity(turned[0, :, :1], head.start.unsqueeze(0), -1)
    close(head(turned)[0], head.scale * (head.bias + cosine))


# ------------------------------------------------------------------------------------------------ the data


def test_domains_share_their_classes_and_no_image() -> None:
    images = small()
    assert len({one.class_names for one in images.values()}) == 1
    digests = [digest for one in images.values() for digest in one.digests]
    assert len(set(digests)) == len(digests) == 3 * 3 * 6


def test_more_domains_leave_the_earlier_ones_as_they_are() -> None:
    more = finish(glyph_domains(replace(SMALL, n_domains=4)))
    for name, one in small().items():
        assert torch.equal(more[name].pixels, one.pixels)
    other = finish(glyph_domains(replace(SMALL, seed=1)))
    assert not torch.equal(other["domain-00"].pixels, small()["domain-00"].pixels)


def test_a_folder_of_domains_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_domains(small(), tmp_path)
    found = finish(read_domains(tmp_path, 16))
    assert list(found) == list(small())
    for name, one in small().items():
        assert found[name].class_names == one.class_names
        assert torch.equal(found[name].labels, one.labels)
        assert torch.equal(found[name].pixels, one.pixels)


def test_grey_images_are_written_too(tmp_path: Path) -> None:
    grey = {name: replace(one, pixels=one.pixels[:, :, :1]) for name, one in small().items()}
    write_domains(grey, tmp_path)
    assert torch.equal(finish(read_domains(tmp_path, 16, 1))["domain-01"].pixels, grey["domain-01"].pixels)


def test_domains_of_other_classes_are_refused_by_the_class(tmp_path: Path) -> None:
    write_files(tmp_path / "photo", classes(3, 2))
    write_files(tmp_path / "sketch", classes(3, 2) | classes(1, 1, "extra "))
    with pytest.raises(DataError, match=r"same classes, but sketch has 'extra class 00' and photo has not"):
        finish(read_domains(tmp_path, 16))


def test_a_folder_without_domains_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no folder"):
        finish(read_domains(tmp_path / "nowhere", 16))
    write_files(tmp_path / "photo", classes(3, 2))
    with pytest.raises(DataError, match="two domains or more"):
        finish(read_domains(tmp_path, 16))


@pytest.mark.parametrize("wrong", [{"n_domains": 1}, {"n_classes": 1}, {"n_classes": 1000}, {"seed": -1}])
def test_impossible_glyph_domains_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(SettingsError, match="Glyph domains need"):
        finish(glyph_domains(replace(SMALL, **wrong)))


# ------------------------------------------------------------------------------------------------ the experiment


def test_each_domain_is_the_target_once_and_the_record_is_plain_data_and_the_same_every_time() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = finish(domains(SHORT, small()))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert json.loads(json.dumps(finish(domains(SHORT, small())))) == json.loads(json.dumps(first))
    assert [(t["target"], len(t["sources"]), t["n_images"]) for t in first["targets"]] == [
        (name, 2, 18) for name in small()
    ]
    for target in first["targets"]:
        accuracy = {name: value["mean"] for name, value in target["accuracy"].items()}
        assert list(accuracy) == ["stage 1", *VARIANTS]
        expected = accuracy["rotation + steps"] - accuracy["rotation"]
        assert target["difference"]["rotation + steps - rotation"]["mean"] == pytest.approx(expected)
        assert all(value * 18 / 100 == pytest.approx(round(value * 18 / 100), abs=1e-3) for value in accuracy.values())


def test_a_folder_gives_what_its_images_give(tmp_path: Path) -> None:
    write_domains(small(), tmp_path)
    found = finish(domains(replace(SHORT, image_size=16), tmp_path))
    assert found["targets"] == finish(domains(SHORT, small()))["targets"]


def test_labels_of_the_target_are_used_for_judging_alone() -> None:
    """Hidden means hidden: where the labels of one domain are all of one class, the answers of the others hold."""
    images = dict(small())
    first, *others = images
    counts: dict[str, float] = dict.fromkeys(VARIANTS, 0.0)
    for label in range(3):  # the answers are the same each time, so that each image is right for one label of three
        labels = torch.full_like(images[first].labels, label)
        changed = {first: replace(images[first], labels=labels)} | {name: images[name] for name in others}
        target = finish(domains(SHORT, changed))["targets"][0]
        for name in VARIANTS:
            counts[name] += target["accuracy"][name]["mean"]
    assert all(count == pytest.approx(100, abs=1e-3) for count in counts.values())


def test_impossible_settings_are_refused() -> None:
    for wrong in ({"batch_size": 1}, {"n_steps": -1}, {"n_held_out": -1}, {"step_size": 0.0}):
        with pytest.raises(SettingsError, match=next(iter(wrong))):
            replace(SHORT, **wrong)
    with pytest.raises(SettingsError, match="conv5"):
        finish(domains(replace(SHORT, backbone="conv5"), small()))
    with pytest.raises(SettingsError, match="3 domains, but got 1"):
        finish(domains(SHORT, {"one": small()["domain-00"]}))


@pytest.mark.slow
def test_a_target_is_told_from_its_sources_far_better_than_by_chance() -> None:
    images = finish(glyph_domains(GlyphDomainsConfig(n_domains=4, n_classes=5, images_per_class=30, size=16)))
    config = DomainsConfig(pretrain_epochs=20, meta_steps=30, pretrain_optimisation=Optimisation("adam", 4e-3, 1e-4))
    record = finish(domains(config, images))
    assert min(record["mean_accuracy"].values()) > 40  # chance: 20
