"""The interface of feature networks."""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.func import functional_call, vmap

from onelook.backbones.framing import Framing
from onelook.files import digest

Film = Sequence[tuple[Float[Tensor, "N _"], Float[Tensor, "N _"]]]
"""A scale and a shift of each channel of every modulated block, for every image its own."""

Part = Callable[[Tensor], Tensor]


class Backbone(nn.Module):
    """A network that maps images to feature vectors.

    A backbone carries its own preprocessing: pixels are 8-bit as they come from a file, and are centred and scaled
    here by statistics that are stored with the weights. So a network cannot be used with the wrong preprocessing.
    """

    name: str = ""
    """Name for `backbones.create`; empty if it was made by hand."""
    framing: Framing | None = None
    """How an image file becomes the square that it takes; None: its middle square, resized (data/images.py)."""
    images_per_pass: int = 512
    """Largest number of images in a pass: about 100 MB of activations for Conv-4 at 32 pixels."""
    in_parallel: bool = False
    """Whether passes are computed at once, with a core each (data/passes.py); a pass must then change nothing."""
    film_sizes: tuple[int, ...] = ()
    """The channels of each block that can be modulated; empty: none can."""

    def __init__(self, channels: int, image_size: int, feature_size: int) -> None:
        super().__init__()
        self.channels = channels
        self.image_size = image_size
        self.feature_size = feature_size
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.register_buffer("pixel_mean", torch.full((channels, 1, 1), 127.5))
        self.register_buffer("pixel_std", torch.full((channels, 1, 1), 73.9))  # of a uniform pixel

    @property
    def device(self) -> torch.device:
        """Device that `to` has moved the network to; its images have to be there."""
        return self.pixel_mean.device

    def forward(
        self, images: Shaped[Tensor, "N C H W"], film: Film | None = None, change: tuple[int, Part] | None = None
    ) -> Float[Tensor, "N D"]:
        """
        images: pixels from 0 to 255, uint8 or floating.
        film: see `features`.
        change: the number of a part of the network (`parts`), and what becomes of the maps before they enter it.
        """
        pixels = self.preprocess(images.contiguous(memory_format=torch.channels_last))  # rearranged as bytes
        if change is not None:
            x, (place, function) = pixels, change
            for i, part in enumerate(self.parts()):
                x = part(function(x) if i == place else x)
            return x
        return self.features(pixels) if film is None else self.features(pixels, film)

    def parts(self) -> Sequence[Part]:
        """Parts that make `features` of pixels one after the other, cut where maps may be changed."""
        return [self.features]

    def preprocess(self, images: Shaped[Tensor, "*rows C H W"]) -> Float[Tensor, "*rows C H W"]:
        """Pixels from 0 to 255, centred and scaled."""
        return (images - self.pixel_mean) / self.pixel_std

    def features(self, pixels: Float[Tensor, "N C H W"], film: Film | None = None) -> Float[Tensor, "N D"]:
        """
        pixels: centred and scaled, channels last in memory.
        film: modulates the channels of each block, before its last activation; only where there are `film_sizes`.
        """
        raise NotImplementedError

    def compute_for_tasks(
        self, pixels: Float[Tensor, "T N C H W"], weights: Mapping[str, Tensor]
    ) -> Float[Tensor, "T N D"]:
        """The features of each task's images by a network of its own, whose statistics are those of this one.

        pixels: centred and scaled.
        weights: the parameters of the T networks, under their names in this one, stacked along a first axis.
        """
        if self.training:
            raise ValueError("networks of several tasks normalise by stored statistics; call eval() first")
        inner = {f"backbone.{name}": value for name, value in weights.items()}
        features: Tensor = vmap(lambda own, x: functional_call(_Features(self), own, (x,)))(inner, pixels)
        return features

    def digest(self) -> bytes:
        """SHA-256 of all weights and statistics, the network's identity in caches and results."""
        parts: list[bytes] = []
        for name, x in sorted(self.state_dict().items()):
            # As bytes first, because numpy lacks bfloat16.
            parts += [name.encode(), bytes(x.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())]
        return digest(*parts)


class _Features(nn.Module):
    """A network without its preprocessing."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, pixels: Tensor) -> Tensor:
        return self.backbone.features(pixels)
