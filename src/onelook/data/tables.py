"""Tables about images, as text (CSV, TSV) or Parquet, with a column `path` (or `filename`), for labels also `label`.

A cell that a spreadsheet would take for a formula is written with a guard before it, and read without the guard.
"""

import codecs
import csv
import importlib
import io
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote_to_bytes

from onelook.data.confirmed import LABEL, Row, are_predictions, is_confirmed, is_corrected, take_confirmed
from onelook.data.missing import DOUBTFUL, is_missing
from onelook.errors import DataError, describe_cause, list_names, plural
from onelook.files import read_regular, require_regular

PATH, SPLIT = "path", "split"
COLUMNS = {
    PATH: ("path", "filename", "file_name", "file", "filepath", "file_path", "image_path", "image"),
    LABEL: ("label", "labels", "class", "class_name", "category"),
    SPLIT: ("split",),
}
"""Columns by the names that people give them, the first that is there; case, spaces, - and _ do not matter."""
DIVIDERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
FALLBACK = "cp1252"
"""Encoding of text that is not UTF-8 and has no mark: that of spreadsheets on Windows in western languages."""
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


@dataclass(frozen=True)
class LabelTable:
    """Rows of a table of labels, in their order."""

    rows: tuple[LabelRow, ...]
    notes: tuple[str, ...] = ()
    """Sentences on how it was read, where a person should know."""


def read_labels(table: Path) -> LabelTable:
    """Read a table of labels. Raises DataError."""
    columns, rows, notes = read_rows(table)
    if PATH not in columns or LABEL not in columns:
        raise DataError(
            f"{table} needs a column path (or filename) and a column label, but has {list_names(columns)}; rename them."
        )
    if not rows:
        raise DataError(f"{table} has no rows below its columns; expected one for each labelled image.")
    found, passed = [], tuple[str, ...]()
    if are_predictions(columns):
        rows, passed = take_confirmed(table, rows)
    for line, row in rows:
        path, label = (_read_cell(table, line, column, row.get(column)) for column in (PATH, LABEL))
        if not path.strip():
            raise DataError(f"{table}, line {line}: path is empty; fill it or remove the line.")
        split = _read_cell(table, line, SPLIT, row.get(SPLIT)).strip() if SPLIT in columns else None
        name = "" if is_missing(label) else strip_guard(label.strip())
        found.append(LabelRow(line, parse_path(path), name, split))
    for word, n in Counter(row.label for row in found if row.label in DOUBTFUL).items():
        told = f"{table.name} has {plural(n, 'image')} of a class {word!r}; leave the cell empty if it means no label."
        notes = (*notes, told)
    return LabelTable(tuple(found), (*notes, *passed))


def count_answers(table: Path) -> int:
    """The rows of a table of predictions that a person confirmed or corrected; 0 for any other file, or none."""
    try:
        columns, rows, _ = read_rows(table)
    except DataError:
        return 0
    return sum(is_confirmed(table, *row) or is_corrected(row[1]) for row in rows) if are_predictions(columns) else 0


def _read_cell(table: Path, line: int, column: str, cell: Any) -> str:
    """Text of a cell, which may be of any type in a Parquet file."""
    if is_missing(cell):
        return ""
    text = os.fsdecode(cell) if isinstance(cell, bytes) else str(cell)
    if not isinstance(cell, str | bytes | int | float) or "\0" in text:
        raise DataError(f"{table}, line {line}: {column} holds {text[:40]!r}, which is no text; correct it.")
    return text


class Table(NamedTuple):
    """Content of a table."""

    columns: list[str]
    """Names as they are in the file, but for PATH, LABEL and SPLIT."""
    rows: list[Row]
    notes: tuple[str, ...] = ()
    """Sentences on how it was read, where a person should know."""


def read_rows(table: Path) -> Table:
    """Read the columns and the rows of a table in text or Parquet. Raises DataError."""
    return _read_parquet(table) if table.suffix.lower() in PARQUET else _read_text(table)


