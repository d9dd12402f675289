"""Accuracy over steps and over queries: which methods meet which tasks, and what each was trained for."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers.images import divided, write_files
from helpers.trainings import events_and_result, network_file, shorten_trainings
from onelook.artifacts import load_backbone
from onelook.benchmark.measure import Entry, compare
from onelook.data.sampler import TaskSpec
from onelook.data.sources import N_VIEWS, open_data
from onelook.events import finish
from onelook.experiments.curves import INDUCTIVE, CurvesConfig, curves
from onelook.machine import Place
from onelook.train.loop import Stepped
from onelook.train.recipes import parse_request, ready

N_TASKS = 4


@pytest.fixture(scope="module", autouse=True)
def _short_trainings() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        shorten_trainings(patch)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("cache"), precision="float32")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> CurvesConfig:
    folder = tmp_path_factory.mktemp("curves")
    data = str(write_files(folder / "images", divided(5, 17)))
    network = network_file(folder / "net.safetensors")
    return CurvesConfig(str(network), data, steps=(1, 2), queries=(2, 15), shots=(1, 2), n_tasks=N_TASKS)


@pytest.fixture(scope="module")
def records(config: CurvesConfig, place: Place) -> list[dict[str, Any]]:
    return finish(curves(config, place))


def test_every_experiment_asks_its_methods_on_tasks_of_its_sizes(records: list[dict[str, Any]]) -> None:
    asked = ["feature-averaging"] + [f"{name}:n_steps={k}" for name in ("sib", INDUCTIVE) for k in (1, 2)]
    expected = []
    for shot in (1, 2):
        expected += [("steps", shot, 15, method) for method in asked]
        expected += [("queries", shot, 2, method) for method in ("feature-averaging", "sib")]
        expected += [("queries, trained for them", shot, 2, "sib")]
        expected += [("queries", shot, 15, method) for method in ("feature-averaging", "sib")]
    assert [(r["experiment"], r["n_shot"], r["n_query"], r["method"]) for r in records] == expected
    assert all(r["n_tasks"] == N_TASKS and r["precision"] == "float32" for r in records)
    assert all(r["versus"]["method"] == "feature-averaging" for r in records if "trained" not in r["experiment"])


def test_the_steps_of_both_kinds_are_those_asked_for(records: list[dict[str, Any]]) -> None:
    taken = [r["settings"]["n_steps"] for r in records if r["experiment"] == "steps" and ":" in r["method"]]
    assert taken == [1, 2, 1, 2] * 2
    sizes = {r["settings"]["step_size"] for r in records if r["experiment"] == "steps" and ":" in r["method"]}
    assert len(sizes) == 1  # or it would be another comparison


def test_at_as_many_queries_as_all_were_trained_for_both_experiments_agree(records: list[dict[str, Any]]) -> None:
    by_steps = [r["accuracy"] for r in records if r["experiment"] == "steps" and r["method"] == "feature-averaging"]
    by_queries = [
        r["accuracy"]
        for r in records
        if r["experiment"] == "queries" and r["n_query"] == 15 and r["method"] == "feature-averaging"
    ]
    assert by_steps == by_queries


@pytest.mark.parametrize(("experiment", "n_query"), [("queries", 15), ("queries, trained for them", 2)])
def test_a_method_is_trained_for_the_queries_it_is_said_to_be_trained_for(
    experiment: str, n_query: int, records: list[dict[str, Any]], config: CurvesConfig, place: Place
) -> None:
    """Used with 2 queries a class in both cases; the record is that of a method trained for so many."""
    backbone, _ = load_backbone(Path(config.backbone))
    known = finish(open_data(config.data, place.home).embed("train", backbone, place, N_VIEWS))
    chosen, test = (
        finish(open_data(config.data, place.home).embed(split, backbone, place)) for split in ("val", "test")
    )
    trained, used = TaskSpec(5, 1, n_query), TaskSpec(5, 1, 2)
    work = ready(parse_request("sib"), trained, backbone.feature_size, known, chosen, place.cache / "runs")
    events, made = events_and_result(work)
    assert not [e for e in events if isinstance(e, Stepped)]  # that very training was done
    (expected,) = finish(compare([Entry("sib", made.method)], test, used, N_TASKS, {}))
    (found,) = (
        r for r in records if (r["experiment"], r["n_query"], r["n_shot"], r["method"]) == (experiment, 2, 1, "sib")
    )
    assert (found["accuracy"], found["ci95"]) == (expected["accuracy"], expected["ci95"])


def test_the_study_trains_nothing_twice(records: list[dict[str, Any]], config: CurvesConfig, place: Place) -> None:
    events = list(curves(replace(config, n_tasks=2), place))
    assert records
    assert not [e for e in events if isinstance(e, Stepped)]


def test_another_network_is_another_study(config: CurvesConfig, place: Place, tmp_path: Path) -> None:
    other = replace(
        config, backbone=str(network_file(tmp_path / "net.safetensors", 1)), steps=(1,), queries=(), shots=(1,)
    )
    work = curves(other, place)
    assert any(isinstance(event, Stepped) for event in work)
