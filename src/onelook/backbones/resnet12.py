"""ResNet-12: four residual blocks of three convolutions, as few-shot papers use it.

Boris Oreshkin, Pau Rodríguez López, Alexandre Lacoste. TADAM: Task dependent adaptive metric for improved few-shot
learning. NeurIPS 2018, arXiv:1805.10123; with the widths 64, 160, 320, 640 and the LeakyReLU of Kwonjoon Lee,
Subhransu Maji, Avinash Ravichandran, Stefano Soatto. Meta-Learning with Differentiable Convex Optimization
(MetaOptNet). CVPR 2019, arXiv:1904.03758.

Each block adds a 1×1 projection of its input to its output and halves the image; a global average gives 640 features
at any image size. DropBlock, with which MetaOptNet regularises its training, is left out.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from onelook.backbones.base import Backbone, Film, Part

_WIDTHS = (64, 160, 320, 640)
_SLOPE = 0.1


class ResNet12(Backbone):
    def __init__(self, channels: int = 3, image_size: int = 32) -> None:
        super().__init__(channels, image_size, _WIDTHS[-1])
        self.film_sizes = _WIDTHS
        self.blocks = nn.Sequential(*map(_Block, (channels, *_WIDTHS[:-1]), _WIDTHS))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="leaky_relu")
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def features(self, pixels: Float[Tensor, "N C H W"], film: Film | None = None) -> Float[Tensor, "N D"]:
        x = pixels
        for i, block in enumerate(self.blocks):
            x = block(x, None if film is None else film[i])
        return x.mean((2, 3))

    def parts(self) -> list[Part]:
        *blocks, last = self.blocks
        return [*blocks, lambda x: last(x).mean((2, 3))]


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for size in (inputs, outputs, outputs):
            convolution = nn.Conv2d(size, outputs, 3, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(outputs), nn.LeakyReLU(_SLOPE)]
        self.path = nn.Sequential(*layers[:-1])
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(
        self, x: Float[Tensor, "N C H W"], modulation: tuple[Tensor, Tensor] | None = None
    ) -> Float[Tensor, "N C2 H2 W2"]:
        # LeakyReLU and max-pooling commute, so pooling first is the published block with less work.
        pooled = functional.max_pool2d(self.path(x) + self.shortcut(x), 2)
        if modulation is not None:
            pooled = pooled * modulation[0][..., None, None] + modulation[1][..., None, None]
        return functional.leaky_relu(pooled, _SLOPE)
