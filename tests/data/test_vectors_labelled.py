"""Files of features: what is saved comes back, and what will not do is one sentence."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.features import random_embeddings
from onelook.data.vectors import load_features, save_features
from onelook.errors import DataError
from onelook.tasks import Embeddings


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


X = np.random.default_rng(0).normal(size=(6, 3))


def test_features_that_are_saved_come_back(tmp_path: Path) -> None:
    data = random_embeddings(3, 2, 4, n_views=1)
    save_features(data, tmp_path / "f.npz")
    again = load_features(tmp_path / "f.npz")
    assert torch.equal(again.views, data.views)
    assert torch.equal(again.labels, data.labels)
    assert again.class_names == data.class_names
    assert again.source == str(tmp_path / "f.npz")


def test_a_class_all_of_whose_images_were_left_out_comes_back_too(tmp_path: Path) -> None:
    data = random_embeddings(4, 2, 4, n_views=1)
    kept = data.labels != 1
    save_features(Embeddings(data.views[:, kept], data.labels[kept], data.class_names), tmp_path / "f.npz")
    again = load_features(tmp_path / "f.npz")
    assert again.labels.tolist() == [0, 0, 2, 2, 3, 3]
    assert again.class_names == data.class_names


@pytest.mark.parametrize(
    ("labels", "names"), [(["b", "b", "a", "a", "ü x", "b"], ("a", "b", "ü x")), ([7, 7, 3, 3, 9, 7], ("3", "7", "9"))]
)
def test_labels_may_be_any_words_or_numbers(labels: list[Any], names: tuple[str, ...], tmp_path: Path) -> None:
    data = load_features(npz(tmp_path / "f.npz", features=X, labels=np.array(labels)))
    assert data.class_names == names
    assert [names[k] for k in data.labels] == [str(label) for label in labels]
    assert data.views.dtype == torch.float32
    np.testing.assert_allclose(data.features.numpy(), X, rtol=1e-6)


def test_class_names_name_labels_that_do_not_begin_at_zero_in_their_order(tmp_path: Path) -> None:
    labels = np.array([3, 7, 3, 7, 3, 3])
    data = load_features(npz(tmp_path / "f.npz", features=X, labels=labels, class_names=np.array(["a", "b"])))
    assert [data.class_names[k] for k in data.labels] == ["a", "b", "a", "b", "a", "a"]


GOOD = np.array([0, 0, 1, 1, 2, 2])
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no labels": ({"features": X}, "needs the arrays features (N, D) and labels (N), but holds features"),
    "nothing": ({}, "but holds none"),
    "objects": ({"features": X, "labels": np.array([{}] * 6, object)}, "pickled objects, which are never loaded"),
    "not a number": ({"features": np.where(np.arange(18).reshape(6, 3) == 7, np.nan, X), "labels": GOOD}, "row 2"),
    "too large": ({"features": X * 1e200, "labels": GOOD}, "of row 0, and of 5 more, are not finite"),
    "words": ({"features": X.astype(str), "labels": GOOD}, "features must be numbers"),
    "complex": ({"features": X + 1j, "labels": GOOD}, "features must be numbers"),
    "one axis": ({"features": X[:, 0], "labels": GOOD}, "they are (6,) and (6,)"),
    "three axes": ({"features": X[None], "labels": GOOD}, "they are (1, 6, 3) and (6,)"),
    "other length": ({"features": X, "labels": GOOD[:4]}, "they are (6, 3) and (4,)"),
    "two labels a row": ({"features": X, "labels": np.stack([GOOD, GOOD], 1)}, "they are (6, 3) and (6, 2)"),
    "no rows": ({"features": X[:0], "labels": GOOD[:0]}, "they are (0, 3) and (0,)"),
    "too few names": ({"features": X, "labels": GOOD, "class_names": np.array(["a"])}, "1 class_names, but 3"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_file_of_features_that_will_not_do_is_one_sentence(case: str, tmp_path: Path) -> None:
    arrays, expected = WRONG[case]
    with pytest.raises(DataError) as caught:
        load_features(npz(tmp_path / "f.npz", **arrays))
    assert expected in str(caught.value)
    assert str(tmp_path / "f.npz") in str(caught.value)


def damaged() -> dict[str, bytes]:
    whole, single = io.BytesIO(), io.BytesIO()
    np.savez(whole, features=X, labels=GOOD)
    np.save(single, X)
    member = io.BytesIO()
    with zipfile.ZipFile(member, "w") as archive:
        archive.writestr("features.npy", b"words")
        archive.writestr("labels.npy", b"")
    content = whole.getvalue()
    return {
        "empty": b"",
        "words": b"these are words",
        "a single array": single.getvalue(),
        "cut short": content[:-30],
        "bits turned": content[:300].replace(b"\0", b"\1") + content[300:],
        "words as members": member.getvalue(),
        "a pickle": b"\x80\x04N.",
        "the beginning of a zip": b"PK\3\4",
    }


@pytest.mark.parametrize("case", damaged())
def test_a_damaged_file_of_features_is_one_sentence(case: str, tmp_path: Path) -> None:
    (tmp_path / "f.npz").write_bytes(damaged()[case])
    with pytest.raises(DataError, match=r"f.npz (cannot be read as an .npz file of plain arrays|needs the arrays)"):
        load_features(tmp_path / "f.npz")


def test_a_file_of_features_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone.npz cannot be read .*no such file"):
        load_features(tmp_path / "gone.npz")
