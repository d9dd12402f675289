"""`onelook benchmark practice`, from images to records and a page."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from pages.practice import page

from helpers.images import classes, write_files
from helpers.terminal import onelook, refused
from helpers.trainings import network_file
from onelook.artifacts import load_results
from onelook.estimators.classifier import FewShotClassifier
from onelook.experiments.practice_measure import LABELLED_ONLY, OWN

pytestmark = pytest.mark.usefixtures("small_forest")


@pytest.fixture
def words(tmp_path: Path) -> tuple[str | Path, ...]:
    data = write_files(tmp_path / "images", classes(7, 20))
    network = network_file(tmp_path / "net.safetensors")
    return (
        "benchmark",
        "practice",
        "--data",
        f"{data}, {data}",
        "--backbone",
        network,
        "--shot",
        "1,3,16",
        "--users",
        "2",
        "--precision",
        "float32",
        "--out",
        tmp_path / "cells",
        "--cache",
        tmp_path / "cache",
        "--json",
        tmp_path / "r.json",
    )


def test_it_writes_its_records_and_prints_them_and_measures_nothing_twice(
    words: tuple[str | Path, ...], tmp_path: Path
) -> None:
    first = onelook(*words)
    assert first.code == 0, first.err
    records = load_results(tmp_path / "r.json")
    assert [(r["n_shot"], r["method"]) for r in records if r["method"] in (OWN, LABELLED_ONLY)] == [
        (1, OWN),
        (1, LABELLED_ONLY),
        (3, OWN),
        (3, LABELLED_ONLY),
    ]
    for r in records:
        assert f"images, {r['n_shot']} a class, {r['method']}: {r['accuracy']:.1f} ± {r['ci95']:.1f}" in first.out
        for name, value in r.get("report", {}).items():
            assert f"    {name.replace('_', ' ')}: {value:.3f}" in first.out
    assert any("report" in r for r in records)
    assert first.err.count("images is left out with 16 labels a class") == 1
    assert "Warning" not in first.err
    assert str(tmp_path) not in page(records)
    assert str(tmp_path) not in (tmp_path / "r.json").read_text()
    written = (tmp_path / "r.json").read_bytes()
    assert "practice: 2 of 2 cells are there already." in onelook(*words).err
    assert (tmp_path / "r.json").read_bytes() == written


def test_it_goes_on_after_an_interruption(
    words: tuple[str | Path, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit, asked = FewShotClassifier.fit, []

    def interrupted(self: FewShotClassifier, *rows: Any, **more: Any) -> Any:
        asked.append(1)
        if len(asked) == 2 * 3 + 2:  # twice and with strangers once for each user of the first cell, then in the second
            os.kill(os.getpid(), signal.SIGINT)
        return fit(self, *rows, **more)

    monkeypatch.setattr(FewShotClassifier, "fit", interrupted)
    outcome = onelook(*words)
    assert (outcome.code, outcome.out) == (130, "")
    assert not (tmp_path / "r.json").exists()
    assert "practice: 1 of 2 cells are there already." in onelook(*words).err


def test_mistakes_are_answered_by_one_sentence(words: tuple[str | Path, ...], tmp_path: Path) -> None:
    assert "There is no data named 'cifar-sf'" in refused(*words, "--data", "cifar-sf")
    assert "There is no split 'tets'" in refused(*words, "--data", "cifar-fs:tets")
    assert "--shot takes whole numbers" in refused(*words, "--shot", "few")
    assert "must be a whole number >= 1, but is 0" in refused(*words, "--shot", "0")
    assert "is a folder; give the name of a file in it" in refused(*words, "--json", tmp_path)
    assert "A precision is auto, float32 or bfloat16" in refused(*words, "--precision", "double")
