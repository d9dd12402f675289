"""Joined networks: what each would say of its own part of the image, side by side."""

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.features import one_sentence
from helpers.images import picture
from onelook import backbones
from onelook.artifacts import JOINED, load_network
from onelook.backbones import Backbone
from onelook.backbones.framing import Framing
from onelook.backbones.joined import Joined
from onelook.data.images import image_array
from onelook.errors import SettingsError
from onelook.events import finish
from onelook.ops import normalise


def network(size: int, framing: Framing | None = None, channels: int = 3, seed: int = 0) -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = backbones.create("conv4-64", channels, size).eval()
    made.framing = framing
    return made


def features(one: Backbone, image: Image.Image) -> torch.Tensor:
    pixels = torch.from_numpy(image_array(image, one.image_size, one.channels, one.framing))[None]
    with torch.inference_mode():
        return normalise(one(pixels))


@pytest.mark.parametrize("size", [(300, 200), (40, 90), (24, 24)])
def test_each_network_sees_what_it_would_see_alone(size: tuple[int, int]) -> None:
    small, large = network(32), network(56, Framing(64), seed=1)
    both, image = Joined((small, large), (2.0, 1.0)).eval(), picture(3, *size)
    assert (both.image_size, both.framing, both.feature_size) == (
        64,
        Framing(64),
        small.feature_size + large.feature_size,
    )
    apart = torch.cat([2 * features(small, image), features(large, image)], 1)
    cosine = (features(both, image) * normalise(apart)).sum()
    assert float(cosine) > 0.99  # scaled twice and not once


def test_an_image_does_not_see_its_neighbours() -> None:
    both = Joined((network(16), network(24, Framing(32))), (1.0, 1.0)).eval()
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), dtype=np.uint8))
    with torch.inference_mode():
        torch.testing.assert_close(both(pixels)[1:2], both(pixels[1:2]))


def test_weights_and_networks_are_its_identity() -> None:
    def joined(seed: int, weight: float) -> bytes:
        return Joined((network(16), network(24, seed=seed)), (weight, 1.0)).digest()

    assert joined(0, 2.0) == joined(0, 2.0)
    assert len({joined(0, 2.0), joined(1, 2.0), joined(0, 1.0)}) == 3


@pytest.mark.parametrize("bad", [{"channels": 1}, {"framing": Framing(40, stretch=True)}])
def test_networks_that_take_no_middle_square_of_a_colour_image_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match="cannot be joined") as error:
        Joined((network(32, **bad), network(32)), (1.0, 1.0))  # type: ignore[arg-type]
    one_sentence(error.value)


@pytest.mark.parametrize("name", JOINED)
def test_networks_that_come_joined_are_those_that_they_are_made_of(name: str) -> None:
    both, about = finish(load_network(name))
    image = picture(5, 120, 100)
    weighted = [w * features(finish(load_network(one))[0], image) for one, w in JOINED[name].items()]
    assert about == {"name": name}
    assert not both.training
    assert float((features(both, image) * normalise(torch.cat(weighted, 1))).sum()) > 0.99
