"""Methods that own their feature network, from their training to a comparison with the others."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.features import random_embeddings
from helpers.images import classes, divided, write_files
from helpers.trainings import events_and_result, network_file, shorten_trainings
from onelook.artifacts import load_backbone, load_method
from onelook.benchmark import compare
from onelook.benchmark.compare import Comparison
from onelook.benchmark.sources import open_items
from onelook.data.sampler import TaskSampler, TaskSpec
from onelook.data.sources import N_VIEWS, open_data
from onelook.data.vectors import save_features
from onelook.errors import DataError, SettingsError
from onelook.events import Notice, finish
from onelook.machine import Place
from onelook.methods import MAML, EndToEnd
from onelook.scoring import Estimate, mean_accuracy, paired, task_accuracies
from onelook.train import jobs, recipes
from onelook.train.episodes import MetaTrainConfig
from onelook.train.loop import Resumed, Stepped
from onelook.train.recipes import parse_request

SPEC = TaskSpec(5, 1, 3)


@pytest.fixture(scope="module", autouse=True)
def _short_trainings() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        shorten_trainings(patch)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("cache"), precision="float32")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_files(tmp_path_factory.mktemp("images"), divided(5, 9)))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return network_file(tmp_path_factory.mktemp("network") / "model.safetensors")


def work(text: str, images: str, checkpoint: Path, run: Path, place: Place, config: MetaTrainConfig) -> Any:
    return jobs.meta_train_images(images, checkpoint, parse_request(text), config, run, place)


@pytest.fixture(scope="module")
def files(images: str, checkpoint: Path, place: Place, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Trained methods."""
    folder = tmp_path_factory.mktemp("trained")
    return {
        text: finish(work(text, images, checkpoint, folder / text, place, jobs.end_to_end(SPEC)))
        for text in ("r2d2", "maml")
    }


# ------------------------------------------------------------------------------------------------ settings


def test_what_is_not_asked_for_is_as_it_is_known_to_work() -> None:
    spec = TaskSpec(4, 3, 2, "dirichlet:2", seed=6)
    config = jobs.end_to_end(spec)
    assert config == replace(recipes.END_TO_END, shots=(3,), tasks=replace(spec, protocol="balanced"))
    assert config.specs == (TaskSpec(4, 3, 2, seed=6),)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"n_steps": 7}, ("n_steps", 7)),
        ({"tasks_per_step": 9}, ("tasks_per_step", 9)),
        ({"learning_rate": 0.5}, ("optimisation", replace(recipes.END_TO_END.optimisation, learning_rate=0.5))),
    ],
)
def test_what_is_asked_for_is_all_that_changes(asked: dict[str, Any], found: tuple[str, Any]) -> None:
    assert jobs.end_to_end(SPEC, **asked) == replace(jobs.end_to_end(SPEC), **dict([found]))


# ------------------------------------------------------------------------------------------------ training


@pytest.mark.parametrize("text", ["r2d2", "maml"])
def test_the_network_begins_as_it_was_pretrained_and_goes_on_learning(
    text: str, files: dict[str, Path], checkpoint: Path
) -> None:
    method, about = load_method(files[text])
    assert isinstance(method, {"r2d2": EndToEnd, "maml": MAML}[text])
    before, _ = load_backbone(checkpoint)
    weights = dict(before.named_parameters())
    for name, value in method.backbone.state_dict().items():
        if name in weights:
            away = (value - weights[name]).abs().max().item()
            assert 0 < away <= 3.1 * recipes.END_TO_END.optimisation.learning_rate  # so far Adam goes in three steps
        else:
            assert torch.equal(value, before.state_dict()[name])
    assert about["config"]["network"] == before.digest().hex()[:16]
    assert about["config"]["method"] == text
    assert [h["step"] for h in about["history"]] == [2, 3]


@pytest.mark.parametrize(("text", "expected"), [("r2d2", True), ("maml", False)])
def test_a_head_that_learns_learns_alone_first(text: str, expected: bool, files: dict[str, Path]) -> None:
    heads = list((files[text].parent / "head").glob("*/model.safetensors"))
    assert len(heads) == expected
    if expected:
        alone, about = load_method(heads[0])
        assert [h["step"] for h in about["history"]] == [2, 3]
        whole, _ = load_method(files[text])
        assert isinstance(whole, EndToEnd)
        start = dict(alone.named_parameters())
        for name, value in whole.head.named_parameters():
            assert (value - start[name]).abs().max().item() <= 3.1 * recipes.END_TO_END.optimisation.learning_rate


def test_the_same_training_is_found_again_and_its_cost_is_not_said_again(
    files: dict[str, Path], images: str, checkpoint: Path, place: Place
) -> None:
    before = files["r2d2"].read_bytes()
    run = files["r2d2"].parent
    events, path = events_and_result(work("r2d2", images, checkpoint, run, place, jobs.end_to_end(SPEC)))
    assert path == files["r2d2"]
    assert path.read_bytes() == before
    assert not [e for e in events if isinstance(e, (Stepped, Notice))]
    assert [e for e in events if isinstance(e, Resumed)]


