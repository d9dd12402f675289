"""Files of features that are there already: every form gives the same vectors, and what will not do is one sentence."""

import csv
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from helpers.features import one_sentence
from onelook.data.tables import path_cell
from onelook.data.vectors import read_vectors
from onelook.errors import DataError

NAMES = ["b/x.jpg", "=a.png", "\N{SNOWMAN}.heic"]
X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


def write_rows(path: Path, columns: list[str], rows: list[list[Any]], comma: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=comma).writerows([columns, *rows])
    return path


def as_npz(path: Path, names: list[str], x: np.ndarray) -> None:
    np.savez(path, features=x, path=np.array(names), labels=np.zeros(len(x)))


def as_npz_of_bytes(path: Path, names: list[str], x: np.ndarray) -> None:
    np.savez(path, features=x.astype(np.float64), filename=np.array([name.encode() for name in names]))


def as_npz_by_name(path: Path, names: list[str], x: np.ndarray) -> None:
    np.savez(path, **dict(zip(names, x, strict=True)))


def as_tensors(path: Path, names: list[str], x: np.ndarray) -> None:
    save_file({"features": torch.from_numpy(x.copy())}, path, {"path": json.dumps(names)})


def as_tensors_by_name(path: Path, names: list[str], x: np.ndarray) -> None:
    save_file({name: torch.from_numpy(row.copy()) for name, row in zip(names, x, strict=True)}, path)


def as_csv(path: Path, names: list[str], x: np.ndarray) -> None:
    rows = [[path_cell(name), *row] for name, row in zip(names, x.tolist(), strict=True)]
    write_rows(path, ["path", *(f"f{i}" for i in range(x.shape[1]))], rows)


def as_csv_of_pandas(path: Path, names: list[str], x: np.ndarray) -> None:
    rows = [[i, *row, "a label", name] for i, (name, row) in enumerate(zip(names, x.tolist(), strict=True))]
    write_rows(path, ["", *(f"f{i}" for i in range(x.shape[1])), "label", "filename"], rows, ";")


def as_parquet(path: Path, names: list[str], x: np.ndarray) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"path": names, "note": names, "features": list(x)}), path)


def as_parquet_of_pandas(path: Path, names: list[str], x: np.ndarray) -> None:
    pytest.importorskip("pyarrow")
    frame = pytest.importorskip("pandas").DataFrame(x, columns=[f"f{i}" for i in range(x.shape[1])])
    frame.assign(path=names)[::-1].to_parquet(path)  # whose row numbers are kept in a column, as they are not in order


WRITERS: dict[str, tuple[str, Callable[[Path, list[str], np.ndarray], None]]] = {
    "npz": (".npz", as_npz),
    "npz of bytes": (".npz", as_npz_of_bytes),
    "npz by name": (".npz", as_npz_by_name),
    "safetensors": (".safetensors", as_tensors),
    "safetensors by name": (".safetensors", as_tensors_by_name),
    "csv": (".csv", as_csv),
    "csv of pandas": (".CSV", as_csv_of_pandas),
    "parquet": (".parquet", as_parquet),
    "parquet of pandas": (".pq", as_parquet_of_pandas),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_every_form_gives_the_names_and_their_vectors(kind: str, tmp_path: Path) -> None:
    suffix, write = WRITERS[kind]
    file = tmp_path / f"f{suffix}"
    write(file, NAMES, X)
    found = read_vectors(file)
    got = dict(zip(found.items, found.features.numpy(), strict=True))
    assert set(got) == set(NAMES)
    for name, row in zip(NAMES, X, strict=True):
        np.testing.assert_array_equal(got[name], row)
    assert set(found.labels.tolist()) == {-1}
    assert (found.source, found.views.dtype) == (str(file), torch.float32)


@given(names=st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), min_size=1, unique=True))
def test_any_name_comes_back_from_arrays(names: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("any") / "f.safetensors"
    as_tensors(file, names, np.arange(2.0 * len(names), dtype=np.float32).reshape(-1, 2))
    assert list(read_vectors(file).items) == names


def test_numbers_of_half_precision_are_read(tmp_path: Path) -> None:
    save_file({"a.png": torch.tensor([1.5, 2], dtype=torch.bfloat16)}, tmp_path / "f.safetensors")
    assert read_vectors(tmp_path / "f.safetensors").features.tolist() == [[1.5, 2.0]]


@pytest.mark.parametrize(
    "form",
    [
        np.asfortranarray,
        lambda x: x.astype(">f4"),
        lambda x: x.astype(">i2"),
        lambda x: x.astype(np.float16),
        lambda x: x.astype(bool),
        lambda x: x.astype(np.uint64),
    ],
)
def test_numbers_of_any_type_and_order_are_read(form: Callable[[np.ndarray], np.ndarray], tmp_path: Path) -> None:
    x = (np.arange(12).reshape(3, 4) % 5 == 0).astype(np.float64)
    np.savez(tmp_path / "f.npz", features=form(x), path=NAMES)
    found = read_vectors(tmp_path / "f.npz").features
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), x)


