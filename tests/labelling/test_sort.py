"""Written labels are read as they were; sorted images come back, wherever the work was stopped."""

import csv
import json
import os
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onelook.data.images import Rejected
from onelook.errors import ArtifactError, DataError, SettingsError, StorageError
from onelook.events import finish
from onelook.labelling.export import (
    Prediction,
    label_studio_config,
    read_csv,
    write_coco,
    write_csv,
    write_label_studio,
)
from onelook.labelling.folder import list_folder
from onelook.labelling.journal import read_plan
from onelook.labelling.plan import MODES, Plan, folder_of, plan_folders
from onelook.labelling.sort import carry_out, undo
from synthetic import one_sentence
from tiny_images import encoded, picture, write_files

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
ODD = st.one_of(
    TEXT, st.sampled_from(["=1+1", "'", "./-x", "@a", "two\r\nlines", 'a"b', "a,b", "file:x", "🦊", "\ufeff"])
)
PATHS = st.one_of(ODD, st.binary(max_size=12).map(lambda b: os.fsdecode(b.replace(b"\0", b""))))
PREDICTIONS = st.builds(Prediction, PATHS, ODD, st.floats(0, 1), ODD, st.floats(0, 1), st.booleans())


# --------------------------------------------------------------------------------------------------------------- files


@given(st.lists(PREDICTIONS, max_size=4))
def test_a_csv_is_read_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, rows: list[Prediction]) -> None:
    path = tmp_path_factory.mktemp("csv") / "labels.csv"
    write_csv(path, rows)
    assert read_csv(path) == tuple(rows)


def test_no_cell_of_a_csv_begins_a_formula(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [Prediction("=1.jpg", "-2", 0.5, "@x"), Prediction("\t.jpg", "'", 0.5, "\r+")])
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        _, *rows = csv.reader(file)
    assert rows[0] == ["./=1.jpg", "'-2", "0.5", "'@x", "1.0", "false"]
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]


def test_the_written_labels_of_a_folder_are_a_table_of_its_labels(tmp_path: Path) -> None:
    names = ["=x.jpg", "a b.jpg", os.fsdecode(b"caf\xe9.jpg"), "two\nlines.jpg"]
    write_files(tmp_path / "in", dict.fromkeys(names, b""))
    write_csv(tmp_path / "labels.csv", [Prediction(name, "-cat", 1.0) for name in names])
    found = list_folder(tmp_path / "in", labels=tmp_path / "labels.csv")
    assert found.listing.class_names == ("-cat",)
    assert len(found.labelled) == 4


HEAD = b"path,label,probability,runner_up,margin,unknown\n"


@pytest.mark.parametrize("content", [b"", b"path,label\na,b\n", b"\xff", HEAD + b"a,b,c,d,e,f"])
def test_another_table_is_refused_in_a_sentence_unless_it_is_empty(content: bytes, tmp_path: Path) -> None:
    write_files(tmp_path, {"a.csv": content})
    if content:
        with pytest.raises(DataError) as error:
            read_csv(tmp_path / "a.csv")
        assert "is not a table of predictions" in one_sentence(error.value)
    else:
        assert read_csv(tmp_path / "a.csv") == ()


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
    write_label_studio(path, rows, address="http://x/?d=")
    tasks = json.loads(path.read_text())
    assert [os.fsdecode(unquote_to_bytes(t["data"]["image"].removeprefix("http://x/?d="))) for t in tasks] == [
        row.path for row in rows
    ]
    for row, task in zip(rows, tasks, strict=True):
        assert task["data"]["image"].isascii()
        assert len(task["predictions"]) == (0 if row.unknown else 1)
        for said in task["predictions"]:
            assert (said["score"], said["model_version"]) == (row.probability, "onelook")
            (result,) = said["result"]
            assert result == {
                "from_name": "label",
                "to_name": "image",
                "type": "choices",
                "value": {"choices": [row.label]},
            }


def test_the_interface_of_label_studio_has_the_names_and_choices_of_the_predictions() -> None:
    names = ["cat", 'a "b" <c> & d']
    view = ElementTree.fromstring(label_studio_config(names))
    assert [c.get("value") for c in view.iter("Choice")] == names
    image, choices = view.find("Image"), view.find("Choices")
    assert image is not None
    assert choices is not None
    assert (image.get("name"), image.get("value")) == ("image", "$image")
    assert (choices.get("name"), choices.get("toName")) == ("label", "image")


