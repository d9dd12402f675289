"""Benchmarks that may not be passed on are rebuilt from the folder that the user has."""

import base64
import errno
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import benchmarks as tiny
from onelook.data.datasets import open_benchmark
from onelook.data.fetch import fetch
from onelook.data.images import load
from onelook.errors import DataError, StorageError
from onelook.events import finish

SPLITS = {"train": ["n01", "n02"], "val": ["n03"], "test": ["n04"]}
TAKEN = [0, 2, 3, 6]
"""Which images of a class the tiny mini-ImageNet takes, in the order of their numbers."""


@pytest.fixture
def imagenet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Class folders under train/ with 7 images each, whose red says their number; the numbers sort unlike the names."""
    bitmap = base64.b64encode(sum(1 << i for i in TAKEN).to_bytes(2, "little")).decode()
    classes = [c for names in SPLITS.values() for c in names]
    tiny.use_facts(monkeypatch, tmp_path / "facts", "mini-imagenet", SPLITS, None, dict.fromkeys(classes, bitmap))
    for label in [*classes, "n99"]:
        (tmp_path / "imagenet" / "train" / label).mkdir(parents=True)
        for number in (3, 12, 20, 100, 101, 200, 1000):
            path = tmp_path / "imagenet" / "train" / label / f"{label}_{number}.JPEG"
            Image.new("RGB", (120, 90), (number // 4, 0, 0)).save(path, "JPEG", quality=95)
    return tmp_path / "imagenet"


def test_mini_imagenet_takes_the_listed_images_in_the_order_of_their_numbers(imagenet: Path, tmp_path: Path) -> None:
    path = finish(fetch("mini-imagenet", tmp_path / "home", imagenet))
    images = finish(load(open_benchmark("mini-imagenet", "train", tmp_path / "home"), 84, 3))
    assert path == tmp_path / "home" / "mini-imagenet.zip"
    assert images.names[: len(TAKEN)] == tuple(f"train/n01/n01{i + 1:08d}.png" for i in TAKEN)
    assert images.pixels.shape == (1, 8, 3, 84, 84)
    reds = images.pixels[0, : len(TAKEN), 0].float().mean((1, 2)).numpy()
    assert np.allclose(reds, [3 // 4, 20 // 4, 100 // 4, 1000 // 4], atol=2)


@pytest.mark.usefixtures("imagenet")
@pytest.mark.parametrize(("parts", "named"), [(("train", "val"), True), (("train", "test"), False), (("",), True)])
def test_a_copy_of_mini_imagenet_is_taken_whole_with_the_files_as_they_are(
    tmp_path: Path, parts: tuple[str, ...], named: bool
) -> None:
    """Its images may be shared out over train/, val/ and test/, under the names of the lists or any others."""
    contents = {}
    for label in (c for names in SPLITS.values() for c in names):
        for place, i in enumerate(TAKEN):
            folder = tmp_path / "copy" / parts[place % len(parts)] / label
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / (f"{label}{i + 1:08d}.jpg" if named else f"{place // len(parts)}.jpg")
            Image.new("RGB", (84, 84), (10 * place, 0, 0)).save(path, "JPEG")
            contents[path.read_bytes()] = label
    with zipfile.ZipFile(finish(fetch("mini-imagenet", tmp_path / "home", tmp_path / "copy"))) as archive:
        images = [name for name in archive.namelist() if name.endswith(".jpg")]
        assert len(images) == len({*images}) == 4 * len(TAKEN)
        assert {archive.read(name) for name in images} == contents.keys()
        expected = f"train/n01/n01{TAKEN[0] + 1:08d}.jpg" if named else f"train/n01/{parts[0]}_0.jpg"
        assert images[0] == expected


@pytest.mark.usefixtures("imagenet")
def test_images_that_lie_in_one_folder_are_known_by_the_names_of_the_lists(tmp_path: Path) -> None:
    (tmp_path / "copy" / "images").mkdir(parents=True)
    for label in (c for names in SPLITS.values() for c in names):
        for i in range(7):  # images that are not of the benchmark are left
            Image.new("RGB", (90, 60)).save(tmp_path / "copy" / "images" / f"{label}{i + 1:08d}.jpg")
    finish(fetch("mini-imagenet", tmp_path / "home", tmp_path / "copy"))
    assert open_benchmark("mini-imagenet", "test", tmp_path / "home").names[-1] == "test/n04/n0400000007.png"


def test_the_validation_images_of_imagenet_in_class_folders_are_left(imagenet: Path, tmp_path: Path) -> None:
    for label in (c for names in SPLITS.values() for c in names):
        (imagenet / "val" / label).mkdir(parents=True)
        Image.new("RGB", (120, 90), (255, 0, 0)).save(imagenet / "val" / label / "ILSVRC2012_val_00000001.JPEG")
    finish(fetch("mini-imagenet", tmp_path / "home", imagenet))
    images = finish(load(open_benchmark("mini-imagenet", "train", tmp_path / "home"), 84, 3))
    assert images.names[: len(TAKEN)] == tuple(f"train/n01/n01{i + 1:08d}.png" for i in TAKEN)


def test_missing_classes_are_counted_and_the_first_is_named(imagenet: Path, tmp_path: Path) -> None:
    for label in ("n02", "n04"):
        (imagenet / "train" / label).rename(tmp_path / label)
    with pytest.raises(DataError, match="lacks 2 of the 4 class folders of mini-ImageNet, 'n02' first"):
        finish(fetch("mini-imagenet", tmp_path / "home", imagenet))
    assert not list(tmp_path.glob("home/*"))


def test_an_incomplete_class_is_refused_and_not_filled_with_other_images(imagenet: Path, tmp_path: Path) -> None:
    (imagenet / "train" / "n03" / "n03_12.JPEG").unlink()
    with pytest.raises(DataError, match="n03 holds 6 images, but image 7 belongs to the benchmark"):
        finish(fetch("mini-imagenet", tmp_path / "home", imagenet))


def test_a_damaged_image_stops_the_work_and_leaves_nothing_behind(imagenet: Path, tmp_path: Path) -> None:
    (imagenet / "train" / "n04" / "n04_3.JPEG").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"n04_3\.JPEG cannot be read as an image"):
        finish(fetch("mini-imagenet", tmp_path / "home", imagenet))
    assert not list((tmp_path / "home").iterdir())


def test_without_a_folder_the_answer_is_the_command_with_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="`onelook data fetch cub --from /path/to/CUB_200_2011`"):
        finish(fetch("cub", tmp_path))


def test_cub_takes_all_images_of_a_class_from_the_images_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    splits = {"train": ["001.Auk"], "val": ["002.Tern"], "test": ["003.Wren"]}
    tiny.use_facts(monkeypatch, tmp_path / "facts", "cub", splits, None)
    for (label,) in splits.values():
        folder = tmp_path / "CUB_200_2011" / "images" / label
        folder.mkdir(parents=True)
        for i in range(tiny.PER_CLASS):
            Image.new("L", (50, 60), i).save(folder / f"bird_{i}.jpg")
    finish(fetch("cub", tmp_path / "home", tmp_path))
    assert len(open_benchmark("cub", "val", tmp_path / "home").names) == tiny.PER_CLASS


def test_a_full_disk_is_a_sentence_and_what_was_there_stays(
    imagenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "mini-imagenet.zip").write_bytes(b"Onelook: what was there")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    with pytest.raises(StorageError, match="No space left on device"):
        finish(fetch("mini-imagenet", home, imagenet))
    assert [path.name for path in home.iterdir()] == ["mini-imagenet.zip"]
    assert (home / "mini-imagenet.zip").read_bytes() == b"Onelook: what was there"
