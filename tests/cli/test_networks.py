"""`onelook networks`, and the networks that people get without asking."""

import json
from pathlib import Path

import pytest

from helpers.folder import read_predictions
from helpers.images import encoded, picture, write_files
from helpers.terminal import done
from onelook.artifacts import BUILT_IN, DRAWINGS, JOINED, PHOTOGRAPHS, SHIPPED_NETWORK, SMALL, load_network
from onelook.backbones import efficientnet_lite
from onelook.backbones.hub import KNOWN, PREFIX
from onelook.estimators.classifier import FewShotClassifier
from onelook.events import finish
from onelook.labelling import networks as module


def test_every_network_is_in_the_table_with_facts_that_hold() -> None:
    facts = {one["name"]: one for one in json.loads(done("networks", "--no-measure", "--json"))}
    assert set(facts) == {*BUILT_IN, *(PREFIX + name for name in KNOWN)}
    for name in BUILT_IN:
        assert facts[name]["is_here"]
        assert facts[name]["get_it"] == ""
        assert facts[name]["n_features"] == finish(load_network(name))[0].feature_size
    sizes = {SMALL: SHIPPED_NETWORK.stat().st_size}
    for name, variant in efficientnet_lite.VARIANTS.items():
        sizes[name] = efficientnet_lite._find_weights(variant).stat().st_size
    for name in BUILT_IN:
        expected = sum(sizes[one] for one in JOINED.get(name, (name,))) / 1e6
        assert facts[name]["megabytes"] == pytest.approx(expected, abs=0.11)
    for name, known in KNOWN.items():
        assert (facts[PREFIX + name]["licence"], facts[PREFIX + name]["megabytes"]) == (known.licence, known.megabytes)
    lines = done("networks", "--no-measure").splitlines()
    assert all(any(line.split()[:1] == [name] for line in lines) for name in facts)


def test_speed_is_measured_of_what_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = f"{PREFIX}facebook/dinov2-small"
    monkeypatch.setattr(module, "GOOD_FOR", {name: module.GOOD_FOR[name] for name in (SMALL, elsewhere)})
    monkeypatch.setattr(module, "SECONDS", 0.05)
    monkeypatch.setattr(module.hub, "how_to_get", lambda name: f"get {name}")
    small, other = json.loads(done("networks", "--json"))
    assert small["images_per_second"] > 1
    assert (other["images_per_second"], other["get_it"], other["is_here"]) == (None, "get facebook/dinov2-small", False)
    assert "get facebook/dinov2-small" in done("networks")


@pytest.mark.usefixtures("network_for_photographs")
@pytest.mark.parametrize(("drawn", "expected"), [(False, PHOTOGRAPHS), (True, DRAWINGS)])
def test_a_folder_is_labelled_and_new_images_are_predicted_by_the_network_that_suits_it(
    drawn: bool, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ONELOOK_CACHE", str(tmp_path / "cache"))
    images = [picture(i, 40, 40) for i in (0, 1)]
    if drawn:
        images = [one.convert("L").point(lambda value: 255 * (value > 128)) for one in images]
    files = {f"{name}.png": encoded(one) for name, one in zip(("a/1", "b/1"), images, strict=True)}
    write_files(Path("images"), files | {"0.png": files["a/1.png"], "1.png": files["b/1.png"]})
    told = json.loads(done("label", "images", "--save", "model.safetensors", "--no-report", "--json"))
    assert told["network"]["name"] == expected == FewShotClassifier.load("model.safetensors").network_["name"]
    done("predict", "model.safetensors", "images", "--out", "labels.csv")
    assert [(p.path, p.label) for p in read_predictions(Path("labels.csv"))] == [
        ("0.png", "a"),
        ("1.png", "b"),
        ("a/1.png", "a"),
        ("b/1.png", "b"),
    ]
