"""Choice of the feature network for images by what they look like: photographs, or characters and drawings.

A drawing is grey, and two levels of grey are nearly all of it. The rule was chosen on development data, where it holds
for 98 of 100 drawings and characters and for 3 of 100 photographs at most (docs/log.md). Labels play no part, so the
network stays the same while they are added.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from onelook.artifacts import AUTO, DRAWINGS, PHOTOGRAPHS, load_network
from onelook.backbones import Backbone
from onelook.data.images import Rejected, decode, each_image
from onelook.data.listing import Listing
from onelook.events import Notice

LOOKED_AT = 64
"""Images that are looked at, evenly spread over all."""
SIZE = 64
"""Pixels of a side of an image that is looked at."""
COLOURLESS = 16
"""Largest difference between the colour channels of a grey pixel; a few pixels in 100 may have more."""
TWO_LEVELS = 0.8
"""Least fraction of the variance of a drawing that lies between its two levels of grey; an even spread has 0.75."""
NEARLY_ALL = 0.75
"""Least fraction of drawings among images that are taken for drawings."""


@dataclass(frozen=True)
class Choice:
    """Name of a feature network, and the reason for it."""

    name: str
    why: str
    """Reason, as a clause for a person; empty where the person has chosen."""

    def sentence(self) -> str:
        """Plain sentence of the choice.

        >>> Choice("lite", "the images look like photographs").sentence()
        'The feature network is lite: the images look like photographs.'
        """
        return f"The feature network is {self.name}{': ' if self.why else ''}{self.why}."


def choose_network(name: str, listing: Listing) -> Generator[Any, None, Choice]:
    """Choose a network for the images of a listing where `name` is AUTO; any other name is the choice already."""
    if name != AUTO:
        return Choice(name, "")
    sample = listing.take(sample_rows(len(listing.names)))
    found = yield from each_image(sample, lambda content: is_drawing(decode(content, SIZE, 3)), "looking at images")
    return choose_by_kind([one for one in found if not isinstance(one, Rejected)])


def load_chosen(name: str, listing: Listing, offline: bool = False) -> Generator[Any, None, tuple[Backbone, Choice]]:
    """Load the network of `choose_network`, after a Notice of why it was chosen. Raises what `load_network` raises."""
    choice = yield from choose_network(name, listing)
    if choice.why:
        yield Notice(choice.sentence())
    network, _ = yield from load_network(choice.name, offline)
    return network, choice


def sample_rows(n_images: int) -> list[int]:
    """Rows of the images that are looked at, among n_images."""
    return np.linspace(0, n_images - 1, min(LOOKED_AT, n_images)).round().astype(int).tolist()  # type: ignore[no-any-return]


def choose_by_kind(drawings: Sequence[bool]) -> Choice:
    """Choose by which of the images that were looked at are drawings.

    >>> print(choose_by_kind([True, True, True, False]).sentence())
    The feature network is small+lite0: 3 of the 4 images looked at are black and white like drawings or characters.
    """
    n, all_of = sum(drawings), len(drawings)
    look = "is black and white like a drawing" if n == 1 else "are black and white like drawings"
    seen = f"{n} of the {all_of} images looked at {look} or characters"
    if all_of and n >= NEARLY_ALL * all_of:
        return Choice(DRAWINGS, seen)
    return Choice(PHOTOGRAPHS, f"only {seen}" if n else "the images look like photographs")


def is_drawing(pixels: UInt8[np.ndarray, "3 H W"]) -> bool:
    """Whether an image is grey and nearly all of it has one of two levels (Otsu's criterion, 1979).

    >>> stroke = np.full((3, 8, 8), 255, dtype=np.uint8)
    >>> stroke[:, 2:6, 3] = 0
    >>> ramp = np.arange(192, dtype=np.uint8).reshape(3, 8, 8)
    >>> is_drawing(stroke), is_drawing(ramp), is_drawing(ramp[[0, 0, 0]])
    (True, False, False)
    """
    values = pixels.astype(np.float64)
    if np.quantile(values.max(0) - values.min(0), 0.95) > COLOURLESS:
        return False
    return measure_two_levels(values.mean(0).round().astype(np.int64)) >= TWO_LEVELS


def measure_two_levels(grey: np.ndarray) -> float:
    """Largest fraction of the variance of whole numbers from 0 to 255 that lies between those below a threshold and the
    others; 0 where all are equal."""
    shares = np.bincount(grey.ravel(), minlength=256) / grey.size
    levels = np.arange(256)
    mean = shares @ levels
    variance = shares @ (levels - mean) ** 2
    below = shares.cumsum()
    is_cut = (below > 0) & (below < 1 - 1e-12)
    if variance < 1e-9 or not is_cut.any():
        return 0.0
    below, mean_below = below[is_cut], (shares * levels).cumsum()[is_cut]
    return float(((mean * below - mean_below) ** 2 / (below * (1 - below))).max() / variance)
