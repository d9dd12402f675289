"""Files of features: names of images, or labels, and a vector for each.

.npz, .safetensors: `features` (N, D) and `path` (or `filename`, N names; of safetensors, which holds numbers only, a
    JSON list in its metadata); or, without `features`, a vector (D) under the name of each image.
.csv, .tsv, .parquet: a column `path` (or `filename`); vectors are lists in a column `features`, or else the numbers in
    all other columns, except for those of NO_FEATURE.

Nothing that is pickled is loaded, and no more memory is taken than the file can fill.
"""

import os
import warnings
import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from jaxtyping import Float32

from onelook.data.confirmed import LABEL, Row
from onelook.data.missing import is_missing
from onelook.data.tables import PARQUET, PATH, SPLIT, parse_path, read_rows
from onelook.errors import DataError, describe_cause, list_names, plural, quote_name
from onelook.files import parse_json, read_tensors, replacing, require_regular
from onelook.tasks import Embeddings

FEATURES = "features"
NAMES = ("path", "filename")
"""Names of the array that holds the names of images."""
NO_FEATURE = (LABEL, SPLIT, "", "Unnamed: 0", "__index_level_0__")
"""Columns of a table: the last three are row numbers, as pandas writes them."""
KINDS = (".npz", ".safetensors", ".csv", ".tsv", *PARQUET)
SWELLING = (1 << 26, 500)
"""Bytes and times its size in the archive to which a member of an .npz file may swell; more is no features."""


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
    if strange := [name for name in names if not isinstance(name, str | bytes) or not name]:
        raise DataError(f"{file}: the names of images must be words, but {strange[0]!r} is among them.")
    items = [os.fsdecode(name) for name in names]
    x = _as_numbers(file, x)
    if x.ndim != 2 or len(x) != len(names) or not x.size:
        raise DataError(f"{file}: features must be (N, D) for its {len(names)} names, but they are {x.shape}.")
    _require_finite(file, x, items)
    labels = torch.full((len(x),), -1)
    return Embeddings(torch.from_numpy(x)[None], labels, (), tuple(items), str(file))


def load_features(file: Path) -> Embeddings:
    """Read `features` (N, D) and `labels` (N, numbers or words) of an .npz file; `class_names` if it has them."""
    arrays = _npz_arrays(file)
    if missing := {"features", "labels"} - set(arrays):
        raise DataError(
            f"{file} needs the arrays features (N, D) and labels (N), but holds {list_names(arrays)} and not "
            f"{list_names(sorted(missing))}."
        )
    x, labels = _as_numbers(file, arrays["features"]), _as_words(file, "labels", arrays["labels"])
    if x.ndim != 2 or labels.shape != (len(x),) or not x.size:
        raise DataError(f"{file}: features must be (N, D) and labels (N), but they are {x.shape} and {labels.shape}.")
    _require_finite(file, x)
    if gaps := [i for i, label in enumerate(labels.tolist()) if is_missing(label)]:
        raise DataError(f"{file}: {plural(len(gaps), 'label')} missing, that of row {gaps[0]} first; leave them out.")
    classes, index = np.unique(labels, return_inverse=True)
    names = np.atleast_1d(_as_words(file, "class_names", arrays.get("class_names", classes)))
    if names.ndim != 1 or len(set(names.tolist())) != len(names):
        raise DataError(f"{file}: class_names must be different names in one row; correct them.")
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
        require_regular(file)
        with file.open("rb") as stream, warnings.catch_warnings():  # np.load itself would leave a damaged file open
            warnings.simplefilter("ignore")  # about headers of Python 2
            _require_plain(stream)
            content = np.load(stream, allow_pickle=False)
            arrays = {name: content[name] for name in content.files}
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("its members are not arrays")
    except Exception as error:  # what numpy and zipfile raise on damaged bytes has no common base
        # numpy would advise to load what is pickled all the same.
        told = "it is none, or holds pickled objects, which are never loaded"
        reason = told if "pickle" in str(error) else describe_cause(error)
        raise DataError(f"{file} cannot be read as an .npz file of plain arrays ({reason}).") from error
    return arrays


def _require_plain(stream: IO[bytes]) -> None:
    """Raise ValueError for an archive that is none, or that would fill the memory from a small file."""
    if not zipfile.is_zipfile(stream):
        raise ValueError("it is none, or holds pickled objects, which are never loaded")
    with zipfile.ZipFile(stream) as archive:
        for one in archive.infolist():
            if one.file_size > max(SWELLING[0], SWELLING[1] * one.compress_size):
                raise ValueError(f"{one.filename} would swell to {one.file_size / 2**20:,.0f} MB")
    stream.seek(0)


