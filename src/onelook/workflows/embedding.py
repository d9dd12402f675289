"""Features: of a data set, each image embedded once, and in files."""

import zipfile
import zlib
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from onelook.backbones import Backbone
from onelook.data.embed import EmbedConfig, embed, embed_files, parse_averaging
from onelook.data.sources import augmentation_of, is_rotated, list_split, open_split
from onelook.errors import DataError
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


def load_features(file: Path) -> Embeddings:
    """`features` (N, D) and `labels` (N, numbers or words) of an .npz file; `class_names` if it has them."""
    try:
        with file.open("rb") as stream:  # np.load itself would leave a damaged file open
            content = np.load(stream, allow_pickle=False)
            if isinstance(content, np.ndarray):
                raise ValueError("it holds a single array")
            arrays = {name: content[name] for name in content.files}
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("its members are not arrays")
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, SyntaxError) as error:
        # numpy would advise to load what is pickled all the same.
        reason = "it is none, or holds pickled objects, which are never loaded" if "pickle" in str(error) else error
        raise DataError(f"{file} cannot be read as an .npz file of plain arrays ({reason}).") from error
    missing = {"features", "labels"} - set(arrays)
    if missing:
        raise DataError(
            f"{file} needs the arrays features (N, D) and labels (N), but holds {', '.join(arrays) or 'none'}."
        )
    x, labels = arrays["features"], arrays["labels"]
    if x.dtype.kind not in "fiub":
        raise DataError(f"{file}: features must be numbers, but they are of type {x.dtype}.")
    with np.errstate(over="ignore"):  # what is too large for float32 is infinite then, and refused below
        x = np.asarray(x, dtype=np.float32)
    if x.ndim != 2 or labels.shape != (len(x),) or not len(x):
        raise DataError(f"{file}: features must be (N, D) and labels (N), but they are {x.shape} and {labels.shape}.")
    if not np.isfinite(x).all():
        row = int(np.flatnonzero(~np.isfinite(x).all(1))[0])
        raise DataError(f"{file}: the features of row {row} are not finite; repair or remove them.")
    classes, index = np.unique(labels, return_inverse=True)
    names = np.atleast_1d(arrays.get("class_names", classes))
    if labels.dtype.kind in "iu" and classes[0] >= 0 and classes[-1] < len(names):
        index = labels  # they number the names already, and a class may be without a row
    elif len(names) != len(classes):
        raise DataError(f"{file} has {len(names)} class_names, but {len(classes)} different labels.")
    return Embeddings(torch.from_numpy(x)[None], torch.from_numpy(index.astype(np.int64)),
                      tuple(map(str, names)), source=str(file))  # fmt: skip


def save_features(embeddings: Embeddings, file: Path) -> None:
    with replacing(file) as temporary, temporary.open("wb") as stream:
        np.savez(stream, features=embeddings.features.numpy(), labels=embeddings.labels.numpy(),
                 class_names=np.array(embeddings.class_names))  # fmt: skip
