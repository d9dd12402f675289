"""Colours of any image brought to those of a network, in strips, so that a large one is never whole in wide numbers."""

import re
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image, ImageCms

STRIP = 1 << 20
"""Pixels that are converted at once."""
BITS_PER_SAMPLE, DESCRIPTION, MAX_SAMPLE_VALUE = 258, 270, 281
"""Tags of TIFF."""
OME_BITS = re.compile(r'\bSignificantBits="(\d{1,2})"')
DEPTHS = {2**n - 1 for n in range(8, 17)}
"""Numbers that may be white because a file says so; MaxSampleValue is otherwise the largest pixel of a dark image."""
CAMERA = 4095.0
"""White of 12 bits."""
WHITE = 65535.0
SCALED = ("JPEG2000", "PPM")
"""Formats that state their depth, and whose numbers Pillow brings to 16 bits."""
BITS = "bits"
"""Key of the information on an image whose format has no tags: bits of each channel, a tuple."""
PROFILES = ("icc_profile", "gamma", "srgb")
"""Information on an image that was made to be looked at."""


def flatten(image: Image.Image, mode: str, white: float | None = None) -> Image.Image:
    """An image in RGB or L, without transparency, on white.

    white: `find_white` of the file, where the image is a copy that does not know it.
    """
    top = find_white(image) if white is None else white
    if image.mode == mode and top == 255 and not image.has_transparency_data:
        return image
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
        image = Image.fromarray(_to_bytes(image, top))
    if image.mode == "RGB" and top < 255:
        image = image.point([min(255, round(value * 255 / top)) for value in range(256)] * 3)
    if image.mode == "LAB":
        image = _convert_lab(image)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert(mode)


def find_white(image: Image.Image) -> float:
    """The number that becomes white: of 16 bits the whole range, or 12 bits of it.

    Cameras of microscopes write 12 bits into files of 16, which are nearly black when taken for 16 bits. Some files say
    so. Of the others, those whose pixels are all below 4096 count as 12 bits, one white for all, so that dark ones
    among them stay dark. An image that has a colour profile, or a gamma, was made to be looked at and is as dark as it
    says.
    """
    if image.mode.startswith("F"):
        return max(1.0, _find_largest(image))
    if image.mode.startswith("I"):
        largest = _find_largest(image)
        return next((white for white in _list_whites(image) if white >= largest), largest)
    if image.mode != "RGB" or 16 not in _list_bits(image):
        return 255.0
    largest = 256.0 * float(np.max(image.getextrema())) + 255  # Pillow gives the upper byte of colours
    white = next(white for white in _list_whites(image) if white >= largest)
    return max(1.0, (white + 1) / 256 - 1)


def _list_whites(image: Image.Image) -> Iterator[float]:
    said = OME_BITS.search(str(getattr(image, "tag_v2", {}).get(DESCRIPTION, "")))
    stated = [2 ** min(int(said[1]), 16) - 1] if said else []
    stated += [*_read_numbers(image, MAX_SAMPLE_VALUE), *(2**n - 1 for n in set(_list_bits(image)) if n < 16)]
    yield from (float(number) for number in stated if number in DEPTHS)
    if image.format not in SCALED and not any(key in image.info for key in PROFILES):
        yield CAMERA
    yield WHITE


def _list_bits(image: Image.Image) -> tuple[int, ...]:
    """Bits of each channel in the file, where they are known."""
    told = image.info.get(BITS)  # or a text of this name in a PNG
    return told if isinstance(told, tuple) else _read_numbers(image, BITS_PER_SAMPLE)


def _read_numbers(image: Image.Image, tag: int) -> tuple[int, ...]:
    found = getattr(image, "tag_v2", {}).get(tag, ())
    return tuple(n for n in (found if isinstance(found, tuple) else (found,)) if isinstance(n, int) and n > 0)


def _find_largest(image: Image.Image) -> float:
    strips = (np.asarray(image.crop(box)) for box in _strips(image))
    return max(float((strip if strip.dtype.kind in "iu" else _numbers(strip)).max(initial=0)) for strip in strips)


def _to_bytes(image: Image.Image, top: float) -> UInt8[np.ndarray, "H W"]:
    found = np.asarray(image)
    short = found.dtype.kind == "u" and found.dtype.itemsize == 2
    values = _numbers(np.arange(65536) if short else found)
    grey: np.ndarray = (values.clip(0, top) * (255 / top)).round().astype(np.uint8)
    return grey[found] if short else grey


def _numbers(values: np.ndarray) -> Float64[np.ndarray, "*shape"]:
    return np.nan_to_num(values.astype(np.float64), posinf=0)


def _convert_lab(image: Image.Image) -> Image.Image:
    lab, srgb = (ImageCms.createProfile(space) for space in ("LAB", "sRGB"))
    converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    assert converted is not None
    return converted
