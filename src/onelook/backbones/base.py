"""The interface of feature networks."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from onelook.files import digest


class Backbone(nn.Module):
    """From images to feature vectors.

    A backbone carries its own preprocessing: pixels are 8-bit as they come from a file, and are centred and scaled
    here by statistics that are stored with the weights. So a network cannot be used with the wrong preprocessing.
    """

    name: str = ""
    """Under which `backbones.create` makes it; empty if it was made by hand."""

    def __init__(self, channels: int, image_size: int, feature_size: int) -> None:
        super().__init__()
        self.channels = channels
        self.image_size = image_size
        self.feature_size = feature_size
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.register_buffer("pixel_mean", torch.full((channels, 1, 1), 127.5))
        self.register_buffer("pixel_std", torch.full((channels, 1, 1), 73.9))  # of a uniform pixel

    def forward(self, images: Shaped[Tensor, "N C H W"]) -> Float[Tensor, "N D"]:
        """images: pixels from 0 to 255, uint8 or floating."""
        pixels = (images - self.pixel_mean) / self.pixel_std
        return self.features(pixels.contiguous(memory_format=torch.channels_last))

    def features(self, pixels: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D"]:
        """pixels: centred and scaled, channels last in memory."""
        raise NotImplementedError

    def digest(self) -> bytes:
        """SHA-256 of all weights and statistics, the network's identity in caches and results."""
        tensors = sorted(self.state_dict().items())
        return digest(*(part for name, x in tensors for part in (name.encode(), x.contiguous().numpy().tobytes())))
