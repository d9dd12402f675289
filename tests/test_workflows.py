"""Whole jobs, below the command line: files of features, refusals before the work, what is computed once."""

import io
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from onelook import workflows
from onelook.artifacts import load, load_backbone
from onelook.data.sampler import TaskSpec
from onelook.errors import DataError, SettingsError
from onelook.events import Progress, finish
from onelook.tasks import Embeddings
from onelook.train import Optimisation, PretrainConfig, Resumed, Stepped, recipes
from onelook.train.recipes import MethodRequest, parse_request
from onelook.workflows import Comparison, Place, load_features, save_features
from synthetic import random_embeddings
from tiny_images import classes, divided, write_files

CONFIG = PretrainConfig(
    epochs=1, batch_size=40, precision="float32", n_validation_tasks=4, optimisation=Optimisation(learning_rate=0.05)
)


@pytest.fixture(autouse=True)
def _short_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipes.RECIPES["fast"]
    config = replace(recipe.config, n_steps=3, tasks_per_step=2, validate_every=2, n_validation_tasks=4)
    monkeypatch.setitem(recipes.RECIPES, "fast", replace(recipe, config=config))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("cache"), precision="float32")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_files(tmp_path_factory.mktemp("images"), divided(5, 16)))


@pytest.fixture(scope="module")
def checkpoint(images: str, place: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run")
    return finish(workflows.pretrain(images, "conv4-64", CONFIG, run, place, image_size=16))


# ------------------------------------------------------------------------------------------------ files of features


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
    ("labels", "names"),
    [(["b", "b", "a", "a", "ü x", "b"], ("a", "b", "ü x")), ([7, 7, 3, 3, 9, 7], ("3", "7", "9"))],
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
    "too large": ({"features": X * 1e200, "labels": GOOD}, "row 0 are not finite"),
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
        "empty": b"", "words": b"these are words", "a single array": single.getvalue(), "cut short": content[:-30],
        "bits turned": content[:300].replace(b"\0", b"\1") + content[300:], "words as members": member.getvalue(),
        "a pickle": b"\x80\x04N.", "the beginning of a zip": b"PK\3\4",
    }  # fmt: skip


@pytest.mark.parametrize("case", damaged())
def test_a_damaged_file_of_features_is_one_sentence(case: str, tmp_path: Path) -> None:
    (tmp_path / "f.npz").write_bytes(damaged()[case])
    with pytest.raises(DataError, match=r"f.npz (cannot be read as an .npz file of plain arrays|needs the arrays)"):
        load_features(tmp_path / "f.npz")


def test_a_file_of_features_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone.npz cannot be read .*No such file"):
        load_features(tmp_path / "gone.npz")


# ------------------------------------------------------------------------------------------------ refusals


def first_error(work: Any, kind: type[Exception]) -> str:
    """The sentence; nothing was trained before it."""
    events: list[Any] = []
    with pytest.raises(kind) as caught:
        events.extend(work)
    assert all(isinstance(event, Progress) for event in events)
    return str(caught.value)


def test_an_unknown_network_is_refused_before_the_images_are_read(place: Place, tmp_path: Path) -> None:
    for work in (
        workflows.pretrain("no data", "conv4", CONFIG, tmp_path, place),
        workflows.pretrain_by_episodes(
            "no data", "conv4", MethodRequest("prototypical"), recipes.MetaTrainConfig(), tmp_path, place
        ),
    ):
        with pytest.raises(SettingsError, match=r"no feature network named 'conv4'; did you mean 'conv4-"):
            next(work)


def test_fewer_images_than_a_batch_are_refused_with_both_numbers(images: str, place: Place, tmp_path: Path) -> None:
    work = workflows.pretrain(images, "conv4-64", replace(CONFIG, batch_size=81), tmp_path, place, image_size=16)
    assert "80 images, fewer than a batch of 81; choose a smaller --batch-size" in first_error(work, SettingsError)


def test_too_few_validation_classes_are_refused_before_the_first_epoch(place: Place, tmp_path: Path) -> None:
    data = str(write_files(tmp_path / "data", classes(12, 16)))
    work = workflows.pretrain(data, "conv4-64", CONFIG, tmp_path / "run", place, image_size=16)
    assert "2 of its 12 classes set aside for val" in first_error(work, DataError)


def test_a_method_with_weights_is_not_trained_together_with_a_network(place: Place, tmp_path: Path) -> None:
    config = recipes.MetaTrainConfig()
    work = workflows.pretrain_by_episodes("no data", "conv4-64", MethodRequest("sib"), config, tmp_path, place)
    with pytest.raises(SettingsError, match="sib begins with a network that was pretrained"):
        next(work)


def test_a_method_without_weights_is_refused_before_the_features_are_computed(
    checkpoint: Path, place: Place, tmp_path: Path
) -> None:
    request = MethodRequest("prototypical")
    work = workflows.meta_train("no data", checkpoint, request, TaskSpec(), tmp_path, place)
    with pytest.raises(SettingsError, match="nothing to learn"):
        next(work)


# ------------------------------------------------------------------------------------------------ the work


