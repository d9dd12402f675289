"""`onelook predict`, and `onelook label --features`, as at the terminal."""

import json
from pathlib import Path

import numpy as np
import pytest

from helpers.folder import read_predictions
from helpers.images import class_image, classes, write_files
from helpers.terminal import done, onelook, refused
from onelook.estimators.classifier import FewShotClassifier
from onelook.estimators.image_features import ImageFeatures

NEW = {f"{k:02d}-{i}.png": class_image(k, 80 + i) for k in range(2) for i in range(3)}
EXPECTED = {name: f"class {name[:2]}" for name in NEW}


@pytest.fixture
def here(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a labelled folder `old`, what was learned from it, and a folder `new`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ONELOOK_CACHE", str(cache))
    write_files(Path("old"), classes(2, 2) | {"a.png": class_image(0, 50), "b.png": class_image(1, 50)})
    write_files(Path("new"), NEW)
    done("label", "old", "--no-report", "--save", "model.safetensors")
    return tmp_path


def labels(file: str) -> dict[str, str]:
    return {p.path: p.label for p in read_predictions(Path(file))}


def test_the_table_goes_to_a_file_or_to_standard_output_alike(here: Path) -> None:
    said = done("predict", "model.safetensors", "new", "--out", "deep/labels.csv")
    assert [line.split() for line in said.splitlines()[:2]] == [["3", "class", "00"], ["3", "class", "01"]]
    assert said.splitlines()[2:] == ["Written: deep/labels.csv"]
    assert labels("deep/labels.csv") == EXPECTED
    text = done("predict", "model.safetensors", "new")
    assert text.encode() == Path("deep/labels.csv").read_bytes()
    first, *_ = (here / "onelook-labels" / "labels.csv").read_text().splitlines()
    assert text.splitlines()[0] == first


def test_json_is_all_there_is_on_standard_output_and_unreadable_files_are_named(here: Path) -> None:
    write_files(here / "new", {"bad.png": b"words"})
    outcome = onelook("predict", "model.safetensors", "new", "--json", "--out", "labels.csv", "--offline")
    told = json.loads(outcome.out)
    assert {one["path"]: one["label"] for one in told["labels"]} == EXPECTED == labels("labels.csv")
    assert told["unreadable"] == [{"name": "bad.png", "reason": "it is not an image"}]
    assert (told["n_images"], told["out"]) == (6, "labels.csv")
    assert outcome.err.splitlines() == [
        "predict: 1 image cannot be read and was left out",
        "  bad.png: it is not an image",
    ]
    assert json.loads(done("predict", "model.safetensors", "new", "--json"))["out"] is None


def test_single_images_are_predicted_too(here: Path) -> None:
    lines = done("predict", "model.safetensors", "new/00-0.png", here / "new" / "01-1.png").splitlines()
    assert [line.split(",")[:2] for line in lines[1:]] == [
        ['"new/00-0.png"', '"class 00"'],
        ['"new/01-1.png"', '"class 01"'],
    ]


def test_files_are_named_from_the_folder_given_or_from_here_or_as_they_were_given(
    here: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    away = write_files(tmp_path_factory.mktemp("away"), {"x.png": class_image(0, 91), "deep/y.png": class_image(1, 91)})

    def names(*words: str | Path) -> list[str]:
        told = json.loads(done("predict", "model.safetensors", *words, "--json"))
        return [one["path"] for one in told["labels"]]

    assert names(away) == names(Path("..", away.name)) == ["deep/y.png", "x.png"]
    assert names("./new/00-0.png", here / "new/00-0.png", away / "x.png") == ["new/00-0.png", str(away / "x.png")]
    assert names("new", away / "deep")[-2:] == ["new/01-2.png", str(away / "deep" / "y.png")]
    assert names(Path("..", away.name, "x.png")) == [f"../{away.name}/x.png"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("none.safetensors", "new"), "There is no classifier file none.safetensors."),
        (("model.safetensors", "none"), "There is no file or folder none"),
        (("model.safetensors", "new", "--network", "none"), "There is no feature network or file named 'none'; "),
        (("model.safetensors", "new", "--out", "new"), "new is a folder; give the name of a file in it."),
        (("model.safetensors", "new", "--precision", "half"), "A precision is auto, float32 or bfloat16"),
        (("new/00-0.png", "new"), "new/00-0.png is no file of Onelook, or damaged"),
    ],
)
def test_a_mistake_is_one_sentence(words: tuple[str, ...], sentence: str, here: Path) -> None:
    del here
    assert sentence in refused("predict", *words)


# ------------------------------------------------------------------------------------------- features that are given


def features_of(folder: Path, without: tuple[str, ...] = ()) -> tuple[list[str], np.ndarray]:
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.png"))
    names = [name for name in names if name not in without]
    return names, ImageFeatures("small").transform([folder / name for name in names])


