"""Conv-4: four blocks of convolution, batch normalisation, ReLU and pooling.

Oriol Vinyals et al. Matching Networks for One Shot Learning. NeurIPS 2016, arXiv:1606.04080 (64 channels);
the last block has no ReLU, and the wider one has 64, 64, 128, 128 channels, in Gidaris & Komodakis,
Dynamic Few-Shot Visual Learning without Forgetting, CVPR 2018, arXiv:1804.09458.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from onelook.backbones.base import Backbone


class Conv4(Backbone):
    def __init__(
        self,
        channels: int = 3,
        image_size: int = 32,
        widths: tuple[int, int, int, int] = (64, 64, 64, 64),
        last_relu: bool = True,
    ) -> None:
        side = image_size // 16
        super().__init__(channels, image_size, widths[3] * side * side)
        inputs = (channels, *widths[:3])
        relus = (True, True, True, last_relu)
        self.blocks = nn.Sequential(*map(_block, inputs, widths, relus))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def features(self, pixels: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D"]:
        return self.blocks(pixels).flatten(1)  # type: ignore[no-any-return]


def _block(inputs: int, outputs: int, relu: bool) -> nn.Sequential:
    # ReLU and max-pooling commute, so pooling first is the published block with a quarter of the work in the ReLU.
    layers = [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, *([nn.ReLU()] if relu else []))
