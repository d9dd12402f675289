"""Hostile input to readers that no option names: caches, results, names of files, and the arguments of the library."""

import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import sparse
from sklearn.exceptions import NotFittedError

from fuzz.damage import SPECIAL, damages, each_name, replace_by
from fuzz.law import Sandbox
from helpers.images import class_image, write_files, write_zip
from helpers.trainings import network_file
from onelook import methods
from onelook.artifacts import load_backbone, load_method, load_results, method_artifact, read_kind, save, save_results
from onelook.data.listing import list_images
from onelook.data.tables import read_labels
from onelook.data.vectors import load_features, read_vectors
from onelook.errors import UserError, describe_cause
from onelook.estimators.classifier import FewShotClassifier
from onelook.estimators.image_features import ImageFeatures
from onelook.files import ResultStore, Stored
from onelook.labelling.answer_log import AnswerLog, read_reviewed
from onelook.labelling.answers import CLEARED, Image

LABEL = ("label", "images", "--network", "small", "--out", "out", "--no-report")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that was labelled, with the cache that this left."""
    root = tmp_path_factory.mktemp("template")
    pictures = {f"{name}/{i}.png": class_image(k, i) for k, name in enumerate(("red", "blue")) for i in range(2)}
    write_files(root / "here" / "images", pictures | {"one.png": class_image(0, 9), "two.png": class_image(1, 9)})
    (root / "home").mkdir()
    with Sandbox.of(root, tmp_path_factory.mktemp("first") / "box") as box:
        outcome, complaints = box.judge(LABEL, ["out"], ["images"])
        assert (outcome.code, complaints) == (0, []), outcome
        shutil.copytree(box.root / "cache", root / "cache")
        shutil.copytree(box.here / "out", root / "out")
    return root


def first_of(values: Sequence[Any], n: int) -> list[Any]:
    """Parameters of a test, those after the first n in slow ones."""
    return [pytest.param(one, marks=pytest.mark.slow if i >= n else ()) for i, one in enumerate(values)]


CACHE_DAMAGE = [one.__name__ for one in damages(".safetensors")]


@pytest.mark.parametrize("seed", first_of(range(len(CACHE_DAMAGE)), 6), ids=CACHE_DAMAGE)
def test_a_damaged_cache_is_computed_again(seed: int, template: Path, tmp_path: Path) -> None:
    with Sandbox.of(template, tmp_path / "box") as box:
        (file,) = (box.root / "cache").rglob("*.safetensors")
        file.write_bytes(damages(".safetensors")[seed](file.read_bytes(), Random(seed)))
        outcome, complaints = box.judge(LABEL, ["out"], ["images"])
        assert (outcome.code, complaints) == (0, []), outcome
        assert Path("out/labels.csv").read_bytes() == (template / "out" / "labels.csv").read_bytes()


@pytest.mark.parametrize("kind", first_of(list(SPECIAL), 0))
def test_special_files_in_the_cache_are_passed_over_or_named(kind: str, template: Path, tmp_path: Path) -> None:
    with Sandbox.of(template, tmp_path / "box") as box:
        (file,) = (box.root / "cache").rglob("*.safetensors")
        replace_by(kind, file)
        outcome, complaints = box.judge(LABEL, ["out"], ["images"])
        assert not complaints, outcome
        assert outcome.code == 0 or str(file.name) in outcome.err, outcome  # nothing special is ever replaced


@pytest.mark.parametrize("name", first_of(list(each_name()), 3), ids=ascii)
def test_files_and_classes_of_any_name_are_labelled(name: str, template: Path, tmp_path: Path) -> None:
    with Sandbox.of(template, tmp_path / "box") as box:
        Path("images/red").rename(f"images/{name}")
        Path("images/one.png").rename(f"images/{name[:200]}.png")
        for words in (LABEL, (*LABEL[:-1], "--sort", "copy", "--coco", "--label-studio"), ("doctor", "images")):
            outcome, complaints = box.judge(words, ["out"], ["images"])
            assert not complaints, (complaints, outcome)
            assert outcome.code == 0, outcome


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, len(CACHE_DAMAGE) - 1), st.integers(0, 2**32))
def test_a_damaged_result_is_not_found(seed: int, draw: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store, key = ResultStore(Path(folder)), {"study": "one"}
        store.save(key, Stored({"values": torch.arange(4.0)}, {"n": 4}))
        path = store.path(key)
        path.write_bytes(damages(".safetensors")[seed](path.read_bytes(), Random(draw)))
        found = store.find(key)
        assert found is None or isinstance(found.about, dict)


def write_classifier(path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(8, 5))
    FewShotClassifier().fit(x[:4], ["a", "b"] * 2, x[4:]).save(path, {"name": "x", "digest": "0", "average": "none"})


def write_method(path: Path) -> None:
    save(method_artifact(methods.create("sib", feature_size=4, n_way=2), {"config": {}}), path)


def write_vectors(path: Path) -> None:
    np.savez(path, features=np.ones((3, 2)), path=["a", "b", "c"], labels=[0, 1, 1])


def write_archive(path: Path) -> None:
    write_zip(path, {f"{name}/{i}.png": class_image(0, i) for name in "ab" for i in range(2)})


def write_answers(path: Path) -> None:
    log = AnswerLog(path)
    log.answer([Image("one.png", "")], CLEARED, "me", new_class="cat")
    log.add_class("dog", "me")
    log.undo("me")
    log.close()


def read_archive(path: Path) -> list[bytes]:
    listing = list_images(path)
    return [listing.read(name) for name in listing.names]


READERS: dict[str, tuple[Callable[[Path], Any], Callable[[Path], Any]]] = {
    "classifier.safetensors": (write_classifier, FewShotClassifier.load),
    "network.safetensors": (network_file, load_backbone),
    "method.safetensors": (write_method, load_method),
    "kind.safetensors": (write_method, read_kind),
    "vectors.npz": (write_vectors, read_vectors),
    "labelled.npz": (write_vectors, load_features),
    "results.json": (lambda path: save_results([{"accuracy": 50.0, "n": 1}], path), load_results),
    "labels.csv": (lambda path: path.write_text("path,label\na.png,x\n"), read_labels),
    "vectors.csv": (lambda path: path.write_text("path,a,b\na.png,1,2\n"), read_vectors),
    "review.sqlite": (write_answers, read_reviewed),
    "images.zip": (write_archive, read_archive),
}
"""A writer and a reader of each kind of file."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    for name, (write, _) in READERS.items():
        write(folder / name)
    return {name: (folder / name).read_bytes() for name in READERS}


