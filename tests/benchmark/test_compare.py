"""Whole jobs, below the command line: refusals before the work, what is computed once."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.features import random_embeddings
from helpers.images import classes, divided, write_files
from onelook import methods
from onelook.artifacts import load, load_backbone
from onelook.benchmark import compare, sources
from onelook.benchmark.compare import Comparison
from onelook.data.sampler import TaskSpec
from onelook.data.sources import open_data
from onelook.data.vectors import save_features
from onelook.errors import DataError, SettingsError
from onelook.events import Progress, finish
from onelook.machine import Place
from onelook.train import jobs, recipes
from onelook.train.loop import Resumed, Stepped
from onelook.train.optimisation import Optimisation
from onelook.train.pretraining import PretrainConfig
from onelook.train.recipes import MethodRequest, parse_request

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
    return finish(jobs.pretrain(images, "conv4-64", CONFIG, run, place, image_size=16))


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
        jobs.pretrain("no data", "conv4", CONFIG, tmp_path, place),
        jobs.pretrain_by_episodes(
            "no data", "conv4", MethodRequest("prototypical"), recipes.MetaTrainConfig(), tmp_path, place
        ),
    ):
        with pytest.raises(SettingsError, match=r"no feature network named 'conv4'; did you mean 'conv4-"):
            next(work)


def test_fewer_images_than_a_batch_are_refused_with_both_numbers(images: str, place: Place, tmp_path: Path) -> None:
    work = jobs.pretrain(images, "conv4-64", replace(CONFIG, batch_size=81), tmp_path, place, image_size=16)
    assert "80 images, fewer than a batch of 81; choose a smaller --batch-size" in first_error(work, SettingsError)


def test_too_few_validation_classes_are_refused_before_the_first_epoch(place: Place, tmp_path: Path) -> None:
    data = str(write_files(tmp_path / "data", classes(12, 16)))
    work = jobs.pretrain(data, "conv4-64", CONFIG, tmp_path / "run", place, image_size=16)
    assert "2 of its 12 classes set aside for val" in first_error(work, DataError)


def test_a_method_with_weights_is_not_trained_together_with_a_network(place: Place, tmp_path: Path) -> None:
    config = recipes.MetaTrainConfig()
    work = jobs.pretrain_by_episodes("no data", "conv4-64", MethodRequest("sib"), config, tmp_path, place)
    with pytest.raises(SettingsError, match="sib begins with a network that was pretrained"):
        next(work)


def test_a_method_without_weights_is_refused_before_the_features_are_computed(
    checkpoint: Path, place: Place, tmp_path: Path
) -> None:
    request = MethodRequest("prototypical")
    work = jobs.meta_train("no data", checkpoint, request, TaskSpec(), tmp_path, place)
    with pytest.raises(SettingsError, match="nothing to learn"):
        next(work)


# ------------------------------------------------------------------------------------------------ the work


def test_a_finished_pretraining_is_found_again_and_says_what_made_it(
    images: str, checkpoint: Path, place: Place
) -> None:
    before = checkpoint.read_bytes()
    events = list(jobs.pretrain(images, "conv4-64", CONFIG, checkpoint.parent, place, image_size=16))
    assert not [e for e in events if isinstance(e, Stepped)]
    assert checkpoint.read_bytes() == before
    about = load(checkpoint, "backbone").about
    assert about["config"]["data"] == f"{images}:train"
    assert about["config"]["n_images"] == 80
    assert about["config"]["batch_size"] == 40
    assert [h["step"] for h in about["history"]] == [2]


def test_episodes_train_a_network_through_a_method_without_weights(images: str, place: Place, tmp_path: Path) -> None:
    config = recipes.MetaTrainConfig(2, 1, TaskSpec(5, 1, 3), Optimisation("adam", 1e-3), 2, 4)
    work = jobs.pretrain_by_episodes(images, "conv4-64", MethodRequest("prototypical"), config, tmp_path, place, 16)
    backbone, about = load_backbone(finish(work))
    fresh = jobs.new_backbone("conv4-64", finish(open_data(images).images("train", 16)), 0)
    assert about["config"]["objective"] == "prototypical"
    assert backbone.digest() != fresh.digest()


def test_the_same_seed_gives_the_same_new_network_and_moves_no_generator(images: str) -> None:
    small = finish(open_data(images).images("val", 16))
    before = torch.get_rng_state()
    digests = [jobs.new_backbone("conv4-64", small, seed).digest() for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert digests[0] == digests[1] != digests[2]


def test_features_are_computed_once(images: str, checkpoint: Path, place: Place, tmp_path: Path) -> None:
    backbone, _ = load_backbone(checkpoint)
    own = replace(place, cache=tmp_path)
    first = finish(open_data(images).embed("test", backbone, own, n_views=2))
    stages = {e.stage for e in open_data(images).embed("test", backbone, own, n_views=2)}
    again = finish(open_data(images).embed("test", backbone, own, n_views=2))
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
    records = finish(compare.benchmark(comparison, images, "test", checkpoint, place))
    assert [(r["method"], r["protocol"]) for r in records] == [
        (request.label, spec.protocol) for spec in specs for request in requests
    ]
    events = list(compare.benchmark(comparison, images, "test", checkpoint, place))
    assert not [e for e in events if isinstance(e, Stepped)]
    assert [e for e in events if isinstance(e, Resumed)]


@pytest.mark.parametrize(("name", "n_expected"), [("sib", 1), ("prototypical:transform=cl2n", 1), ("dynamic", 1)])
def test_a_method_is_built_once_for_a_comparison(
    name: str, n_expected: int, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is trained: its weights are read into the method that was built."""
    for file, seed in (("test", 0), ("train", 1)):
        save_features(random_embeddings(9, 6, 4, n_views=1, seed=seed), tmp_path / f"{file}.npz")
    request = parse_request(name)  # which builds one too, to refuse what cannot be
    built: list[str] = []

    def create(name: str, **settings: Any) -> Any:
        built.append(name)
        return original(name, **settings)

    original = methods.create
    monkeypatch.setattr(methods, "create", create)
    comparison = Comparison((request,), (TaskSpec(3, 1, 2),), 4)
    own = replace(place, cache=tmp_path / "cache")
    for _ in range(2):  # the second time it is trained already
        built.clear()
        work = compare.benchmark_embeddings(comparison, tmp_path / "test.npz", tmp_path / "train.npz", own)
        (record,) = finish(work)
        assert len(built) == n_expected
        assert record["n_tasks"] == 4


