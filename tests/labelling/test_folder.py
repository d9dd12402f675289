"""Every image of a folder is listed once, with the label that the person gave it or none."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.features import one_sentence
from helpers.images import class_image, write_files
from onelook import backbones
from onelook.data.embed import embed_files
from onelook.data.images import Rejected
from onelook.data.tables import LabelRow, guard_cell, parse_path, path_cell, read_labels, strip_guard
from onelook.errors import DataError, SettingsError
from onelook.events import finish
from onelook.labelling.folder import UNLABELLED, FolderListing, list_folder
from onelook.labelling.labels import is_unlabelled

NAMES = st.text(st.characters(exclude_characters="\0"), min_size=1).map(
    lambda s: os.fsdecode(s.encode("utf-8", "replace"))
)


def labels_of(found: FolderListing) -> dict[str, str | None]:
    names = found.listing.class_names
    return {
        name: None if k == UNLABELLED else names[k]
        for name, k in zip(found.listing.names, found.listing.labels, strict=True)
    }


def listed(folder: Path, files: str, **settings: Any) -> dict[str, str | None]:
    """The labels of empty files; a listing does not read."""
    write_files(folder, dict.fromkeys(files.split(), b""))
    return labels_of(list_folder(folder, **settings))


def refused(folder: Path, error: type[Exception] = DataError, **settings: Any) -> str:
    with pytest.raises(error) as caught:
        list_folder(folder, **settings)
    return one_sentence(caught.value)


# --------------------------------------------------------------------------------------------------------- sub-folders


def test_sub_folders_are_classes_and_loose_images_are_to_be_labelled(tmp_path: Path) -> None:
    assert listed(tmp_path, "cat/1.jpg cat/2.PNG dog/1.jpg 1.jpg notes.txt .hidden/1.jpg dog/.2.jpg") == {
        "1.jpg": None,
        "cat/1.jpg": "cat",
        "cat/2.PNG": "cat",
        "dog/1.jpg": "dog",
    }


@pytest.mark.parametrize(
    "name",
    [
        "unlabeled",
        "Unlabelled",
        "unsorted",
        "to_label",
        "To Label",
        "inbox",
        "new",
        "test",
        "_unknown",
        "to-be-labelled",
    ],
)
def test_folders_of_images_to_label_never_become_classes_without_a_yes(name: str, tmp_path: Path) -> None:
    write_files(tmp_path, {"cat/1.jpg": b"", f"{name}/2.jpg": b"", f"{name}/deep/3.jpg": b""})
    assert labels_of(list_folder(tmp_path)) == {"cat/1.jpg": "cat", f"{name}/2.jpg": None, f"{name}/deep/3.jpg": None}
    assert labels_of(list_folder(tmp_path, also_classes=[name]))[f"{name}/2.jpg"] == name
    assert labels_of(list_folder(tmp_path, unlabelled_folders=["cat"]))["cat/1.jpg"] is None


@pytest.mark.parametrize("name", ["newt", "testing", "cat", "_", "..."])
def test_other_folders_are_classes(name: str) -> None:
    assert not is_unlabelled(name)


def test_folders_in_folders_are_classes_of_their_own_and_what_stands_around_all_is_no_part_of_the_name(
    tmp_path: Path,
) -> None:
    nested = listed(tmp_path / "a", "cat/1.jpg cat/big/2.jpg dog/3.jpg")
    assert nested == {"cat/1.jpg": "cat", "cat/big/2.jpg": "cat/big", "dog/3.jpg": "dog"}
    around = listed(tmp_path / "b", "mine/cat/1.jpg mine/dog/2.jpg 3.jpg")
    assert around == {"3.jpg": None, "mine/cat/1.jpg": "cat", "mine/dog/2.jpg": "dog"}
    split = listed(tmp_path / "c", "train/cat/1.jpg val/cat/2.jpg train/dog/3.jpg test/dog/4.jpg")
    assert split == {"train/cat/1.jpg": "cat", "val/cat/2.jpg": "cat", "train/dog/3.jpg": "dog", "test/dog/4.jpg": None}


def test_a_class_of_one_image_and_one_class_only_are_listed_and_said(tmp_path: Path) -> None:
    write_files(tmp_path, {"cat/1.jpg": b""})
    found = list_folder(tmp_path)
    assert (found.labelled, found.unlabelled) == ((0,), ())
    assert "labelled examples 1, classes 1 (cat 1), images to label 0." in found.messages()[0]
    assert "label one of another class" in found.messages()[1]
    assert "is labelled already" in found.messages()[2]


@pytest.mark.parametrize("name", [b"a b", b'it\'s "so"', "🦊 лис".encode(), b"two\nlines", b"caf\xe9", b"100%", b"-x"])
def test_any_name_will_do_and_its_file_can_be_read(name: bytes, tmp_path: Path) -> None:
    text = os.fsdecode(name)
    write_files(tmp_path, {f"{text}/{text}.jpg": b"inside", f"{text}.jpg": b"loose"})
    found = list_folder(tmp_path)
    assert labels_of(found) == {f"{text}/{text}.jpg": text, f"{text}.jpg": None}
    assert {found.listing.read(n) for n in found.listing.names} == {b"inside", b"loose"}
    assert all(sentence.isprintable() and sentence.encode() for sentence in found.messages())


def test_links_that_lead_round_in_circles_end(tmp_path: Path) -> None:
    write_files(tmp_path, {"a/1.jpg": b"", "b/2.jpg": b""})
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "b" / "self.jpg").symlink_to("self.jpg")
    found = labels_of(list_folder(tmp_path))
    assert found["a/1.jpg"] == "a"
    assert len(found) < 10


def test_ten_thousand_files_in_one_folder_are_listed(tmp_path: Path) -> None:
    for i in range(10_000):
        (tmp_path / f"{i}.jpg").touch()
    write_files(tmp_path, {"cat/x.jpg": b""})
    assert len(list_folder(tmp_path).unlabelled) == 10_000


def test_a_folder_that_cannot_be_read_is_said_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path, {"cat/1.jpg": b"", "locked/2.jpg": b""})
    scan = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)  # nothing is locked for the superuser
    found = list_folder(tmp_path)
    assert labels_of(found) == {"cat/1.jpg": "cat"}
    assert found.skipped == (Rejected("locked", "the folder cannot be read (permission denied)"),)
    assert "locked was passed over" in found.messages()[-1]


def test_features_of_a_folder_keep_its_labels_and_tell_of_files_that_are_gone_since(tmp_path: Path) -> None:
    write_files(tmp_path, {f"c{k}/{i}.png": class_image(k, i) for k in range(2) for i in range(2)})
    write_files(tmp_path, {"loose.png": class_image(0, 9), "gone.png": class_image(0, 8)})
    listing = list_folder(tmp_path).listing
    (tmp_path / "gone.png").unlink()
    work, events = embed_files(listing, backbones.create("conv4-64", 3, 16)), []
    while True:
        try:
            events.append(next(work))
        except StopIteration as end:
            features = end.value
            break
    assert [e for e in events if isinstance(e, Rejected)] == [Rejected("gone.png", "no such file or directory")]
    assert dict(zip(features.items, features.labels.tolist(), strict=True)) == {
        "c0/0.png": 0,
        "c0/1.png": 0,
        "c1/0.png": 1,
        "c1/1.png": 1,
        "loose.png": UNLABELLED,
    }
    assert torch.isfinite(features.features).all()
    assert len(finish(embed_files(listing, backbones.create("conv4-64", 3, 16))).labels) == 5


# -------------------------------------------------------------------------------------------------------------- tables


def tabled(folder: Path, text: str, name: str = "labels.csv") -> FolderListing:
    write_files(folder, dict.fromkeys(["1.jpg", "in/2.jpg", "in/3.jpg", "4.jpg"], b""))
    write_files(folder, {name: text.encode()})
    return list_folder(folder, labels=folder / name)


@pytest.mark.parametrize("column", ["path", "filename"])
@pytest.mark.parametrize("comma", [",", ";"])
def test_a_table_labels_what_it_names_and_the_rest_is_to_be_labelled(column: str, comma: str, tmp_path: Path) -> None:
    text = f"{column},label\n1.jpg,cat\nin/2.jpg, dog \n4.jpg,\n".replace(",", comma)
    assert labels_of(tabled(tmp_path, text)) == {"1.jpg": "cat", "in/2.jpg": "dog", "in/3.jpg": None, "4.jpg": None}


@pytest.mark.parametrize("path", ["in/2.jpg", "./in/2.jpg", "in\\2.jpg", "2.jpg", "in/../in/2.jpg", "{}/in/2.jpg"])
def test_a_table_may_spell_a_path_in_any_way(path: str, tmp_path: Path) -> None:
    found = tabled(tmp_path, f"path,label\n{path.format(tmp_path)},cat\n")
    assert labels_of(found)["in/2.jpg"] == "cat"
    assert not found.skipped


def test_a_folder_may_be_named_by_way_of_another(tmp_path: Path) -> None:
    tabled(tmp_path, "path,label\nin/2.jpg,cat\n./1.jpg,dog\n")
    found = list_folder(tmp_path / "in" / "..", labels=tmp_path / "labels.csv")
    assert (labels_of(found)["in/2.jpg"], labels_of(found)["1.jpg"]) == ("cat", "dog")


def test_a_table_and_sub_folders_label_together_and_the_table_counts_where_both_speak(tmp_path: Path) -> None:
    files = dict.fromkeys(["cat/1.jpg", "cat/2.jpg", "cat/3.jpg", "dog/1.jpg", "5.jpg", "6.jpg"], b"")
    write_files(tmp_path, files | {"t.csv": b"path,label\ncat/2.jpg,dog\ncat/3.jpg,\n5.jpg,fox\ndog/1.jpg,dog\n"})
    found = list_folder(tmp_path, labels=tmp_path / "t.csv")
    assert labels_of(found) == {
        "5.jpg": "fox",
        "6.jpg": None,
        "cat/1.jpg": "cat",
        "cat/2.jpg": "dog",
        "cat/3.jpg": None,
        "dog/1.jpg": "dog",
    }
    assert found.notes == (
        "Labels are from t.csv (3) and from sub-folders (1).",
        "t.csv and the sub-folders differ on 1 image; t.csv counts (cat/2.jpg is dog there and cat by its folder, for "
        "example).",
    )


def test_tables_label_together_and_may_not_differ(tmp_path: Path) -> None:
    write_files(tmp_path, dict.fromkeys(["1.jpg", "2.jpg", "3.jpg"], b""))
    both = (tmp_path / "a.csv", tmp_path / "b.csv")
    both[0].write_text("path,label\n1.jpg,cat\n2.jpg,\n3.jpg,dog\n")
    both[1].write_text("path,label\n2.jpg,dog\n3.jpg,\n")
    assert labels_of(list_folder(tmp_path, both)) == {"1.jpg": "cat", "2.jpg": "dog", "3.jpg": "dog"}
    both[1].write_text("path,label\n3.jpg,cat\n")
    assert "b.csv calls 3.jpg 'cat', but another table 'dog'; keep one of them." in refused(tmp_path, labels=both)


def test_sub_folders_that_are_no_classes_by_the_table_are_none(tmp_path: Path) -> None:
    files = dict.fromkeys(["2021/1.jpg", "2021/2.jpg", "2022/1.jpg", "3.jpg"], b"")
    write_files(tmp_path, files | {"t.csv": b"path,label\n2021/1.jpg,cat\n3.jpg,dog\n"})
    found = list_folder(tmp_path, labels=tmp_path / "t.csv")
    assert labels_of(found) == {"2021/1.jpg": "cat", "2021/2.jpg": None, "2022/1.jpg": None, "3.jpg": "dog"}
    assert "labels images in them by other names (2021/1.jpg as cat, for example)" in found.notes[0]
    also = labels_of(list_folder(tmp_path, labels=tmp_path / "t.csv", also_classes=["2022"]))
    assert also == {"2021/1.jpg": "cat", "2021/2.jpg": None, "2022/1.jpg": "2022", "3.jpg": "dog"}
    (tmp_path / "t.csv").write_text("path,label\n3.jpg,dog\n")  # it says nothing of the folders
    assert set(labels_of(list_folder(tmp_path, labels=tmp_path / "t.csv")).values()) == {"2021", "2022", "dog"}


@pytest.mark.parametrize("name", ["birds", "birds/", "egret", "birds/egret"])
def test_a_folder_that_is_no_class_holds_images_to_label(name: str, tmp_path: Path) -> None:
    files = "cat/1.jpg birds/egret/2.jpg birds/heron/3.jpg"
    found = listed(tmp_path, files, not_classes=[name])
    assert found["birds/egret/2.jpg"] is None
    assert (found["birds/heron/3.jpg"] is None) == ("egret" not in name)
    assert found["cat/1.jpg"] == "cat"


def test_the_name_of_no_folder_is_refused_with_the_nearest_one(tmp_path: Path) -> None:
    write_files(tmp_path, dict.fromkeys(["cat/1.jpg", "dog/2.jpg"], b""))
    assert "has no folder dgo with images; did you mean dog?" in refused(tmp_path, not_classes=["dgo"])
    assert "has no folder xyz with images; give" in refused(tmp_path, also_classes=["xyz"])
    both = refused(tmp_path, SettingsError, also_classes=["cat"], not_classes=["cat"])
    assert "cat cannot be a class and none" in both


def test_folders_in_folders_that_become_classes_are_told(tmp_path: Path) -> None:
    write_files(tmp_path, dict.fromkeys(["birds/egret/1.jpg", "birds/heron/1.jpg", "fox/1.jpg", "2.jpg"], b""))
    (note,) = list_folder(tmp_path).notes
    assert note.startswith("Folders in folders become classes: birds/egret, birds/heron are classes of their own;")
    (tmp_path / "fox" / "1.jpg").unlink()
    assert list_folder(tmp_path).notes == ()  # birds is no part of the name then


def test_a_table_beside_or_below_the_folder_may_count_paths_from_where_it_is(tmp_path: Path) -> None:
    write_files(tmp_path, {"pictures/1.jpg": b"", "labels.csv": b"path,label\npictures/1.jpg,cat\n"})
    assert labels_of(list_folder(tmp_path / "pictures", labels=tmp_path / "labels.csv")) == {"1.jpg": "cat"}


def test_rows_without_an_image_are_passed_over_with_their_line(tmp_path: Path) -> None:
    write_files(tmp_path, {"too/3.jpg": b""})
    found = tabled(tmp_path, "path,label\n1.jpg,cat\nno.jpg,cat\n3.jpg,cat\n")
    assert found.skipped == (
        Rejected("no.jpg", "line 3 of labels.csv names it, but there is no such image in the folder"),
        Rejected("3.jpg", "line 4 of labels.csv names it, but there are 2 images of that name"),
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name,label\n1.jpg,cat\n", "needs a column path (or filename) and a column label, but has name, label"),
        ("path,label\n", "has no rows"),
        ("path,label\n1.jpg,x\nin/2.jpg,\n1.jpg,y\n", "calls 1.jpg 'x' in line 2 and 'y' in line 4"),
        ("path,label\n ,cat\n", "line 2: path is empty"),
        ("path,label\n1.jpg,cat\n./1.jpg,dog\n", "calls 1.jpg 'cat' in line 2 and 'dog' in line 3"),
    ],
)
def test_a_table_that_will_not_do_is_one_sentence(text: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        tabled(tmp_path, text)
    assert expected in one_sentence(error.value)


def test_parquet_is_read_and_what_is_none_is_one_sentence(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"path": ["1.jpg", "4.jpg", "7.jpg"], "label": ["cat", None, " dog"]})
    parquet.write_table(table, tmp_path / "a.parquet")
    expected = (LabelRow(1, "1.jpg", "cat"), LabelRow(2, "4.jpg", ""), LabelRow(3, "7.jpg", "dog"))
    assert read_labels(tmp_path / "a.parquet").rows == expected
    (tmp_path / "b.pq").write_bytes(b"words")
    for name in ("b.pq", "none.parquet"):
        with pytest.raises(DataError, match="cannot be read as Parquet") as error:
            read_labels(tmp_path / name)
        one_sentence(error.value)


def test_without_its_package_parquet_is_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(DataError) as error:
        read_labels(tmp_path / "a.parquet")
    assert 'pip install "onelook[parquet]", or give a CSV.' in one_sentence(error.value)


@given(NAMES, st.sampled_from(["", "=", "-", "'", "./", "file:", "\udcff"]))
def test_a_cell_is_read_as_it_was_and_computed_by_no_spreadsheet(text: str, start: str) -> None:
    for cell, back in ((guard_cell(start + text), strip_guard), (path_cell(start + text), parse_path)):
        assert back(cell) == start + text
        assert cell[0] not in "=+-@\t\r"
    path_cell(start + text).encode()


# ------------------------------------------------------------------------------------------------------------ patterns


@pytest.mark.parametrize(
    ("pattern", "label"),
    [
        ("{label}_*", "cat"),
        ("{label}_*.jpg", "cat"),
        ("*_{label}", "big"),
        ("{label}_??_*", "cat"),
        ("[{label}", None),
        ("*.{label}", None),
        ("in/{label}_*", "cat"),
        ("{label}/*", "in"),
        (r"^(?P<label>\D+)_\d+", "cat"),
        (r"(?P<label>big)", "big"),
        (r"/(?P<label>c)", "c"),
        (r"(?P<label>x)?cat", None),
    ],
)
def test_a_pattern_finds_the_label_in_the_name(pattern: str, label: str | None, tmp_path: Path) -> None:
    write_files(tmp_path, {"in/cat_01_big.jpg": b"", "in/other.jpg": b"", "[fox.jpg": b"", "a.b.jpg": b""})
    if label is None and pattern.startswith("(?P<label>x"):
        assert "none is labelled by the pattern" in refused(tmp_path, pattern=pattern)
    else:
        found = labels_of(list_folder(tmp_path, pattern=pattern))
        assert found["in/cat_01_big.jpg"] == label
        assert found["in/other.jpg"] == ("in" if pattern == "{label}/*" else None)


@pytest.mark.parametrize(
    ("pattern", "expected"), [("label_*", "does not say where"), ("(?P<label>", "is no regular expression")]
)
def test_a_pattern_that_will_not_do_is_one_sentence(pattern: str, expected: str, tmp_path: Path) -> None:
    assert expected in refused(tmp_path, SettingsError, pattern=pattern)


# ------------------------------------------------------------------------------------------------------------- nothing


def test_what_holds_nothing_to_work_with_is_one_sentence_each(tmp_path: Path) -> None:
    write_files(tmp_path, {"none/a.txt": b"", "bare/1.jpg": b"", "file": b""})
    (tmp_path / "empty").mkdir()
    assert "holds no image; put images" in refused(tmp_path / "empty")
    assert "holds 1 file but no image" in refused(tmp_path / "none")
    assert "holds 1 image, 1.jpg first, but none is labelled; put a few" in refused(tmp_path / "bare")
    assert "There is no folder" in refused(tmp_path / "missing")
    assert "is a file" in refused(tmp_path / "file")
    both = refused(tmp_path / "bare", SettingsError, pattern="{label}_*", labels=Path("x.csv"))
    assert "drop one" in both
