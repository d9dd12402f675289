"""Conv-4: four blocks of convolution, batch normalisation, ReLU and pooling.

Oriol Vinyals et al. Matching Networks for One Shot Learning. NeurIPS 2016, arXiv:1606.04080 (64 channels);
the last block has no ReLU, and the wider one has 64, 64, 128, 128 channels, in Gidaris & Komodakis,
Dynamic Few-Shot Visual Learning without Forgetting, CVPR 2018, arXiv:1804.09458.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from onelook.backbones.base import Backbone, Film, Part


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
        self.in_parallel = True
        self.film_sizes = tuple(widths)
        self.last_relu = last_relu
        inputs = (channels, *widths[:3])
        relus = (True, True, True, last_relu)
        self.blocks = nn.Sequential(*map(_block, inputs, widths, relus))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def features(self, pixels: Float[Tensor, "N C H W"], film: Film | None = None) -> Float[Tensor, "N D"]:
        if film is None:
            return self.blocks(pixels).flatten(1)  # type: ignore[no-any-return]
        x = pixels
        for layers, (scale, shift) in zip(self._layers(), film, strict=True):
            x = nn.Sequential(*layers[:3])(x) * scale[..., None, None] + shift[..., None, None]
            x = nn.Sequential(*layers[3:])(x)
        return x.flatten(1)

    def parts(self) -> list[Part]:
        *blocks, last = self.blocks
        return [*blocks, lambda x: last(x).flatten(1)]

    def compute_for_tasks(
        self, pixels: Float[Tensor, "T N C H W"], weights: Mapping[str, Tensor]
    ) -> Float[Tensor, "T N D"]:
        """Convolutions in T groups of channels, each with its normalisation by stored statistics as a part.

        In this memory format they take half the time of those that vmap makes, and a quarter more than T networks
        one after the other.
        """
        if self.training:
            raise ValueError("networks of several tasks normalise by stored statistics; call eval() first")
        n_tasks, n_images = pixels.shape[:2]
        x = pixels.transpose(0, 1).flatten(1, 2).contiguous(memory_format=torch.channels_last)
        for i, (_, norm, *_) in enumerate(self._layers()):
            assert isinstance(norm, nn.BatchNorm2d)
            assert norm.running_mean is not None
            assert norm.running_var is not None
            gain = weights[f"blocks.{i}.1.weight"] * (norm.running_var + norm.eps).rsqrt()
            shift = weights[f"blocks.{i}.1.bias"] - norm.running_mean * gain
            kernel = weights[f"blocks.{i}.0.weight"] * gain[..., None, None, None]
            x = functional.conv2d(x, kernel.flatten(0, 1), shift.flatten(), padding=1, groups=n_tasks)
            x = functional.max_pool2d(x, 2)
            x = functional.relu(x) if i < 3 or self.last_relu else x
        return x.reshape(n_images, n_tasks, -1).transpose(0, 1)

    def _layers(self) -> list[list[nn.Module]]:
        """Layers of each block: convolution, normalisation, pooling, and ReLU if it has one."""
        return [list(block.children()) for block in self.blocks]


def _block(inputs: int, outputs: int, relu: bool) -> nn.Sequential:
    # ReLU and max-pooling commute, so pooling first is the published block with a quarter of the work in the ReLU.
    layers = [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, *([nn.ReLU()] if relu else []))