def _name_columns(table: Path, found: Iterable[str]) -> list[str]:
    """The columns with the names by which they are used. Raises DataError where two have one name."""
    columns = [column.strip() for column in found]
    plain = [_simplify(column) for column in columns]
    for name, spellings in COLUMNS.items():
        best = next((spelling for spelling in spellings if spelling in plain), None)
        columns = [name if best is not None and p == best else column for p, column in zip(plain, columns, strict=True)]
    counts = Counter(column for column in columns if column)
    if twice := next((column for column, n in counts.items() if n > 1), None):
        raise DataError(f"{table} has {counts[twice]} columns named {list_names([twice])}; rename or remove others.")
    return columns


def _simplify(column: str) -> str:
    return re.sub(r"[\s_-]+", "_", column.casefold())


def _read_text(table: Path) -> Table:
    """Tables with commas, semicolons (where the comma is the decimal mark), tabs or bars."""
    text, notes = _decode(table)
    hint = re.match(r"sep=(.)\r?\n", text)  # for spreadsheets, not a row
    divider = hint[1] if hint else _find_divider(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=divider, strict=True)
    rows: list[Row] = []
    columns: list[str] | None = None
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells) or (hint and reader.line_num == 1):
                continue
            if columns is None:
                columns = _name_columns(table, cells)
                continue
            if any(cell.strip() for cell in cells[len(columns) :]):
                raise DataError(
                    f"{table}, line {reader.line_num} has {len(cells)} cells, but there are {len(columns)} columns; "
                    f"put what holds a {DIVIDERS[divider]} into quotes."
                )
            rows.append((reader.line_num, dict(zip_longest(columns, cells[: len(columns)]))))
    except csv.Error as error:
        reason = describe_cause(error)
        raise DataError(f"{table}, line {reader.line_num} cannot be read as a table ({reason}); correct it.") from error
    return Table(columns or [], rows, notes)


def _find_divider(text: str) -> str:
    """The divider by which the first row names the columns that are known, or else the most columns."""

    def judge(divider: str) -> tuple[int, int]:
        try:
            rows = csv.reader(io.StringIO(text, newline=""), delimiter=divider, strict=True)
            cells = next((row for row in rows if any(cell.strip() for cell in row)), [])
        except csv.Error:
            return (0, 0)
        plain = {_simplify(cell.strip()) for cell in cells}
        return sum(not plain.isdisjoint(spellings) for spellings in COLUMNS.values()), len(cells)

    return max(DIVIDERS, key=judge)  # the first of equals


def _decode(table: Path) -> tuple[str, tuple[str, ...]]:
    """Text of a file, and what is to be said of its encoding."""
    try:
        content = read_regular(table)
    except OSError as error:
        raise DataError(f"{table} cannot be read as a table ({describe_cause(error)}); give another file.") from error
    encoding = _find_encoding(content)
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        reason = f"{error.reason}, byte {error.start}"
        raise DataError(f"{table} is no text in UTF-8, UTF-16 or Windows-1252 ({reason}); save it in UTF-8.") from error
    if encoding == FALLBACK and re.search(r"[\x00-\x08\x0e-\x1f]", text):
        raise DataError(f"{table} is no text; give a table in CSV, TSV or Parquet.")
    if encoding != FALLBACK:
        return text.removeprefix("\ufeff"), ()
    return text, (f"{table.name} is not in UTF-8 and was read as Windows-1252; save it in UTF-8 if names are wrong.",)


def _find_encoding(content: bytes) -> str:
    """The encoding by the mark at the beginning, or by the zeros that UTF-16 has in every other place of plain text."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    for start, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        if len(content) > 1 and content[start:400:2].count(0) > 0.7 * len(content[start:400:2]):
            return name
    try:
        content.decode()
    except UnicodeDecodeError:
        return FALLBACK
    return "utf-8"


def _read_parquet(table: Path) -> Table:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        remedy = 'pip install "onelook[parquet]", or give a CSV'
        raise DataError(f"{table} is a Parquet file, which needs the package pyarrow; {remedy}.") from error
    try:
        require_regular(table)
        with parquet.ParquetFile(table) as file:
            content = file.read()
        columns = _name_columns(table, content.column_names)
        return Table(columns, list(enumerate(content.rename_columns(columns).to_pylist(), 1)))
    except DataError:
        raise
    except Exception as error:  # what pyarrow raises has no common base
        reason = describe_cause(error)
        raise DataError(f"{table} cannot be read as Parquet ({reason}); give another file.") from error
