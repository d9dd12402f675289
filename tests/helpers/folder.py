"""A small folder of two classes that tests of the command line have labelled."""

import csv
import hashlib
from pathlib import Path

import pytest

from helpers.images import class_image, classes, write_files
from onelook.data.tables import parse_path, strip_guard
from onelook.labelling.export import Prediction

OTHERS = {f"{k:02d}-{i}.png": class_image(k, 50 + i) for k in range(2) for i in range(4)}
EXPECTED = {name: f"class {name[:2]}" for name in OTHERS}


def folder_at_hand(place: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of images, in a working folder of its own, with the cache as the default one."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("ONELOOK_CACHE", str(cache))
    return write_files(place / "images", classes(2, 2) | OTHERS)


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def labels(out: Path) -> dict[str, str]:
    return {p.path: p.label for p in read_predictions(out / "labels.csv")}


def read_predictions(path: Path) -> tuple[Prediction, ...]:
    """The rows of labels.csv as the table of labels would be read, with their numbers."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return tuple(
        Prediction(
            parse_path(row["path"]),
            strip_guard(row["label"]),
            float(row["probability"]),
            strip_guard(row["runner_up"]),
            float(row["margin"]),
            row["unknown"] == "true",
            strip_guard(row["best_guess"]),
        )
        for row in rows
    )
