"""The comparison of the paper: what is compared, recorded and said."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.images import classes, write_files
from helpers.paper import Setting, kept, notices, steps
from helpers.trainings import shorten_trainings
from onelook.artifacts import load_method
from onelook.benchmark.sources import open_items
from onelook.data.sampler import TaskSampler, TaskSpec
from onelook.errors import ArtifactError, DataError, SettingsError
from onelook.events import Notice, finish
from onelook.experiments import paper_rows
from onelook.experiments.paper import table, tabulate
from onelook.experiments.paper_rows import ROWS, published, published_elsewhere
from onelook.methods import METHODS
from onelook.scoring import Estimate, paired, task_accuracies
from onelook.train.loop import Stepped
from onelook.train.recipes import build, parse_request


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return Setting.of(tmp_path_factory.mktemp("table"))


@pytest.fixture(autouse=True)
def _short_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_trainings(monkeypatch)


# ------------------------------------------------------------------------------------------------ what is compared

PUBLISHED = {
    "sib": (68.7, 77.1),
    "sib-0": (59.2, 75.4),
    "maml": (58.9, 71.5),
    "prototypical": (55.5, 72.0),
    "relation": (55.0, 69.3),
    "gnn": (61.9, 75.3),
    "r2d2": (62.3, 77.4),
    "cc-rot": (63.5, 79.8),
}
"""On CIFAR-FS with Conv-4-64, as the article prints them."""


@pytest.mark.parametrize("key", ROWS)
def test_every_row_is_a_request_that_can_be_built(key: str) -> None:
    row = ROWS[key]
    request = parse_request(row.method)
    build(request, TaskSpec())
    assert row.on in ("features", "images")
    # A method that owns its network can only learn on images.
    assert row.on == "images" or not hasattr(METHODS[request.name], "backbone")


def test_the_published_figures_are_those_of_the_article() -> None:
    for row in ROWS:
        found = tuple(published(row, "cifar-fs", "conv4-64", shot) for shot in (1, 5))
        assert found == PUBLISHED.get(row, (None, None))
        if row in PUBLISHED:
            assert published_elsewhere(row, "cifar-fs", "conv4-64") == ""
    assert published("sib-5", "cifar-fs", "wrn-28-10", 1) == 80.0
    assert published("sib", "cifar-fs", "conv4-64", 2) is None
    assert published_elsewhere("leo", "cifar-fs", "conv4-64") == "mini-imagenet, wrn-28-10: 61.8 / 77.6"
    assert set(paper_rows.PUBLISHED) <= set(ROWS)


def test_no_two_rows_have_the_same_title_or_are_the_same() -> None:
    assert len({row.title for row in ROWS.values()}) == len(ROWS)
    assert len({(row.method, row.on, row.rotation) for row in ROWS.values()}) == len(ROWS)


def test_an_unknown_row_is_refused_with_the_nearest_name(setting: Setting) -> None:
    with pytest.raises(SettingsError, match="no row named 'r2d'; did you mean 'r2d2'"):
        replace(setting.config, rows=("sib", "r2d"))


# ------------------------------------------------------------------------------------------------ the records


def test_records_are_of_every_row_and_shot_and_hold_the_figures_of_the_article(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_this_data = {row: {(setting.config.data, "conv4-64"): known[::-1]} for row, known in PUBLISHED.items()}
    monkeypatch.setattr(paper_rows, "PUBLISHED", of_this_data)
    _, records = setting.run(tmp_path, rows=("sib-0", "sib", "r2d2"))
    assert [(r["row"], r["n_shot"]) for r in records] == [(row, n) for row in ("sib-0", "sib", "r2d2") for n in (1, 5)]
    assert [r["published"] for r in records] == [75.4, 59.2, 77.1, 68.7, 77.4, 62.3]
    assert [r["transductive"] for r in records] == [False, False, True, True, False, False]
    assert json.loads(json.dumps(records, allow_nan=False)) == records
    for r in records:
        assert (r["n_way"], r["n_query"], r["n_tasks"], r["split"]) == (5, 15, 3, "test")
        assert r["train_seconds"] > 0
        assert (r["epochs"], r["rotation"]) == (7, False)
    network = sum(x.numel() for x in load_method(tmp_path / "r2d2" / "model.safetensors")[0].parameters())
    assert records[-1]["parameters"] == network
    assert records[2]["parameters"] > records[0]["parameters"] > 100_000  # the network is counted everywhere


def test_accuracies_are_those_of_the_tasks_and_differences_are_task_by_task(setting: Setting, tmp_path: Path) -> None:
    _, records = setting.run(tmp_path, rows=("sib", "r2d2"), n_tasks=6)
    spread = []
    for r in records:
        own, reference = (kept(tmp_path, row, r["n_shot"]) for row in (r["row"], "sib"))
        assert len(own) == 6
        assert Estimate.from_values(own).record("accuracy").items() <= r.items()
        difference = paired(own, reference)
        relative = r["versus"].pop("relative")
        assert relative["mean"] == pytest.approx(100 * (reference.mean() / own.mean() - 1).item(), abs=1e-3)
        assert r["versus"] == {"method": "SIB, K = 3", **difference.record("difference")}
        spread.append(r["versus"]["ci95"])
    assert spread[:2] == [0, 0] < spread[2:]


def test_a_row_on_images_is_asked_about_the_images_of_the_test_classes(setting: Setting, tmp_path: Path) -> None:
    """The numbers are those of the file that the row leaves."""
    setting.run(tmp_path, rows=("maml",), shots=(1,))
    whole, _ = load_method(tmp_path / "maml" / "model.safetensors")
    method, items = finish(open_items(whole, setting.config.data, "test", setting.place))
    assert method is whole
    own = finish(task_accuracies(whole, TaskSampler(items, TaskSpec(5, 1, 15)), 3))
    assert torch.equal(own, kept(tmp_path, "maml", 1))


def test_without_the_row_of_sib_there_are_no_differences(setting: Setting, tmp_path: Path) -> None:
    _, records = setting.run(tmp_path, rows=("sib-0",))
    assert [r["versus"] for r in records] == [None, None]


def test_other_shots_have_no_published_figures(setting: Setting, tmp_path: Path) -> None:
    _, records = setting.run(tmp_path, shots=(2, 3))
    assert [(r["n_shot"], r["published"]) for r in records] == [(2, None), (3, None)]


def test_one_training_for_several_shots_has_one_cost_and_those_of_one_shot_each_their_own(
    setting: Setting, tmp_path: Path
) -> None:
    joint = replace(ROWS["sib"], method="sib:recipe=joint")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ROWS, "joint", joint)
        events, records = setting.run(tmp_path, rows=("joint",))
    assert steps(events) == 3
    assert 0 < records[0]["train_seconds"] <= records[1]["train_seconds"]
    assert len(list((tmp_path / "joint").glob("*/seconds.json"))) == 1
    setting.run(tmp_path, rows=("sib",))
    assert len(list((tmp_path / "sib").glob("*/seconds.json"))) == 2


# ------------------------------------------------------------------------------------------------ what is said


@pytest.mark.parametrize("row", ["maml", "prototypical"])
def test_the_cost_of_a_row_on_images_is_said_before_its_first_step(
    row: str, setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onelook.train.jobs.seconds_of_a_step", lambda _: 3600.0)
    events, _ = setting.run(tmp_path, rows=(row,))
    first = next(i for i, e in enumerate(events) if isinstance(e, Stepped))
    said = [i for i, e in enumerate(events) if isinstance(e, Notice) and "3 steps of 1 tasks of images" in e.text]
    assert len(said) == 1  # and not again for the other shot
    assert said[0] < first
    assert "about 3 h 0 min" in events[said[0]].text


def test_rows_with_rotation_are_left_out_with_a_word_where_there_is_no_such_network(
    setting: Setting, tmp_path: Path
) -> None:
    events, records = setting.run(tmp_path, rows=("cc-rot", "sib", "sib-rot"))
    assert {r["row"] for r in records} == {"sib"}
    left_out = [text for text in notices(events) if "left out: it needs a network that was pretrained" in text]
    assert [text.split(" is left")[0] for text in left_out] == [ROWS[key].title for key in ("cc-rot", "sib-rot")]


def test_rows_with_rotation_are_made_with_their_own_network(setting: Setting, tmp_path: Path) -> None:
    _, records = setting.run(tmp_path, rows=("sib-0", "cc-rot"), rotation_backbone=setting.other, shots=(1,))
    assert [r["row"] for r in records] == ["sib-0", "cc-rot"]
    assert records[0]["backbone"] != records[1]["backbone"]


def test_with_a_fixed_network_every_row_learns_on_its_features_and_a_row_that_trained_it_stays_another(
    setting: Setting, tmp_path: Path
) -> None:
    _, (along,) = setting.run(tmp_path, rows=("r2d2",), shots=(1,))
    events, (sib, fixed) = setting.run(tmp_path, rows=("sib", "maml", "r2d2"), shots=(1,), fixed_network=True)
    assert [text for text in notices(events) if "left out" in text] == [
        "MAML is left out: it is nothing without its own feature network."
    ]
    assert (along["on"], sib["on"], fixed["on"]) == ("images", "features", "features")
    assert not any("tasks of images" in text for text in notices(events))
    assert len(list((tmp_path / "r2d2" / "results").iterdir())) == 2


def test_what_ships_trained_costs_no_training(setting: Setting, tmp_path: Path) -> None:
    events, (record,) = setting.run(tmp_path, rows=("glance",), shots=(1,))
    assert record["train_seconds"] == steps(events) == 0
    assert record["transductive"]


@pytest.mark.parametrize("which", ["backbone", "rotation_backbone"])
def test_a_network_that_is_not_there_is_refused_before_the_first_row(
    which: str, setting: Setting, tmp_path: Path
) -> None:
    config = replace(setting.config, rows=("sib", "cc-rot"), **{which: tmp_path / "gone.safetensors"})
    with pytest.raises(ArtifactError, match=r"There is no backbone file .*gone"):
        next(table(config, tmp_path, setting.place))


def test_too_few_test_images_are_refused_before_the_first_step(setting: Setting, tmp_path: Path) -> None:
    data = write_files(tmp_path / "images", classes(5, 20, "train/") | classes(5, 20, "val/", 5))
    write_files(data, classes(5, 17, "test/", 10))
    events: list[Any] = []
    with pytest.raises(DataError, match="5-way 5-shot tasks with 75 queries"):
        events.extend(table(replace(setting.config, data=str(data), rows=("maml",)), tmp_path, setting.place))
    assert steps(events) == 0


# ------------------------------------------------------------------------------------------------ the table


def record(row: str, shot: int, **kept: Any) -> dict[str, Any]:
    return {
        "row": row,
        "method": ROWS[row].title,
        "paper": ROWS[row].paper,
        "on": ROWS[row].on,
        "n_shot": shot,
        "transductive": row == "sib",
        "accuracy": 50.0 + shot,
        "ci95": 0.5,
        "published": 12.5,
        "parameters": 1234,
        "train_seconds": 2.0 * shot,
        "versus": {"method": "SIB, K = 3", "difference": -1.5, "ci95": 0.25},
        **kept,
    }


def test_the_table_shows_every_row_once_with_all_its_shots() -> None:
    keys = ("sib-0", "sib", "maml")
    found = tabulate([record(key, shot) for shot in (5, 1) for key in keys])
    assert {len(row) for row in found.rows} == {len(found.columns)}
    assert list(found.columns[3:9]) == ["1-shot", "to SIB", "published", "5-shot", "to SIB", "published"]
    for key, line in zip(keys, map(list, found.rows), strict=True):
        assert line[0] == f"{ROWS[key].title} ({ROWS[key].paper})"
        assert line[1:3] == [ROWS[key].on, "yes" if key == "sib" else "no"]
        difference = "–" if key == "sib" else "-1.50 ± 0.25"
        assert line[3:9] == ["51.00 ± 0.50", difference, "12.5", "55.00 ± 0.50", difference, "12.5"]
        assert line[9:] == ["1,234", "10 s"]


def test_what_there_is_not_is_a_dash() -> None:
    (row,) = tabulate([record("anil", 1, versus=None, published=None, train_seconds=0.0)]).rows
    assert row[4:] == ("–", "–", "1,234", "none")
