"""Blends of images, mixed before a part of the network."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from helpers.features import one_sentence, random_images
from onelook import backbones
from onelook.data.augment import Augmentation
from onelook.errors import SettingsError
from onelook.train.mixup import Mixture, Mixup
from onelook.train.pretraining import PretrainConfig, Pretraining

SIZE = 8


def objective(name: str = "conv4-64", rotation_weight: float = 0.0, **kept: float) -> Pretraining:
    config = PretrainConfig(
        3, SIZE, Augmentation(crop_padding=1), precision="float32", rotation_weight=rotation_weight, **kept
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = backbones.create(name, 3, 16)
    return Pretraining(name, backbone, random_images(5, 5), random_images(5, 16, seed=1), config)


def fixed(made: Pretraining, mixture: Mixture | None, monkeypatch: pytest.MonkeyPatch) -> Pretraining:
    monkeypatch.setattr(Mixup, "draw", lambda *_: mixture)
    return made


PARTNERS = torch.tensor([3, 0, 7, 1, 2, 6, 5, 4])


@pytest.mark.parametrize("kept", [{"mixup": 0.0}, {"mixup": 2.0, "mixup_probability": 0.0}])
@pytest.mark.parametrize("rotation_weight", [0.0, 0.5])
def test_without_mixup_the_loss_is_the_plain_one(rotation_weight: float, kept: dict[str, float]) -> None:
    for step in range(3):
        plain = objective(rotation_weight=rotation_weight).loss(step)
        assert torch.equal(objective(rotation_weight=rotation_weight, **kept).loss(step), plain)


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("rotation_weight", [0.0, 0.5])
def test_an_image_that_has_the_whole_share_leaves_the_loss_plain(
    part: int, rotation_weight: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = objective(rotation_weight=rotation_weight).loss(0)
    mixed = fixed(objective(rotation_weight=rotation_weight), Mixture(part, 1.0, PARTNERS), monkeypatch)
    torch.testing.assert_close(mixed.loss(0), plain)


@pytest.mark.parametrize("part", range(4))
def test_share_and_partner_change_places_without_changing_the_loss(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where two images are partners of each other."""
    pairs = torch.arange(SIZE).view(-1, 2).flip(1).flatten()
    losses = [fixed(objective(), Mixture(part, weight, pairs), monkeypatch).loss(0) for weight in (0.3, 0.7)]
    torch.testing.assert_close(*losses)


def test_mixed_pixels_are_answered_by_the_classes_of_both_images(monkeypatch: pytest.MonkeyPatch) -> None:
    made = objective()
    seen: list[Tensor] = []
    made.backbone.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    made.loss(0)
    loss = fixed(made, Mixture(0, 0.3, PARTNERS), monkeypatch).loss(0)
    blended = 0.3 * seen[0] + 0.7 * seen[0][PARTNERS]
    logits = made.classifier(made.backbone(blended))
    rows = torch.from_numpy(np.random.default_rng([0, 0, 0]).permutation(25)[:SIZE])
    answers = functional.one_hot(made.labels[rows], 5).float()
    expected = functional.cross_entropy(logits, 0.3 * answers + 0.7 * answers[PARTNERS])
    torch.testing.assert_close(loss, expected)


def test_turned_copies_are_not_mixed() -> None:
    x = torch.randn(2 * SIZE, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    mixed = Mixture(1, 0.25, PARTNERS).maps(x)
    torch.testing.assert_close(mixed[:SIZE], 0.25 * x[:SIZE] + 0.75 * x[PARTNERS])
    assert torch.equal(mixed[SIZE:], x[SIZE:])
    assert not torch.allclose(mixed[:SIZE], x[:SIZE])


def drawn(mixup: Mixup, n: int = 400) -> list[Mixture | None]:
    return [mixup.draw(np.random.default_rng([0, i]), 4, SIZE, torch.device("cpu")) for i in range(n)]


def test_parts_shares_and_partners_are_drawn_for_each_step() -> None:
    found = [m for m in drawn(Mixup(2.0)) if m is not None]
    assert len(found) == 400
    assert np.bincount([m.part for m in found], minlength=4).min() > 70
    shares = np.array([m.weight for m in found])
    assert shares.mean() == pytest.approx(0.5, abs=0.04)
    assert shares.var() == pytest.approx(0.05, abs=0.01)  # of Beta(2, 2)
    assert all(m.partners.sort().values.equal(torch.arange(SIZE)) for m in found)
    assert len({tuple(m.partners.tolist()) for m in found}) > 300


def test_a_step_is_mixed_with_the_probability_that_is_set() -> None:
    assert sum(m is not None for m in drawn(Mixup(2.0, 0.25))) == pytest.approx(100, abs=35)
    assert not any(drawn(Mixup(2.0, 0.0)))


@pytest.mark.parametrize("name", ["conv4-64", "resnet12", "wrn-28-10"])
@pytest.mark.parametrize("part", [0, 3])
@pytest.mark.usefixtures("narrow_networks")
def test_every_network_can_be_mixed_and_learns_from_it(name: str, part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = fixed(objective(name), Mixture(part, 0.4, PARTNERS), monkeypatch)
    made.loss(0).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in made.module.parameters())


@pytest.mark.parametrize("alpha", [-1.0, float("nan"), float("inf")])
def test_an_impossible_alpha_is_refused(alpha: float) -> None:
    with pytest.raises(SettingsError) as error:
        PretrainConfig(mixup=alpha)
    assert f"must be a number >= 0, but is {alpha}" in one_sentence(error.value)


@pytest.mark.parametrize("probability", [-0.1, 1.1, float("nan")])
def test_an_impossible_probability_is_refused(probability: float) -> None:
    with pytest.raises(SettingsError, match=f"must be a number >= 0 and <= 1, but is {probability}"):
        PretrainConfig(mixup=2.0, mixup_probability=probability)
