"""The gap between known and unknown classes, with and without the KL term."""

import math
from typing import Any

import pytest
import torch
from torch.nn import functional

from helpers.images import divided, write_files
from helpers.trainings import events_and_result, network_file, shorten_trainings
from onelook import scoring
from onelook.artifacts import load_network
from onelook.data.sampler import TaskSampler, TaskSpec
from onelook.data.sources import N_VIEWS, open_data
from onelook.events import finish
from onelook.experiments.bottleneck import BottleneckConfig, bottleneck
from onelook.machine import Place
from onelook.methods import SIB
from onelook.scoring import Estimate, mean_accuracy
from onelook.tasks import Embeddings
from onelook.train.loop import Stepped
from onelook.train.recipes import parse_request, ready

N_TASKS, IN_ONE_CALL = 18, 16


@pytest.fixture(scope="module", autouse=True)
def _short_trainings() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        shorten_trainings(patch)
        patch.setattr(scoring, "CHUNK", IN_ONE_CALL)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("cache"), precision="float32")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> BottleneckConfig:
    folder = tmp_path_factory.mktemp("bottleneck")
    data = str(write_files(folder / "images", divided(5, 17)))
    network = network_file(folder / "net.safetensors")
    return BottleneckConfig(str(network), data, prior_weights=(0.0, 5.0), shots=(1, 2), n_tasks=N_TASKS)


@pytest.fixture(scope="module")
def records(config: BottleneckConfig, place: Place) -> list[dict[str, Any]]:
    return finish(bottleneck(config, place))


class Known:
    """The methods and the features, by the other way."""

    def __init__(self, config: BottleneckConfig, place: Place) -> None:
        backbone, _ = finish(load_network(config.backbone))
        self.place = place
        self.views = finish(open_data(config.data, place.home).embed("train", backbone, place, N_VIEWS))
        self.sets = {
            s: finish(open_data(config.data, place.home).embed(s, backbone, place)) for s in ("train", "val", "test")
        }

    def method(self, text: str, spec: TaskSpec) -> tuple[SIB, int]:
        """The method and the steps that it took to get it."""
        runs = self.place.cache / "runs"
        work = ready(parse_request(text), spec, self.views.feature_size, self.views, self.sets["val"], runs)
        events, made = events_and_result(work)
        assert isinstance(made.method, SIB)
        return made.method, sum(isinstance(e, Stepped) for e in events)


@pytest.fixture(scope="module")
def known(config: BottleneckConfig, place: Place, records: list[dict[str, Any]]) -> Known:
    assert records
    return Known(config, place)


def losses(method: SIB, data: Embeddings, spec: TaskSpec) -> torch.Tensor:
    """Of each task, one at a time."""
    sampler = TaskSampler(data, spec)
    found = []
    for i in range(N_TASKS):
        tasks = sampler.sample([i])
        assert tasks.query_labels is not None
        with torch.no_grad():
            found.append(functional.cross_entropy(method(tasks)[0], tasks.query_labels[0]))
    return torch.stack(found)


TEXTS = {0.0: "sib", 5.0: "sib:prior_weight=5.0"}


def test_there_is_a_record_for_each_weight_and_shot(records: list[dict[str, Any]]) -> None:
    assert [(r["n_shot"], r["prior_weight"], r["method"]) for r in records] == [
        (shot, weight, text) for shot in (1, 2) for weight, text in TEXTS.items()
    ]
    assert len({r["weight_rms"] for r in records}) == 4


@pytest.mark.parametrize("i", range(4))
def test_gaps_are_those_of_accuracies_and_losses_on_the_two_sets(
    i: int, records: list[dict[str, Any]], known: Known
) -> None:
    r = records[i]
    spec = TaskSpec(5, r["n_shot"], 15)
    method, n_steps = known.method(TEXTS[r["prior_weight"]], spec)
    assert n_steps == 0  # that training was done; without the term it is plain SIB
    train, test = (finish(mean_accuracy(method, known.sets[s], spec, N_TASKS)) for s in ("train", "test"))
    assert (r["train_accuracy"], r["accuracy"]) == (round(100 * train.value, 3), round(100 * test.value, 3))
    assert r["accuracy_gap"] == pytest.approx(100 * (train.value - test.value), abs=1e-4)
    assert r["accuracy_gap_ci95"] == pytest.approx(100 * math.hypot(train.half_width, test.half_width), abs=1e-4)
    seen, unseen = (Estimate.from_values(losses(method, known.sets[s], spec)) for s in ("train", "test"))
    assert (r["train_loss"], r["loss"]) == pytest.approx((seen.value, unseen.value), abs=2e-4)
    assert r["loss_gap"] == pytest.approx(unseen.value - seen.value, abs=2e-4)
    assert r["loss_gap_ci95"] == pytest.approx(math.hypot(seen.half_width, unseen.half_width), abs=2e-4)


def test_the_length_of_the_weights_is_their_root_mean_square(records: list[dict[str, Any]], known: Known) -> None:
    spec = TaskSpec(5, 1, 15)
    method, _ = known.method("sib", spec)
    with torch.no_grad():
        weights = method.adapt(TaskSampler(known.sets["test"], spec).sample(range(N_TASKS)))
    assert records[0]["weight_rms"] == pytest.approx(weights.square().mean().sqrt().item(), abs=1e-4)


def test_a_heavy_prior_shortens_the_weights(records: list[dict[str, Any]]) -> None:
    for without, heavy in (records[:2], records[2:]):
        assert heavy["weight_rms"] < without["weight_rms"]