# ------------------------------------------------------------------------------------------------------------- folders


def state(folder: Path) -> dict[str, Any]:
    """Everything below a folder: folders, links and files with their bytes and times."""
    found: dict[str, Any] = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = ("link", str(path.readlink()))
        elif path.is_dir():
            found[name] = "folder"
        else:
            found[name] = (path.read_bytes(), path.stat().st_mtime_ns)
    return found


def make(folder: Path) -> Iterator[Prediction]:
    """Images with a clash of names, a place that is taken, and an unknown one."""
    write_files(folder, {"in/1.jpg": b"one", "in/b/1.jpg": b"other", "in/2.jpg": b"two", "out/cat/1.jpg": b"stranger"})
    for name in ("in/1.jpg", "in/b/1.jpg", "in/2.jpg", "out/cat/1.jpg"):
        os.utime(folder / name, ns=(10**18, 10**18))
    yield from (Prediction("1.jpg", "cat", 1.0), Prediction("b/1.jpg", "cat", 1.0), Prediction("2.jpg", "a/b", 1.0))


def planned(folder: Path, mode: str, target: str = "out") -> Plan:
    return plan_folders(list(make(folder)), folder / target, mode, folder / "in")


each_mode = pytest.mark.parametrize("mode", MODES)
each_target = pytest.mark.parametrize("target", ["out", "new/deep", "in"])


@each_mode
def test_images_go_to_the_folders_of_their_labels_and_nothing_is_overwritten(mode: str, tmp_path: Path) -> None:
    plan = planned(tmp_path, mode)
    before = state(tmp_path / "in")
    assert not any(name.startswith("out/a") for name in state(tmp_path)), "planning writes nothing"
    assert "3 images would be" in plan.words()[0]
    filed = finish(carry_out(plan))
    assert (filed.n_done, filed.failed) == (3, ())
    found = {p.relative_to(tmp_path / "out").as_posix(): p.read_bytes() for p in (tmp_path / "out").rglob("*.jpg")}
    assert found == {"cat/1.jpg": b"stranger", "cat/1 (2).jpg": b"one", "cat/1 (3).jpg": b"other", "a/b/2.jpg": b"two"}
    assert state(tmp_path / "in") == (before if mode != "move" else {"b": "folder"})
    assert (tmp_path / "out/cat/1 (2).jpg").stat().st_mtime_ns == 10**18
    assert finish(carry_out(plan)) == filed, "again, nothing is left to do"


@each_mode
@each_target
def test_undone_everything_is_as_it_was(mode: str, target: str, tmp_path: Path) -> None:
    plan = planned(tmp_path, mode, target)
    before = state(tmp_path)
    filed = finish(carry_out(plan))
    assert state(tmp_path) != before
    undone = finish(undo(filed.journal))
    assert (undone.n_undone, undone.kept) == (3, ())
    assert state(tmp_path) == before


class Stop(BaseException):
    """The machine stops; what would have cleaned up does not run any more."""


CALLS = ("link", "symlink", "unlink", "rename", "mkdir", "rmdir", "write", "fsync", "ftruncate")


