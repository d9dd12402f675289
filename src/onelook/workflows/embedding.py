"""Features: of a data set or of files, each image embedded once; and those that files hold."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from onelook.backbones import Backbone
from onelook.data.embed import EmbedConfig, embed, embed_files, parse_averaging
from onelook.data.folders import counted, named_by, shown
from onelook.data.images import Rejected
from onelook.data.listing import Listing
from onelook.data.sources import augmentation_of, is_rotated, list_split, open_split
from onelook.data.vectors import as_numbers, npz_arrays, require_finite
from onelook.errors import DataError
from onelook.events import Notice
from onelook.files import replacing
from onelook.tasks import Embeddings
from onelook.workflows.place import Place

N_VIEWS = 8
"""R, the augmented views of every training image that meta-training reads."""


def features(
    data: str, split: str, backbone: Backbone, place: Place, n_views: int = 1, average: str = "none"
) -> Generator[Any, None, Embeddings]:
    """Features of one split.

    n_views: > 1: of augmented views, where the data has no environments of its own.
    average: what else of an image goes into its feature (`parse_averaging`).
    """
    allowed = augmentation_of(data)
    augmentation = allowed if n_views > 1 and data != "glyphs" else None
    averaging = parse_averaging(average, allowed)
    config = EmbedConfig(augmentation, n_views if augmentation else 1, precision=place.precision, average=averaging)
    if data == "glyphs" or is_rotated(data):  # images that are not files
        images = yield from open_split(data, split, backbone.image_size, backbone.channels, place.home)
        return (yield from embed(images, backbone, config, place.cache))
    return (yield from embed_files(list_split(data, split, place.home), backbone, config, place.cache))


def features_of_files(
    listing: Listing, network: Backbone, average: str, place: Place
) -> Generator[Any, None, tuple[Embeddings, tuple[Rejected, ...]]]:
    """Features of the images that can be read, and the others."""
    config = EmbedConfig(precision=place.precision, average=parse_averaging(average))
    work = embed_files(listing, network, config, place.cache)
    rejected: list[Rejected] = []
    while True:
        try:
            event = next(work)
        except StopIteration as end:
            return end.value, tuple(rejected)
        if isinstance(event, Rejected):
            rejected.append(event)
        yield event


def features_of_rows(
    listing: Listing, folder: Path, vectors: Embeddings, file: Path
) -> Generator[Notice, None, tuple[Embeddings, tuple[Rejected, ...]]]:
    """The vectors of a file (`read_vectors`) as features of the images that they name, and the images without any.

    Raises DataError where an image has two, or none has one.
    """
    rows: dict[str, int] = {}
    strays = []
    for i, meant in enumerate(named_by(folder, listing.names, file, vectors.items)):
        if len(meant) != 1:
            strays.append(vectors.items[i])
        elif rows.setdefault(meant[0], i) != i:
            raise DataError(f"{file} has two rows for {shown(meant[0])}; keep one of them.")
    if not rows:
        raise DataError(f"{file} has no row for any of the {counted(len(listing.names), 'image')} of {folder}, but "
                        f"{shown(vectors.items[0])}, for example; name images as they lie in that folder.")  # fmt: skip
    without = [name for name in listing.names if name not in rows]
    told = {"rows without an image": strays, "images without a row, which are left out": without}
    parts = [f"{words} {len(names)} ({shown(names[0])} first)" for words, names in told.items() if names]
    yield Notice(", ".join([f"{file}: rows {len(vectors.items)} of {vectors.feature_size} numbers", *parts]) + ".")
    kept = listing.take([i for i, name in enumerate(listing.names) if name in rows])
    views = vectors.views[:, [rows[name] for name in kept.names]]
    labels = torch.tensor(kept.labels, dtype=torch.long)
    found = Embeddings(views, labels, listing.class_names, kept.names, str(file))
    return found, tuple(Rejected(name, f"{file.name} has no row for it") for name in without)


def load_features(file: Path) -> Embeddings:
    """`features` (N, D) and `labels` (N, numbers or words) of an .npz file; `class_names` if it has them."""
    arrays = npz_arrays(file)
    missing = {"features", "labels"} - set(arrays)
    if missing:
        raise DataError(
            f"{file} needs the arrays features (N, D) and labels (N), but holds {', '.join(arrays) or 'none'}."
        )
    x, labels = as_numbers(file, arrays["features"]), arrays["labels"]
    if x.ndim != 2 or labels.shape != (len(x),) or not len(x):
        raise DataError(f"{file}: features must be (N, D) and labels (N), but they are {x.shape} and {labels.shape}.")
    require_finite(file, x)
    classes, index = np.unique(labels, return_inverse=True)
    names = np.atleast_1d(arrays.get("class_names", classes))
    if labels.dtype.kind in "iu" and classes[0] >= 0 and classes[-1] < len(names):
        index = labels  # they number the names already, and a class may be without a row
    elif len(names) != len(classes):
        raise DataError(f"{file} has {len(names)} class_names, but {len(classes)} different labels.")
    return Embeddings(torch.from_numpy(x)[None], torch.from_numpy(index.astype(np.int64)),
                      tuple(map(str, names)), source=str(file))  # fmt: skip


def save_features(embeddings: Embeddings, file: Path) -> None:
    """What `load_features` reads, and `read_vectors` where the items have names."""
    named: dict[str, Any] = {"path": np.array(embeddings.items)} if embeddings.items else {}
    with replacing(file) as temporary, temporary.open("wb") as stream:
        np.savez(stream, features=embeddings.features.numpy(), labels=embeddings.labels.numpy(),
                 class_names=np.array(embeddings.class_names), **named)  # fmt: skip
