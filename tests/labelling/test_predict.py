"""New images by a kept classifier: each by itself, with the very features that it was made with."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.features import one_sentence
from helpers.images import class_image, classes, write_files
from onelook import artifacts, backbones
from onelook.artifacts import SHIPPED_NETWORK, Artifact
from onelook.errors import DataError, UserError
from onelook.estimators.classifier import FewShotClassifier
from onelook.estimators.image_features import ImageFeatures
from onelook.events import finish
from onelook.labelling import saved
from onelook.labelling.label import LabelConfig, label_folder, save_classifier
from onelook.labelling.predict import PredictConfig, Predicted, predict_images
from onelook.machine import Place

NEW = {f"{k:02d}-{i}.png": class_image(k, 80 + i) for k in range(3) for i in range(3)}


def place(folder: Path) -> Place:
    return Place(folder / "cache", None, "float32")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a classifier of three classes."""
    folder = tmp_path_factory.mktemp("kept")
    write_files(folder / "images", classes(3, 2) | {f"{k}.png": class_image(k, 50 + k) for k in range(3)})
    save_classifier(finish(label_folder(LabelConfig(folder / "images"), place(folder))), folder / "model.safetensors")
    return folder


def predicted(kept: Path, *images: Path, **settings: Any) -> Predicted:
    return finish(predict_images(PredictConfig(kept / "model.safetensors", images, **settings), place(kept)))


def refused(file: Path, *images: Path, **settings: Any) -> str:
    with pytest.raises(UserError) as error:
        finish(predict_images(PredictConfig(file, images, **settings), place(file.parent)))
    return one_sentence(error.value)


def test_the_probabilities_are_those_of_the_classifier_for_the_features_of_each_image(
    kept: Path, tmp_path: Path
) -> None:
    folder = write_files(tmp_path / "new", NEW)
    done = predicted(kept, folder)
    classifier = FewShotClassifier.load(kept / "model.safetensors")
    rows = ImageFeatures("small", cache=tmp_path / "another cache", precision="float32").transform(
        sorted(folder.iterdir())
    )
    for row, one in zip(classifier.predict_proba(rows), done.predictions, strict=True):
        (second, first), names = np.sort(row)[-2:], classifier.classes_[np.argsort(row)]
        assert (one.label, one.runner_up) == (names[-1], names[-2])
        assert one.probability == pytest.approx(first, abs=1e-5)
        assert one.margin == pytest.approx(first - second, abs=2e-5)
    assert {p.path: p.label for p in done.predictions} == {name: f"class {name[:2]}" for name in NEW}


def test_an_image_is_judged_by_itself(kept: Path, tmp_path: Path) -> None:
    folder = write_files(tmp_path / "new", NEW)
    together = {p.path: p for p in predicted(kept, folder).predictions}
    for name in NEW:
        (alone,) = predicted(kept, folder / name).predictions
        assert (alone.label, alone.path) == (together[name].label, str(folder / name))
        assert alone.probability == pytest.approx(together[name].probability, abs=2e-6)


def test_names_of_sub_folders_mean_nothing_and_all_images_below_are_judged(kept: Path, tmp_path: Path) -> None:
    files = {
        "class 02/a.png": class_image(0, 81),
        "test/deep/b.png": class_image(1, 81),
        "words.txt": b"",
        "onelook-sorted/class 00/c.png": class_image(2, 81),
        ".hidden/d.png": b"",
    }
    done = predicted(kept, write_files(tmp_path, files))
    assert [(p.path, p.label) for p in done.predictions] == [
        ("class 02/a.png", "class 00"),
        ("onelook-sorted/class 00/c.png", "class 02"),
        ("test/deep/b.png", "class 01"),
    ]


def test_files_and_folders_are_named_as_they_are_given_and_once(kept: Path, tmp_path: Path) -> None:
    folder = write_files(tmp_path / "new", NEW)
    other = write_files(tmp_path / "other", {"strange.name": class_image(1, 90)}) / "strange.name"
    done = predicted(kept, other, folder, folder / "00-0.png", other)
    assert [p.path for p in done.predictions] == [str(other), *(str(folder / name) for name in sorted(NEW))]