def test_given_features_give_the_labels_that_the_network_gives(here: Path) -> None:
    names, x = features_of(here / "old")
    np.savez("given.npz", path=names, features=7 * x)  # of any length
    outcome = onelook("label", "old", "--features", "given.npz", "--out", "given", "--json")
    assert outcome.code == 0, outcome.err
    assert f"label: given.npz: rows 6 of {x.shape[1]} numbers." in outcome.err.splitlines()
    ours = read_predictions(Path("onelook-labels/labels.csv"))
    theirs = read_predictions(Path("given/labels.csv"))
    for one, other in zip(ours, theirs, strict=True):
        assert (one.path, one.label) == (other.path, other.label)
        assert one.probability == pytest.approx(other.probability, abs=1e-4)
    assert "given.npz" in Path("given/report.html").read_text()
    advice = done("suggest", "old", "--features", "given.npz").splitlines()
    assert sorted(line.split(": ")[0] for line in advice[:-1]) == ["a.png", "b.png"]


def test_images_without_a_row_and_rows_without_an_image_are_told_in_one_sentence(here: Path) -> None:
    names, x = features_of(here / "old", without=("a.png", "class 00/01.png"))
    np.savez("given.npz", path=[*names, "gone/z.png"], features=np.concatenate([x, x[:1]]))
    outcome = onelook("label", "old", "--features", "given.npz", "--out", "given", "--json")
    assert labels("given/labels.csv") == {"b.png": "class 01"}
    (said,) = (line for line in outcome.err.splitlines() if "given.npz" in line)
    assert (
        "rows without an image 1 (gone/z.png first), images without a row, which are left out 2 (a.png first)." in said
    )
    left_out = {one["name"]: one["reason"] for one in json.loads(outcome.out)["unreadable"]}
    assert left_out == dict.fromkeys(("a.png", "class 00/01.png"), "given.npz has no row for it")


def test_images_of_a_format_that_nothing_decodes_are_labelled_by_their_features(here: Path) -> None:
    for path in (here / "old").rglob("*.png"):
        path.rename(path.with_suffix(".DCM"))
        path.with_suffix(".DCM").write_bytes(b"of a scanner")
    write_files(here / "old", {"notes.txt": b""})
    names = [f"class {k:02d}/{i:02d}.DCM" for k in range(2) for i in range(2)] + ["a.DCM", "b.DCM"]
    np.savez("given.npz", path=names, features=[[1, 0, 0], [1, 0.1, 0], [0, 1, 0], [0, 1, 0.1], [0, 2, 0], [3, 0, 0.0]])
    done("label", "old", "--features", "given.npz", "--out", "given", "--save", "given.safetensors")
    assert labels("given/labels.csv") == {"a.DCM": "class 01", "b.DCM": "class 00"}
    assert "a.DCM" in Path("given/report.html").read_text()
    assert FewShotClassifier.load("given.safetensors").network_ is None
    assert "without --features" in refused("predict", "given.safetensors", "new")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--features", "given.npz", "--network", "hf:a/b"), "or from the file of --features: drop one of the two."),
        (("--features", "given.npz", "--watch"), "--watch is for files that arrive"),
        (("--features", "twice.npz"), "twice.npz has two rows for a.png; keep one of them."),
        (("--features", "others.npz"), "others.npz has no row for any of the 6 images of old, but z.png, for example"),
        (("--features", "none.npz"), "none.npz cannot be read as an .npz file"),
        (("--features", "old"), "old is no file that features are read from"),
    ],
)
def test_a_mistake_about_given_features_is_one_sentence(words: tuple[str, ...], sentence: str, here: Path) -> None:
    for name, images in {"given": ["a.png"], "twice": ["a.png", "./a.png"], "others": ["z.png"]}.items():
        np.savez(here / f"{name}.npz", path=images, features=np.ones((len(images), 2)))
    outcome = onelook("label", "old", *words)
    assert (outcome.code, outcome.out) == (2, "")
    assert sentence in outcome.err.splitlines()[-1]


def test_what_embed_writes_can_be_labelled_from(here: Path) -> None:
    network = Path(__file__).parents[2] / "src" / "onelook" / "backbones" / "weights" / "conv4-64.safetensors"
    for name in ("a", "b"):
        (here / "old" / f"{name}.png").rename(here / "old" / f"class 0{'ab'.index(name)}" / f"{name}.png")
    done("embed", "--data", "old", "--split", "all", "--backbone", network, "--out", "given.npz")
    Path("table.csv").write_text("path,label\nclass 00/00.png,x\nclass 01/00.png,y\n")
    done("label", "old", "--labels", "table.csv", "--features", "given.npz", "--out", "given")
    assert labels("given/labels.csv") == {
        "class 00/01.png": "x",
        "class 00/a.png": "x",
        "class 01/01.png": "y",
        "class 01/b.png": "y",
    }