def test_features_to_train_on_must_be_of_the_size_of_those_to_test_on(place: Place, tmp_path: Path) -> None:
    files = [tmp_path / "test.npz", tmp_path / "train.npz"]
    for file, size in zip(files, (4, 5), strict=True):
        save_features(random_embeddings(6, 6, size, n_views=1), file)
    comparison = Comparison((MethodRequest("sib"),), (TaskSpec(3, 1, 2),), 4)
    message = first_error(compare.benchmark_embeddings(comparison, files[0], files[1], place), DataError)
    assert "train.npz has features of size 5, but" in message
    assert "of size 4" in message


@pytest.mark.parametrize(
    ("n_classes", "n_way", "n_chosen"), [(1, 2, 1), (4, 2, 2), (12, 5, 5), (30, 5, 6), (64, 5, 12)]
)
def test_features_to_train_on_are_divided_by_class_and_a_fifth_but_enough_for_a_task_chooses(
    n_classes: int, n_way: int, n_chosen: int
) -> None:
    data = random_embeddings(n_classes, 3, 4)
    parts = sources._divide(data, n_way)
    assert sorted(name for part in parts for name in part.class_names) == sorted(data.class_names)
    assert len(parts[1].class_names) == n_chosen
    for part in parts:
        for k, name in enumerate(part.class_names):
            expected = data.views[:, data.labels == data.class_names.index(name)]
            assert torch.equal(part.views[:, part.labels == k], expected)


def test_a_method_made_for_other_ways_is_refused_with_both_numbers(place: Place, tmp_path: Path) -> None:
    train, validation = random_embeddings(6, 6, 4), random_embeddings(4, 6, 4, seed=1)
    path = finish(recipes.resolve(MethodRequest("sib"), TaskSpec(3, 1, 2), train, validation).train(tmp_path / "run"))
    save_features(random_embeddings(6, 6, 4, n_views=1), tmp_path / "test.npz")
    comparison = Comparison((parse_request(str(path)),), (TaskSpec(4, 1, 2),), 4)
    message = first_error(compare.benchmark_embeddings(comparison, tmp_path / "test.npz", None, place), SettingsError)
    assert "trained for 3 classes, but the tasks have 4; use --way 3" in message
