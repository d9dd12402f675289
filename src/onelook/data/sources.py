"""One door to all data: the built-in glyphs, a standard benchmark by its name, or a path."""

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import numpy as np

from onelook.data.augment import Augmentation
from onelook.data.datasets import BENCHMARKS, open_benchmark, rotate_classes
from onelook.data.glyphs import GlyphsConfig, load_glyphs
from onelook.data.images import ImageSet, Reading, load
from onelook.data.listing import SPLITS, Listing, list_images
from onelook.errors import DataError, SettingsError

SHARES = (0.64, 0.16)
"""Of the classes of undivided data, what goes to training and to validation; the rest is for testing."""


def open_split(
    data: str, split: str, size: int | None = None, channels: int | None = None, home: Path | None = None
) -> Generator[Reading, None, ImageSet]:
    """The images of one split, decoded.

    data: "glyphs", a name of BENCHMARKS, or the path of a folder, zip or CSV. Data without a division of its own is
        divided by class, at random but always alike; "all" takes it whole.
    size, channels: of the images; None: what is usual for this data (32 and 3 for a path).
    Raises DataError, SettingsError.
    """
    if data == "glyphs":
        return (yield from load_glyphs(split, GlyphsConfig() if size is None else GlyphsConfig(size=size)))
    listing = list_split(data, split, home)
    facts = BENCHMARKS.get(data)
    images = yield from load(
        listing, size or (facts.image_size if facts else 32), channels or (facts.channels if facts else 3)
    )
    return rotate_classes(images) if is_rotated(data) else images


def list_split(data: str, split: str, home: Path | None = None) -> Listing:
    """The image files of one split of anything but glyphs."""
    if split not in (*SPLITS, "all"):
        raise SettingsError(f"There is no split {split!r}; known: {', '.join(SPLITS)}, all.")
    if data in BENCHMARKS:
        return open_benchmark(data, split, home)
    path = Path(data)
    if not path.exists() and path.suffix == "" and "/" not in data:
        known = ", ".join(["glyphs", *sorted(BENCHMARKS)])
        raise DataError(f"There is no data named {data!r} and no such file or folder; known names: {known}.")
    return _division(list_path(path, split), split)


def is_rotated(data: str) -> bool:
    """Whether the classes of `data` are multiplied by quarter turns."""
    return data in BENCHMARKS and BENCHMARKS[data].rotations > 1


def augmentation_of(data: str) -> Augmentation:
    """What may be done to the images of `data` without changing their class."""
    if data in ("glyphs", "omniglot"):
        return Augmentation(crop_padding=2, flip=False, jitter=0.0)  # a mirrored character is another character
    return Augmentation()


def list_path(path: Path, split: str) -> Listing:
    try:
        return list_images(path, None if split == "all" else split)
    except OSError as error:
        raise DataError(f"{error.filename or path} cannot be read ({error.strerror or error}).") from error


def _division(listing: Listing, split: str) -> Listing:
    """The classes of `split`, where the data is not divided by itself."""
    if split == "all" or listing.split is not None:
        return listing
    order = np.random.default_rng(0).permutation(len(listing.class_names))
    n_train, n_val = (round(share * len(order)) for share in SHARES)
    parts = {"train": order[:n_train], "val": order[n_train : n_train + n_val], "test": order[n_train + n_val :]}
    kept = sorted(int(k) for k in parts[split])
    if not kept:
        raise DataError(
            f"{listing.source} has {len(order)} classes, too few to set some aside for {split}; use --split all."
        )
    place = {k: i for i, k in enumerate(kept)}
    rows = [i for i, k in enumerate(listing.labels) if k in place]
    return replace(
        listing,
        names=tuple(listing.names[i] for i in rows),
        labels=tuple(place[listing.labels[i]] for i in rows),
        class_names=tuple(listing.class_names[k] for k in kept),
        source=f"{listing.source}, {len(kept)} of its {len(order)} classes set aside for {split}",
    )