@pytest.mark.parametrize("name", READERS)
@settings(suppress_health_check=list(HealthCheck))
@given(draw=st.randoms(use_true_random=False))
def test_a_damaged_file_is_read_or_refused_in_a_sentence(
    name: str, draw: Random, whole: dict[str, bytes], tmp_path: Path
) -> None:
    path, damage = tmp_path / name, draw.choice(damages(Path(name).suffix))
    path.write_bytes(damage(whole[name], draw))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            READERS[name][1](path)
        except UserError as error:
            said = str(error)
        except OSError as error:  # of a member of an archive, which is left out with the reason
            said = describe_cause(error)
            assert name == "images.zip"
        else:
            said = "read"
    assert said
    assert "\n" not in said


FORMS: tuple[Callable[[np.ndarray], Any], ...] = (
    lambda x: x,
    np.ndarray.tolist,
    lambda x: x.astype(object),
    lambda x: torch.from_numpy(np.ascontiguousarray(x)),
    lambda x: torch.from_numpy(np.ascontiguousarray(x)).bfloat16().requires_grad_(),
    sparse.csr_matrix,
    lambda x: x.astype(np.complex64),
    lambda x: x.astype("S8"),
    lambda x: x[0],
    lambda x: x[None],
    lambda _: None,
    lambda _: "rows",
    lambda x: [list(row)[: i % 3] for i, row in enumerate(x)],
)
NUMBERS = st.sampled_from([0.0, 1.0, -1.0, 1e-300, 1e300, 3.4e38, np.inf, np.nan, 1e10])
ROWS = arrays.arrays(np.float64, st.tuples(st.integers(1, 7), st.integers(1, 3)), elements=NUMBERS | st.floats(-9, 9))
LABEL_VALUES = st.sampled_from(["a", "b", "", None, np.nan, -1, 0, 1, 1.5, True, b"a", "nan", (1,), {}, "\udcff"])


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    rows=ROWS,
    labels=st.lists(LABEL_VALUES, max_size=8),
    fitting=st.booleans(),
    form=st.sampled_from(FORMS),
    marker=st.sampled_from([None, "auto", (), -1]),
)
@pytest.mark.filterwarnings("error")
def test_the_classifier_takes_anything_or_refuses_it_in_a_sentence(
    rows: np.ndarray, labels: list[Any], fitting: bool, form: Callable[[np.ndarray], Any], marker: Any
) -> None:
    y = (labels + ["a", "b"] * 7)[: len(rows)] if fitting else labels
    made = FewShotClassifier(unlabeled_marker=marker)
    calls: list[Callable[[], Any]] = [
        lambda: made.fit(form(rows), y, form(rows)),
        lambda: made.fit(form(rows), y),
        lambda: made.add_examples(form(rows), y),
        lambda: made.partial_fit(form(rows), y, labels),
        lambda: made.predict_proba(form(rows)),
        lambda: made.predict_set(form(rows), 0.2),
        lambda: made.reject(form(rows)),
        lambda: made.estimate_accuracy(),
        lambda: made.learning_curve(3),
    ]
    for call in calls:
        found, said = None, "a sentence"
        try:
            found = call()
        except UserError as error:
            said = str(error)
        except NotFittedError:
            said = "not fitted" if not hasattr(made, "classes_") else ""
        assert said.strip()
        assert "\n" not in said
        assert not isinstance(found, np.ndarray) or np.isfinite(found).all()


IMAGES: tuple[Any, ...] = (
    None,
    7,
    "gone.png",
    ["gone.png"],
    [b"\x00"],
    [None],
    [np.zeros((0, 0, 3), np.uint8)],
    [np.zeros((4, 4, 3))],
    np.zeros((2, 4, 4, 3), np.float32),
    np.zeros((2, 4, 4, 9), np.uint8),
    torch.zeros(2, 4, 4, 3, dtype=torch.uint8),
    np.array("x"),
    np.zeros((3, 3)),
    ["/dev/zero"],
    ["/"],
    ["\0"],
    ["n" * 4000],
    {"a": 1},
    iter(()),
)


@pytest.mark.parametrize("images", IMAGES, ids=lambda x: type(x).__name__)
def test_the_features_of_what_is_no_image_are_refused_in_a_sentence(images: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        ImageFeatures("small", cache=tmp_path).transform(images)
    assert "\n" not in str(error.value)
