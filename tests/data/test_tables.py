"""Tables as people have them: written by any program, in any encoding, with their own names of columns."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.features import one_sentence
from onelook.data.missing import DOUBTFUL, WORDS, is_missing
from onelook.data.tables import read_labels, read_rows
from onelook.errors import DataError

pandas, pyarrow, parquet = map(pytest.importorskip, ("pandas", "pyarrow", "pyarrow.parquet"))

ROWS = [("a, b.png", "café"), ("two\nlines.png", ""), ("c;d|e.png", 'said "x"')]


def written(divider: str = ",", line_end: str = "\n", names: tuple[str, str] = ("path", "label")) -> str:
    rows = [names, *ROWS]
    quoted = [['"' + cell.replace('"', '""') + '"' for cell in row] for row in rows]
    return line_end.join(divider.join(row) for row in [*quoted, [""]])


def read(folder: Path, content: bytes, name: str = "table.csv") -> list[tuple[str, str]]:
    (folder / name).write_bytes(content)
    return [(row.name, row.label) for row in read_labels(folder / name).rows]


def refused(folder: Path, content: bytes) -> str:
    with pytest.raises(DataError) as error:
        read(folder, content)
    return one_sentence(error.value)


@pytest.mark.parametrize("divider", [",", ";", "\t", "|"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
def test_what_any_spreadsheet_writes_is_read(divider: str, line_end: str, encoding: str, tmp_path: Path) -> None:
    content = written(divider, line_end).encode(encoding)
    assert read(tmp_path, content) == ROWS
    assert bool(read_labels(tmp_path / "table.csv").notes) == (encoding == "cp1252")


@pytest.mark.parametrize(
    "names",
    [(" Path ", "LABEL"), ("File Name", "class"), ("image", "Category"), ("file", "labels"), ("Image-Path", "label")],
)
def test_columns_are_known_by_the_names_that_people_give_them(names: tuple[str, str], tmp_path: Path) -> None:
    assert read(tmp_path, written(names=names).encode()) == ROWS


def test_of_several_columns_that_might_be_meant_the_plainest_is(tmp_path: Path) -> None:
    assert read(tmp_path, b"image,class,path,label\nx,y,a.png,cat\n") == [("a.png", "cat")]


def test_the_divider_is_that_by_which_the_columns_are_known(tmp_path: Path) -> None:
    assert read(tmp_path, b"sep=;\r\npath;label\r\na,b.png;cat\r\n") == [("a,b.png", "cat")]
    assert read(tmp_path, b"path;label;note, or two\na.png;cat;\n") == [("a.png", "cat")]


def test_blank_lines_and_columns_at_the_end_say_nothing(tmp_path: Path) -> None:
    assert read(tmp_path, b"\n\npath,label,,\na.png,cat,,\n,,,\n \n") == [("a.png", "cat")]
    assert read(tmp_path, b"path,label\na.png\n") == [("a.png", "")]


@pytest.mark.parametrize("word", sorted({*WORDS, "", " ", " nan "}))
@pytest.mark.parametrize("name", ["table.csv", "table.parquet"])
def test_what_programs_write_for_a_missing_label_is_none(word: str, name: str, tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"path": ["a.png"], "label": [word]}), tmp_path / "table.parquet")
    content = f"path,label\na.png,{word}\n".encode() if name == "table.csv" else (tmp_path / name).read_bytes()
    assert read(tmp_path, content, name) == [("a.png", "")]


@pytest.mark.parametrize("word", sorted(DOUBTFUL))
def test_what_may_be_the_name_of_a_class_is_one_and_is_told(word: str, tmp_path: Path) -> None:
    assert read(tmp_path, f"path,label\na.png,{word}\n".encode()) == [("a.png", word)]
    (note,) = read_labels(tmp_path / "table.csv").notes
    assert note == f"table.csv has 1 image of a class {word!r}; leave the cell empty if it means no label."


MISSING: list[Any] = [None, float("nan"), np.nan, np.float32("nan"), np.datetime64("NaT"), np.ma.masked]
MISSING += [pandas.NA, pandas.NaT, pyarrow.scalar(None), pyarrow.scalar(None, pyarrow.string())]


@pytest.mark.parametrize("value", MISSING, ids=repr)
def test_the_missing_values_of_every_library_are_missing(value: Any) -> None:
    assert is_missing(value)


@given(st.one_of(st.integers(), st.booleans(), st.floats(allow_nan=False), st.text(min_size=1).map(lambda s: f"x{s}")))
def test_nothing_else_is(value: Any) -> None:
    assert not is_missing(value)


@pytest.mark.parametrize("column", [[3, None], [b"cat", None], [True, None], [1.5, float("nan")]])
def test_labels_of_any_plain_type_come_from_parquet_as_text(column: list[Any], tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"Path": ["a.png", "b.png"], "label": column}), tmp_path / "t.parquet")
    expected = "cat" if column[0] == b"cat" else str(column[0])
    assert [row.label for row in read_labels(tmp_path / "t.parquet").rows] == [expected, ""]


@pytest.mark.parametrize("column", [[["cat"]], [{"a": 1}]])
def test_labels_that_are_no_text_are_refused(column: list[Any], tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"path": ["a.png"], "label": column}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"line 1: label holds .*, which is no text"):
        read_labels(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"path,label\na.png," + b"x" * 200_000, "line 2 cannot be read as a table (field larger than field limit"),
        (b"path,label\na.png\0,x\n", r"line 2: path holds 'a.png\x00', which is no text"),
        (b"PATH,path,label\na,b,c\n", "has 2 columns named path; rename or remove others."),
        (",".join(f"c{i}" for i in range(10_000)).encode(), "has c0, c1, c2, c3, c4 and 9,995 more; rename them."),
        (b"n\x1bame," + b"y" * 500 + b"\n", r"has 'n\x1bame', " + "y" * 60 + "…; rename them."),
    ],
)
def test_a_table_that_will_not_do_is_one_sentence(content: bytes, said: str, tmp_path: Path) -> None:
    assert said in refused(tmp_path, content)


def test_fifty_thousand_columns_are_read(tmp_path: Path) -> None:
    names = ",".join(map(str, range(50_000)))
    (tmp_path / "t.csv").write_text(f"path,{names}\na.png,{names}\n")
    columns, rows, _ = read_rows(tmp_path / "t.csv")
    assert (len(columns), len(rows)) == (50_001, 1)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_what_is_no_regular_file_is_not_opened(kind: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"t.{suffix}"
    {"pipe": os.mkfifo, "folder": Path.mkdir, "device": lambda p: p.symlink_to("/dev/zero")}[kind](path)
    with pytest.raises(DataError, match=f"it is a {kind}"):
        read_labels(path)
