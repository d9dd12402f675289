"""The answers of `onelook review`, as `label`, `suggest` and `predict` read them."""

import hashlib
from pathlib import Path

import pytest

from helpers.folder import read_predictions
from helpers.images import class_image, classes, write_files
from helpers.terminal import done, onelook
from onelook.labelling.answer_log import LOG_NAME, AnswerLog
from onelook.labelling.answers import NONE_OF_THESE, Image

REFUSED = "--no-reviewed"


@pytest.fixture
def answers(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `images` of two classes and four images to label, of which a person labelled three."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ONELOOK_CACHE", str(cache))
    new = {f"{k}-{i}.png": class_image(k, 60 + 2 * k + i) for k in range(2) for i in range(2)}
    write_files(Path("images"), classes(2, 2) | new)
    return review(Path("onelook-labels") / LOG_NAME, {"0-0.png": "class 00", "1-0.png": "emu", "1-1.png": None})


def review(file: Path, said: dict[str, str | None], folder: Path = Path("images")) -> Path:
    """Write answers as the page does. None: none of the classes."""
    log = AnswerLog(file)
    for name, label in said.items():
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        log.answer([Image(name, digest)], NONE_OF_THESE, "me", new_class=label)
    log.close()
    return file


def test_labels_of_a_review_count_in_every_command_and_can_be_refused(answers: Path) -> None:
    outcome = onelook("label", "images", "--no-report", "--save", "model.safetensors")
    told = [line for line in outcome.err.splitlines() if "onelook review" in line]
    assert told == [f"label: 2 labels of `onelook review` count, from {answers}; {REFUSED} leaves them out."]
    predicted = {one.path for one in read_predictions(Path("onelook-labels/labels.csv"))}
    assert predicted == {"0-1.png", "1-1.png"}, "what was said to be none of the classes is still to be labelled"
    suggested = done("suggest", "images", "-n", "9")
    assert ("0-0.png" in suggested, "0-1.png" in suggested) == (False, True)
    done("predict", "model.safetensors", "images", "--out", "all.csv")
    kept = {one.path: (one.label, one.probability) for one in read_predictions(Path("all.csv"))}
    assert (kept["0-0.png"], kept["1-0.png"]) == (("class 00", 1.0), ("emu", 1.0))
    for words in (("label", "images", "--no-report", "--out", "b"), ("predict", "model.safetensors", "images")):
        assert "onelook review" not in onelook(*words, REFUSED).err
    assert len(read_predictions(Path("b/labels.csv"))) == 4


def test_a_person_has_the_last_word_over_a_table_and_the_folders_and_the_nearest_file_counts(answers: Path) -> None:
    first = "class 00/" + min(path.name for path in Path("images/class 00").iterdir())
    nearest = review(Path("out") / LOG_NAME, {first: "class 01", "0-0.png": "class 01"})
    Path("table.csv").write_text("path,label\n0-0.png,class 00\n0-1.png,class 00\n")
    words = ("--labels", "table.csv", "--no-report", "--out", "out")
    outcome = onelook("label", "images", *words)
    assert f"2 labels of `onelook review` count, from {nearest}" in outcome.err
    assert f"also where other labels differ (2 images, {first} first)" in outcome.err
    assert str(answers) not in outcome.err


def test_answers_about_other_images_are_not_used_and_this_is_told(answers: Path) -> None:
    write_files(Path("others"), classes(2, 2) | {"0-0.png": class_image(1, 99)})
    outcome = onelook("label", "others", "--no-report", "--out", "b")
    assert f"{answers} has answers about images that are not in others, or were changed; it is not used." in outcome.err
    assert [one.path for one in read_predictions(Path("b/labels.csv"))] == ["0-0.png"]
