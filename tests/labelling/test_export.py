"""Written labels are read as they were, by us and by the programs that they are for."""

import csv
import json
import os
from pathlib import Path
from urllib.parse import unquote_to_bytes
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.features import one_sentence
from helpers.folder import read_predictions
from helpers.images import encoded, picture, write_files
from onelook.data.images import Rejected
from onelook.data.tables import parse_path
from onelook.errors import DataError
from onelook.labelling.export import Prediction, write_coco, write_csv, write_label_studio
from onelook.labelling.folder import UNLABELLED, list_folder

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
ODD = st.one_of(
    TEXT, st.sampled_from(["=1+1", "'", "./-x", "@a", "two\r\nlines", 'a"b', "a,b", "file:x", "🦊", "\ufeff"])
)
PATHS = st.one_of(ODD, st.binary(max_size=12).map(lambda b: os.fsdecode(b.replace(b"\0", b""))))
PREDICTIONS = st.builds(Prediction, PATHS, ODD, st.floats(0, 1), ODD, st.floats(0, 1), st.booleans())


@given(st.lists(PREDICTIONS, max_size=4))
def test_a_csv_is_read_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, rows: list[Prediction]) -> None:
    path = tmp_path_factory.mktemp("csv") / "labels.csv"
    write_csv(path, rows)
    assert read_predictions(path) == tuple(rows)


def test_no_cell_of_a_csv_begins_a_formula(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [Prediction("=1.jpg", "-2", 0.5, "@x"), Prediction("\t.jpg", "'", 0.5, "\r+")])
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        _, *rows = csv.reader(file)
    assert rows[0] == ["./=1.jpg", "'-2", "0.5", "'@x", "1.0", "false", "'-2", ""]
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]


def test_the_written_labels_of_a_folder_are_a_table_of_its_labels(tmp_path: Path) -> None:
    names = ["=x.jpg", "a b.jpg", os.fsdecode(b"caf\xe9.jpg"), "two\nlines.jpg"]
    write_files(tmp_path / "in", dict.fromkeys(names, b""))
    write_csv(tmp_path / "labels.csv", [Prediction(name, "-cat", 1.0) for name in names])
    confirm(tmp_path / "labels.csv", *names)
    found = list_folder(tmp_path / "in", labels=tmp_path / "labels.csv")
    assert found.listing.class_names == ("-cat",)
    assert len(found.labelled) == 4


def test_predictions_are_labels_only_where_a_person_says_so(tmp_path: Path) -> None:
    write_files(tmp_path / "in", dict.fromkeys(("1.jpg", "2.jpg", "3.jpg", "4.jpg"), b""))
    rows = [Prediction(f"{k}.jpg", "cat" if k < 4 else "", 0.5, best_guess="cat") for k in range(1, 5)]
    table = tmp_path / "labels.csv"
    write_csv(table, rows)
    with pytest.raises(DataError, match="write yes in the column confirmed of each row that you looked at") as error:
        list_folder(tmp_path / "in", labels=table)
    one_sentence(error.value)
    write_csv(table, rows)  # nobody has written in it, and it may be replaced
    confirm(table, "2.jpg", **{"1.jpg": "dog", "3.jpg": "fox"})
    found = list_folder(tmp_path / "in", labels=table)
    assert dict(zip(found.listing.names, found.listing.labels, strict=True)) == {
        "1.jpg": UNLABELLED,
        "2.jpg": 0,
        "3.jpg": UNLABELLED,
        "4.jpg": UNLABELLED,
    }
    assert (
        "labels.csv: 2 rows have another label than was predicted, but no yes in the column confirmed" in found.notes[0]
    )
    before = table.read_bytes()
    with pytest.raises(DataError, match="holds 3 rows that a person confirmed or corrected; give it to --labels"):
        write_csv(table, rows)
    assert table.read_bytes() == before
    confirm(table, "4.jpg")
    with pytest.raises(DataError, match="line 5 is confirmed, but its label is empty; write the label there"):
        list_folder(tmp_path / "in", labels=table)
    table.write_text(before.decode().replace('"yes"', '"perhaps"'))
    with pytest.raises(DataError, match="line 3: confirmed is 'perhaps'; write yes there, or nothing"):
        list_folder(tmp_path / "in", labels=table)


