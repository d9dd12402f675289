"""Files of features: names of images, or labels, and a vector for each.

.npz, .safetensors: `features` (N, D) and `path` (or `filename`, N names; of safetensors, which holds numbers only, a
    JSON list in its metadata); or, without `features`, a vector (D) under the name of each image.
.csv, .parquet: a column `path` (or `filename`); vectors are lists in a column `features`, or else the numbers in all
    other columns, except for those of NO_FEATURE.
"""

import json
import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from safetensors import SafetensorError

from onelook.data.tables import PARQUET, Row, name_column, parse_path, read_rows
from onelook.errors import DataError
from onelook.files import read_tensors, replacing
from onelook.tasks import Embeddings

FEATURES = "features"
NO_FEATURE = ("label", "", "__index_level_0__")
"""Columns of a table: the last two are row numbers, as pandas writes them."""
KINDS = (".npz", ".safetensors", ".csv", *PARQUET)


def read_vectors(file: Path) -> Embeddings:
    """Read the vectors of a file as unlabelled features of the `items` that they name. Raises DataError."""
    kind = file.suffix.lower()
    if kind not in KINDS:
        raise DataError(f"{file} is no file that features are read from; give one of {', '.join(KINDS)}.")
    if kind == ".npz":
        names, x = _find_rows(file, _npz_arrays(file), None)
    elif kind == ".safetensors":
        names, x = _find_rows(file, *_tensors(file))
    else:
        names, x = _read_table(file)
    if strange := [name for name in names if not isinstance(name, str | bytes)]:
        raise DataError(f"{file}: the names of images must be words, but {strange[0]!r} is among them.")
    x = _as_numbers(file, x)
    if x.ndim != 2 or len(x) != len(names) or not x.size:
        raise DataError(f"{file}: features must be (N, D) for its {len(names)} names, but they are {x.shape}.")
    _require_finite(file, x)
    labels = torch.full((len(x),), -1)
    return Embeddings(torch.from_numpy(x)[None], labels, (), tuple(map(os.fsdecode, names)), str(file))


def load_features(file: Path) -> Embeddings:
    """Read `features` (N, D) and `labels` (N, numbers or words) of an .npz file; `class_names` if it has them."""
    arrays = _npz_arrays(file)
    missing = {"features", "labels"} - set(arrays)
    if missing:
        found = ", ".join(arrays) or "none"
        raise DataError(f"{file} needs the arrays features (N, D) and labels (N), but holds {found}.")
    x, labels = _as_numbers(file, arrays["features"]), arrays["labels"]
    if x.ndim != 2 or labels.shape != (len(x),) or not len(x):
        raise DataError(f"{file}: features must be (N, D) and labels (N), but they are {x.shape} and {labels.shape}.")
    _require_finite(file, x)
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
    """Write a file for `load_features`, and for `read_vectors` where the items have names."""
    named: dict[str, Any] = {"path": np.array(embeddings.items)} if embeddings.items else {}
    with replacing(file) as temporary, temporary.open("wb") as stream:
        np.savez(
            stream,
            features=embeddings.features.numpy(),
            labels=embeddings.labels.numpy(),
            class_names=np.array(embeddings.class_names),
            **named,
        )


def _npz_arrays(file: Path) -> dict[str, np.ndarray]:
    """Read all arrays of an .npz file. Raises DataError."""
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
    return arrays


def _as_numbers(file: Path, x: np.ndarray) -> Float32[np.ndarray, "*shape"]:
    if x.dtype.kind not in "fiub":
        raise DataError(f"{file}: features must be numbers, but they are of type {x.dtype}.")
    with np.errstate(over="ignore"):  # what is too large for float32 is infinite then, and refused
        return np.asarray(x, dtype=np.float32)


def _require_finite(file: Path, x: Float32[np.ndarray, "N D"]) -> None:
    if not np.isfinite(x).all():
        row = int(np.flatnonzero(~np.isfinite(x).all(1))[0])
        raise DataError(f"{file}: the features of row {row} are not finite; repair or remove them.")


def _tensors(file: Path) -> tuple[dict[str, np.ndarray], Any]:
    """All tensors, and the list of names if there is one."""
    try:
        tensors, about = read_tensors(file)
        arrays = {name: x.float().numpy() for name, x in tensors.items()}
        column = name_column(about)
        names = None if column is None else json.loads(about[column])
        if not isinstance(names, list | None):
            raise ValueError(f"{column} in its metadata is no list")
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read as a safetensors file ({str(error).rstrip('.')}).") from error
    return arrays, names


def _find_rows(file: Path, arrays: dict[str, np.ndarray], names: Sequence[Any] | None) -> tuple[list[Any], np.ndarray]:
    column = name_column(arrays)
    if names is None and column is not None:
        names = arrays[column].reshape(-1).tolist()
    if names is not None and FEATURES in arrays:
        return list(names), arrays[FEATURES]
    shapes = {array.shape for array in arrays.values()}
    if FEATURES in arrays or len(shapes) != 1 or len(min(shapes)) != 1:
        raise DataError(
            f"{file} needs features (N, D) and path (N names of images), or a vector (D) under the name of "
            f"each image, but holds {', '.join(sorted(arrays)[:5]) or 'nothing'}."
        )
    return list(arrays), np.stack(list(arrays.values()))


def _read_table(file: Path) -> tuple[list[Any], np.ndarray]:
    columns, rows = read_rows(file)
    name = name_column(columns)
    own = [FEATURES] if FEATURES in columns else [c for c in columns if c != name and c not in NO_FEATURE]
    if name is None or not own:
        found = ", ".join(columns[:5]) or "none"
        raise DataError(
            f"{file} needs a column path (or filename) and columns of numbers, but has {found}; rename them."
        )
    if not rows:
        raise DataError(f"{file} has no rows below its columns; expected one for each image.")
    vectors = [_vector(file, row, own) for row in rows]
    if len(sizes := {len(vector) for vector in vectors}) > 1:
        raise DataError(f"{file} has vectors of {min(sizes)} and of {max(sizes)} numbers; one size is needed.")
    names = [row[name] if row[name] is None else parse_path(str(row[name])) for _, row in rows]
    return names, np.array(vectors, dtype=np.float64)


def _vector(file: Path, row: Row, columns: list[str]) -> list[float]:
    line, cells = row
    for column in columns:
        cell = cells[column]
        try:
            if isinstance(cell, list):
                return [float(x) for x in cell]
            cells[column] = float(cell)
        except (TypeError, ValueError) as error:
            raise DataError(f"{file}, line {line}: {column} holds {cell!r}, which is no number.") from error
    return [cells[column] for column in columns]
