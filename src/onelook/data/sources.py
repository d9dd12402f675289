"""The one door to data: the built-in glyphs, a standard benchmark by its name, or a path."""

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from onelook.backbones import Backbone
from onelook.data.augment import CHARACTERS, Augmentation
from onelook.data.datasets import BENCHMARKS, open_benchmark, rotate_classes
from onelook.data.embed import COMPUTING, EmbedConfig, embed, embed_files, parse_averaging
from onelook.data.forecast import announce
from onelook.data.glyphs import GlyphsConfig, load_glyphs
from onelook.data.images import ImageSet, Reading, load
from onelook.data.listing import SPLITS, Listing, list_images
from onelook.errors import DataError, SettingsError
from onelook.machine import Place, parse_memory
from onelook.tasks import Embeddings

GLYPHS = "glyphs"
NAMES = (GLYPHS, *sorted(BENCHMARKS))
"""Data that is opened by a name; all other data by its path."""
N_VIEWS = 8
"""R, the augmented views of every training image that meta-training reads."""
FRACTIONS = (0.64, 0.16)
"""Fractions of the classes of undivided data for training and for validation; the rest is for testing."""


@dataclass(frozen=True)
class Dataset:
    """A data set that was opened by `open_data`; an image is read or rendered when a split is asked for."""

    files: Callable[[str], Listing] | None = None
    """Lists the image files of a split; None: the images are rendered."""
    image_size: int = 32
    """Usual height and width in pixels."""
    channels: int = 3
    augmentation: Augmentation = Augmentation()
    """Changes of an image that leave its class as it is."""
    rotated: bool = False
    """Whether each class becomes four by quarter turns, so that an image is more than its file."""

    def images(
        self, split: str, size: int | None = None, channels: int | None = None
    ) -> Generator[Reading, None, ImageSet]:
        """Load or render the images of one split. Raises DataError, SettingsError."""
        size = size or self.image_size
        if self.files is None:
            return (yield from load_glyphs(split, GlyphsConfig(size=size)))
        images = yield from load(self.files(split), size, channels or self.channels)
        return rotate_classes(images) if self.rotated else images

    def embed(
        self, split: str, backbone: Backbone, place: Place, n_views: int = 1, average: str = "none"
    ) -> Generator[Any, None, Embeddings]:
        """Compute the features of one split, or find them in the cache.

        n_views: augmented views of each image, where the data has no environments of its own.
        average: versions of an image that are averaged into its feature (`parse_averaging`).
        """
        backbone.to(place.device)
        averaging, memory = parse_averaging(average, self.augmentation), parse_memory(place.memory)
        config = EmbedConfig(precision=place.precision, average=averaging, memory=memory)
        if n_views > 1 and self.files is not None:
            config = replace(config, augmentation=self.augmentation, n_views=n_views)
        if self.files is not None and not self.rotated:
            work = embed_files(self.files(split), backbone, config, place.cache)
            return (yield from announce(work, COMPUTING))
        images = yield from self.images(split, backbone.image_size, backbone.channels)
        return (yield from embed(images, backbone, config, place.cache))


def name_in_records(data: str) -> str:
    """Name of a data set in records, where the folder that it lies in says nothing.

    >>> name_in_records("cifar-fs"), name_in_records("photographs/clothing10.zip")
    ('cifar-fs', 'clothing10')
    """
    return Path(data).name.removesuffix(".zip")


def open_data(data: str, home: Path | None = None) -> Dataset:
    """Open a data set. Raises DataError for one that is not there.

    data: "glyphs", a name of BENCHMARKS, or the path of a folder, zip or table. Data without splits of its own is
        divided by class, at random but always alike; the split "all" takes it whole.
    home: the folder of the benchmarks; None: the usual one.

    >>> open_data("glyphs").augmentation.flip
    False
    """
    if data == GLYPHS:
        return Dataset(augmentation=CHARACTERS)
    if data in BENCHMARKS:
        facts = BENCHMARKS[data]
        augmentation = CHARACTERS if facts.characters else Augmentation()
        return Dataset(
            lambda split: open_benchmark(data, _known(split), home),
            facts.image_size,
            facts.channels,
            augmentation,
            facts.rotations > 1,
        )
    path = Path(data)
    if not path.exists() and path.suffix == "" and "/" not in data:
        raise DataError(f"There is no data named {data!r} and no such file or folder; known names: {', '.join(NAMES)}.")
    return Dataset(lambda split: _list_path(path, _known(split)))


def _known(split: str) -> str:
    if split not in (*SPLITS, "all"):
        raise SettingsError(f"There is no split {split!r}; known: {', '.join(SPLITS)}, all.")
    return split


def _list_path(path: Path, split: str) -> Listing:
    try:
        listing = list_images(path, None if split == "all" else split)
    except OSError as error:
        raise DataError(f"{error.filename or path} cannot be read ({error.strerror or error}).") from error
    return listing if split == "all" or listing.split is not None else _divide(listing, split)


def _divide(listing: Listing, split: str) -> Listing:
    """The classes of `split` of data without splits of its own."""
    order = np.random.default_rng(0).permutation(len(listing.class_names))
    n_train, n_val = (round(fraction * len(order)) for fraction in FRACTIONS)
    parts = {"train": order[:n_train], "val": order[n_train : n_train + n_val], "test": order[n_train + n_val :]}
    kept = sorted(int(k) for k in parts[split])
    if not kept:
        found = f"{len(order)} classes, too few to set some aside for {split}"
        raise DataError(f"{listing.source} has {found}; use --split all.")
    place = {k: i for i, k in enumerate(kept)}
    rows = [i for i, k in enumerate(listing.labels) if k in place]
    return replace(
        listing,
        names=tuple(listing.names[i] for i in rows),
        labels=tuple(place[listing.labels[i]] for i in rows),
        class_names=tuple(listing.class_names[k] for k in kept),
        source=f"{listing.source}, {len(kept)} of its {len(order)} classes set aside for {split}",
    )
