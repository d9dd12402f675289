"""Checking finds what was changed, whatever the format, and passes what was not."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import benchmarks as tiny
from onelook.data.datasets import BENCHMARKS, locate, open_benchmark
from onelook.data.verify import Verification, verify
from onelook.errors import DataError
from onelook.events import Progress, finish

SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A data folder with CIFAR-FS as lossless WebP."""
    _, pixels = tiny.publish_cifar(tmp_path)
    tiny.use_facts(monkeypatch, tmp_path / "facts", "cifar-fs", tiny.CIFAR, pixels)
    tiny.use_facts(monkeypatch, tmp_path / "facts", "fc100", tiny.FC100, pixels)
    for split, classes in tiny.CIFAR.items():
        for label in classes:
            (tmp_path / "cifar-fs" / split / label).mkdir(parents=True)
            for i, content in enumerate(pixels[label]):
                image = Image.frombytes("RGB", (32, 32), content)
                image.save(tmp_path / "cifar-fs" / split / label / f"{i}.webp", lossless=True)
    return tmp_path


def check(home: Path, name: str = "cifar-fs") -> Verification:
    return finish(verify(name, home))


@pytest.mark.parametrize("name", ["cifar-fs", "fc100"])
def test_the_published_images_pass_in_another_lossless_format(home: Path, name: str) -> None:
    found = check(home, name)
    assert found.problems == ()
    assert found.images == {split: tiny.PER_CLASS * n for split, n in found.classes.items()}
    changed = home / "cifar-fs/test/dolphin/0.webp"
    Image.open(changed).save(changed.with_suffix(".png"))
    changed.unlink()
    assert check(home, name).problems == ()


def test_the_work_is_reported_while_it_goes_on(home: Path) -> None:
    events = list(verify("cifar-fs", home))
    assert events
    assert all(isinstance(event, Progress) and event.done <= event.total for event in events)


def test_a_missing_image_is_found_and_its_class_named(home: Path) -> None:
    (home / "cifar-fs/val/cup/2.webp").unlink()
    (problem,) = check(home).problems
    assert problem.startswith("val: 1 classes do not have 4 images, 'cup' first with 3")


def test_one_changed_pixel_is_found(home: Path) -> None:
    path = home / "cifar-fs/train/bear/1.webp"
    pixels = np.asarray(Image.open(path)).copy()
    pixels[5, 7, 1] ^= 1
    Image.fromarray(pixels).save(path, lossless=True)
    (problem,) = check(home).problems
    assert problem.startswith("train: the pixels are not the published ones")


def test_two_images_that_changed_classes_are_found(home: Path) -> None:
    one, other = home / "cifar-fs/train/bear/1.webp", home / "cifar-fs/train/apple/1.webp"
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    (problem,) = check(home).problems
    assert problem.startswith("train: the pixels are not the published ones")


def test_a_missing_and_an_unknown_class_are_both_named(home: Path) -> None:
    (home / "cifar-fs/test/elm").rename(home / "cifar-fs/test/oak")
    assert check(home).problems == (
        "test: 1 of 2 classes are missing, 'elm' first.",
        "test: 1 classes are not of this split, 'oak' first.",
    )


def test_a_missing_split_is_a_problem_and_the_others_are_still_checked(home: Path) -> None:
    (home / "cifar-fs/val").rename(home / "elsewhere")
    found = check(home)
    assert len(found.problems) == 1
    assert found.problems[0].startswith("val: ")
    assert found.images == {"train": 8, "val": 0, "test": 8}


def test_an_unreadable_image_is_named(home: Path) -> None:
    (home / "cifar-fs/train/bear/1.webp").write_bytes(b"no image")
    assert check(home).problems == ("train: 1 images cannot be read, train/bear/1.webp first.",)


def test_what_is_not_there_cannot_be_verified(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="onelook data fetch omniglot"):
        check(tmp_path, "omniglot")


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["cifar-fs", "fc100", "omniglot"])
def test_the_real_images_are_the_published_ones(name: str) -> None:
    home = Path(os.environ.get("ONELOOK_DATA") or SHARED)
    if locate(BENCHMARKS[name], home) is None:
        pytest.skip(f"{name} is not in {home}")
    assert finish(verify(name, home)).problems == ()
    assert open_benchmark(name, "train", home).names
