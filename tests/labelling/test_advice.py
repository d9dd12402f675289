"""Advice: given where it is needed, about what is larger, and true of the numbers."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from helpers.pages import Page
from helpers.reports import assessed, report
from onelook.artifacts import AUTO, BUILT_IN, DRAWINGS, PHOTOGRAPHS, SMALL
from onelook.estimators.calibration import AccuracyEstimate
from onelook.labelling import advice
from onelook.labelling.advice import LARGER, LOW, advise
from onelook.labelling.networks import GOOD_FOR, SIZES
from onelook.labelling.page import render
from onelook.labelling.quality import Assessment
from onelook.scoring import Estimate

NAMES = ("a", "b", "c")


def expected(value: float, shots: int = 2, n_images: int = 100) -> Assessment:
    per_class = dict.fromkeys(NAMES, value)
    matrix = shots * np.eye(3, dtype=np.int64)
    estimate = AccuracyEstimate(Estimate(value, value - 0.1, min(value + 0.1, 1.0)), value, per_class, matrix)
    return replace(assessed(NAMES), estimate=estimate, n_examples=(shots,) * 3, n_images=n_images)


def test_there_is_advice_below_a_limit_and_none_from_there_on() -> None:
    for network in (SMALL, PHOTOGRAPHS, DRAWINGS, None):
        assert advise(expected(LOW), network) == advise(expected(1.0), network) == ""
        assert advise(expected(LOW - 1e-9), network).startswith("What would help most: ")


def test_the_small_network_is_replaced_before_anything_is_labelled(monkeypatch: pytest.MonkeyPatch) -> None:
    one = expected(0.5)
    said = advise(one, SMALL)
    then = one.after(6).value
    labels = f"2 more labels of each class (expected accuracy {100 * then:.0f} % instead of 50 %)"
    assert said == f"What would help most: a larger network, --network {AUTO}; then {labels}."
    for get_it, said in (("downloads 88 MB", " (downloads 88 MB)"), ("", "")):
        monkeypatch.setattr(advice, "how_to_get", lambda name, get_it=get_it: get_it if "dino" in name else name)
        larger = f"a larger network, --network hf:facebook/dinov2-small{said}"
        assert advise(one, PHOTOGRAPHS) == f"What would help most: {labels}; then {larger}."


@pytest.mark.parametrize("network", [DRAWINGS, None, "runs/mine/model.safetensors", "hf:some/body"])
def test_of_a_network_that_nothing_is_known_to_surpass_labels_alone_are_told(network: str | None) -> None:
    said = advise(expected(0.5, shots=1), network)
    assert said.startswith("What would help most: one more label of each class (expected accuracy ")
    assert "network" not in said


def test_labels_are_told_as_far_as_there_are_images_for_them() -> None:
    cases: list[tuple[int, int, str]] = [(4, 100, "4 more"), (4, 13, "4 more"), (4, 12, "3 more"), (4, 4, "one more")]
    for shots, n_images, words in cases:
        assert f"most: {words} label" in advise(expected(0.5, shots, n_images), None)
    assert advise(expected(0.5, 4, 3), None) == ""
    assert advise(expected(0.5, 4, 3), SMALL) == f"What would help most: a larger network, --network {AUTO}."


def test_a_network_that_is_advised_is_known_and_larger() -> None:
    def megabytes(name: str) -> float:
        from_hub: dict[str, Any] = {"hf:facebook/dinov2-small": 88, "hf:google/siglip-base-patch16-224": 813}
        return from_hub.get(name) or {PHOTOGRAPHS: 43, AUTO: 43, **SIZES}[name]

    for name, larger in LARGER.items():
        assert megabytes(larger) > megabytes(name)
        assert name in GOOD_FOR
        assert larger in (*GOOD_FOR, AUTO)
    assert set(BUILT_IN) - set(LARGER) == {DRAWINGS}


def test_the_page_shows_it_where_there_is_some() -> None:
    sentence = advise(expected(0.5), PHOTOGRAPHS)
    assert sentence in Page(render(report(k=3, class_names=NAMES, advice=sentence))).text
    assert "What would help most" not in Page(render(report())).text
