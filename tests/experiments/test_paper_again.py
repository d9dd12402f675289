"""The comparison of the paper: no row is made twice, and every row that is stopped goes on."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.features import contents, one_sentence
from helpers.paper import Setting, kept, notices, steps
from helpers.trainings import shorten_trainings
from onelook.errors import ArtifactError
from onelook.events import finish
from onelook.experiments import paper as module
from onelook.experiments.paper import table
from onelook.train.loop import Resumed, Stepped


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return Setting.of(tmp_path_factory.mktemp("table"))


@pytest.fixture(scope="module", autouse=True)
def _short_trainings() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        shorten_trainings(patch)
        yield


@dataclass(frozen=True)
class Finished:
    """A row that is done."""

    folder: Path
    events: list[Any]
    records: list[dict[str, Any]]


@pytest.fixture(scope="module")
def finished(setting: Setting, tmp_path_factory: pytest.TempPathFactory, _short_trainings: None) -> dict[str, Finished]:
    folders = {row: tmp_path_factory.mktemp(row) for row in ("sib", "r2d2")}
    return {row: Finished(folder, *setting.run(folder, rows=(row,))) for row, folder in folders.items()}


@pytest.fixture
def sib_done(finished: dict[str, Finished], tmp_path: Path) -> Path:
    return shutil.copytree(finished["sib"].folder, tmp_path / "sib done")


@pytest.mark.parametrize("row", ["sib", "r2d2"])
def test_a_row_that_is_done_is_neither_trained_nor_measured_again(
    row: str, setting: Setting, finished: dict[str, Finished]
) -> None:
    first = finished[row]
    assert steps(first.events) > 0
    before = contents(first.folder)
    events, second = setting.run(first.folder, rows=(row,))
    assert len(notices(events)) == len(events) == 1  # which row it is
    assert second == first.records
    assert contents(first.folder) == before


def stopped(setting: Setting, out: Path, row: str, after: Any) -> int:
    """Close the work at the first event that `after` is true of; returns the steps taken."""
    work = table(replace(setting.config, rows=(row,)), out, setting.place)
    taken = 0
    for event in work:
        taken += isinstance(event, Stepped)
        if after(event, taken):
            break
    work.close()
    return taken


@pytest.mark.parametrize(("row", "n_steps"), [("sib", 6), ("r2d2", 6)])
@pytest.mark.parametrize("stop", [1, 5])
def test_a_row_that_is_stopped_goes_on_to_the_same_accuracies(
    row: str, n_steps: int, stop: int, setting: Setting, finished: dict[str, Finished], tmp_path: Path
) -> None:
    """sib: 3 steps for each shot; r2d2: 3 of its head, and 3 together with the network."""
    taken = stopped(setting, tmp_path, row, lambda _, taken: taken == stop)
    events, _ = setting.run(tmp_path, rows=(row,))
    assert taken + steps(events) == n_steps
    assert any(isinstance(e, Resumed) for e in events)
    for shot in (1, 5):
        assert torch.equal(kept(tmp_path, row, shot), kept(finished[row].folder, row, shot))


def test_the_time_of_a_training_is_counted_over_its_interruptions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    file = tmp_path / "seconds.json"
    work = module._Clock(file).measure(iter_of(3))
    next(work)
    clock = iter(range(100, 10_000))
    work.close()
    before = json.loads(file.read_text())
    assert before >= 99
    again = module._Clock(file)
    assert finish(again.measure(iter_of(3))) == "done"
    assert again.seconds == json.loads(file.read_text()) > before
    file.write_text("no number")
    assert module._Clock(file).seconds == 0


def iter_of(n: int) -> Any:
    yield from range(n)
    return "done"


CHANGES: dict[str, tuple[dict[str, Any], int]] = {
    "number of tasks": ({"n_tasks": 4}, 0),
    "seed": ({"seed": 1}, 6),
    "split": ({"split": "val"}, 0),
    "shots": ({"shots": (5, 2)}, 3),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_row_of_other_settings_is_made_again_and_only_what_they_matter_for_is_trained(
    what: str, setting: Setting, sib_done: Path, tmp_path: Path
) -> None:
    changes, n_steps = CHANGES[what]
    events, records = setting.run(sib_done, **changes)
    assert steps(events) == n_steps
    _, fresh = setting.run(tmp_path / "fresh", **changes)
    costs = {"train_seconds"}
    assert [{k: v for k, v in r.items() if k not in costs} for r in records] == [
        {k: v for k, v in r.items() if k not in costs} for r in fresh
    ]


def test_a_row_on_features_of_another_network_is_made_again_at_its_own_cost(
    setting: Setting, finished: dict[str, Finished], sib_done: Path
) -> None:
    for file in (sib_done / "sib").glob("*/seconds.json"):
        file.write_text("5000.0")
    events, second = setting.run(sib_done, backbone=setting.other)
    assert steps(events) == 6
    assert finished["sib"].records[0]["backbone"] != second[0]["backbone"]
    assert all(r["train_seconds"] < 5000 for r in second)


def test_a_training_of_images_is_not_thrown_away_for_another_network(setting: Setting, tmp_path: Path) -> None:
    """It took hours; who wants another one in the same folder is told what to do."""
    one = {"rows": ("prototypical",), "shots": (1,)}
    setting.run(tmp_path, **one)
    before = contents(tmp_path)
    events, _ = setting.run(tmp_path, **one, n_tasks=2)
    assert steps(events) == 0
    with pytest.raises(ArtifactError) as caught:
        setting.run(tmp_path, **one, backbone=setting.other)
    assert "choose another folder" in one_sentence(caught.value)
    same = {name for name, content in contents(tmp_path).items() if before.get(name) == content}
    assert before.keys() - same == {"prototypical/seconds.json"}


@pytest.mark.parametrize("damage", ["cut", "words", "empty"])
def test_a_damaged_file_of_accuracies_is_made_again(damage: str, setting: Setting, sib_done: Path) -> None:
    _, first = setting.run(sib_done)
    (file,) = (sib_done / "sib" / "results").iterdir()
    content = file.read_bytes()
    file.write_bytes({"cut": content[:-7], "words": b"these are words", "empty": b""}[damage])
    events, second = setting.run(sib_done)
    assert steps(events) == 0
    assert [r["accuracy"] for r in second] == [r["accuracy"] for r in first]
    assert setting.run(sib_done)[1] == second