def _as_numbers(file: Path, x: np.ndarray) -> Float32[np.ndarray, "*shape"]:
    if x.dtype.kind not in "fiub":
        raise DataError(f"{file}: features must be numbers, but they are of type {x.dtype}.")
    with np.errstate(over="ignore"):  # what is too large for float32 is infinite then, and refused
        return np.array(x, dtype=np.float32, order="C")  # a copy that can be written, in this machine's byte order


def _as_words(file: Path, what: str, x: np.ndarray) -> np.ndarray:
    """Labels or names as numbers or text. Raises DataError for other types."""
    if x.dtype.kind == "S":
        try:
            return np.char.decode(x, "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{file}: {what} are bytes that are not UTF-8; save them as text.") from error
    if x.dtype.kind not in "fiubU":
        raise DataError(f"{file}: {what} must be numbers or words, but they are of type {x.dtype}.")
    return x


def _require_finite(file: Path, x: Float32[np.ndarray, "N D"], items: Sequence[str] = ()) -> None:
    rows = np.flatnonzero(~np.isfinite(x).all(1))
    if len(rows):
        name = f" ({quote_name(items[rows[0]])})" if items else ""
        more = f", and of {len(rows) - 1:,} more," if len(rows) > 1 else ""
        raise DataError(f"{file}: the features of row {rows[0]}{name}{more} are not finite; repair or remove them.")


def _name_array(arrays: Collection[str]) -> str | None:
    return next((name for name in NAMES if name in arrays), None)


def _tensors(file: Path) -> tuple[dict[str, np.ndarray], Any]:
    """All tensors, and the list of names if there is one."""
    try:
        tensors, about = read_tensors(file)
        if strange := [name for name, x in tensors.items() if x.is_complex()]:
            raise ValueError(f"{list_names(strange)} are complex numbers")
        arrays = {name: x.float().numpy() for name, x in tensors.items()}
        column = _name_array(about)
        names = None if column is None else parse_json(about[column])
        if not isinstance(names, list | None):
            raise ValueError(f"{column} in its metadata is no list")
    except Exception as error:  # what safetensors and torch raise has no common base
        raise DataError(f"{file} cannot be read as a safetensors file ({describe_cause(error)}).") from error
    return arrays, names


def _find_rows(file: Path, arrays: dict[str, np.ndarray], names: Sequence[Any] | None) -> tuple[list[Any], np.ndarray]:
    column = _name_array(arrays)
    if names is None and column is not None:
        names = arrays[column].reshape(-1).tolist()
    if names is not None and FEATURES in arrays:
        return list(names), arrays[FEATURES]
    shapes = {array.shape for array in arrays.values()}
    if FEATURES in arrays or len(shapes) != 1 or len(min(shapes)) != 1:
        raise DataError(
            f"{file} needs features (N, D) and path (N names of images), or a vector (D) under the name of "
            f"each image, but holds {list_names(sorted(arrays))}."
        )
    return list(arrays), np.stack(list(arrays.values()))


def _read_table(file: Path) -> tuple[list[Any], np.ndarray]:
    columns, rows, _ = read_rows(file)
    own = [FEATURES] if FEATURES in columns else [c for c in columns if c != PATH and c not in NO_FEATURE]
    if PATH not in columns or not own:
        raise DataError(
            f"{file} needs a column path (or filename) and columns of numbers, but has {list_names(columns)}; "
            f"rename them."
        )
    if not rows:
        raise DataError(f"{file} has no rows below its columns; expected one for each image.")
    vectors = [_vector(file, row, own) for row in rows]
    if len(sizes := {len(vector) for vector in vectors}) > 1:
        raise DataError(f"{file} has vectors of {min(sizes)} and of {max(sizes)} numbers; one size is needed.")
    names = [parse_path(row[PATH]) if isinstance(row[PATH], str) else row[PATH] for _, row in rows]
    return names, np.array(vectors, dtype=np.float64)


def _vector(file: Path, row: Row, columns: list[str]) -> list[float]:
    line, cells = row
    for column in columns:
        cell = cells[column]
        try:
            if isinstance(cell, list):
                return [float(x) for x in cell]
            cells[column] = float(cell)
        except (TypeError, ValueError, OverflowError) as error:
            found = quote_name(repr(cell)[:60])
            where = f"{file}, line {line}: {list_names([column])}"
            raise DataError(f"{where} holds {found}, which is no number.") from error
    return [cells[column] for column in columns]
