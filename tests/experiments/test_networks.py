"""Networks for the same simulated users: the figures are those of a slow loop, and nothing is measured twice."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pages.networks import page
from sklearn.datasets import load_digits

from helpers.features import one_sentence
from helpers.images import classes, write_files
from helpers.terminal import done
from helpers.trainings import events_and_result, network_file
from onelook.artifacts import AUTO, load_results
from onelook.data.images import decode
from onelook.data.sampler import TaskSampler
from onelook.errors import DataError
from onelook.estimators.classifier import FewShotClassifier
from onelook.estimators.image_features import ImageFeatures
from onelook.events import Notice, finish
from onelook.experiments.networks import NetworksConfig, compare_networks, list_digits
from onelook.machine import Place
from onelook.scoring import Estimate, paired
from onelook.tasks import Embeddings


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> NetworksConfig:
    folder = tmp_path_factory.mktemp("networks")
    data = write_files(folder / "images", classes(4, 8))
    other = network_file(folder / "other.safetensors")
    return NetworksConfig((AUTO, "small", str(other)), (f"{data}",), (1, 2), n_way=3, n_query=3, n_users=3)


def run(config: NetworksConfig, out: Path) -> tuple[list[Any], list[dict[str, Any]]]:
    return events_and_result(compare_networks(config, out, Place(out / "cache", precision="float32")))


@pytest.fixture(scope="module")
def made(config: NetworksConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    out = tmp_path_factory.mktemp("made")
    return out, run(config, out)[1]


def test_accuracies_and_differences_are_those_of_a_loop_over_the_users(
    config: NetworksConfig, made: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    files = sorted(Path(config.sets[0]).rglob("*.png"))
    labels = torch.tensor([int(path.parent.name[-2:]) for path in files])
    right: dict[tuple[str, int], list[float]] = {}
    for network in config.networks[1:]:
        features = ImageFeatures(network, average=config.average, cache=tmp_path, precision="float32").transform(files)
        names = tuple(path.relative_to(config.sets[0]).as_posix() for path in files)
        data = Embeddings(torch.from_numpy(features)[None], labels, tuple(f"class {k:02d}" for k in range(4)), names)
        for spec in config.specs:
            for i in range(config.n_users):
                rows = TaskSampler(data, spec).rows(i)
                own = FewShotClassifier().fit(
                    features[rows.support], rows.support_labels, unlabeled=features[rows.query]
                )
                right.setdefault((Path(network).name, spec.n_shot), []).append(
                    float(np.mean(own.transduction_ == rows.query_labels))
                )
    by = {(r["network"], r["n_shot"]): r for r in made[1]}
    assert len(by) == len(made[1]) == 6
    for (name, shot), values in right.items():
        assert Estimate.from_values(torch.tensor(values)).record("accuracy").items() <= by[name, shot].items()
        (other,) = (key for key in right if key[0] != name and key[1] == shot)
        difference = paired(torch.tensor(values), torch.tensor(right[other])).record("difference")
        assert by[name, shot]["versus"][other[0]] == difference


def test_auto_is_the_network_that_it_chooses_and_costs_nothing_more(
    config: NetworksConfig, made: tuple[Path, list[dict[str, Any]]]
) -> None:
    for r in made[1]:
        if r["network"] == AUTO:
            assert r["backbone"].startswith("small@")
            assert r["versus"]["small"] == {"difference": 0.0, "ci95": 0.0}
    assert len([*made[0].glob("*.safetensors")]) == 4
    assert {one for r in made[1] for one in r["versus"]} == {AUTO, "small", "other.safetensors"}
    assert config.sets[0] not in str(made[1])


def test_what_was_measured_is_not_measured_again(
    config: NetworksConfig, made: tuple[Path, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FewShotClassifier, "fit", lambda *_, **__: pytest.fail("it was measured again"))
    events, records = run(config, made[0])
    assert records == made[1]
    assert [e.text for e in events if isinstance(e, Notice)] == [
        "The feature network is small: the images look like photographs."
    ]


def test_a_set_without_files_or_of_no_name_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    for name, said in (("glyphs", "glyphs has no image files"), ("omnigot", "no data named 'omnigot'")):
        with pytest.raises(DataError, match=said) as error:
            finish(compare_networks(NetworksConfig(sets=("digits", name)), tmp_path, Place(tmp_path)))
        one_sentence(error.value)


def test_digits_are_files_of_their_pixels() -> None:
    listing, known = list_digits(), load_digits()
    assert list(listing.labels) == known.target.tolist()
    for i in (0, 1796):
        pixels = decode(listing.read(listing.names[i]), 8, 1)[0]
        assert (pixels / 255 * 16).round().tolist() == known.images[i].tolist()


def test_the_command_prints_what_it_writes_and_the_page_shows_it(config: NetworksConfig, tmp_path: Path) -> None:
    words = ("--network", "auto,small", "--way", 3, "--query", 3, "--users", 2, "--precision", "float32")
    where = ("--out", tmp_path / "cells", "--cache", tmp_path / "cache", "--json", tmp_path / "r.json")
    out = done("benchmark", "networks", "--data", config.sets[0], "--shot", 1, *words, *where)
    first, second = load_results(tmp_path / "r.json")
    assert out.splitlines()[0] == (
        f"images, 1 a class, auto: {first['accuracy']:.1f} ± {first['ci95']:.1f}, "
        f"expected {first['expected_accuracy']:.1f}; +0.0 ± 0.0 to small"
    )
    text = page([first, second, replace_network(second, "lite", 12.34)])
    (row,) = (line for line in text.splitlines() if line.startswith("| images, all | 1 |"))
    assert [cell.strip() for cell in row.strip("|").split("|")][2:7] == [
        f"{second['accuracy']:.1f} ± {second['ci95']:.1f}",
        f"12.3 ± {second['ci95']:.1f}",
        f"{first['accuracy']:.1f} ± {first['ci95']:.1f}",
        "small",
        "+0.0 ± 0.0 (small)",
    ]
    assert "2 users, 3 classes, 9 images to label" in text
    assert "| – |" in page([second])
    assert page([])


def replace_network(record: dict[str, Any], name: str, accuracy: float) -> dict[str, Any]:
    return record | {"network": name, "accuracy": accuracy}
