"""Any PyTorch module as a feature network."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from onelook.backbones.base import Backbone, Film
from onelook.backbones.framing import Framing
from onelook.errors import SettingsError
from onelook.files import digest

IMAGES_PER_PASS = 32
"""Networks for photographs hold many activations for an image: 32 of 224 pixels take a ViT-B about 400 MB."""


class Wrapped(Backbone):
    """A module that maps pixels (N, C, H, W), centred and scaled, to features (N, D), or to maps that are averaged.

    image_size: height and width of the square that the module takes.
    feature_size: D; None: found by a trial.
    mean, std: statistics of the channels, of pixels from 0 to 1: (x - mean) / std is what the module gets.
    framing: how an image file becomes that square; None: its middle square, resized (data/images.py).
    identity: anything beside weights and description that determines the features, such as a version: part of the
        digest, so that features of one network are not taken for those of another.

    Raises SettingsError where the module gives something else, or not the same again.
    """

    def __init__(
        self,
        module: nn.Module,
        channels: int = 3,
        image_size: int = 224,
        feature_size: int | None = None,
        *,
        mean: float | Sequence[float],
        std: float | Sequence[float],
        framing: Framing | None = None,
        identity: str = "",
    ) -> None:
        super().__init__(channels, image_size, feature_size or 0)
        set_statistics(self, mean, std)
        self.images_per_pass = IMAGES_PER_PASS
        self.framing = framing
        self.identity = identity
        self.name = str(getattr(module, "name", type(module).__name__))
        self.module = module.eval()
        self.training = False
        self.feature_size = probe(self)
        if feature_size not in (None, self.feature_size):
            raise SettingsError(f"{self.name} has features of size {self.feature_size}, not {feature_size}.")

    def features(self, pixels: Float[Tensor, "N C H W"], film: Film | None = None) -> Float[Tensor, "N D"]:
        if film is not None:
            raise SettingsError(f"{self.name} has no modulated blocks; take conv4-64 or resnet12.")
        return self.pool(self.module(pixels))

    def pool(self, output: Tensor) -> Float[Tensor, "N D"]:
        if not isinstance(output, Tensor) or output.ndim not in (2, 4):
            found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise SettingsError(f"{self.name} must give (N, D) or (N, D, H, W), but gave {found}; wrap it accordingly.")
        return output if output.ndim == 2 else output.mean((2, 3))

    def digest(self) -> bytes:
        """SHA-256 of weights, description, preprocessing and `identity`."""
        words = f"{self.module!r}; {self.channels} {self.image_size}; {self.framing}; {self.identity}"
        return digest(super().digest(), words.encode())


def set_statistics(backbone: Backbone, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
    """Set the statistics of pixels from 0 to 1. Raises SettingsError."""
    for buffer, values in ((backbone.pixel_mean, mean), (backbone.pixel_std, std)):
        numbers = [float(values)] * backbone.channels if isinstance(values, int | float) else list(values)
        if len(numbers) != backbone.channels:
            raise SettingsError(
                f"A mean and a std are needed for {backbone.channels} channels, but got {len(numbers)}."
            )
        buffer.copy_(255 * torch.tensor(numbers, dtype=torch.float64)[:, None, None])
    if not (backbone.pixel_std > 0).all():
        raise SettingsError(f"A std must be above 0, but got {std}.")


def probe(backbone: Backbone) -> int:
    """Find the feature size by a trial. Raises SettingsError where it fails, or a second one gives other features."""
    side = backbone.image_size
    ramp = torch.arange(float(side * side)).remainder(256).view(1, 1, side, side).expand(2, backbone.channels, -1, -1)
    with torch.inference_mode():
        try:
            first, second = backbone(ramp), backbone(ramp)
        except (RuntimeError, ValueError, TypeError) as error:
            if isinstance(error, SettingsError):
                raise
            size, reason = f"{backbone.channels} × {side} × {side}", " ".join(str(error).split())
            raise SettingsError(f"{backbone.name} does not take images of {size} ({reason}).") from error
    if not torch.allclose(first, second, rtol=1e-3, atol=1e-4, equal_nan=True):
        raise SettingsError(f"{backbone.name} gives other features each time, so it cannot be a feature network.")
    return int(first.shape[1])
