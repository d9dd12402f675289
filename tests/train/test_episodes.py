"""Meta-training of several shots, and of methods of images: every step is known from its number alone."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.features import contents, random_embeddings, random_images
from onelook import methods
from onelook.backbones import Backbone
from onelook.backbones.conv4 import Conv4
from onelook.data.augment import Augmentation
from onelook.data.sampler import TaskSampler, TaskSpec
from onelook.errors import DataError
from onelook.events import finish
from onelook.experiments.paper_rows import ROWS
from onelook.methods import EndToEnd, ImageMethod
from onelook.scoring import mean_accuracy
from onelook.tasks import Tasks
from onelook.train import recipes
from onelook.train.episodes import Episodes, ImageMetaTraining, MetaTrainConfig, MetaTraining
from onelook.train.jobs import seconds_of_a_step
from onelook.train.loop import Objective, Stepped, train
from onelook.train.optimisation import Optimisation

ADAM = Optimisation("adam", learning_rate=1e-2, weight_decay=0.0)
SPEC = TaskSpec(n_way=3, n_shot=1, n_query=2)
CONFIG = MetaTrainConfig(4, 2, SPEC, ADAM, validate_every=2, n_validation_tasks=6, shots=(1, 3))
TRAINING, VALIDATION = random_images(5, 6), random_images(4, 6, seed=1)


def network() -> Backbone:
    """With statistics as of a network that was trained, or its features would be the same for all images."""
    backbone = Conv4(3, 16, widths=(4, 4, 4, 4)).train()
    for layer in backbone.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        backbone(TRAINING.pixels[0])
    return backbone.eval()


def ridge() -> ImageMethod:
    return EndToEnd(network(), methods.create("r2d2", feature_size=4))


def maml(**kept: Any) -> ImageMethod:
    method = methods.create("maml", backbone=network(), n_way=3, n_steps=2, step_size=0.1, **kept)
    assert isinstance(method, ImageMethod)
    return method


MAKERS: dict[str, Callable[[], ImageMethod]] = {"r2d2 end to end": ridge, "maml": maml}
each_method = pytest.mark.parametrize("which", MAKERS)


def made(which: str) -> ImageMethod:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MAKERS[which]()


def objective(which: str, config: MetaTrainConfig = CONFIG, **kept: Any) -> ImageMetaTraining:
    kept = {"augmentation": Augmentation(crop_padding=2), "precision": "float32"} | kept
    return ImageMetaTraining(made(which), TRAINING, VALIDATION, config, **kept)


def same(a: Tasks, b: Tasks) -> bool:
    pairs = ((a.support, b.support), (a.query, b.query), (a.support_labels, b.support_labels))
    return all(torch.equal(x, y) for x, y in pairs)


# ------------------------------------------------------------------------------------------------ the tasks of a step


@pytest.mark.parametrize("shots", [(1, 3), (2,), (3, 1, 2)])
def test_the_steps_take_the_shots_in_turns(shots: tuple[int, ...]) -> None:
    episodes = Episodes(random_embeddings(), replace(CONFIG, shots=shots))
    found = [episodes.draw(step).support.shape[1] // SPEC.n_way for step in range(7)]
    assert found == [shots[step % len(shots)] for step in range(7)]


def test_without_shots_of_its_own_a_training_has_those_of_its_tasks() -> None:
    config = replace(CONFIG, shots=(), tasks=replace(SPEC, n_shot=2))
    assert config.specs == (config.tasks,)
    assert Episodes(random_embeddings(), config).draw(0).support.shape[1] == 2 * SPEC.n_way


@given(step=st.integers(0, 1000), seed=st.integers(0, 5))
def test_the_tasks_of_a_step_are_those_of_its_numbers_whatever_was_drawn_before(step: int, seed: int) -> None:
    data = random_embeddings()
    config = replace(CONFIG, tasks=replace(SPEC, seed=seed))
    episodes = Episodes(data, config)
    episodes.draw(step + 1)
    spec = config.specs[step % 2]
    assert spec.seed == seed
    assert same(episodes.draw(step), TaskSampler(data, spec).sample([2 * step, 2 * step + 1]))


@pytest.mark.parametrize("part", ["training", "validation"])
def test_too_few_images_for_one_of_the_shots_are_refused_before_the_first_step(part: str, tmp_path: Path) -> None:
    """Also for shots that come later than the first step."""
    sets = {"training": random_embeddings(4, 8, 4), "validation": random_embeddings(4, 8, 4, n_views=1)}
    sets[part] = random_embeddings(4, 6, 4, n_views=1)
    request = recipes.parse_request("sib:recipe=joint")
    work = recipes.resolve(request, SPEC, sets["training"], sets["validation"]).train(tmp_path)
    with pytest.raises(DataError, match="3-way 5-shot tasks with 6 queries"):
        next(work)


# ------------------------------------------------------------------------------------------------ augmentation


class Watching(EndToEnd):
    """Remembers the images that it is shown."""

    def loss(self, tasks: Tasks) -> torch.Tensor:
        self.seen = tasks
        return super().loss(tasks)


def seen(step: int, seed: int = 0, before: tuple[int, ...] = (), **kept: Any) -> Tasks:
    config = replace(CONFIG, tasks=replace(SPEC, seed=seed))
    method = Watching(network(), methods.create("r2d2", feature_size=4))
    work = ImageMetaTraining(method, TRAINING, VALIDATION, config, kept.get("augmentation", Augmentation()), "float32")
    for other in before:
        work.loss(other)
    work.loss(step)
    return method.seen


def test_the_images_of_a_step_are_augmented_the_same_way_whatever_was_drawn_before() -> None:
    alone = seen(3)
    torch.rand(5)
    assert same(alone, seen(3, before=(0, 4)))
    assert not same(alone, seen(3, seed=1))


def test_the_same_images_are_augmented_otherwise_in_another_step_and_all_by_the_augmentation_that_is_set() -> None:
    plain = Augmentation(crop_padding=0, flip=False, jitter=0.0)
    tasks = Episodes(TRAINING, CONFIG).draw(2)
    assert same(seen(2, augmentation=plain), tasks.map_items(torch.Tensor.float))
    bright = Augmentation(crop_padding=0, flip=False, jitter=0.4)
    factors = [
        seen(step, augmentation=bright).query.mean((2, 3, 4)) / seen(step, augmentation=plain).query.mean((2, 3, 4))
        for step in (0, 2)
    ]
    assert factors[0].std() > 0.05  # every image for itself
    assert not torch.allclose(factors[0], factors[1], atol=0.01)


# ------------------------------------------------------------------------------------------------ validation


def test_validation_of_embedded_images_is_that_of_the_whole_method_task_by_task() -> None:
    work = objective("r2d2 end to end")
    found = work.validate()
    asked = [finish(mean_accuracy(work.method, VALIDATION, spec, 6)) for spec in CONFIG.specs]
    assert found.value == pytest.approx((asked[0].value + asked[1].value) / 2, abs=1e-9)
    assert found.half_width == pytest.approx((asked[0].half_width ** 2 + asked[1].half_width ** 2) ** 0.5 / 2, abs=1e-9)
    assert asked[0].value != asked[1].value  # else the mean over the shots would say nothing
    assert 0 < asked[0].half_width != asked[1].half_width


def test_validation_of_a_method_that_owns_its_network_is_its_accuracy_on_the_images() -> None:
    work = objective("maml", replace(CONFIG, shots=()))
    assert work.validate() == finish(mean_accuracy(work.method, VALIDATION, SPEC, 6))


# ------------------------------------------------------------------------------------------------ stopped and taken up


def run(which: str, folder: Path) -> Any:
    return train(objective(which), ADAM, {"a": 1}, folder, save_every=3)


@cache
def straight(which: str) -> tuple[dict[str, bytes], int]:
    """All files of a run that nothing happened to, and the number of its events."""
    with tempfile.TemporaryDirectory() as folder:
        events = list(run(which, Path(folder)))
        return contents(Path(folder)), len(events)


@each_method
def test_a_run_that_is_stopped_at_every_event_ends_as_the_straight_run(which: str, tmp_path: Path) -> None:
    expected, n_events = straight(which)
    assert n_events == 6
    steps: list[int] = []
    while 4 not in steps:
        work = run(which, tmp_path)
        events = list(islice(work, 2 if steps else 1))  # the first is that it is taken up
        work.close()
        steps += [e.step for e in events if isinstance(e, Stepped)]
    assert steps == [1, 2, 3, 4]
    finish(run(which, tmp_path))
    assert contents(tmp_path) == expected  # weights, optimiser and history


@each_method
def test_training_changes_the_weights_of_the_network_but_not_its_statistics(which: str, tmp_path: Path) -> None:
    work = objective(which)
    before = {name: value.clone() for name, value in work.method.backbone.state_dict().items()}
    finish(train(work, ADAM, {}, tmp_path))
    after = work.method.backbone.state_dict()
    weights = {name for name, _ in work.method.backbone.named_parameters()}
    assert {name for name in before if not torch.equal(before[name], after[name])} == weights
    assert {name for name in before if "running" in name} <= before.keys() - weights


# ------------------------------------------------------------------------------------------------ what a step costs


@each_method
def test_the_time_of_a_step_is_taken_without_a_trace(which: str, tmp_path: Path) -> None:
    work: Objective = objective(which)
    before = {name: value.clone() for name, value in work.module.state_dict().items()}
    generator = torch.get_rng_state()
    assert 0 < seconds_of_a_step(work) < 60
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, before[name]) for name, value in work.module.state_dict().items())
    assert all(p.grad is None or not p.grad.any() for p in work.module.parameters())
    finish(train(work, ADAM, {"a": 1}, tmp_path, save_every=3))
    assert contents(tmp_path) == straight(which)[0]


@pytest.mark.parametrize("key", [key for key, row in ROWS.items() if row.on == "images"])
def test_every_method_that_the_paper_trains_with_its_network_takes_a_step_before_it_has_seen_anything(key: str) -> None:
    """Its cost is measured so; a head that was not prepared must not fail then."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = network()
        method = recipes.build(recipes.parse_request(ROWS[key].method), SPEC, 4, len(TRAINING.class_names), backbone)
    whole = method if isinstance(method, ImageMethod) else EndToEnd(backbone, method)
    work = ImageMetaTraining(whole, TRAINING, VALIDATION, CONFIG, Augmentation(), "float32")
    assert seconds_of_a_step(work) > 0
    loss = work.loss(1)
    loss.backward()
    gradients = [p.grad for p in whole.backbone.parameters()]
    assert loss.isfinite()
    assert all(g is not None and g.isfinite().all() for g in gradients)
    assert any(g.any() for g in gradients if g is not None)


def test_a_training_of_features_validates_on_every_shot() -> None:
    method = methods.create("prototypical", feature_size=6)
    data = random_embeddings(noise=1.5, n_views=1)
    found = MetaTraining(method, data, data, replace(CONFIG, n_validation_tasks=30)).validate()
    asked = [finish(mean_accuracy(method, data, replace(SPEC, n_shot=n), 30)).value for n in (1, 3)]
    assert asked[0] < asked[1]
    assert found.value == pytest.approx(sum(asked) / 2)
