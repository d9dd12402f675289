"""Framing: how an image becomes the square that a network was trained on, a part of its preprocessing.

Read from what `transformers` writes beside a model (preprocessor_config.json), whose image processors of one family
differ in nothing but these settings. Sizes are cut and rounded as there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onelook.errors import SettingsError

_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""The numbers that Pillow gives its filters, and these files after it."""
_STRETCHES = ("ViT", "DeiT", "Siglip", "Beit")
"""Processors for which a single number is both sides; for the others it is the shorter one."""


@dataclass(frozen=True)
class Framing:
    """An image resized to a shorter side of `resize` pixels, of which the network takes the middle square."""

    resize: int
    stretch: bool = False
    """Both sides become `resize` pixels, whatever the image's proportions."""
    resample: str = "bicubic"

    def __str__(self) -> str:
        sides = f"stretched to {self.resize} × {self.resize}" if self.stretch else f"shorter side to {self.resize}"
        return f"{sides}, {self.resample}"

    def box(self, width: int, height: int, size: int) -> tuple[float, float, float, float]:
        """The part (left, top, right, bottom) of an image that becomes the middle `size` × `size` pixels.

        So the rest of a very long image is not resized only to be cut off.
        """
        if self.stretch:
            across = down = self.resize
        else:
            shorter = min(width, height)
            across, down = int(self.resize * width / shorter), int(self.resize * height / shorter)
        left, top = (across - size) // 2, (down - size) // 2
        x, y = width / across, height / down
        return left * x, top * y, min((left + size) * x, width), min((top + size) * y, height)


@dataclass(frozen=True)
class Preprocessing:
    """Everything that is done to a file's pixels before a network sees them."""

    image_size: int
    framing: Framing
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Statistics of the channels, in units of pixels from 0 to 255."""


def read_preprocessing(settings: Mapping[str, Any], channels: int, what: str) -> Preprocessing:
    """Read a preprocessor_config.json. what: its place, for messages. Raises SettingsError."""
    try:
        size, framing = _frame(settings)
        mean, std = _statistics(settings, channels)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        found = f"{what} asks for a preprocessing that Onelook cannot do ({_brief(error)})"
        raise SettingsError(f"{found}; wrap the network with onelook.backbones.wrapped.Wrapped.") from error
    return Preprocessing(size, framing, mean, std)


def _frame(settings: Mapping[str, Any]) -> tuple[int, Framing]:
    if not settings.get("do_resize", True) or settings.get("do_pad"):
        raise ValueError("it does not resize, or it pads")
    kind = str(settings.get("image_processor_type") or settings.get("feature_extractor_type") or "")
    size, resample = settings["size"], _RESAMPLING[settings.get("resample", 3)]
    crop = settings.get("do_center_crop", False) and "crop_size" in settings
    if isinstance(size, Mapping) and "shortest_edge" not in size:
        resize, stretch = _side(size), True
    else:
        resize = int(size["shortest_edge"] if isinstance(size, Mapping) else size)
        stretch = not isinstance(size, Mapping) and (not crop or kind.startswith(_STRETCHES))
    if kind.startswith("ConvNext"):  # the size is that of the square; the border around it is another setting
        square = resize
        stretch = square >= 384
        resize = square if stretch else int(square / (settings.get("crop_pct") or 224 / 256))
    else:
        square = _side(settings["crop_size"]) if crop else resize
        if not crop and not stretch:
            raise ValueError("its images are not square")
    if not 0 < square <= resize:
        raise ValueError(f"it cuts {square} pixels out of {resize}")
    return square, Framing(resize, stretch, resample)


def _side(size: Any) -> int:
    if not isinstance(size, Mapping):
        return int(size)
    if size["height"] != size["width"]:
        raise ValueError("its images are not square")
    return int(size["height"])


def _statistics(settings: Mapping[str, Any], channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    unit = 1.0 / settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1.0
    if not settings.get("do_normalize", True):
        return (0.0,) * channels, (unit,) * channels
    return _scale(settings["image_mean"], unit, channels), _scale(settings["image_std"], unit, channels)


def _scale(values: float | Sequence[float], unit: float, channels: int) -> tuple[float, ...]:
    values = list(values) if isinstance(values, Sequence) else [values] * channels
    if len(values) != channels:
        raise ValueError(f"it has statistics of {len(values)} channels, the network {channels}")
    return tuple(float(x) * unit for x in values)


def _brief(error: Exception) -> str:
    return f"{error} is missing or unknown" if isinstance(error, KeyError) else str(error)
