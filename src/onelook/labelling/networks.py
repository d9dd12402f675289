"""Feature networks that there are: those that come along and some of the hub, and how fast they are here."""

import functools
import io
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from onelook.artifacts import JOINED, SHIPPED_NETWORK, SMALL, load_network
from onelook.backbones import hub
from onelook.backbones.hub import PREFIX
from onelook.data.embed import EmbedConfig, embed_files, parse_averaging
from onelook.data.listing import Listing
from onelook.events import Progress, finish
from onelook.labelling.folder import UNLABELLED
from onelook.labelling.label import LabelConfig
from onelook.machine import Place

SIZES = {SMALL: SHIPPED_NETWORK.stat().st_size / 1e6, "lite0": 18.8, "lite2": 24.7}
"""Megabytes of weights."""
GOOD_FOR = {
    SMALL: "tiny images, a quick first look",
    "lite0": "photographs, where time is short",
    "lite2": "photographs of things",
    "lite": "photographs: what auto takes for them",
    "small+lite0": "characters and drawings: what auto takes for them",
    f"{PREFIX}facebook/dinov2-small": "photographs; fine differences",
    f"{PREFIX}openai/clip-vit-base-patch32": "photographs, pictures of any style",
    f"{PREFIX}google/siglip-base-patch16-224": "photographs, pictures of any style",
    f"{PREFIX}facebook/convnext-tiny-224": "photographs of things",
    f"{PREFIX}google/vit-base-patch16-224-in21k": "photographs of things, plants and animals",
}
WIDTHS = {
    f"{PREFIX}facebook/dinov2-small": 384,
    f"{PREFIX}openai/clip-vit-base-patch32": 512,
    f"{PREFIX}google/siglip-base-patch16-224": 768,
    f"{PREFIX}facebook/convnext-tiny-224": 768,
    f"{PREFIX}google/vit-base-patch16-224-in21k": 768,
}
"""Feature sizes of networks that may not be here."""
SECONDS = 1.0
"""Least time that a network is measured."""
PHOTOGRAPH = (1200, 900)
"""Pixels of the photographs that are measured with."""


@dataclass(frozen=True)
class NetworkFacts:
    """Facts about a feature network."""

    name: str
    good_for: str
    licence: str
    megabytes: float
    """Weights on the disk."""
    n_features: int
    is_here: bool
    """Whether it can be used without a download or another package."""
    get_it: str
    """Command or download that brings it here; empty where it is here."""
    images_per_second: float | None
    """Photographs of a megapixel that are read, decoded and computed; None where it was not measured."""


def list_networks(place: Place, measure: bool = True) -> Generator[Progress, None, tuple[NetworkFacts, ...]]:
    """Facts about each network, and how fast it is here where it is here and `measure` says so.

    >>> from onelook.events import finish
    >>> [one.name for one in finish(list_networks(Place(), measure=False))][:3]
    ['small', 'lite0', 'lite2']
    """
    found = []
    for i, name in enumerate(GOOD_FOR):
        yield Progress("measuring networks", i, len(GOOD_FOR))
        found.append((yield from _describe(name, place, measure)))
    yield Progress("measuring networks", len(GOOD_FOR), len(GOOD_FOR))
    return tuple(found)


def _describe(name: str, place: Place, measure: bool) -> Generator[Any, None, NetworkFacts]:
    get_it = ""
    if name.startswith(PREFIX):
        about = hub.KNOWN[name.removeprefix(PREFIX)]
        licence, megabytes, n_features = about.licence, float(about.megabytes), WIDTHS[name]
        get_it = hub.how_to_get(about.name)
    else:
        network, _ = yield from load_network(name)
        licence, n_features = "Apache-2.0", network.feature_size
        megabytes = sum(SIZES[one] for one in JOINED.get(name, (name,)))
    speed = (yield from _measure(name, place)) if measure and not get_it else None
    return NetworkFacts(name, GOOD_FOR[name], licence, round(megabytes, 1), n_features, not get_it, get_it, speed)


def _measure(name: str, place: Place) -> Generator[Any, None, float]:
    """Images a second, as `onelook label` reads and computes them."""
    network, _ = yield from load_network(name, offline=True)
    network.to(place.device)
    config = EmbedConfig(precision=place.precision, average=parse_averaging(LabelConfig.average))
    finish(embed_files(_draw_listing(2), network, config))  # the first pass is slow
    n_images, seconds = 0, 0.0
    while seconds < SECONDS:
        listing, start = _draw_listing(16), time.perf_counter()
        finish(embed_files(listing, network, config))
        seconds += time.perf_counter() - start
        n_images += len(listing.names)
    return round(n_images / seconds, 1)


def _draw_listing(n_images: int) -> Listing:
    names = tuple(map(str, range(n_images)))
    content = draw_photograph(0)
    return Listing(names, (UNLABELLED,) * n_images, (), "drawn", lambda name: content + name.encode())


@functools.cache
def draw_photograph(seed: int) -> bytes:
    """A JPEG of smooth shapes with grain: about 400 kB, as a camera makes."""
    draw = np.random.default_rng(seed)
    rough = Image.fromarray(draw.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize(PHOTOGRAPH)
    grain = draw.normal(0, 6, (PHOTOGRAPH[1], PHOTOGRAPH[0], 1))
    stream = io.BytesIO()
    Image.fromarray((np.asarray(rough) + grain).clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
    return stream.getvalue()
