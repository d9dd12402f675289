"""`onelook benchmark protocols`, from features in files and from images to records and a table."""

import os
import signal
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from pages import transductive

from helpers.features import random_embeddings
from helpers.images import divided, write_files
from helpers.terminal import done, onelook, refused
from helpers.trainings import network_file
from onelook.artifacts import load_results
from onelook.data.vectors import save_features
from onelook.experiments.transductive import INDUCTIVE
from onelook.methods import BDCSPN


@pytest.fixture
def words(tmp_path: Path) -> tuple[str | Path, ...]:
    save_features(random_embeddings(6, 20, n_views=1), tmp_path / "test.npz")
    return (
        "benchmark",
        "protocols",
        "--embeddings",
        tmp_path / "test.npz",
        "--methods",
        "bd-cspn, tim",
        "--reference",
        "tim",
        "--protocol",
        "balanced, dirichlet:2",
        "--way",
        "3",
        "--shot",
        "1,2",
        "--total",
        "6,9",
        "--tasks",
        "4",
        "--out",
        tmp_path / "cells",
        "--cache",
        tmp_path / "cache",
        "--json",
        tmp_path / "r.json",
    )


def test_it_writes_its_records_and_prints_them_and_does_nothing_twice(
    words: tuple[str | Path, ...], tmp_path: Path
) -> None:
    first = onelook(*words)
    assert first.code == 0, first.err
    records = load_results(tmp_path / "r.json")
    cells = product((1, 2), (6, 9), ("balanced", "dirichlet:2"), ("tim", INDUCTIVE, "bd-cspn"))
    assert [(r["n_shot"], r["n_total"], r["protocol"], r["method"]) for r in records] == list(cells)
    assert {r["versus"]["method"] for r in records} == {"tim"}
    assert "protocols: 24 figures of 4 tasks each: about" in first.err
    assert "protocols: cell 8 of 8: dirichlet:2, 3-way 2-shot, 9 queries" in first.err
    for r in records:
        assert f"{r['accuracy']:.2f} ± {r['ci95']:.2f}" in first.out
    assert transductive.page(records).count("\n## ") == 2
    written = (tmp_path / "r.json").read_bytes()
    again = onelook(*words)
    assert "protocols: All 24 figures are there already." in again.err
    assert (tmp_path / "r.json").read_bytes() == written
    assert "bd-cspn" in done("show", tmp_path / "r.json")


def test_it_goes_on_after_an_interruption(
    words: tuple[str | Path, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, asked = BDCSPN.forward, []

    def interrupted(self: BDCSPN, tasks: Any) -> Any:
        asked.append(1)
        if len(asked) == 4 * 2 + 3:  # two to time each of four sizes, then the third cell
            os.kill(os.getpid(), signal.SIGINT)
        return forward(self, tasks)

    monkeypatch.setattr(BDCSPN, "forward", interrupted)
    outcome = onelook(*words)
    assert (outcome.code, outcome.out) == (130, "")
    assert not (tmp_path / "r.json").exists()
    assert "about" in (again := onelook(*words)).err
    assert "16 figures of 4 tasks each, 8 are there already" in again.err


def test_images_are_embedded_and_averaged_as_asked(tmp_path: Path) -> None:
    data = write_files(tmp_path / "images", divided(5, 12))
    done(
        "benchmark",
        "protocols",
        "--data",
        data,
        "--backbone",
        network_file(tmp_path / "net.safetensors"),
        "--methods",
        "tim",
        "--protocol",
        "present:2",
        "--shot",
        "1",
        "--query",
        "2",
        "--tasks",
        "2",
        "--average",
        "none,mirror",
        "--precision",
        "float32",
        "--out",
        tmp_path / "cells",
        "--cache",
        tmp_path / "cache",
        "--json",
        tmp_path / "r.json",
    )
    records = load_results(tmp_path / "r.json")
    assert {r["dataset"] for r in records} == {"images"}  # no folder of a machine
    assert [(r["average"], r["method"]) for r in records] == [
        (average, method) for average in ("none", "mirror") for method in ("glance", INDUCTIVE, "tim")
    ]


def test_mistakes_are_answered_by_one_sentence(words: tuple[str | Path, ...], tmp_path: Path) -> None:
    assert "give --backbone NAME or FILE with --data, or --embeddings FILE" in refused("benchmark", "protocols")
    assert "or --embeddings FILE" in refused(*words, "--backbone", tmp_path / "b.safetensors")
    assert "no protocol 'even'" in refused(*words, "--protocol", "even")
    assert "--way takes whole numbers" in refused(*words, "--way", "five")
    assert "--total takes whole numbers" in refused(*words, "--total", "")
    assert "no method named 'tin'" in refused(*words, "--reference", "tin")
    assert "is a folder; give the name of a file in it" in refused(*words, "--json", tmp_path)
    assert "must be a whole number >= 1, but is 0" in refused(*words, "--total", "0")
    assert "Features from a file are averaged where they are made" in refused(*words, "--average", "mirror")
