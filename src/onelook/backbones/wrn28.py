"""WRN-28-10: the wide residual network on whose features SIB was published.

Sergey Zagoruyko, Nikos Komodakis. Wide Residual Networks. BMVC 2016, arXiv:1605.07146; with the strides of Spyros
Gidaris, Nikos Komodakis. Dynamic Few-Shot Visual Learning without Forgetting. CVPR 2018, arXiv:1804.09458.

Three groups of four pre-activation blocks, 160, 320 and 640 channels wide, after a convolution of 16. Images above
42 pixels are halved in the first group too. A last ReLU and a global average give 640 features, none negative.
There is no dropout, as in the released code of SIB.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from onelook.backbones.base import Backbone, Film, Part
from onelook.errors import SettingsError

_WIDTHS = (16, 160, 320, 640)
_BLOCKS_PER_GROUP = 4


class WideResNet28(Backbone):
    def __init__(self, channels: int = 3, image_size: int = 32) -> None:
        super().__init__(channels, image_size, _WIDTHS[-1])
        strides = (1 if image_size <= 42 else 2, 2, 2)
        self.stem = nn.Conv2d(channels, _WIDTHS[0], 3, padding=1, bias=False)
        self.groups = nn.Sequential(*map(_group, _WIDTHS[:-1], _WIDTHS[1:], strides))
        self.norm = nn.BatchNorm2d(_WIDTHS[-1])
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def features(self, pixels: Float[Tensor, "N C H W"], film: Film | None = None) -> Float[Tensor, "N D"]:
        if film is not None:
            raise SettingsError("The wide residual network has no modulated blocks; take conv4-64 or resnet12.")
        for part in self.parts():
            pixels = part(pixels)
        return pixels

    def parts(self) -> list[Part]:
        """The stem with the first group, the other two, and what makes a feature of their maps."""
        first, *others = self.groups
        return [lambda x: first(self.stem(x)), *others, lambda x: functional.relu(self.norm(x)).mean((2, 3))]


def _group(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    rest = [_Block(outputs, outputs, 1) for _ in range(_BLOCKS_PER_GROUP - 1)]
    return nn.Sequential(_Block(inputs, outputs, stride), *rest)


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C2 H2 W2"]:
        active = functional.relu(self.norm1(x))
        residual: Tensor = self.conv2(functional.relu(self.norm2(self.conv1(active))))
        # A projection starts from the activated input, an identity from the input itself.
        shortcut: Tensor = x if self.shortcut is None else self.shortcut(active)
        return shortcut + residual