def test_what_would_fill_the_memory_is_refused_unread(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "f.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("features.npy", bytes(100_000_000))
    with pytest.raises(DataError, match=r"features.npy would swell to 95 MB"):
        read_vectors(tmp_path / "f.npz")


def bad(path: Path) -> dict[str, tuple[Callable[[], Any], str]]:
    """What is written, and what is said of it."""
    npz = path / "f.npz"
    return {
        "another kind": ((path / "f.txt").touch, "f.txt is no file that features are read from; give one of .npz"),
        "no file": (lambda: None, "f.npz cannot be read as an .npz file"),
        "pickled": (lambda: np.savez(npz, path=np.array([[], 1], dtype=object)), "pickled objects, which are never"),
        "no names": (lambda: np.savez(npz, features=X), "needs features (N, D) and path (N names of images)"),
        "no vectors": (lambda: np.savez(npz, path=NAMES, a=X), "but holds a, path."),
        "unequal": (lambda: np.savez(npz, **{"a.png": X[0], "b.png": X[0, :2]}), "or a vector (D) under the name of"),
        "fewer names": (lambda: np.savez(npz, path=NAMES[:2], features=X), "for its 2 names, but they are (3, 4)"),
        "numbers for names": (lambda: np.savez(npz, path=[1, 2, 3], features=X), "must be words, but 1 is among"),
        "a row without a name": (
            lambda: save_file({"features": torch.ones(2, 1)}, path / "f.safetensors", {"path": '["a", null]'}),
            "must be words, but None is among them",
        ),
        "complex": (lambda: np.savez(npz, path=NAMES, features=X + 1j), "must be numbers, but they are of"),
        "complex tensors": (
            lambda: save_file({"a.png": torch.ones(2, dtype=torch.complex64)}, path / "f.safetensors"),
            "a.png are complex numbers",
        ),
        "no end": (
            lambda: save_file({"features": torch.ones(1, 1)}, path / "f.safetensors", {"path": "[" * 200_000}),
            "nested too deeply",
        ),
        "words": (lambda: np.savez(npz, path=NAMES, features=np.full((3, 4), "a")), "must be numbers, but they are of"),
        "not finite": (
            lambda: np.savez(npz, path=NAMES, features=X / [[1], [0], [1]]),
            "of row 1 (=a.png) are not finite",
        ),
        "no table of names": (lambda: write_rows(path / "f.csv", ["name", "f"], [["a", 1]]), "but has name, f; rename"),
        "no columns": (lambda: write_rows(path / "f.csv", ["path", "label"], [["a", 1]]), "of numbers, but has"),
        "no rows": (lambda: write_rows(path / "f.csv", ["path", "f"], []), "no rows below its columns"),
        "a word": (
            lambda: write_rows(path / "f.csv", ["path", "f"], [["a", "1"], ["b", "x"]]),
            "line 3: f holds 'x', which is no number",
        ),
        "a gap": (lambda: write_rows(path / "f.csv", ["path", "f", "g"], [["a", "1"]]), "line 2: g holds None"),
        "no tensors": (lambda: (path / "f.safetensors").write_bytes(b"words"), "cannot be read as a safetensors file"),
        "no list": (
            lambda: save_file({"features": torch.ones(1, 1)}, path / "f.safetensors", {"path": '"a"'}),
            "path in its metadata is no list",
        ),
    }


@pytest.mark.parametrize("name", bad(Path()))
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_what_will_not_do_is_one_sentence(name: str, tmp_path: Path) -> None:
    write, said = bad(tmp_path)[name]
    write()
    file = next(iter(tmp_path.iterdir()), tmp_path / "f.npz")
    with pytest.raises(DataError) as error:
        read_vectors(file)
    assert said in one_sentence(error.value)
    assert file.name in str(error.value)


def test_lists_of_unequal_length_are_refused(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"path": NAMES[:2], "features": [[1.0], [1.0, 2.0]]}), tmp_path / "f.parquet")
    with pytest.raises(DataError, match="vectors of 1 and of 2 numbers"):
        read_vectors(tmp_path / "f.parquet")
