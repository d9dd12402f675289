"""The turned copies of pretraining."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from helpers.features import random_images
from onelook import backbones
from onelook.data.augment import Augmentation
from onelook.errors import SettingsError
from onelook.train.pretraining import PretrainConfig, Pretraining

SIZE = 8


def objective(rotation_weight: float = 0.5, rotations: int = 1) -> Pretraining:
    config = PretrainConfig(
        3, SIZE, Augmentation(crop_padding=1), precision="float32", rotation_weight=rotation_weight, rotations=rotations
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = backbones.create("conv4-64", 3, 16)
    return Pretraining("conv4-64", backbone, random_images(5, 5), random_images(5, 16, seed=1), config)


def watched_loss(made: Pretraining, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, the images that the network saw, and the scores of their turns."""
    seen: dict[str, Tensor] = {}
    made.backbone.register_forward_hook(lambda _, given, __: seen.update(pixels=given[0]))
    if "turns" in made.module:
        made.module["turns"].register_forward_hook(lambda _, __, scores: seen.update(scores=scores))
    return made.loss(step).detach(), seen["pixels"], seen.get("scores", torch.empty(0))


@pytest.mark.parametrize("step", [0, 4])
def test_one_copy_is_turned_by_the_number_drawn_for_its_image_as_it_always_was(step: int) -> None:
    _, plain, _ = watched_loss(objective(0.0), step)
    _, pixels, _ = watched_loss(objective(), step)
    turns = np.random.default_rng([0, 2, step]).integers(1, 4, SIZE).tolist()
    turned = [image.rot90(turn, (1, 2)) for image, turn in zip(plain, turns, strict=True)]
    assert torch.equal(pixels, torch.cat([plain, torch.stack(turned)]))


@pytest.mark.parametrize("rotations", [1, 2, 3])
def test_an_image_is_seen_upright_and_in_as_many_other_orientations_all_different(rotations: int) -> None:
    _, plain, _ = watched_loss(objective(0.0), 0)
    _, pixels, _ = watched_loss(objective(rotations=rotations), 0)
    assert len(pixels) == (1 + rotations) * SIZE
    for i, image in enumerate(plain):
        turns = [[t for t in range(4) if torch.equal(image.rot90(t, (1, 2)), copy)] for copy in pixels[i::SIZE]]
        assert all(len(found) == 1 for found in turns)
        assert turns[0] == [0]
        assert len({found[0] for found in turns}) == 1 + rotations


@pytest.mark.parametrize("rotations", [1, 2, 3])
def test_the_loss_adds_the_weighted_cross_entropy_of_the_turns_of_all_copies(rotations: int) -> None:
    made = objective(0.5, rotations)
    _, plain, _ = watched_loss(objective(0.0), 0)
    loss, pixels, scores = watched_loss(made, 0)
    answers = torch.tensor(
        [
            next(t for t in range(4) if torch.equal(plain[i % SIZE].rot90(t, (1, 2)), image))
            for i, image in enumerate(pixels)
        ]
    )
    features = made.backbone(pixels)
    rows = torch.from_numpy(np.random.default_rng([0, 0, 0]).permutation(25)[:SIZE])
    classes = functional.cross_entropy(made.classifier(features[:SIZE]), made.labels[rows])
    expected = classes + 0.5 * functional.cross_entropy(scores, answers)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rotations", [0, 4])
def test_an_image_has_no_more_than_three_turned_copies(rotations: int) -> None:
    with pytest.raises(SettingsError, match=f"a whole number >= 1 and <= 3, but is {rotations}"):
        PretrainConfig(rotations=rotations)