def run(work: Callable[[], Any], patch: pytest.MonkeyPatch, at: int, after: bool, links: bool) -> bool:
    """Whether `work` came to its end before the call number `at` of the system, at which all stops."""
    count = 0

    def wrap(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            nonlocal count
            if count > at:
                raise Stop
            count += 1
            if count > at and name == "write" and after:
                real(arguments[0], arguments[1][: len(arguments[1]) // 2])  # a line without its end
                raise Stop
            if count > at and not after:
                raise Stop
            if name == "link" and not links:
                raise PermissionError(1, "Operation not permitted")
            result = real(*arguments, **more)
            if count > at:
                raise Stop
            return result

        return call

    with patch.context() as context:
        for name in CALLS:
            context.setattr(os, name, wrap(name, getattr(os, name)))
        try:
            work()
        except Stop:
            return False
    return True


@each_mode
@pytest.mark.parametrize(("target", "links"), [("new/deep", True), ("out", False)])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_stopped_at_any_operation_nothing_is_lost_and_it_is_undone_or_taken_up(
    mode: str, target: str, after: bool, links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # nothing is lost with the process, and it takes time
    finish(carry_out(planned(tmp_path / "straight", mode, target)))
    straight = visible(tmp_path / "straight")
    for at in range(1000):
        here = tmp_path / str(at)
        plan = planned(here, mode, target)
        before = state(here)
        ended = run(lambda plan=plan: finish(carry_out(plan)), monkeypatch, at, after, links)
        contents = [value[0] for value in state(here).values() if isinstance(value, tuple)]
        assert all(content in contents for content in (b"one", b"other", b"two", b"stranger"))
        if at % 2:
            finish(carry_out(plan))
            assert visible(here) == straight
        if Path(plan.journal).exists():
            finish(undo(Path(plan.journal)))
        assert state(here) == before, f"stopped at operation {at}"
        if ended:
            break
    assert 10 < at < 999


def visible(folder: Path) -> dict[str, Any]:
    """The state without the journal, links as relative."""
    return {
        name: str(value).replace(str(folder), "") for name, value in state(folder).items() if ".onelook" not in name
    }


@each_mode
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_undoing_may_be_stopped_at_any_operation_and_goes_on(
    mode: str, after: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    for at in range(1000):
        here = tmp_path / str(at)
        plan = planned(here, mode)
        before = state(here)
        journal = finish(carry_out(plan)).journal
        ended = run(lambda journal=journal: finish(undo(journal)), monkeypatch, at, after, True)
        if journal.exists():
            finish(undo(journal))
        assert state(here) == before, f"stopped at operation {at}"
        if ended:
            break
    assert 5 < at < 999


def test_what_was_changed_since_is_kept_and_said(tmp_path: Path) -> None:
    journal = finish(carry_out(planned(tmp_path, "copy"))).journal
    (tmp_path / "out/cat/1 (2).jpg").write_bytes(b"edited")
    write_files(tmp_path, {"out/a/b/mine.txt": b"mine"})
    undone = finish(undo(journal))
    assert undone.kept == (Rejected(str(tmp_path / "out/cat/1 (2).jpg"), "it was changed since"),)
    assert (tmp_path / "out/cat/1 (2).jpg").read_bytes() == b"edited"
    assert (tmp_path / "out/a/b/mine.txt").exists()
    assert not (tmp_path / "out/a/b/2.jpg").exists()
    assert journal.exists()
    with pytest.raises(StorageError, match="is being undone"):
        finish(carry_out(read_plan(journal)))


def test_a_move_is_not_undone_over_a_new_file(tmp_path: Path) -> None:
    journal = finish(carry_out(planned(tmp_path, "move"))).journal
    write_files(tmp_path, {"in/2.jpg": b"new"})
    (tmp_path / "out/cat/1 (3).jpg").unlink()
    assert {one.reason for one in finish(undo(journal)).kept} == {"another file has taken its old place", "it is gone"}
    assert ((tmp_path / "in/2.jpg").read_bytes(), (tmp_path / "out/a/b/2.jpg").read_bytes()) == (b"new", b"two")
    assert (tmp_path / "in/1.jpg").read_bytes() == b"one"


@each_mode
def test_a_file_that_vanishes_or_a_place_taken_after_planning_stops_nothing(mode: str, tmp_path: Path) -> None:
    plan = planned(tmp_path, mode)
    (tmp_path / "in/1.jpg").unlink()
    write_files(tmp_path, {"out/a/b/2.jpg": b"stranger"})
    before = state(tmp_path)
    filed = finish(carry_out(plan))
    assert filed.n_done == 2
    assert [one.name for one in filed.failed] == [str(tmp_path / "in/1.jpg")]
    assert "no such file" in filed.failed[0].reason
    assert (tmp_path / "out/a/b/2.jpg").read_bytes() == b"stranger"
    assert (tmp_path / "out/a/b/2 (2).jpg").read_bytes() == b"two"
    finish(undo(filed.journal))
    assert state(tmp_path) == before


@pytest.mark.parametrize("mode", ["copy", "link"])
def test_what_lies_there_already_is_passed_over(mode: str, tmp_path: Path) -> None:
    finish(carry_out(planned(tmp_path, mode)))
    again = planned(tmp_path, mode)
    assert again.steps == ()
    assert {one.reason for one in again.skipped} == {"it is there already"}


def test_a_plan_made_again_after_its_copies_were_removed_copies_again(tmp_path: Path) -> None:
    first = finish(carry_out(planned(tmp_path, "copy")))
    (tmp_path / "out/a/b/2.jpg").unlink()
    (tmp_path / "out/cat/1 (2).jpg").unlink()
    (tmp_path / "out/cat/1 (3).jpg").unlink()
    again = finish(carry_out(planned(tmp_path, "copy")))
    assert again.n_done == 3
    assert again.journal != first.journal
    assert (tmp_path / "out/a/b/2.jpg").read_bytes() == b"two"


def test_missing_files_links_and_repetitions_are_no_part_of_a_plan(tmp_path: Path) -> None:
    write_files(tmp_path, {"cat/1.jpg": b"", "2.jpg": b""})
    (tmp_path / "link.jpg").symlink_to("2.jpg")
    names = ["cat/1.jpg", "2.jpg", "2.jpg", "link.jpg", "gone.jpg"]
    plan = plan_folders([Prediction(name, "cat", 1.0) for name in names], tmp_path, "move", tmp_path)
    assert [step.source for step in plan.steps] == [str(tmp_path / "2.jpg")]
    assert [one.reason.split(",")[0] for one in plan.skipped] == [
        "it is there already",
        "it is named twice",
        "it is a link",
        "there is no such file",
    ]


@given(st.text(st.sampled_from("./\\%A2a\0 " + string.ascii_letters), max_size=8))
def test_no_label_leads_out_of_the_target_or_is_hidden(label: str) -> None:
    folder = folder_of(label)
    assert not folder.is_absolute()
    assert len(folder.parts) == label.count("/") + 1
    assert not any(part.startswith(".") or "\0" in part or "\\" in part for part in folder.parts)


@given(st.lists(st.text(st.sampled_from("./%2EB"), max_size=6), min_size=2, max_size=2, unique=True))
def test_two_labels_have_two_folders(labels: list[str]) -> None:
    assert folder_of(labels[0]) != folder_of(labels[1])


def test_unknown_images_have_a_folder_that_is_no_class(tmp_path: Path) -> None:
    write_files(tmp_path, {"1.jpg": b"1", "2.jpg": b"2"})
    rows = [Prediction("1.jpg", "cat", 0.4, unknown=True), Prediction("2.jpg", "cat", 1.0)]
    finish(carry_out(plan_folders(rows, tmp_path / "out", "copy", tmp_path)))
    found = list_folder(tmp_path / "out")
    assert (found.listing.names, found.listing.class_names) == (("_unknown/1.jpg", "cat/2.jpg"), ("cat",))
    assert len(found.to_label) == 1


def test_a_target_that_cannot_be_written_is_one_sentence_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(tmp_path, "move")
    before = state(tmp_path)

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(30, "Read-only file system")

    for name in ("open", "mkdir"):
        with monkeypatch.context() as context:
            context.setattr(os, name, refuse)
            with pytest.raises(StorageError) as error:
                finish(carry_out(plan))
        assert "could not be written (Read-only file system)" in one_sentence(error.value)
        assert {value[0] for value in state(tmp_path).values() if isinstance(value, tuple)} >= {
            value[0] for value in before.values() if isinstance(value, tuple)
        }
    finish(undo(Path(plan.journal)))
    assert state(tmp_path) == before


def test_other_modes_and_journals_are_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="did you mean 'move'"):
        plan_folders([], tmp_path, "mov")
    write_files(tmp_path, {"a.jsonl": b'{"other": 1}\n', "b.jsonl": b"words\n", "c.jsonl": b"[]\n", "d.jsonl": b""})
    for name in ("a", "b", "c", "d", "missing"):
        with pytest.raises(ArtifactError) as error:
            read_plan(tmp_path / f"{name}.jsonl")
        one_sentence(error.value)
    with pytest.raises(ArtifactError, match="There is no journal"):
        finish(undo(tmp_path / "missing.jsonl"))