def confirm(table: Path, *names: str, **corrected: str) -> None:
    """What a person does to a table: other labels, and a yes for the rows of some images."""
    with table.open(newline="", encoding="utf-8") as file:
        columns, *rows = csv.reader(file)
    for row in rows:
        row[columns.index("label")] = corrected.get(row[0], row[columns.index("label")])
        row[columns.index("confirmed")] = "yes" if parse_path(row[0]) in names else ""
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([columns, *rows])


def test_coco_has_its_keys_and_every_number_refers_to_something(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.png": encoded(picture(0, 24, 16)), "b.png": encoded(picture(1, 5, 7)), "c.png": b"words"})
    said = [("a.png", "dog", 0.75), ("c.png", "cat", 0.5), ("d.png", "cat", 0.5), ("b.png", "cat", 1.0)]
    rows = [Prediction("b.png", "cat", 0.5, unknown=True), *(Prediction(*one) for one in said)]
    left_out = write_coco(tmp_path / "coco.json", rows, ["cat", "dog"], tmp_path)
    assert left_out == (Rejected("c.png", "it is not an image"), Rejected("d.png", "no such file or directory"))
    content = json.loads((tmp_path / "coco.json").read_text())
    assert set(content) == {"info", "licenses", "images", "annotations", "categories"}
    assert [(i["file_name"], i["width"], i["height"]) for i in content["images"]] == [
        ("b.png", 5, 7),
        ("a.png", 24, 16),
        ("b.png", 5, 7),
    ]
    images, names = ({x["id"]: x for x in content[k]} for k in ("images", "categories"))
    found = [(images[a["image_id"]]["file_name"], names[a["category_id"]]["name"]) for a in content["annotations"]]
    assert found == [("a.png", "dog"), ("b.png", "cat")]
    first = content["annotations"][0]
    assert (first["bbox"], first["area"], first["iscrowd"], first["score"]) == ([0, 0, 24, 16], 384, 0, 0.75)
    assert [a["id"] for a in content["annotations"]] == [1, 2]
    assert set(names[1]) == {"id", "name", "supercategory"}


@given(st.lists(PREDICTIONS, max_size=3))
def test_label_studio_has_its_keys_and_its_addresses_lead_to_the_files(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Prediction]
) -> None:
    path = tmp_path_factory.mktemp("ls") / "tasks.json"
    write_label_studio(path, rows, (), address="http://x/?d=")
    tasks = json.loads(path.read_text())
    assert [os.fsdecode(unquote_to_bytes(t["data"]["image"].removeprefix("http://x/?d="))) for t in tasks] == [
        row.path for row in rows
    ]
    for row, task in zip(rows, tasks, strict=True):
        assert task["data"]["image"].isascii()
        assert len(task["predictions"]) == (0 if row.unknown or not row.label else 1)
        for said in task["predictions"]:
            assert (said["score"], said["model_version"]) == (row.probability, "onelook")
            (result,) = said["result"]
            assert result == {
                "from_name": "label",
                "to_name": "image",
                "type": "choices",
                "value": {"choices": [row.label]},
            }


def test_the_interface_of_label_studio_has_the_names_and_choices_of_the_predictions(tmp_path: Path) -> None:
    names = ["cat", 'a "b" <c> & d', "🦊"]
    write_label_studio(tmp_path / "tasks.json", [], names)
    view = ElementTree.parse(tmp_path / "tasks.xml").getroot()
    assert [c.get("value") for c in view.iter("Choice")] == names
    image, choices = view.find("Image"), view.find("Choices")
    assert image is not None
    assert choices is not None
    assert (image.get("name"), image.get("value")) == ("image", "$image")
    assert (choices.get("name"), choices.get("toName")) == ("label", "image")
