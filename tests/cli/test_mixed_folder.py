"""A folder of everything that phones, laboratories and systems leave behind: each thing is labelled or named."""

import importlib.util
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.folder import labels
from helpers.formats import HEIC, dicom, dicom_file, dng
from helpers.images import class_image, classes, encoded, picture, write_files
from helpers.terminal import Outcome, done, onelook

LIKE = picture(3, 48, 48)
READ = {
    "scan.avif": encoded(LIKE, "AVIF"),
    "map.jp2": encoded(LIKE, "JPEG2000"),
    "plate.tif": encoded(LIKE, "TIFF"),
    "without-suffix": encoded(LIKE, "JPEG"),
    "mistaken.txt": encoded(LIKE, "PNG"),
}
BY_EXTRAS = {
    "phone.heic": ("heic", HEIC),
    "phone": ("heic", HEIC),
    "camera.dng": ("raw", dng()),
    "camera.tif": ("raw", dng(orientation=6)),
    "slice.dcm": ("dicom", dicom(dicom_file(np.asarray(picture(4, 16, 16, "L"))))),
}
"""Files that an extra reads, and its name."""
NAMED = {"drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>', "empty.png": b"", "half.jpg": b"\xff\xd8\xff\xe0"}
SPECIAL = ("pipe", "pipe.png", "zero.png", "socket.png", "nowhere.png", "round")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ONELOOK_CACHE", "cache")
    images = write_files(tmp_path / "mixed", classes(2, 2) | READ | NAMED)
    write_files(images, {name: content for name, (_, content) in BY_EXTRAS.items()})
    for name in ("pipe", "pipe.png"):
        os.mkfifo(images / name)
    (images / "zero.png").symlink_to("/dev/zero")
    (images / "nowhere.png").symlink_to(tmp_path / "none")
    (images / "round").symlink_to(images)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("mixed/socket.png")

    def stop(*_: Any) -> None:
        raise TimeoutError("it hangs")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(120)
    yield images
    signal.alarm(0)


def without_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    absent = {"pi_heif", "rawpy", "pydicom"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name in absent else find(name, *more))


def names(outcome: Outcome, *things: str) -> bool:
    """Whether each thing has a line of the messages that names it."""
    return all(any(f"{name} " in line or f"{name}:" in line for line in said(outcome)) for name in things)


def said(outcome: Outcome) -> list[str]:
    return [line for line in (outcome.out + outcome.err).splitlines() if not line.startswith("Written")]


@pytest.mark.parametrize("command", ["label", "doctor"])
def test_with_the_extras_all_that_has_pixels_is_read_and_the_rest_is_named(command: str, folder: Path) -> None:
    outcome = onelook(command, folder, *(["--out", "labels"] if command == "label" else []))
    assert outcome.code == 0
    assert names(outcome, *NAMED, *SPECIAL)
    if command == "label":
        assert set(labels(Path("labels"))) == {*READ, *BY_EXTRAS}
        assert all(name in Path("labels/report.html").read_text() for name in (*NAMED, *SPECIAL))


@pytest.mark.parametrize("command", ["label", "doctor"])
def test_without_the_extras_what_they_read_is_named_with_how_to_have_it_read(
    command: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_extras(monkeypatch)
    outcome = onelook(command, folder, *(["--out", "labels"] if command == "label" else []))
    assert outcome.code == 0
    assert names(outcome, *NAMED, *SPECIAL, "camera.tif", "camera.dng", "slice.dcm")
    assert any("2 HEIC files were passed over, phone first" in line for line in said(outcome))
    for extra in ("heic", "raw", "dicom"):
        assert any(f'pip install "onelook[{extra}]" reads such files' in line for line in said(outcome))
    if command == "label":
        assert set(labels(Path("labels"))) == set(READ)


def test_a_folder_of_nothing_else_says_how_to_have_it_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_extras(monkeypatch)
    write_files(tmp_path, {f"{k}/{name}": content for k in "ab" for name, (_, content) in BY_EXTRAS.items()})
    (tmp_path / "a" / "camera.tif").unlink()
    (tmp_path / "b" / "camera.tif").unlink()
    outcome = onelook("label", tmp_path)
    assert outcome.code == 2
    assert all(f'pip install "onelook[{extra}]"' in outcome.err for extra in ("heic", "raw", "dicom"))


def test_what_the_extras_read_may_be_a_labelled_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ONELOOK_CACHE", "cache")
    files = {f"{extra}/1.{extra}": content for extra, content in BY_EXTRAS.values()}
    write_files(tmp_path / "images", files | {"x.png": class_image(0, 0)})
    done("label", tmp_path / "images", "--out", "labels")
    assert set(labels(Path("labels"))) == {"x.png"}
