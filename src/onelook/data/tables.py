"""Tables about images: CSV or Parquet with a column `path` (or `filename`), and for labels a column `label`.

A cell that a spreadsheet would take for a formula is written with a guard before it, and read without the guard.
"""

import csv
import importlib
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from onelook.errors import DataError

NAME_COLUMNS = ("path", "filename")
PARQUET = (".parquet", ".pq")
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Characters that begin a cell which a spreadsheet would compute (OWASP, CSV injection)."""
LABEL_GUARD, PATH_GUARD = "'", "./"
"""The first is the spreadsheets' own mark of plain text; with the second a path stays the same path."""
FILE = "file:"


@dataclass(frozen=True)
class LabelRow:
    """One row of a table of labels."""

    line: int
    """Line of the file, for messages; row number in a Parquet file."""
    name: str
    label: str
    """Empty for an unlabelled image."""
    split: str | None = None
    """None: the table has no column `split`."""


def guard_cell(text: str, guard: str = LABEL_GUARD) -> str:
    """`text` as a cell that no spreadsheet computes; `strip_guard` gives it back."""
    return guard + text if text.startswith((*FORMULA, guard)) else text


def strip_guard(cell: str, guard: str = LABEL_GUARD) -> str:
    rest = cell.removeprefix(guard)
    return rest if rest.startswith((*FORMULA, guard)) else cell


def path_cell(path: str) -> str:
    """A path as a cell, for `parse_path`; one that is not UTF-8 becomes a `file:` address, as the table is UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return FILE + quote(os.fsencode(path))
    return FILE + quote(path) if path.startswith(FILE) else guard_cell(path, PATH_GUARD)


def parse_path(cell: str) -> str:
    if cell.startswith(FILE):
        return os.fsdecode(unquote_to_bytes(cell.removeprefix(FILE)))
    return strip_guard(cell, PATH_GUARD)


def read_labels(table: Path) -> tuple[LabelRow, ...]:
    """Read the rows of a table of labels, in their order. Raises DataError."""
    columns, rows = read_rows(table)
    name = name_column(columns)
    if name is None or "label" not in columns:
        names = ", ".join(columns) or "none"
        raise DataError(f"{table} needs a column path (or filename) and a column label, but has {names}; rename them.")
    if not rows:
        raise DataError(f"{table} has no rows below its columns; expected one for each labelled image.")
    found = []
    for line, row in rows:
        path, label, split = (("" if row.get(c) is None else str(row[c])) for c in (name, "label", "split"))
        if not path.strip():
            raise DataError(f"{table}, line {line}: {name} is empty; fill it or remove the line.")
        own = split if "split" in columns else None
        found.append(LabelRow(line, parse_path(path), strip_guard(label.strip()), own))
    return tuple(found)


Row = tuple[int, dict[str, Any]]
"""Line of the file, and the cells by their columns."""


def read_rows(table: Path) -> tuple[list[str], list[Row]]:
    """Read the columns and the rows of a CSV or Parquet file. Raises DataError."""
    return _parquet(table) if table.suffix.lower() in PARQUET else _csv(table)


def name_column(columns: Collection[str]) -> str | None:
    """The column that names images."""
    return next((column for column in NAME_COLUMNS if column in columns), None)


def _csv(table: Path) -> tuple[list[str], list[Row]]:
    """Also with semicolons, which spreadsheets write where the comma is the decimal mark."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            head = file.readline()
            file.seek(0)
            reader = csv.DictReader(file, delimiter=";" if ";" in head and "," not in head else ",")
            return list(reader.fieldnames or []), [(reader.line_num, row) for row in reader]
    except UnicodeDecodeError as error:
        raise DataError(f"{table} is not UTF-8 text ({error.reason}, byte {error.start}); save it as such.") from error
    except (OSError, csv.Error) as error:
        raise DataError(f"{table} cannot be read as a CSV ({error}); give another file.") from error


def _parquet(table: Path) -> tuple[list[str], list[Row]]:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        remedy = 'pip install "onelook[parquet]", or give a CSV'
        raise DataError(f"{table} is a Parquet file, which needs the package pyarrow; {remedy}.") from error
    try:
        content = parquet.read_table(table)
    except (OSError, ValueError) as error:  # what pyarrow raises is one or the other
        reason = " ".join(str(error).split()).rstrip(".")
        raise DataError(f"{table} cannot be read as Parquet ({reason}); give another file.") from error
    return list(content.column_names), list(enumerate(content.to_pylist(), 1))