def test_a_trained_file_is_not_trained_again(
    files: dict[str, Path], images: str, checkpoint: Path, place: Place, tmp_path: Path
) -> None:
    asked = work(str(files["maml"]), images, checkpoint, tmp_path, place, jobs.end_to_end(SPEC))
    with pytest.raises(SettingsError, match="is trained already; give the name of a method"):
        next(asked)


def test_too_few_validation_images_are_refused_before_the_first_step(
    checkpoint: Path, place: Place, tmp_path: Path
) -> None:
    data = write_files(tmp_path / "images", classes(5, 9, "train/") | classes(5, 5, "val/", 5))
    config = replace(jobs.end_to_end(SPEC), shots=(1, 3))
    events: list[Any] = []
    with pytest.raises(DataError, match="5-way 3-shot tasks with 15 queries"):
        events.extend(work("r2d2", str(data), checkpoint, tmp_path / "run", place, config))
    assert not [e for e in events if isinstance(e, (Stepped, Notice))]


def test_an_impossible_learning_rate_is_refused() -> None:
    with pytest.raises(SettingsError, match="learning_rate of Optimisation must be a number > 0"):
        jobs.end_to_end(SPEC, learning_rate=0.0)


# ------------------------------------------------------------------------------------------------ comparison


def test_files_are_compared_on_the_tasks_of_the_others(
    files: dict[str, Path], images: str, checkpoint: Path, place: Place
) -> None:
    """Each on the features of its own network, or on the images; task by task, so that differences are paired."""
    texts = ("feature-averaging", str(files["r2d2"]), str(files["maml"]))
    comparison = Comparison(tuple(map(parse_request, texts)), (SPEC, replace(SPEC, n_shot=2)), 6)
    records = finish(compare.benchmark(comparison, images, "test", checkpoint, place))
    assert [(r["method"], r["n_shot"]) for r in records] == [(text, shot) for shot in (1, 2) for text in texts]
    test = finish(open_data(images).images("test", 16, 3))
    sampler = TaskSampler(test, SPEC)
    own = [finish(task_accuracies(load_method(Path(text))[0], sampler, 6)) for text in texts[1:]]
    backbone, _ = load_backbone(checkpoint)
    averaging = finish(
        recipes.ready(
            parse_request(texts[0]),
            SPEC,
            backbone.feature_size,
            finish(open_data(images).embed("train", backbone, place, N_VIEWS)),
            finish(open_data(images).embed("val", backbone, place)),
            place.cache / "runs",
        )
    ).method
    shared = finish(open_data(images).embed("test", backbone, place))
    reference = finish(task_accuracies(averaging, TaskSampler(shared, SPEC), 6))
    for record, values in zip(records[:3], [reference, *own], strict=True):
        assert Estimate.from_values(values).record("accuracy").items() <= record.items()
        assert paired(values, reference).record("difference").items() <= record["versus"].items()
    assert records[1]["settings"]["trained_on"] == images


def test_an_end_to_end_method_is_asked_by_its_head_about_features_of_its_own_network(
    files: dict[str, Path], images: str, place: Place
) -> None:
    whole, _ = load_method(files["r2d2"])
    assert isinstance(whole, EndToEnd)
    head, items = finish(open_items(whole, images, "test", place))
    assert head is whole.head
    test = finish(open_data(images).images("test", 16, 3))
    assert finish(mean_accuracy(head, items, SPEC, 5)) == finish(mean_accuracy(whole, test, SPEC, 5))


@pytest.mark.parametrize("text", ["r2d2", "maml"])
def test_a_method_of_images_is_not_compared_on_a_file_of_features(
    text: str, files: dict[str, Path], place: Place, tmp_path: Path
) -> None:
    save_features(random_embeddings(6, 6, 64, n_views=1), tmp_path / "f.npz")
    comparison = Comparison((parse_request(str(files[text])),), (SPEC,), 4)
    with pytest.raises(SettingsError) as caught:
        list(compare.benchmark_embeddings(comparison, tmp_path / "f.npz", None, place))
    assert "feature network of its own and needs the images; give --data and --backbone" in str(caught.value)
    assert str(files[text]) in str(caught.value)


@pytest.mark.parametrize("name", ["maml", "tadam"])
def test_the_bare_name_of_a_method_of_images_is_refused_before_any_work(
    name: str, checkpoint: Path, place: Place
) -> None:
    comparison = Comparison((parse_request("sib"), parse_request(name)), (SPEC,), 4)
    with pytest.raises(SettingsError, match=rf"^{name} trains its own feature network; run `onelook train --method"):
        next(compare.benchmark(comparison, "no data", "test", checkpoint, place))


def test_a_method_made_for_other_ways_is_refused_with_both_numbers(
    files: dict[str, Path], images: str, checkpoint: Path, place: Place
) -> None:
    comparison = Comparison((parse_request(str(files["maml"])),), (replace(SPEC, n_way=3),), 4)
    with pytest.raises(SettingsError, match="trained for 5 classes, but the tasks have 3; use --way 5"):
        list(compare.benchmark(comparison, images, "test", checkpoint, place))
