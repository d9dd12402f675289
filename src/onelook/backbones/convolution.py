"""Convolution, padding and activation in as few passes over memory as possible.

The layers of small networks are bound by memory: a fifth of the time of an eager pass of EfficientNet-Lite goes into
copying maps to pad them and into activations that read and write all of them again.
"""

from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class Conv(nn.Conv2d):
    """A convolution padded as TensorFlow padded it in training, with a ReLU6 after it if it has one.

    With a stride of 2 the padding depends on the side of the maps: at an even one an odd rest goes to the right and
    the bottom. There the kernel gets a row and a column of zeros in front and is padded symmetrically, which gives
    equal sums without a copy of the maps. A network looks where it was trained to look, so that the side is that of
    the maps in training, and not of those that it is given.

    odd: whether that side was odd.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        relu6: bool = True,
        odd: bool = False,
    ) -> None:
        super().__init__(channels, out, kernel, stride, groups=groups)
        self.relu6 = relu6
        self.shifted = stride == 2 and not odd

    def forward(
        self, x: Float[Tensor, "N C H W"], onto: Float[Tensor, "N E h w"] | None = None
    ) -> Float[Tensor, "N E h w"]:
        """onto: maps that are added, and may be overwritten with the sum; only without an activation."""
        stride, side = self.stride[0], self.kernel_size[0] // 2
        weight = functional.pad(self.weight, (1, 0, 1, 0)) if self.shifted else self.weight
        padding = (side, side)
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        if torch.is_inference_mode_enabled() and x.device.type == "cpu" and can_fuse(dtype):
            bias = None if self.bias is None else self.bias.to(dtype)
            maps = x.to(dtype), weight.to(dtype), bias, padding, (stride, stride), (1, 1), self.groups
            return _convolve_fused(*maps, relu6=self.relu6) if onto is None else _convolve_onto(onto.to(dtype), *maps)
        y = functional.conv2d(x, weight, self.bias, stride, padding, groups=self.groups)
        y = y if onto is None else y.add_(onto)
        return functional.relu6(y, inplace=True) if self.relu6 else y


def _convolve_fused(*maps: Any, relu6: bool) -> Tensor:
    """One call of oneDNN."""
    after = ("hardtanh", [0.0, 6.0], "") if relu6 else ("none", [], "")
    y: Tensor = torch.ops.mkldnn._convolution_pointwise(*maps, *after)
    return y


def _convolve_onto(onto: Tensor, *maps: Any) -> Tensor:
    """One call of oneDNN that reads and writes `onto`, which is a pass over memory less than an addition."""
    y: Tensor = torch.ops.mkldnn._convolution_pointwise_.binary(onto, *maps, "add", 1.0, None, [], None)
    return y


@cache
def can_fuse(dtype: torch.dtype) -> bool:
    """Whether torch and processor have the operators, by a trial: torch.compile uses them, but they are not public."""
    x, weight = torch.linspace(-9, 9, 32).view(1, 2, 4, 4), torch.linspace(-9, 9, 36).view(2, 2, 3, 3)
    maps = x.to(dtype), weight.to(dtype), None, (1, 1), (2, 2), (1, 1), 1
    try:
        cut = _convolve_fused(*maps, relu6=True)
        added = _convolve_onto(torch.ones(1, 2, 2, 2, dtype=dtype), *maps)
    except (AttributeError, RuntimeError, TypeError, ValueError):
        return False
    with torch.autocast("cpu", enabled=False):
        plain = functional.conv2d(x, weight, None, 2, 1)
    rtol, atol = (1e-5, 1e-4) if dtype == torch.float32 else (0.02, 0.1)
    pairs = (cut, functional.relu6(plain)), (added, plain + 1)
    return all(torch.allclose(found.float(), expected, rtol, atol) for found, expected in pairs)
