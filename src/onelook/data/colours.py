"""Colours of any image brought to those of a network, in strips, so that a large one is never whole in wide numbers."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float64
from PIL import Image, ImageCms

STRIP = 1 << 20
"""Pixels that are converted at once."""


def flatten(image: Image.Image, mode: str) -> Image.Image:
    """An image in RGB or L, without transparency, on white."""
    if image.mode == mode and not image.has_transparency_data:
        return image
    top = _find_top(image)
    if image.width * image.height <= STRIP:
        return _flatten(image, mode, top)
    whole = Image.new(mode, image.size)
    for box in _strips(image):
        whole.paste(_flatten(image.crop(box), mode, top), box[:2])
    return whole


def _strips(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    height = max(1, STRIP // image.width)
    return ((0, y, image.width, min(y + height, image.height)) for y in range(0, image.height, height))


def _flatten(image: Image.Image, mode: str, top: float) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        image = Image.fromarray((_numbers(image).clip(0, top) * (255 / top)).round().astype(np.uint8))
    if image.mode == "LAB":
        image = _convert_lab(image)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert(mode)


def _find_top(image: Image.Image) -> float:
    """The number that becomes white: 65535 or 1.0, or the largest pixel where that is more. Pillow would cut at 255."""
    if not image.mode.startswith(("I", "F")):
        return 255.0
    tops = (float(_numbers(image.crop(box)).max(initial=0)) for box in _strips(image))
    return max(65535.0 if image.mode.startswith("I") else 1.0, *tops)


def _numbers(image: Image.Image) -> Float64[np.ndarray, "H W"]:
    return np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0)


def _convert_lab(image: Image.Image) -> Image.Image:
    lab, srgb = (ImageCms.createProfile(space) for space in ("LAB", "sRGB"))
    converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    assert converted is not None
    return converted
