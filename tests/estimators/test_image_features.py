"""ImageFeatures: the features of the command line, for images in every form that people have them in."""

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline

import onelook
from helpers.features import one_sentence
from helpers.images import class_image, classes, encoded, picture, write_files
from onelook.data import embed as embedding
from onelook.errors import ArtifactError, DataError, SettingsError
from onelook.estimators import image_features
from onelook.estimators.classifier import FewShotClassifier
from onelook.estimators.image_features import ImageFeatures
from onelook.events import finish
from onelook.labelling.label import LabelConfig, label_folder
from onelook.machine import Place


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of four images each, and three images to label."""
    others = {f"{k}.png": class_image(k, 50) for k in range(3)}
    return write_files(tmp_path_factory.mktemp("folder") / "images", classes(3, 4) | others)


@pytest.fixture
def features(tmp_path: Path) -> ImageFeatures:
    return ImageFeatures("small", cache=tmp_path / "cache", precision="float32")


def opened(path: Path) -> Image.Image:
    """As Image.open gives it, read as far as its header, but without a file that stays open."""
    return Image.open(io.BytesIO(path.read_bytes()))


def named(folder: Path) -> tuple[list[Path], list[str]]:
    paths = sorted(folder.glob("class*/*.png"))
    return paths, [path.parent.name for path in paths]


def test_the_features_of_a_file_are_those_of_the_command_line(folder: Path, tmp_path: Path) -> None:
    for precision in ("float32", "bfloat16"):
        done = finish(label_folder(LabelConfig(folder), Place(tmp_path / "one", None, precision)))
        expected = done.embeddings.features.numpy()
        paths = [folder / name for name in done.embeddings.items]
        for cache in ("one", "another"):
            got = ImageFeatures("small", cache=tmp_path / cache, precision=precision).transform(paths)
            np.testing.assert_allclose(got, expected, atol=0 if cache == "one" else 1e-6)
    np.testing.assert_allclose(np.square(got).sum(1), 1, atol=1e-5)


FORMS = ("path", "str", "pillow")
MODES = ("RGB", "L", "RGBA", "P", "LA", "1", "I;16")


@given(forms=st.lists(st.tuples(st.sampled_from(FORMS), st.sampled_from(MODES)), min_size=1, max_size=5))
def test_rows_are_in_the_order_of_the_images_whatever_their_forms(
    forms: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("forms")
    features = ImageFeatures("small", cache=folder / "cache", precision="float32")
    images: list[Any] = []
    paths = []
    for i, (form, mode) in enumerate(forms):
        paths.append(folder / f"{i}.png")
        picture(i).convert("L" if mode == "I;16" else mode).convert(mode).save(paths[-1])
        images.append({"path": paths[-1], "str": str(paths[-1])}.get(form) or opened(paths[-1]))
    each = np.concatenate([features.transform([path]) for path in paths])
    np.testing.assert_allclose(features.transform(images), each, atol=1e-6)
    np.testing.assert_allclose(features.transform(tuple(images[::-1])), each[::-1], atol=1e-6)


def test_arrays_are_the_images_that_they_hold(features: ImageFeatures, tmp_path: Path) -> None:
    pixels = np.stack([np.asarray(picture(i)) for i in range(3)])
    for channels in (1, 3):
        own = pixels[..., :channels]
        files = write_files(tmp_path, {f"{i}.png": encoded(Image.fromarray(x.squeeze())) for i, x in enumerate(own)})
        expected = features.transform([files / f"{i}.png" for i in range(3)])
        np.testing.assert_allclose(features.transform(own), expected, atol=1e-6)
        np.testing.assert_allclose(features.transform([x.squeeze() for x in own]), expected, atol=1e-6)
    clear = np.concatenate([pixels, np.full_like(pixels[..., :1], 255)], axis=-1)
    np.testing.assert_allclose(features.transform(clear), features.transform(pixels), atol=1e-6)


def test_pixels_go_through_the_network_in_blocks_as_files_do(
    features: ImageFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, blocks = np.stack([np.asarray(picture(i)) for i in range(5)]), list[int]()
    expected, embed = features.transform(images), image_features.embed
    monkeypatch.setattr(embedding, "READ_AT_ONCE", 2)
    monkeypatch.setattr(image_features, "embed", lambda some, *more: blocks.append(len(some)) or embed(some, *more))
    np.testing.assert_allclose(features.transform(images), expected, atol=1e-6)
    assert blocks == [2, 2, 1]


def test_a_photograph_that_lies_on_its_side_is_turned_in_memory_too(features: ImageFeatures, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "a.png").write_bytes(encoded(picture(0), exif=exif))
    turned = features.transform([tmp_path / "a.png"])
    np.testing.assert_allclose(features.transform([opened(tmp_path / "a.png")]), turned, atol=1e-6)
    assert np.abs(features.transform([picture(0)]) - turned).max() > 1e-3


def test_paths_are_computed_once_and_the_same_one_may_come_twice(
    features: ImageFeatures, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, _ = named(folder)
    first = features.transform(paths)

    def forbidden(*_: Any) -> None:
        raise AssertionError("it was computed again")

    monkeypatch.setattr(embedding, "_Block", forbidden)
    np.testing.assert_array_equal(clone(features).transform(paths[::-1]), first[::-1])
    np.testing.assert_array_equal(features.transform([paths[1], paths[0], paths[1]]), first[[1, 0, 1]])


def test_a_pipeline_learns_from_paths_and_judges_images_of_any_form(features: ImageFeatures, folder: Path) -> None:
    paths, names = named(folder)
    model = make_pipeline(features, FewShotClassifier()).fit(paths, names)
    assert model.predict([folder / f"{k}.png" for k in range(3)]).tolist() == [f"class {k:02d}" for k in range(3)]
    by_hand = FewShotClassifier().fit(features.transform(paths), names)
    pixels = np.stack([np.asarray(opened(folder / f"{k}.png")) for k in range(3)])
    np.testing.assert_array_equal(model.predict_proba(pixels), by_hand.predict_proba(features.transform(pixels)))


@pytest.mark.parametrize("marker", [None, "", -1])
def test_images_to_label_go_through_a_pipeline_by_a_marker(marker: Any, features: ImageFeatures, folder: Path) -> None:
    paths, names = named(folder)
    if marker == -1:
        names = [int(name[-2:]) for name in names]  # type: ignore[misc]
    others = [folder / f"{k}.png" for k in range(3)]
    model = make_pipeline(features, FewShotClassifier(unlabeled_marker="auto"))
    model.fit([*others, *paths], [*[marker] * 3, *names])
    beside = FewShotClassifier().fit(features.transform(paths), names, unlabeled=features.transform(others))
    assert model[-1].classes_.tolist() == sorted(set(names))
    np.testing.assert_array_equal(model[-1].transduction_, beside.transduction_)
    np.testing.assert_allclose(model[-1].transduction_proba_, beside.transduction_proba_, atol=1e-6)
    assert model[-1].verdict_ is not None


def test_it_can_be_searched_and_cross_validated(features: ImageFeatures, folder: Path) -> None:
    paths, names = named(folder)
    model = make_pipeline(features, FewShotClassifier())
    assert cross_val_score(model, paths, names, cv=2, error_score="raise").tolist() == [1, 1]
    grid = {"imagefeatures__average": ["none", "mirror"], "fewshotclassifier__guard": [True]}
    found = GridSearchCV(model, grid, cv=2, error_score="raise").fit(np.array(paths, dtype=object), names)
    assert len(set(found.cv_results_["param_imagefeatures__average"])) == 2
    assert found.predict(paths[:1]).tolist() == names[:1]


def test_settings_that_are_changed_are_used_whether_or_not_it_was_fitted(
    features: ImageFeatures, folder: Path, tmp_path: Path
) -> None:
    paths, names = named(folder)
    plain = features.fit(paths, names).transform(paths)
    assert features.network_["average"] == "none"
    mirrored = features.set_params(average="mirror").transform(paths)
    assert np.abs(plain - mirrored).max() > 1e-3
    np.testing.assert_array_equal(
        ImageFeatures("small", average="mirror", cache=tmp_path / "cache", precision="float32").fit_transform(paths),
        mirrored,
    )
    with pytest.raises(ArtifactError, match=r"no backbone file none\.safetensors"):
        features.set_params(network="none.safetensors").transform(paths)


def test_copies_for_other_processes_leave_the_network_behind(features: ImageFeatures, folder: Path) -> None:
    paths, names = named(folder)
    model = make_pipeline(features, FewShotClassifier()).fit(paths, names)
    sent = pickle.dumps(model)
    assert len(sent) < 100_000
    np.testing.assert_array_equal(pickle.loads(sent).predict_proba(paths), model.predict_proba(paths))


def test_features_have_names_for_a_table(features: ImageFeatures, folder: Path) -> None:
    pytest.importorskip("pandas")
    paths, _ = named(folder)
    frame = features.set_output(transform="pandas").fit_transform(paths)
    assert frame.shape[0] == len(paths)
    assert frame.columns[0] == "imagefeatures0"


def test_what_is_kept_with_the_features_can_be_used_at_the_terminal(features: ImageFeatures, folder: Path) -> None:
    paths, names = named(folder)
    model: Pipeline = make_pipeline(features, FewShotClassifier()).fit(paths, names)
    done = finish(label_folder(LabelConfig(folder), Place(Path(features.cache), None, "float32")))
    assert model[0].network_ == {"name": "small", "digest": done.network.digest().hex(), "average": "none"}
    assert onelook.ImageFeatures is ImageFeatures


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no image": (lambda _: [], "X has no image"),
    "one path": (str, "but got one str; give it in a list"),
    "one image": (lambda path: opened(path), "but got one PngImageFile; give it in a list"),
    "one array": (lambda _: np.zeros((8, 8, 3), np.uint8), "but got one array of shape (8, 8, 3); give it in a list"),
    "numbers": (lambda path: [path, np.zeros((8, 8))], "Image 1 of X must be uint8 of H×W, H×W×1, H×W×3 or H×W×4"),
    "two channels": (lambda _: np.zeros((1, 8, 8, 2), np.uint8), "but is uint8 of shape (8, 8, 2)"),
    "nothing": (lambda path: [path, None], "Image 1 of X must be a path, a Pillow image or an array, but is of"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_sequence_of_images_is_refused_in_one_sentence(
    name: str, features: ImageFeatures, folder: Path
) -> None:
    make, said = BAD[name]
    with pytest.raises(SettingsError) as error:
        features.transform(make(folder / "0.png"))
    assert said in one_sentence(error.value)


def test_an_image_that_cannot_be_read_is_named(features: ImageFeatures, folder: Path, tmp_path: Path) -> None:
    bad = write_files(tmp_path, {"bad.png": b"words", "cut.png": (folder / "0.png").read_bytes()[:300]})
    for one, said in [
        (bad / "bad.png", f"{bad / 'bad.png'} cannot be read: it is not an image; leave it out, or repair it."),
        (bad / "none.png", f"{bad / 'none.png'} cannot be read: no such file or directory"),
        (opened(bad / "cut.png"), "Image 1 of X cannot be read: "),
    ]:
        with pytest.raises(DataError) as error:
            features.transform([folder / "0.png", one, folder / "1.png"])
        assert one_sentence(error.value).startswith(said)


@pytest.mark.parametrize("setting", [{"average": "median"}, {"precision": "half"}, {"network": "none"}])
def test_a_wrong_setting_is_refused_by_fit(setting: dict[str, str], folder: Path) -> None:
    with pytest.raises((SettingsError, ArtifactError)):
        ImageFeatures(**setting).fit([folder / "0.png"])
