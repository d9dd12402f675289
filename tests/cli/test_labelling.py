"""`onelook label | suggest | doctor` as at the terminal, and what a clumsy person gets to read."""

import csv
import json
import os
import shutil
import socket
import webbrowser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from helpers.folder import EXPECTED, OTHERS, contents, folder_at_hand, labels, read_predictions
from helpers.images import class_image, classes, encoded, picture, write_files
from helpers.terminal import done, onelook, refused
from onelook.estimators.classifier import FewShotClassifier
from onelook.labelling.folder import SORTED_FOLDER
from onelook.scoring import Estimate


@pytest.fixture
def images(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return folder_at_hand(tmp_path, cache, monkeypatch)


# -------------------------------------------------------------------------------------------------------------- label


def test_labels_are_written_and_the_images_stay_as_they_are(images: Path) -> None:
    before = contents(images)
    out = done("label", images, "--out", "labels")
    assert labels(Path("labels")) == EXPECTED
    assert contents(images) == before
    assert sorted(p.name for p in Path("labels").iterdir()) == ["labels.csv", "report.html"]
    lines = out.splitlines()
    assert [line.split() for line in lines[:2]] == [["4", "class", "00"], ["4", "class", "01"]]
    assert lines[-4].startswith("Expected accuracy ")
    assert lines[-4].endswith("(0 of 8 answers changed).")
    assert lines[-3] == "Labelled examples, each left out in turn: 4 of 4 right."
    assert lines[-2:] == ["Written: labels/report.html", "Written: labels/labels.csv"]
    with Path("labels/labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(len(row["probability"]) <= len("0.123456") for row in rows)


def test_a_second_run_writes_the_same_bytes(images: Path) -> None:
    everything = ("label", images, "--coco", "--label-studio", "--save", "onelook-labels/model.safetensors")
    done(*everything)
    first = contents(Path("onelook-labels"))
    assert len(first) == 6
    named = [line.removeprefix("Written: ") for line in done(*everything).splitlines() if "Written: " in line]
    assert named[0] == "onelook-labels/report.html"
    assert set(named) == {f"onelook-labels/{name}" for name in first}
    assert contents(Path("onelook-labels")) == first


def test_json_is_all_there_is_on_standard_output(images: Path) -> None:
    write_files(images, {"bad.png": b"words"})
    outcome = onelook("label", images, "--json", "--sort", "copy")
    told = json.loads(outcome.out)
    assert {one["path"]: one["label"] for one in told["labels"]} == EXPECTED
    assert told["unreadable"] == [{"name": "bad.png", "reason": "it is not an image"}]
    assert 0 <= told["expected_accuracy"]["low"] <= told["expected_accuracy"]["high"] <= 1
    assert (told["n_images"], told["n_labelled_examples"]) == (8, 4)
    assert [(one["name"], one["n"], one["n_right"]) for one in told["classes"]] == [
        ("class 00", 2, 2),
        ("class 01", 2, 2),
    ]
    assert told["confusion"] == [[2, 0], [0, 2]]
    assert [one["n_labels"] for one in told["learning_curve"]] == [2]
    assert [one["n_labels"] for one in told["with_more_labels"]] == [8]
    target = str(Path("onelook-labels") / SORTED_FOLDER)
    assert told["sorting"] == {"target": target, "n_sorted": 8, "left": [], "failed": []}
    assert told["network"] == {"name": "small", "why": "the images look like photographs"}
    assert outcome.err.splitlines()[1:] == [
        "label: The feature network is small: the images look like photographs.",
        "label: 1 image cannot be read and was left out",
        "  bad.png: it is not an image",
    ]
    assert json.loads(done("label", images, "--json", "--no-report"))["sorting"] is None


def test_ctrl_c_at_any_write_leaves_only_files_that_are_whole(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = ("label", images, "--coco", "--label-studio", "--save", "out/model.safetensors", "--out", "out")
    done(*everything)
    whole = contents(Path("out"))
    sync, count = os.fsync, 0

    def interrupt(handle: int) -> None:
        nonlocal count
        count -= 1
        if count < 0:
            raise KeyboardInterrupt
        sync(handle)

    monkeypatch.setattr(os, "fsync", interrupt)
    for at in range(100):
        shutil.rmtree("out")
        count = at
        code = onelook(*everything).code
        assert contents(Path("out")).items() <= whole.items()
        if code == 0:
            break
        assert code == 130
    assert at == len(whole)


def test_the_page_is_opened_when_asked_for(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(Path(), {"browser": b'#!/bin/sh\necho "$1" >> opened\n'})
    Path("browser").chmod(0o755)
    monkeypatch.setenv("BROWSER", f"{Path('browser').resolve()} %s")
    monkeypatch.setattr(webbrowser, "_tryorder", None)  # so that it asks for $BROWSER again
    page = Path("onelook-labels/report.html").resolve()
    done("label", images, "--open")
    assert Path("opened").read_text() == f"{page.as_uri()}\n"
    monkeypatch.setattr(webbrowser, "open", lambda _: False)
    assert f"open {page} yourself." in onelook("label", images, "--open").err
    assert "drop one of the two" in refused("label", images, "--open", "--no-report")


def test_files_for_other_programs_are_written_when_asked_for(images: Path) -> None:
    done("label", images, "--coco", "--label-studio", "--no-report", "--out", "labels")
    coco = json.loads(Path("labels/labels.coco.json").read_text())
    names = {c["id"]: c["name"] for c in coco["categories"]}
    paths = {i["id"]: i["file_name"] for i in coco["images"]}
    assert {paths[a["image_id"]]: names[a["category_id"]] for a in coco["annotations"]} == EXPECTED
    tasks = json.loads(Path("labels/label-studio.json").read_text())
    assert [t["predictions"][0]["result"][0]["value"]["choices"][0] for t in tasks] == list(EXPECTED.values())
    interface = Path("labels/label-studio.xml").read_text()
    assert all(f'<Choice value="{name}"/>' in interface for name in names.values())
    assert not Path("labels/report.html").exists()


def test_a_saved_classifier_can_be_loaded_and_shown(images: Path) -> None:
    done("label", images, "--save", "deep/model.safetensors")
    classifier = FewShotClassifier.load("deep/model.safetensors")
    assert classifier.transduction_.tolist() == list(EXPECTED.values())
    assert classifier.network_["name"] == "small"
    assert "classifier of 2 classes" in done("show", "deep/model.safetensors")


def test_labels_come_from_a_table_or_from_names_when_these_are_given(images: Path) -> None:
    Path("table.csv").write_text("path,label\n00-0.png,red\n01-0.png,it's blue\n00-1.png,\n")
    done("label", images, "--labels", "table.csv", "--out", "a")
    found = labels(Path("a"))
    assert set(found) == set(OTHERS) - {"00-0.png", "01-0.png"}
    assert {found[name] for name in found if name.startswith("01")} <= {"class 01", "it's blue"}
    done("label", images, "--labels", "table.csv", "--not-class", "class 00", "--not-class", "class 01", "--out", "no")
    found = labels(Path("no"))
    assert {found[name] for name in OTHERS if name.startswith("00") and name != "00-0.png"} == {"red"}
    assert found["class 01/00.png"] == "it's blue"
    assert "00-0.png" not in found
    for k in range(2):
        (images / f"class {k:02d}" / "00.png").rename(images / f"kind{k}_x.png")
    done("label", images, "--pattern", "{label}_*", "--out", "b")
    assert labels(Path("b"))["00-3.png"] == "kind0"


def test_a_folder_named_like_images_to_label_is_a_class_when_it_is_said_to_be(images: Path) -> None:
    write_files(images, classes(1, 2, "test/", 7, 16))
    (images / "test" / "class 07").rename(images / "new")
    (images / "test").rmdir()
    done("label", images, "--out", "a")
    assert labels(Path("a")) | EXPECTED == labels(Path("a"))
    assert {"new/00.png", "new/01.png"} <= set(labels(Path("a")))
    done("label", images, "--also-class", "new", "--out", "b", "--json")
    assert labels(Path("b")) == EXPECTED


def test_the_network_that_comes_along_needs_no_connection(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any) -> None:
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", forbidden)
    done("label", images, "--offline")
    outcome = onelook("label", images, "--offline", "--network", "hf:nobody/nothing")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.splitlines()[-1].startswith("onelook: ")


def test_names_that_would_break_a_line_are_told_in_one(images: Path) -> None:
    odd = ['it\'s "quoted".png', "new\nline.png", "\N{GRINNING FACE}.png", "\udcff.png", "[bold].png"]
    write_files(images, {name: class_image(1, 70 + i) for i, name in enumerate(odd)} | {"bad\n.png": b""})
    write_files(images, {"[red]\n/1.png": class_image(8, 1)})
    outcome = onelook("label", images, "--sort", "copy", "--coco", "--label-studio")
    assert outcome.code == 0
    assert "  bad\\n.png: it is empty" in outcome.err.splitlines()
    found = labels(Path("onelook-labels"))
    assert {found[name] for name in odd} == {"class 01"}
    lines = done("suggest", images, "-n", 100).splitlines()
    assert len(lines) == len(OTHERS) + len(odd) + 1
    assert any(line.startswith("'new\\nline.png': ") for line in lines)


def test_what_is_less_sure_than_asked_for_gets_no_label_anywhere(images: Path) -> None:
    sure = json.loads(done("label", images, "--json", "--no-report"))["labels"]
    limit = sorted(one["probability"] for one in sure)[3]
    few = {one["path"]: one["label"] for one in sure if one["probability"] >= limit}
    assert 0 < len(few) < 8
    words = ("label", images, "--min-confidence", str(limit), "--out", "few")
    out = done(*words, "--coco", "--label-studio", "--sort", "copy", "--save", "model.safetensors")
    assert [str(8 - len(few)), "undecided"] in [line.split() for line in out.splitlines()]
    assert f"{8 - len(few)} images are undecided, and counted here by the best guess, which labels.csv has." in out
    rows = read_predictions(Path("few/labels.csv"))
    assert {one.path: one.label for one in rows} == dict.fromkeys(EXPECTED, "") | few
    assert {one.path: one.best_guess for one in rows} == EXPECTED
    assert {p.name for p in Path("few", SORTED_FOLDER).rglob("*.png")} == set(few)
    coco = json.loads(Path("few/labels.coco.json").read_text())
    assert (len(coco["images"]), len(coco["annotations"])) == (8, len(few))
    assert sum(len(task["predictions"]) for task in json.loads(Path("few/label-studio.json").read_text())) == len(few)
    page = Path("few/report.html").read_text()
    assert page.split('id="undecided"')[1].split("</section>")[0].count('<li class="tile') == 8 - len(few)
    assert f"<h1>{len(few)} of 8 images labelled from 4 examples</h1>" in page
    told = json.loads(done("predict", "model.safetensors", images, "--min-confidence", "1", "--json"))
    assert (told["n_undecided"], {one["label"] for one in told["labels"]}) == (12, {""})
    said = done("predict", "model.safetensors", images, "--min-confidence", "1", "--out", "none.csv")
    assert said.split()[:2] == ["12", "undecided"]


def test_answers_of_a_person_are_given_back_and_never_replaced(images: Path) -> None:
    done("label", images)
    table = Path("onelook-labels/labels.csv")
    assert "write yes in the column confirmed" in refused("label", images, "--labels", table, "--out", "second")
    text = table.read_text().replace('"00-1.png","class 00"', '"00-1.png","class 02"')
    lines = text.splitlines()
    lines = [line[:-2] + '"yes"' if line.startswith('"00-1') else line for line in lines]
    table.write_text("\n".join(lines))
    before = table.read_bytes()
    assert "holds 1 row that a person confirmed or corrected" in refused("label", images)
    assert "would replace onelook-labels/labels.csv, which is read" in refused("label", images, "--labels", table)
    done("label", images, "--labels", table, "--out", "second", "--save", "model.safetensors")
    assert "holds 1 row that a person" in refused("predict", "model.safetensors", images, "--out", table)
    assert table.read_bytes() == before
    assert "00-1.png" not in labels(Path("second"))
    again = Path("second/labels.csv")
    lines = again.read_text().splitlines()
    again.write_text("\n".join(line[:-2] + '"yes"' if line.startswith('"01-1') else line for line in lines))
    done("label", images, "--labels", table, "--labels", again, "--out", "third")
    assert set(labels(Path("third"))) == set(OTHERS) - {"00-1.png", "01-1.png"}
    assert "which is read" in refused("label", images, "--labels", table, "--labels", again, "--out", "second")


# ------------------------------------------------------------------------------------------------------------ sorting


@pytest.mark.parametrize("mode", ["copy", "link"])
def test_sorting_again_changes_nothing_but_what_it_made_and_says_what_it_left(mode: str, images: Path) -> None:
    before = contents(images)
    target = Path("onelook-labels") / SORTED_FOLDER
    for _ in range(2):
        assert done("label", images, "--sort", mode).endswith(f"Sorted 8 images into {target}.\n")
        assert {p.name: p.parent.name for p in target.rglob("*.png")} == EXPECTED
        assert all(p.is_symlink() == (mode == "link") for p in target.rglob("*.png"))
        assert contents(images) == before
    write_files(target, {"class 00/mine.png": b"mine"})
    out = done("label", images, "--sort", mode)
    assert out.splitlines()[-1] == "What you changed or added there stays: class 00/mine.png (added)."
    assert (target / "class 00/mine.png").read_bytes() == b"mine"
    assert contents(images) == before


def test_what_was_sorted_into_the_folder_itself_is_not_listed_by_the_next_run(images: Path) -> None:
    for _ in range(2):
        done("label", images, "--out", images, "--sort", "copy", "--coco")
        assert labels(images) == EXPECTED
        done("label", images, "--out", images / "below", "--sort", "link")
        assert labels(images / "below") == EXPECTED
    told = json.loads(done("doctor", images, "--json"))
    assert told["n_images"] == 12
    assert len(json.loads(done("suggest", images, "-n", 100, "--json"))["suggestions"]) == 8


def test_the_default_output_is_not_listed_where_the_folder_is_the_one_at_hand(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(images)
    for _ in range(2):
        done("label", ".", "--sort", "copy")
        assert labels(Path("onelook-labels")) == EXPECTED


# --------------------------------------------------------------------------------------------------- suggest and doctor


def test_suggestions_are_as_many_as_asked_for_or_all(images: Path) -> None:
    before = contents(images.parent)
    lines = done("suggest", images, "-n", "3").splitlines()
    assert len(lines) == 4
    assert all(line.split(": ")[0] in OTHERS for line in lines[:3])
    assert lines[3].startswith("Expected accuracy now ")
    told = json.loads(done("suggest", images, "-n", 1000, "--json"))
    assert sorted(one["path"] for one in told["suggestions"]) == sorted(OTHERS)
    assert set(told["expected_accuracy"]) == {"value", "low", "high"}
    assert contents(images.parent) == before


def test_the_accuracy_now_is_the_one_that_labelling_tells_and_more_labels_raise_it(images: Path) -> None:
    label, suggest = (json.loads(done(command, images, "--json")) for command in ("label", "suggest"))
    now, then = suggest["expected_accuracy"], suggest["expected_accuracy_then"]
    assert now == pytest.approx(label["expected_accuracy"])
    assert all(now[name] < then[name] for name in now if 0 < now[name] < 1)
    assert now["value"] < then["value"]
    assert f"Expected accuracy {Estimate(**now)};" in done("label", images)
    assert f"now {Estimate(**now)};" in done("suggest", images)


def test_the_doctor_names_what_is_wrong_and_says_so_where_nothing_is(images: Path) -> None:
    write_files(images, {"bad.png": b"words", "class 01/copy.png": (images / "class 00" / "00.png").read_bytes()})
    out = done("doctor", images)
    assert "1 image cannot be read, bad.png first: it is not an image." in out
    told = json.loads(done("doctor", images, "--json"))
    assert told["unreadable"] == [{"name": "bad.png", "reason": "it is not an image"}]
    assert len(told["conflicts"]) == 1
    names = ("a/1.png", "a/2.png", "b/1.png", "b/2.png", "x.png")
    assert onelook("doctor", images, "--strict").code == 1
    assert onelook("doctor", images, "--strict", "--json").code == 1
    good = write_files(Path("good"), {name: encoded(picture(i, 64, 64)) for i, name in enumerate(names)})
    assert done("doctor", good, "--strict").splitlines()[-1] == "Nothing is wrong with it."


def test_what_shows_nothing_is_never_suggested_and_is_told(images: Path) -> None:
    junk = {f"plain {i}.png": encoded(Image.new("RGB", (40, 40), (10 * i, 0, 0))) for i in range(12)}
    write_files(
        images, junk | {"tiny.png": encoded(picture(1, 40, 7)), "noise.jpg": encoded(Image.new("L", (99, 99)), "JPEG")}
    )
    for n in (1, 4, 100):
        outcome = onelook("suggest", images, "-n", str(n), "--json")
        told = json.loads(outcome.out)
        named = {one["path"] for one in told["suggestions"]}
        assert named <= set(OTHERS)
        assert len(named) == min(n, len(OTHERS))
    reasons = {one["name"]: one["reason"] for one in told["passed_over"]}
    assert reasons == dict.fromkeys([*junk, "noise.jpg"], "it is of one colour") | {
        "tiny.png": "it has only 40 × 7 pixels"
    }
    said = onelook("suggest", images, "-n", "100").err
    assert "suggest: tiny.png was passed over: it has only 40 × 7 pixels." in said.splitlines()
    assert "14 images show nothing, noise.jpg first: it is of one colour." in done("doctor", images)


# ----------------------------------------------------------------------------------------------------------- mistakes


MISTAKES = {
    "no folder": (("label", "none"), "There is no folder none"),
    "an address": (
        ("label", "s3://bucket/photographs"),
        "s3://bucket/photographs is not a folder of this machine; `onelook",
    ),
    "a file": (("label", "file.png"), "file.png is a file"),
    "an empty folder": (("label", "empty"), "empty holds no image"),
    "no labels": (("label", "bare"), "bare holds 1 image, a.png first, but none is labelled"),
    "one class": (("label", "one"), "All labelled examples of one are a; label one of another class"),
    "nothing to label": (("label", "all"), "Every image of all is labelled already"),
    "out is a file": (("label", "images", "--out", "file.png"), "file.png could not be written"),
    "save to a folder": (("label", "images", "--save", "empty"), "empty is a folder; give the name of a file"),
    "class priors": (("label", "images", "--class-priors", "1/2/3"), "a number for each of the 2 classes"),
    "words of class priors": (("label", "images", "--class-priors", "even"), "but is 'even'"),
    "mode": (("label", "images", "--sort", "cpoy"), "no mode named 'cpoy'; did you mean 'copy'"),
    "two sources": (("label", "images", "--labels", "t.csv", "--pattern", "{label}_*"), "drop one"),
    "no table": (("label", "images", "--labels", "t.csv"), "t.csv cannot be read as a table"),
    "pattern": (("label", "images", "--pattern", "*"), "does not say where the label is"),
    "pattern of none": (("label", "images", "--pattern", "x_{label}_*"), "none is labelled by the pattern"),
    "precision": (("label", "images", "--precision", "half"), "A precision is auto"),
    "watching nothing": (("label", "none", "--watch"), "There is no folder none"),
    "suggest": (("suggest", "none"), "There is no folder none"),
    "suggest from one class": (("suggest", "one"), "All labelled examples"),
    "doctor": (("doctor", "none"), "There is no folder none"),
    "doctor of a file": (("doctor", "file.png"), "file.png is a file"),
    "doctor of an empty folder": (("doctor", "empty"), "holds no image"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_answered_by_one_sentence_and_nothing_is_written(name: str, images: Path) -> None:
    words, sentence = MISTAKES[name]
    write_files(
        Path(),
        {
            "file.png": b"words\n",
            "bare/a.png": b"",
            "one/a/1.png": b"",
            "one/b.png": b"",
            "all/a/1.png": b"",
            "all/b/1.png": b"",
            f"{SORTED_FOLDER}/a/1.png": b"",
        },
    )
    Path("empty").mkdir()
    before = contents(images.parent)
    assert sentence in refused(*words)
    assert contents(images.parent) == before


def test_a_network_that_is_none_is_named_in_the_sentence(images: Path) -> None:
    outcome = onelook("label", images, "--network", "onelok")
    assert (outcome.code, outcome.out) == (2, "")
    assert "onelok" in outcome.err.splitlines()[-1]


def test_examples_that_all_cannot_be_read_are_named(images: Path) -> None:
    for path in images.glob("class*/*.png"):
        path.write_bytes(b"words")
    outcome = onelook("label", images)
    assert (outcome.code, outcome.out) == (2, "")
    assert "class 00/00.png cannot be, for example: it is not an image." in outcome.err.splitlines()[-1]