def test_images_that_cannot_be_read_are_listed_and_left_out(kept: Path, tmp_path: Path) -> None:
    folder = write_files(tmp_path, NEW | {"bad.png": b"words"})
    done = predicted(kept, folder)
    assert [(one.name, one.reason) for one in done.rejected] == [("bad.png", "it is not an image")]
    assert [p.path for p in done.predictions] == sorted(NEW)
    assert "None of the 1 images of" in refused(kept / "model.safetensors", folder / "bad.png")


def test_strange_images_are_set_aside_only_when_asked_for(kept: Path, tmp_path: Path) -> None:
    folder = write_files(tmp_path, NEW | {f"strange {i}.png": class_image(30 + i, i) for i in range(3)})
    assert not any(p.unknown for p in predicted(kept, folder).predictions)
    classifier = FewShotClassifier.load(kept / "model.safetensors")
    rows = ImageFeatures("small", cache=kept / "cache", precision="float32").transform(sorted(folder.iterdir()))
    aside = [p.unknown for p in predicted(kept, folder, unknown_rate=0.3).predictions]
    assert aside == classifier.reject(rows, 0.3).tolist()
    assert any(aside)


def test_a_network_that_lies_elsewhere_now_is_taken_from_there(kept: Path, tmp_path: Path) -> None:
    (tmp_path / "moved.safetensors").write_bytes(SHIPPED_NETWORK.read_bytes())
    folder = write_files(tmp_path / "new", NEW)
    there = predicted(kept, folder, network=str(tmp_path / "moved.safetensors"))
    assert there.predictions == predicted(kept, folder).predictions


def test_another_network_is_refused_with_both_digests(kept: Path, tmp_path: Path) -> None:
    other = backbones.create("conv4-64", 3, 32)
    artifacts.save(artifacts.backbone_artifact(other, "conv4-64", {}), tmp_path / "other.safetensors")
    named = FewShotClassifier.load(kept / "model.safetensors").network_
    said = refused(kept / "model.safetensors", kept, network=str(tmp_path / "other.safetensors"))
    assert f"network small of digest {named['digest'][:16]}, but " in said
    assert f"has the digest {other.digest().hex()[:16]}; give that network with --network" in said


def classifier(path: Path, network: Any, size: int = 3) -> Path:
    FewShotClassifier().fit(np.eye(2, size), ["a", "b"]).save(path, network=network)
    return path


def test_a_classifier_that_cannot_judge_images_says_why(tmp_path: Path) -> None:
    images = write_files(tmp_path / "new", {"a.png": class_image(0, 0)})
    assert "does not say which feature network its rows are from" in refused(classifier(tmp_path / "a", None), images)
    assert "needs the name, digest and average" in refused(classifier(tmp_path / "b", {"name": "small"}), images)
    features = ImageFeatures("small").fit([])
    said = refused(classifier(tmp_path / "c", features.network_), images)
    size = features.transform([images / "a.png"]).shape[1]
    assert f"features of size 3, but those of its network have {size}" in said
    assert "An average is none, mirror" in refused(
        classifier(tmp_path / "d", features.network_ | {"average": "x"}), images
    )
    artifacts.save(Artifact("method", {"x": torch.ones(1)}), tmp_path / "e")
    assert "holds a method, but a classifier is needed here." in refused(tmp_path / "e", images)


@pytest.mark.parametrize("name", ["hf:nobody/nothing", "gone.safetensors", "/etc/model.onnx", "."])
def test_a_network_that_only_the_file_names_is_not_loaded(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saved, "load_network", None)
    images = write_files(tmp_path / "new", {"a.png": class_image(0, 0)})
    file = classifier(tmp_path / "a", {"name": name, "digest": "0" * 64, "average": "mirror"})
    assert f"network {name}, which does not come with Onelook; if you trust" in refused(file, images)


def test_images_that_are_not_there_are_refused(kept: Path, tmp_path: Path) -> None:
    assert "There is no file or folder" in refused(kept / "model.safetensors", tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "empty holds no image" in refused(kept / "model.safetensors", tmp_path / "empty")
    with pytest.raises(DataError):
        predicted(kept, kept / "images" / "0.png", tmp_path / "empty")
