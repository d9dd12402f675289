"""Several networks as one, where each sees what the others do not.

Networks for photographs average over the picture and see parts and textures; a small one that keeps the arrangement of
the strokes is better on characters and drawings, and both together are better still. Two networks for photographs
are better together than one of twice the cost (docs/log.md).
"""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from onelook.backbones.base import Backbone, Film
from onelook.backbones.framing import Framing
from onelook.errors import SettingsError
from onelook.ops import normalise


class Joined(Backbone):
    """Features of several networks of colour images, each at its weight in length, side by side.

    Images come as middle squares, of which each network gets its own part at its own size.
    """

    def __init__(self, networks: Sequence[Backbone], weights: Sequence[float]) -> None:
        size = max(_find_square(one) for one in networks)
        super().__init__(3, size, sum(one.feature_size for one in networks))
        self.networks = nn.ModuleList(networks)
        self.framing = Framing(size)
        self.weights: Tensor
        self.register_buffer("weights", torch.tensor(weights))
        self.pixel_mean.zero_()  # each network centres and scales by statistics of its own
        self.pixel_std.fill_(1)
        self.in_parallel = all(one.in_parallel for one in networks)
        self.images_per_pass = min(one.images_per_pass for one in networks)

    def features(self, pixels: Float[Tensor, "N C H W"], film: Film | None = None) -> Float[Tensor, "N D"]:
        if film is not None:
            raise SettingsError("Joined networks have no modulated blocks; take conv4-64 or resnet12.")
        networks = cast(Iterable[Backbone], self.networks)
        found = (network(_cut(pixels, network)).float() for network in networks)
        return torch.cat([w * normalise(x) for w, x in zip(self.weights, found, strict=True)], 1)


def _find_square(network: Backbone) -> int:
    """Side of the middle square from which a network cuts what it takes."""
    if network.channels != 3 or (network.framing is not None and network.framing.stretch):
        raise SettingsError(f"{network.name} takes no middle square of a colour image, and cannot be joined.")
    return network.image_size if network.framing is None else network.framing.resize


def _cut(pixels: Float[Tensor, "N C H W"], network: Backbone) -> Float[Tensor, "N C h w"]:
    square, size = _find_square(network), network.image_size
    if square != pixels.shape[-1]:
        pixels = functional.interpolate(pixels, (square, square), mode="bicubic", antialias=True).clamp(0, 255)
    margin = (square - size) // 2
    return pixels[..., margin : margin + size, margin : margin + size]
