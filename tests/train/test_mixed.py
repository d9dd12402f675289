"""Mixed meta-training: pure in its step, resumable, and of every protocol that it names."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.features import random_embeddings
from helpers.images import classes, write_files
from helpers.trainings import network_file
from onelook.artifacts import load_method, method_artifact, save
from onelook.data.protocols import parse_protocol
from onelook.errors import DataError, UserError
from onelook.events import finish
from onelook.machine import Place
from onelook.methods import Glance
from onelook.tasks import Embeddings, Tasks
from onelook.train import jobs
from onelook.train import mixed as module
from onelook.train.loop import Stepped, train
from onelook.train.mixed import MixedConfig, MixedTraining
from onelook.train.optimisation import Optimisation
from onelook.train.recipes import parse_request

CONFIG = MixedConfig(
    n_steps=6, tasks_per_step=2, ways=(2, 3, 5), totals=(1, 4, 12), validate_every=3, n_validation_tasks=4
)
SOURCES = [random_embeddings(8, 30, 4, seed=1), random_embeddings(6, 8, 9, seed=2)]
VALIDATION = [random_embeddings(6, 40, 4, n_views=1, seed=3)]


def training(**changes: Any) -> MixedTraining:
    torch.manual_seed(0)
    return MixedTraining(Glance(width=4, n_layers=1, n_steps=1), SOURCES, VALIDATION, replace(CONFIG, **changes))


def test_the_loss_of_a_step_depends_on_its_number_and_the_seed_only() -> None:
    first, again, other = training(), training(), training(seed=1)
    losses = [first.loss(step).item() for step in range(5)]
    assert [again.loss(step).item() for step in (4, 2, 0)] == [losses[4], losses[2], losses[0]]
    assert len({*losses, other.loss(0).item()}) == 6


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    straight = finish(train(training(), CONFIG.optimisation, {}, tmp_path / "straight", save_every=2))
    run = train(training(), CONFIG.optimisation, {}, tmp_path / "stopped", save_every=2)
    for event in run:
        if isinstance(event, Stepped) and event.step == 3:
            break
    run.close()
    resumed = finish(train(training(), CONFIG.optimisation, {}, tmp_path / "stopped", save_every=2))
    assert resumed.read_bytes() == straight.read_bytes()


def test_training_goes_on_from_the_weights_of_a_file_and_is_another_from_those_of_another(tmp_path: Path) -> None:
    images = write_files(tmp_path / "images", classes(5, 20, "train/") | classes(5, 20, "val/", 5))
    source = f"{images}@{network_file(tmp_path / 'network.safetensors')}"
    standstill = Optimisation("adam", learning_rate=1e-12, weight_decay=0.0)
    config = replace(CONFIG, n_steps=1, optimisation=standstill)

    def go_on(seed: int) -> Path:
        torch.manual_seed(seed)
        save(method_artifact(Glance(width=4, n_layers=1, n_steps=1), {"config": {}}), tmp_path / "start.safetensors")
        request = parse_request(str(tmp_path / "start.safetensors"))
        place = Place(tmp_path / "cache", precision="float32")
        return finish(jobs.meta_train_mixed([source], request, config, tmp_path / "run", place))

    begun, _ = load_method(go_on(seed=1))
    torch.testing.assert_close(begun.state_dict(), load_method(tmp_path / "start.safetensors")[0].state_dict())
    with pytest.raises(UserError, match="holds a run with other settings"):
        go_on(seed=2)


def test_every_protocol_that_is_drawn_exists() -> None:
    for name in MixedConfig().unbalanced:
        assert not parse_protocol(name).is_balanced


def test_tasks_of_all_sizes_protocols_and_sources_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int, int, bool]] = []

    def look(self: Glance, tasks: Tasks, priors: torch.Tensor | None = None) -> torch.Tensor:
        seen.append((tasks.n_way, tasks.query.shape[1], tasks.query.shape[-1], priors is not None))
        return self.log_scale.sum()

    monkeypatch.setattr(Glance, "loss", look)
    objective = training()
    for step in range(200):
        objective.loss(step)
    ways, totals, sizes, given = (set(column) for column in zip(*seen, strict=True))
    assert (ways, sizes, given) == ({2, 3, 5}, {4, 9}, {True, False})
    assert {1, 4, 12} <= totals


def test_the_class_priors_that_are_given_are_the_true_ones_without_the_unknown_queries() -> None:
    labels = torch.tensor([[0, 0, 2, -1], [1, -1, -1, -1]])
    support = torch.zeros(2, 3, 2)
    tasks = Tasks(support, torch.arange(3).expand(2, 3), torch.zeros(2, 4, 2), 3, labels)
    torch.testing.assert_close(module.true_priors(tasks), torch.tensor([[2 / 3, 0, 1 / 3], [0, 1, 0]]))


def test_a_source_with_too_few_images_gives_smaller_tasks_and_one_with_none_is_refused() -> None:
    small = random_embeddings(4, 4, 3, seed=5)
    objective = MixedTraining(
        Glance(width=4), [small], VALIDATION, replace(CONFIG, ways=(10,), shots=(10,), totals=(99,))
    )
    assert objective.loss(0).isfinite()
    nothing = Embeddings(torch.zeros(1, 2, 3), torch.tensor([0, 1]), ("a", "b"))
    with pytest.raises(DataError, match="2-way 1-shot"):
        MixedTraining(Glance(width=4), [nothing], VALIDATION, CONFIG).loss(0)
