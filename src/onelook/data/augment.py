"""Random crops, flips and colours for a whole batch at once.

The caller draws the random numbers, six for an image, so that the outside decides what becomes of an image: the step of
a training run, or the image itself where its features are cached.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    crop_padding: int = 4
    """Largest shift of the image in pixels, up, down and to the sides; the edge is mirrored."""
    flip: bool = True
    """Whether half of the images are mirrored left to right. Wrong for characters."""
    jitter: float = 0.4
    """Brightness, contrast and saturation each change by a factor of 1 - jitter to 1 + jitter."""


CHARACTERS = Augmentation(crop_padding=2, flip=False, jitter=0.0)
"""Augmentation of images of characters: a mirrored character is another character."""
N_DRAWS = 6
"""Random numbers an image: two shifts, the flip, brightness, contrast, saturation."""


def augment(
    pixels: Shaped[Tensor, "N C H W"], augmentation: Augmentation, draws: Float[np.ndarray, "N 6"]
) -> Float[Tensor, "N C H W"]:
    """Pixels from 0 to 255 as floating numbers, channels last in memory. draws: uniform on [0, 1)."""
    moved = _crop_and_flip(pixels, augmentation, draws[:, :3]).float()
    return _jitter(moved, augmentation.jitter, draws[:, 3:]) if augmentation.jitter else moved


def turn(pixels: Shaped[Tensor, "N C H W"], turns: Int[Tensor, "N"]) -> Shaped[Tensor, "N C H W"]:
    """Each image turned by its number of quarter turns, 0 to 3."""
    out = torch.empty_like(pixels)
    for quarters in range(4):
        out[turns == quarters] = pixels[turns == quarters].rot90(quarters, (2, 3))
    return out


def _crop_and_flip(
    pixels: Shaped[Tensor, "N C H W"], augmentation: Augmentation, draws: Float[np.ndarray, "N 3"]
) -> Shaped[Tensor, "N C H W"]:
    """One gather with the row and column that every target pixel comes from, instead of a loop over images."""
    n, _, height, width = pixels.shape
    pad = augmentation.crop_padding
    shifts = np.floor(draws[:, :2] * (2 * pad + 1)).astype(np.int64) - pad
    columns = np.arange(width)[None] + shifts[:, 1:]
    if augmentation.flip:
        columns = np.where(draws[:, 2:] < 0.5, columns[:, ::-1], columns)
    row_NH = torch.from_numpy(_mirror(np.arange(height)[None] + shifts[:, :1], height)).to(pixels.device)
    column_NW = torch.from_numpy(_mirror(columns, width)).to(pixels.device)
    source = torch.arange(n, device=pixels.device)[:, None, None]
    return pixels.permute(0, 2, 3, 1)[source, row_NH[:, :, None], column_NW[:, None, :]].permute(0, 3, 1, 2)


def _mirror(index: np.ndarray, size: int) -> np.ndarray:
    index = np.abs(index)
    return np.where(index >= size, 2 * (size - 1) - index, index)


def _jitter(
    pixels: Float[Tensor, "N C H W"], strength: float, draws: Float[np.ndarray, "N 3"]
) -> Float[Tensor, "N C H W"]:
    """Saturation, contrast and brightness, in this order."""
    factors = torch.from_numpy((1 + strength * (2 * draws - 1)).astype(np.float32)).to(pixels.device)
    brightness, contrast, saturation = factors.T[..., None, None, None]
    grey = pixels
    if pixels.shape[1] == 3:
        luma = torch.tensor([0.299, 0.587, 0.114], device=pixels.device).view(1, 3, 1, 1)
        grey = (pixels * luma).sum(1, keepdim=True)
        pixels = saturation * pixels + (1 - saturation) * grey
    mean = grey.mean((2, 3), keepdim=True)
    return torch.clamp(brightness * (contrast * pixels + (1 - contrast) * mean), 0, 255)
