"""Features: of a data set or of files, each image embedded once; and those that files hold."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from onelook.backbones import Backbone
from onelook.data.embed import EmbedConfig, embed, embed_files, parse_averaging
from onelook.data.sources import augmentation_of, is_rotated, list_split, open_split
from onelook.data.vectors import as_numbers, npz_arrays, require_finite
from onelook.errors import DataError
from onelook.files import replacing
from onelook.machine import Place
from onelook.tasks import Embeddings

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
    return Embeddings(
        torch.from_numpy(x)[None], torch.from_numpy(index.astype(np.int64)), tuple(map(str, names)), source=str(file)
    )


def save_features(embeddings: Embeddings, file: Path) -> None:
    """What `load_features` reads, and `read_vectors` where the items have names."""
    named: dict[str, Any] = {"path": np.array(embeddings.items)} if embeddings.items else {}
    with replacing(file) as temporary, temporary.open("wb") as stream:
        np.savez(
            stream,
            features=embeddings.features.numpy(),
            labels=embeddings.labels.numpy(),
            class_names=np.array(embeddings.class_names),
            **named,
        )