def test_a_finished_pretraining_is_found_again_and_says_what_made_it(
    images: str, checkpoint: Path, place: Place
) -> None:
    before = checkpoint.read_bytes()
    events = list(workflows.pretrain(images, "conv4-64", CONFIG, checkpoint.parent, place, image_size=16))
    assert not [e for e in events if isinstance(e, Stepped)]
    assert checkpoint.read_bytes() == before
    about = load(checkpoint, "backbone").about
    assert about["config"]["data"] == f"{images}:train"
    assert about["config"]["n_images"] == 80
    assert about["config"]["batch_size"] == 40
    assert [h["step"] for h in about["history"]] == [2]


def test_episodes_train_a_network_through_a_method_without_weights(images: str, place: Place, tmp_path: Path) -> None:
    config = recipes.MetaTrainConfig(2, 1, TaskSpec(5, 1, 3), Optimisation("adam", 1e-3), 2, 4)
    work = workflows.pretrain_by_episodes(
        images, "conv4-64", MethodRequest("prototypical"), config, tmp_path, place, 16
    )
    backbone, about = load_backbone(finish(work))
    fresh = workflows.new_backbone("conv4-64", finish(workflows.open_split(images, "train", 16)), 0)
    assert about["config"]["objective"] == "prototypical"
    assert backbone.digest() != fresh.digest()


def test_the_same_seed_gives_the_same_new_network_and_moves_no_generator(images: str) -> None:
    small = finish(workflows.open_split(images, "val", 16))
    before = torch.get_rng_state()
    digests = [workflows.new_backbone("conv4-64", small, seed).digest() for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert digests[0] == digests[1] != digests[2]


def test_features_are_computed_once(images: str, checkpoint: Path, place: Place, tmp_path: Path) -> None:
    backbone, _ = load_backbone(checkpoint)
    own = replace(place, cache=tmp_path)
    first = finish(workflows.features(images, "test", backbone, own, n_views=2))
    stages = {e.stage for e in workflows.features(images, "test", backbone, own, n_views=2)}
    again = finish(workflows.features(images, "test", backbone, own, n_views=2))
    assert "computing features" not in stages
    assert first.views.shape == (2, 80, backbone.feature_size)
    assert torch.equal(again.views, first.views)
    assert not torch.equal(first.views[0], first.views[1])


def test_a_comparison_trains_what_learns_once_and_reports_every_method_on_every_task(
    images: str, checkpoint: Path, place: Place
) -> None:
    requests = tuple(map(parse_request, ("feature-averaging", "sib", "prototypical")))
    specs = (TaskSpec(n_query=3), TaskSpec(n_query=3, protocol="dirichlet:2"))
    comparison = Comparison(requests, specs, n_tasks=8)
    records = finish(workflows.benchmark(comparison, images, "test", checkpoint, place))
    assert [(r["method"], r["protocol"]) for r in records] == [
        (request.label, spec.protocol) for spec in specs for request in requests
    ]
    events = list(workflows.benchmark(comparison, images, "test", checkpoint, place))
    assert not [e for e in events if isinstance(e, Stepped)]
    assert [e for e in events if isinstance(e, Resumed)]


def test_features_to_train_on_must_be_of_the_size_of_those_to_test_on(place: Place, tmp_path: Path) -> None:
    files = [tmp_path / "test.npz", tmp_path / "train.npz"]
    for file, size in zip(files, (4, 5), strict=True):
        save_features(random_embeddings(6, 6, size, n_views=1), file)
    comparison = Comparison((MethodRequest("sib"),), (TaskSpec(3, 1, 2),), 4)
    message = first_error(workflows.benchmark_embeddings(comparison, files[0], files[1], place), DataError)
    assert "train.npz has features of size 5, but" in message
    assert "of size 4" in message


@pytest.mark.parametrize(
    ("n_classes", "n_way", "n_chosen"), [(1, 2, 1), (4, 2, 2), (12, 5, 5), (30, 5, 6), (64, 5, 12)]
)
def test_features_to_train_on_are_divided_by_class_and_a_fifth_but_enough_for_a_task_chooses(
    n_classes: int, n_way: int, n_chosen: int
) -> None:
    data = random_embeddings(n_classes, 3, 4)
    parts = workflows._divide(data, n_way)
    assert sorted(name for part in parts for name in part.class_names) == sorted(data.class_names)
    assert len(parts[1].class_names) == n_chosen
    for part in parts:
        for k, name in enumerate(part.class_names):
            expected = data.views[:, data.labels == data.class_names.index(name)]
            assert torch.equal(part.views[:, part.labels == k], expected)


def test_a_method_made_for_other_ways_is_refused_with_both_numbers(place: Place, tmp_path: Path) -> None:
    train, validation = random_embeddings(6, 6, 4), random_embeddings(4, 6, 4, seed=1)
    path = finish(recipes.meta_train(MethodRequest("sib"), TaskSpec(3, 1, 2), train, validation, tmp_path / "run"))
    save_features(random_embeddings(6, 6, 4, n_views=1), tmp_path / "test.npz")
    comparison = Comparison((parse_request(str(path)),), (TaskSpec(4, 1, 2),), 4)
    message = first_error(workflows.benchmark_embeddings(comparison, tmp_path / "test.npz", None, place), SettingsError)
    assert "trained for 3 classes, but the tasks have 4; use --way 3" in message
