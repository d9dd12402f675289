"""From what a person asks for to a method that can be used."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.features import random_embeddings
from helpers.methods import takes_images, tiny_network
from helpers.trainings import events_and_result
from onelook import artifacts, methods
from onelook.artifacts import load_method, method_artifact, save
from onelook.backbones import create
from onelook.data.sampler import TaskSampler, TaskSpec
from onelook.errors import DataError, SettingsError
from onelook.events import finish
from onelook.methods import METHODS, SIB, UNEM, EndToEnd, ImageMethod, PrototypicalNetworks
from onelook.tasks import Embeddings
from onelook.train import recipes
from onelook.train.loop import Resumed, Stepped
from onelook.train.recipes import MethodRequest, Ready, build, has_weights, parse_request, ready, resolve

SPEC = TaskSpec(n_way=3, n_query=2)
TRAINING = random_embeddings(6, 6, 4, seed=1)
VALIDATION = random_embeddings(4, 6, 4, n_views=1, seed=2)
TEST = random_embeddings(4, 6, 4, n_views=1, seed=3)


@pytest.fixture(autouse=True)
def _short_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, recipe in recipes.RECIPES.items():
        config = replace(recipe.config, n_steps=3, tasks_per_step=2, validate_every=2, n_validation_tasks=4)
        monkeypatch.setitem(recipes.RECIPES, name, replace(recipe, config=config))


def made(
    text: str,
    runs: Path,
    spec: TaskSpec = SPEC,
    training: Embeddings | None = TRAINING,
    validation: Embeddings | None = VALIDATION,
    feature_size: int = 4,
) -> tuple[list[Any], Ready]:
    return events_and_result(ready(parse_request(text), spec, feature_size, training, validation, runs))


# ------------------------------------------------------------------------------------------------ asking


@pytest.mark.parametrize("name", METHODS)
def test_a_bare_name_is_a_request_of_the_fast_recipe_and_its_own_label(name: str) -> None:
    request = parse_request(name)
    assert request == MethodRequest(name)
    assert request.label == name


@pytest.mark.parametrize(
    ("text", "settings", "recipe"),
    [
        ("sib:n_steps=5", {"n_steps": 5}, "fast"),
        ("sib:step_size=0.01:n_steps=0", {"step_size": 0.01, "n_steps": 0}, "fast"),
        ("sib:step_size=1", {"step_size": 1}, "fast"),
        ("sib:recipe=published", {}, "published"),
        ("sib:n_steps=5:recipe=published", {"n_steps": 5}, "published"),
        ("prototypical:metric=cosine:transform=cl2n", {"metric": "cosine", "transform": "cl2n"}, "fast"),
    ],
)
def test_settings_follow_the_name_and_the_label_says_them_again(
    text: str, settings: dict[str, Any], recipe: str
) -> None:
    request = parse_request(text)
    assert (request.settings, request.recipe) == (settings, recipe)
    assert parse_request(request.label) == request
    assert all(getattr(build(request, SPEC, 4), key) == value for key, value in settings.items())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("sbi", "no method named 'sbi'; did you mean 'sib'"),
        ("", "no method named ''; known: "),
        (" sib", "did you mean 'sib'"),
        ("SIB:n_steps=1", "no method named 'SIB'"),
        ("sib:n_step=1", "no setting of sib named 'n_step'; did you mean 'n_steps'"),
        ("sib:feature_size=1", "no setting of sib named 'feature_size'"),
        ("sib:n_way=4", "no setting of sib named 'n_way'"),
        ("dynamic:n_classes=4", "no setting of dynamic named 'n_classes'"),
        ("sib:recipe=publishd", "no recipe named 'publishd'; did you mean 'published'"),
        ("sib:5", "'5' in 'sib:5' is not a setting; write sib:setting=value"),
        ("sib:", "'' in 'sib:' is not a setting"),
        ("sib:n_steps=", "n_steps of sib must be a whole number"),
        ("sib:n_steps=many", "n_steps of sib must be a whole number >= 0, but is 'many'"),
        ("sib:n_steps=2.5", "n_steps of sib must be a whole number >= 0, but is 2.5"),
        ("sib:n_steps=true", "n_steps of sib must be a whole number"),
        ("sib:n_steps=[1]", "n_steps of sib must be a whole number"),
        ("sib:step_size=NaN", "step_size of sib must be a number > 0, but is nan"),
        ("sib:step_size=Infinity", "step_size of sib must be a number > 0, but is inf"),
        ("sib:step_size=null", "step_size of sib must be a number"),
        ("sib:n_steps=-1", "n_steps of sib must be a whole number >= 0, but is -1"),
        ("sib:step_size=0", "step_size of sib must be a number > 0, but is 0"),
        ("prototypical:metric=5", "metric of prototypical must be one of euclidean, cosine, but is 5"),
        ("prototypical:metric=manhattan", "must be one of euclidean, cosine, but is 'manhattan'"),
        ("runs/none/model.safetensors", "There is no file runs/none/model.safetensors"),
        ("none.safetensors", "There is no file none.safetensors"),
        ("/", "There is no file /"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_any_work(text: str, sentence: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_request(text)
    assert sentence in str(caught.value)


def test_a_file_is_a_request_whose_label_tells_it_from_another_of_the_same_name(tmp_path: Path) -> None:
    paths = [tmp_path / folder / "model.safetensors" for folder in "ab"]
    for path in paths:
        save(method_artifact(SIB(4, 3), {"config": {}}), path)
    labels = [parse_request(str(path)).label for path in paths]
    assert labels == list(map(str, paths))


# ------------------------------------------------------------------------------------------------ building


@pytest.mark.parametrize("text", ["sib", "feature-averaging", "prototypical:metric=cosine"])
def test_the_same_request_gives_the_same_first_weights_and_moves_no_generator(text: str) -> None:
    before = torch.get_rng_state()
    first, second = build(parse_request(text), SPEC, 4), build(parse_request(text), SPEC, 4)
    assert torch.equal(torch.get_rng_state(), before)
    assert has_weights(first)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_another_seed_gives_other_first_weights() -> None:
    first, second = (build(MethodRequest("sib"), replace(SPEC, seed=seed), 4) for seed in (0, 1))
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_a_method_of_fixed_ways_is_built_for_those_of_the_tasks() -> None:
    assert build(MethodRequest("sib"), SPEC, 4).n_way == 3


def test_a_setting_that_is_given_stands_above_that_of_the_recipe() -> None:
    recipe = build(parse_request("sib:recipe=published"), SPEC, 4)
    given = build(parse_request("sib:recipe=published:step_size=0.5"), SPEC, 4)
    assert recipe.step_size == recipes.RECIPES["published"].settings["sib"]["step_size"]
    assert given.step_size == 0.5


# ------------------------------------------------------------------------------------------------ ready


def test_a_method_without_weights_is_ready_at_once_and_asks_for_no_training_classes(tmp_path: Path) -> None:
    events, result = made("prototypical", tmp_path, training=None, validation=None)
    assert events == []
    assert isinstance(result.method, PrototypicalNetworks)
    assert not result.method.training
    assert list(tmp_path.iterdir()) == []


def test_a_method_that_centres_takes_the_centre_of_the_training_classes(tmp_path: Path) -> None:
    events, result = made("prototypical:transform=cl2n", tmp_path)
    assert events == []
    assert isinstance(result.method, PrototypicalNetworks)
    torch.testing.assert_close(result.method.centre, TRAINING.features.mean(0))


@pytest.mark.parametrize("text", ["sib", "feature-averaging", "prototypical:transform=cl2n"])
@pytest.mark.parametrize(("training", "validation"), [(None, None), (TRAINING, None), (None, VALIDATION)])
def test_a_method_that_learns_says_that_it_needs_training_classes_and_two_ways_out(
    text: str, training: Embeddings | None, validation: Embeddings | None, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=rf"^{text} has to learn .* `onelook train`.*--train-embeddings"):
        made(text, tmp_path, training=training, validation=validation)


def test_a_method_that_begins_trained_goes_without_training_classes(tmp_path: Path) -> None:
    events, result = made("unem", tmp_path, training=None, validation=None)
    assert events == []
    torch.testing.assert_close(dict(result.method.state_dict()), dict(UNEM().state_dict()))
    assert any(isinstance(event, Stepped) for event in made("unem", tmp_path)[0])


def test_a_training_is_done_once_and_found_again(tmp_path: Path) -> None:
    events, first = made("sib", tmp_path)
    assert [e.step for e in events if isinstance(e, Stepped)] == [1, 2, 3]
    assert [h["step"] for h in first.history] == [2, 3]
    assert first.about == {"recipe": "fast", "train_steps": 3}
    events, second = made("sib", tmp_path)
    assert not [e for e in events if not isinstance(e, Resumed)]
    assert second.history == first.history
    tasks = TaskSampler(TEST, SPEC).sample(range(2))
    assert torch.equal(first.method(tasks), second.method(tasks))
    assert len(list(tmp_path.iterdir())) == 1


CHANGES: dict[str, dict[str, Any]] = {
    "a setting": {"text": "sib:n_steps=1"},
    "the recipe": {"text": "sib:recipe=published"},
    "the seed": {"spec": replace(SPEC, seed=1)},
    "the shots": {"spec": replace(SPEC, n_shot=2)},
    "the features": {"training": random_embeddings(6, 6, 4, seed=4)},
    "the validation features": {"validation": random_embeddings(4, 6, 4, n_views=1, seed=5)},
    "the labels": {"training": replace(TRAINING, labels=TRAINING.labels.roll(1))},
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_of_anything_that_matters_is_another_training(what: str, tmp_path: Path) -> None:
    made("sib", tmp_path)
    events, _ = made(**({"text": "sib", "runs": tmp_path} | CHANGES[what]))
    assert len([e for e in events if isinstance(e, Stepped)]) == 3
    assert len(list(tmp_path.iterdir())) == 2


def test_how_the_queries_of_the_test_are_spread_is_no_matter_of_the_training(tmp_path: Path) -> None:
    made("sib", tmp_path)
    events, _ = made("sib", tmp_path, spec=replace(SPEC, protocol="dirichlet:2"))
    assert not [e for e in events if isinstance(e, Stepped)]


def test_training_changes_the_weights_and_keeps_the_settings(tmp_path: Path) -> None:
    _, result = made("sib:n_steps=2", tmp_path)
    before = build(parse_request("sib:n_steps=2"), SPEC, 4)
    assert result.method.settings() == before.settings()
    assert any(not torch.equal(a, b) for a, b in zip(result.method.parameters(), before.parameters(), strict=True))
    assert not result.method.training


@pytest.mark.parametrize("text", ["dynamic", "activations"])
def test_a_method_that_keeps_something_for_each_training_class_is_told_their_number_and_shown_them(
    text: str, tmp_path: Path
) -> None:
    events, result = made(text, tmp_path)
    assert [e.step for e in events if isinstance(e, Stepped)] == [1, 2, 3]
    assert result.method.settings()["n_classes"] == len(TRAINING.class_names)
    if text == "activations":
        untrained = build(parse_request(text), SPEC, 4, len(TRAINING.class_names))
        untrained.prepare(TRAINING.features, TRAINING.labels)
        assert torch.equal(result.method.get_buffer("means"), untrained.get_buffer("means"))
        assert result.method.get_buffer("means").any(1).all()


def test_a_trained_file_is_used_as_it_is_and_needs_no_training_classes(tmp_path: Path) -> None:
    path = finish(resolve(MethodRequest("sib"), SPEC, TRAINING, VALIDATION).train(tmp_path / "run"))
    trained, _ = load_method(path)
    events, result = made(str(path), tmp_path, training=None, validation=None)
    assert events == []
    assert result.about == {"trained_on": TRAINING.source}
    tasks = TaskSampler(TEST, SPEC).sample(range(2))
    assert torch.equal(result.method(tasks), trained(tasks))


def test_a_trained_file_for_features_of_another_size_is_refused_with_both_sizes(tmp_path: Path) -> None:
    save(method_artifact(SIB(7, 3), {"config": {}}), tmp_path / "model.safetensors")
    with pytest.raises(SettingsError, match=r"size 7, but these have 4"):
        made(str(tmp_path / "model.safetensors"), tmp_path)


# ------------------------------------------------------------------------------------------------ training


def test_a_method_with_nothing_to_learn_is_not_trained(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="prototypical has nothing to learn; use it as it is"):
        finish(resolve(MethodRequest("prototypical"), SPEC, TRAINING, VALIDATION).train(tmp_path))


def test_a_trained_file_is_not_trained_again(tmp_path: Path) -> None:
    save(method_artifact(SIB(4, 3), {"config": {}}), tmp_path / "model.safetensors")
    request = parse_request(str(tmp_path / "model.safetensors"))
    with pytest.raises(SettingsError, match=r"model.safetensors is trained already"):
        resolve(request, SPEC, TRAINING, VALIDATION)


@pytest.mark.parametrize("part", ["training", "validation"])
def test_too_few_classes_are_refused_before_the_first_step(part: str, tmp_path: Path) -> None:
    sets = {"training": TRAINING, "validation": VALIDATION, part: replace(random_embeddings(2, 6, 4), source="few")}
    work = resolve(MethodRequest("sib"), SPEC, sets["training"], sets["validation"]).train(tmp_path)
    with pytest.raises(DataError, match="only 2 of the 2 classes of few"):
        next(work)


def test_the_number_of_steps_may_be_chosen_and_the_task_sizes_are_those_asked_for(tmp_path: Path) -> None:
    path = finish(resolve(MethodRequest("sib"), replace(SPEC, seed=7), TRAINING, VALIDATION, 1).train(tmp_path))
    _, about = load_method(path)
    assert about["config"]["n_steps"] == 1
    assert about["config"]["tasks"] == {
        "n_way": 3,
        "n_shot": 1,
        "n_query": 2,
        "protocol": "balanced",
        "seed": 7,
        "n_total": None,
    }
    assert [h["step"] for h in about["history"]] == [1]


# ------------------------------------------------------------------------------------------------ several shots


def test_one_training_of_several_shots_serves_all_of_them(tmp_path: Path) -> None:
    text = "sib:recipe=joint"
    big = [random_embeddings(6, 9, 4, n_views=n, seed=n) for n in (2, 1)]
    events, first = made(text, tmp_path, SPEC, *big)
    assert [e.step for e in events if isinstance(e, Stepped)] == [1, 2, 3]
    events, second = made(text, tmp_path, replace(SPEC, n_shot=5), *big)
    assert not [e for e in events if isinstance(e, Stepped)]
    assert second.history == first.history
    (run,) = tmp_path.iterdir()
    config = load_method(run / "model.safetensors")[1]["config"]
    assert config["shots"] == [1, 5]
    assert config["tasks"]["n_shot"] == 1


@pytest.mark.parametrize("key", ["shots", "tasks"])
def test_the_shots_of_a_configuration_stand_above_those_of_the_tasks(key: str) -> None:
    config = replace(recipes.END_TO_END, shots=(2, 4) if key == "shots" else ())
    found = recipes.with_tasks(config, TaskSpec(3, 5, 2, "dirichlet:2", seed=9))
    assert found.tasks == TaskSpec(3, 2 if key == "shots" else 5, 2, "balanced", seed=9)
    assert [spec.n_shot for spec in found.specs] == ([2, 4] if key == "shots" else [5])
    assert {replace(spec, n_shot=1) for spec in found.specs} == {TaskSpec(3, 1, 2, seed=9)}


# ------------------------------------------------------------------------------------------------ methods of images

IMAGE_NAMES = [name for name in METHODS if takes_images(name)]


@pytest.mark.parametrize("name", IMAGE_NAMES)
def test_the_bare_name_of_a_method_of_images_is_not_ready_for_features(name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=rf"^{name} trains its own feature network; run `onelook train --method"):
        made(name, tmp_path)
    with pytest.raises(SettingsError, match=f"^{name} trains its own feature network"):
        resolve(MethodRequest(name), SPEC, TRAINING, VALIDATION)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", IMAGE_NAMES)
def test_a_method_of_images_is_built_on_the_network_that_is_given(name: str) -> None:
    network = tiny_network()
    before = torch.get_rng_state()
    first, second = (build(MethodRequest(name), SPEC, n_classes=4, backbone=network) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert isinstance(first, ImageMethod)
    assert first.backbone is network
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("name", ["sib", "maml"])
def test_the_file_of_a_method_of_images_is_ready_whatever_the_features_are(name: str, tmp_path: Path) -> None:
    network = create("conv4-64", 3, 16)
    method = build(MethodRequest(name), SPEC, network.feature_size, backbone=network)
    whole = method if isinstance(method, ImageMethod) else EndToEnd(network, method)
    save(method_artifact(whole, {"config": {"data": "some images"}}), tmp_path / "model.safetensors")
    events, result = made(str(tmp_path / "model.safetensors"), tmp_path, training=None, validation=None)
    assert events == []
    assert type(result.method) is type(whole)
    assert result.about == {"trained_on": "some images"}


# ------------------------------------------------------------------------------------------------ shipped weights


@pytest.mark.parametrize("name", artifacts.SHIPPED_METHODS)
def test_shipped_weights_are_small_and_make_a_method_without_training(name: str, tmp_path: Path) -> None:
    assert artifacts.SHIPPED_METHODS[name].stat().st_size < 2_000_000
    events, found = made(name, tmp_path, training=None, validation=None)
    assert events == []
    assert found.about == {"weights": "shipped"}
    fresh = build(parse_request(name), SPEC)
    assert not all(torch.equal(a, b) for a, b in zip(fresh.parameters(), found.method.parameters(), strict=True))
    assert list(tmp_path.iterdir()) == []


def test_a_setting_changes_a_shipped_method_and_leaves_its_weights(tmp_path: Path) -> None:
    plain, told = (made(text, tmp_path)[1].method for text in ("glance", "glance:class_priors=balanced:guard=false"))
    assert told.settings() == plain.settings() | {"class_priors": "balanced", "guard": False}
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), told.parameters(), strict=True))
    again = artifacts.load_shipped("glance", class_priors="balanced", guard=False)
    tasks = TaskSampler(TEST, SPEC).sample(range(2))
    assert torch.equal(again(tasks), told(tasks))
    assert not torch.equal(plain(tasks), told(tasks))


def test_a_setting_that_the_shipped_weights_do_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"weights of glance:n_steps=9 were made for n_steps=\d"):
        made("glance:n_steps=9", tmp_path)
    with pytest.raises(SettingsError, match="known: glance"):
        artifacts.load_shipped("sib")


def test_settings_may_follow_the_file_of_a_trained_method(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save(method_artifact(methods.create("glance", width=4), {"config": {}}), file)
    request = parse_request(f"{file}:class_priors=balanced")
    assert request.label == f"{file}:class_priors=balanced"
    method = made(request.label, tmp_path)[1].method
    assert method.settings()["class_priors"] == "balanced"
    for wrong, sentence in (
        ("width=5", "were made for width=4"),
        ("widht=4", "did you mean 'width'"),
        ("width=wide", "must be a whole number"),
    ):
        with pytest.raises(SettingsError, match=sentence):
            parse_request(f"{file}:{wrong}")
