"""Shards of results as Parquet files, each made once.

The name of a shard is a digest of all that it depends on: its images, their sizes and times of change, the network and
the settings. So whoever makes a shard again, after a process was lost, writes the same file, and a shard that is there
need not be made.
"""

import importlib
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Float32

from onelook.data.addresses import Store
from onelook.data.tables import PARQUET, parse_path, path_cell
from onelook.errors import DataError, quote_name
from onelook.files import digest
from onelook.labelling.export import Prediction

OWN = re.compile(r"part-\d{6}-[0-9a-f]{16}\.parquet")
"""Names of shards."""


@dataclass(frozen=True)
class Part:
    """The images of a shard, and the name of its file."""

    file: str
    start: int
    """Number of the first of its images."""
    names: tuple[str, ...]


def divide(names: Sequence[str], stamps: Sequence[str], key: dict[str, Any], size: int) -> list[Part]:
    """Divide images among shards. stamps: marks of their contents; key: all else that the shards depend on."""
    parts = []
    for number, start in enumerate(range(0, len(names), size)):
        own = tuple(names[start : start + size])
        words = json.dumps([key, own, list(stamps[start : start + size])], sort_keys=True)
        parts.append(Part(f"part-{number:06d}-{digest(words.encode()).hex()[:16]}.parquet", start, own))
    return parts


@dataclass(frozen=True)
class Found:
    """Files in a folder of shards."""

    finished: frozenset[str]
    """Shards that were asked for."""
    old: tuple[str, ...]
    """Shards that were made of other images or with other settings."""
    refused: dict[str, tuple[str, ...]]
    """Images that could not be got, though nothing is said of their contents, by the shards that lack them."""

    def missing(self, parts: Sequence[Part]) -> list[Part]:
        """Shards to be made, or to be asked for images again."""
        return [part for part in parts if part.file not in self.finished or part.file in self.refused]


def find_shards(store: Store, parts: Sequence[Part]) -> Found:
    """The shards that are there. Raises DataError for other Parquet files, which would be read with them."""
    names = store.list()
    there = {name for name in names if name.endswith(PARQUET) and not name.startswith((".", "_"))}
    wanted = {part.file: _name_refusals(part.file) for part in parts}
    old = sorted(there - wanted.keys())
    if strange := next((name for name in old if not OWN.fullmatch(name)), None):
        raise DataError(
            f"{store.place} holds {quote_name(strange)}, which Onelook has not made; move it, or give another folder."
        )
    refused = {
        file: tuple(parse_path(cell) for cell in json.loads(store.read(name)))
        for file, name in wanted.items()
        if name in names and file in there
    }
    return Found(frozenset(there & wanted.keys()), tuple(old), refused)


def remove_shards(store: Store, files: Sequence[str]) -> None:
    """Remove old shards, if they are there."""
    for file in files:
        store.remove(file)
        store.remove(_name_refusals(file))


def _name_refusals(file: str) -> str:
    """File of the images that a shard lacks for the time being, which readers of Parquet pass over."""
    return f"_{file.removesuffix('.parquet')}.json"


def write_features(
    store: Store,
    part: Part,
    features: dict[str, Float32[np.ndarray, "D"]],
    errors: dict[str, str],
    refused: Sequence[str] | None = None,
) -> None:
    """Write a row for each image: its features, or the reason why it cannot be read.

    refused: images to ask for again, as the reason may pass; in place of those of a shard that was there, or None.
    """
    arrow = importlib.import_module("pyarrow")
    rows = {
        "path": [path_cell(name) for name in part.names],
        "features": arrow.array([features.get(name) for name in part.names], arrow.list_(arrow.float32())),
        "error": arrow.array([errors.get(name) for name in part.names], arrow.string()),
    }
    if refused:  # first, so that no shard is ever taken for complete that is not
        store.write(_name_refusals(part.file), json.dumps([path_cell(name) for name in refused]).encode())
    _write_rows(store, part.file, rows)
    if refused is not None and not refused:
        store.remove(_name_refusals(part.file))


def read_features(store: Store, part: Part) -> tuple[dict[str, Float32[np.ndarray, "D"]], dict[str, str]]:
    """Read a file of `write_features`."""
    table = importlib.import_module("pyarrow.parquet").read_table(io.BytesIO(store.read(part.file)))
    names = [parse_path(cell) for cell in table["path"].to_pylist()]
    vectors = {}
    for name, one in zip(names, table["features"], strict=True):
        if one.is_valid:
            vectors[name] = one.values.to_numpy()
    errors = {name: why for name, why in zip(names, table["error"].to_pylist(), strict=True) if why is not None}
    return vectors, errors


def write_labels(store: Store, file: str, found: Sequence[Prediction]) -> None:
    """Write a row for each prediction; columns have the same types without any, so that all shards are one table."""
    arrow = importlib.import_module("pyarrow")
    types: dict[Any, Any] = {str: arrow.string(), float: arrow.float64(), bool: arrow.bool_()}
    cells = [vars(row) | {"path": path_cell(row.path)} for row in found]
    columns = {one.name: arrow.array([row[one.name] for row in cells], types[one.type]) for one in fields(Prediction)}
    _write_rows(store, file, columns)


def _write_rows(store: Store, file: str, columns: dict[str, Any]) -> None:
    """Write a Parquet file at once. Raises StorageError."""
    arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    content = io.BytesIO()
    parquet.write_table(arrow.table(columns), content)
    store.write(file, content.getvalue())
