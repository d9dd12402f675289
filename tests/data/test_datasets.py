"""The facts of the standard benchmarks agree with themselves, and opening keeps to them."""

import hashlib
import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import platformdirs
import pytest
import torch
from PIL import Image

from helpers import benchmarks as tiny
from onelook.data.datasets import BENCHMARKS, data_home, open_benchmark, rotate_classes, status
from onelook.data.images import ImageSet, load
from onelook.data.rebuild import selected_indices
from onelook.errors import DataError, SettingsError
from onelook.events import finish


def checksum(names: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()


every_benchmark = pytest.mark.parametrize("name", BENCHMARKS)

CLASSES = {
    "cifar-fs": (64, 16, 20),
    "fc100": (60, 20, 20),
    "omniglot": (4112, 688, 1692),
    "mini-imagenet": (64, 16, 20),
    "tiered-imagenet": (351, 97, 160),
    "cub": (100, 50, 50),
}
IMAGES = {"cifar-fs": 60_000, "fc100": 60_000, "omniglot": 32_460, "mini-imagenet": 60_000, "cub": 11_788}


@every_benchmark
def test_the_class_lists_are_those_of_the_checksums(name: str) -> None:
    for facts in BENCHMARKS[name].splits.values():
        assert checksum(facts.classes) == facts.checksum
        assert list(facts.classes) == sorted(set(facts.classes))


@every_benchmark
def test_no_class_is_in_two_splits(name: str) -> None:
    splits = BENCHMARKS[name].splits
    assert list(splits) == ["train", "val", "test"]
    for one, other in itertools.combinations(splits.values(), 2):
        assert not set(one.classes) & set(other.classes)
        assert not set(one.groups) & set(other.groups)


@every_benchmark
def test_the_sizes_are_the_published_ones(name: str, tmp_path: Path) -> None:
    found = status(name, tmp_path)
    assert tuple(found.classes.values()) == CLASSES[name]
    assert found.images == IMAGES.get(name, 779_165)
    assert found.path is None


def test_fc100_regroups_the_classes_of_cifar_fs() -> None:
    def classes(name: str) -> list[str]:
        return sorted(c for facts in BENCHMARKS[name].splits.values() for c in facts.classes)

    assert classes("fc100") == classes("cifar-fs")
    assert all(len(group) == 5 for facts in BENCHMARKS["fc100"].splits.values() for group in facts.groups.values())


def test_mini_imagenet_selects_the_files_of_the_published_lists() -> None:
    for facts in BENCHMARKS["mini-imagenet"].splits.values():
        names = [f"{c}{i + 1:08d}.jpg" for c in facts.classes for i in selected_indices(facts.selected[c])]
        assert len(names) == facts.images == 600 * len(facts.classes)
        assert checksum(names) == facts.files


def test_the_data_folder_is_the_one_of_the_environment_or_the_users_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ONELOOK_DATA", str(tmp_path))
    assert data_home() == tmp_path
    monkeypatch.delenv("ONELOOK_DATA")
    assert data_home() == Path(platformdirs.user_cache_dir("onelook")) / "data"


def test_what_is_missing_is_named_with_its_place_and_the_command_that_gets_it(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        open_benchmark("cifar-fs", "train", tmp_path)
    assert str(tmp_path / "cifar-fs.zip") in str(caught.value)
    assert "`onelook data fetch cifar-fs`" in str(caught.value)
    with pytest.raises(DataError, match="`onelook data fetch mini-imagenet --from /path/to/imagenet`"):
        open_benchmark("mini-imagenet", "train", tmp_path)


def test_a_wrong_name_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="did you mean 'cifar-fs'"):
        open_benchmark("cifar_fs", "train", tmp_path)
    with pytest.raises(SettingsError, match="did you mean 'train'"):
        open_benchmark("cifar-fs", "trian", tmp_path)


def test_a_folder_opens_like_a_zip_and_fc100_draws_from_all_its_splits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lay_out_cifar(monkeypatch, tmp_path)
    assert open_benchmark("cifar-fs", "test", tmp_path).class_names == ("dolphin", "elm")
    listing = open_benchmark("fc100", "test", tmp_path)
    assert listing.class_names == ("apple", "elm")
    assert listing.labels.count(0) == listing.labels.count(1) == tiny.PER_CLASS
    images = finish(load(listing, 32, 3))
    for name, label, pixels in zip(images.names, images.labels, images.pixels[0], strict=True):
        assert listing.class_names[label] in name
        assert int(pixels[0, 0, 0]) == ord(name.split("/")[1][0])


def test_data_with_the_wrong_classes_does_not_open(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = lay_out_cifar(monkeypatch, tmp_path)
    (folder / "test" / "elm").rename(folder / "test" / "oak")
    for name in ("cifar-fs", "fc100"):
        with pytest.raises(DataError, match=r"elm"):
            open_benchmark(name, "test", tmp_path)


def test_rotating_makes_four_classes_of_each_and_turns_counter_clockwise() -> None:
    pixels = torch.arange(2 * 2 * 2, dtype=torch.uint8).reshape(1, 2, 1, 2, 2)
    images = ImageSet(pixels, torch.tensor([1, 0]), ("a", "b"), ("x", "y"), (b"1", b"2"), "here")
    turned = rotate_classes(images)
    assert turned.class_names == ("a@0", "a@90", "a@180", "a@270", "b@0", "b@90", "b@180", "b@270")
    assert sorted(turned.labels.tolist()) == list(range(8))
    assert len(set(turned.names)) == len(set(turned.digests)) == 8
    for name, label, picture in zip(turned.names, turned.labels, turned.pixels[0], strict=True):
        item, _, angle = name.partition("@")
        original = images.pixels[0, images.names.index(item), 0].numpy()
        expected = Image.fromarray(original).rotate(int(angle))  # Pillow turns counter-clockwise
        assert np.array_equal(picture[0].numpy(), np.asarray(expected))
        assert turned.class_names[label] == f"{'ba'[images.names.index(item)]}@{angle}"


def lay_out_cifar(monkeypatch: pytest.MonkeyPatch, home: Path) -> Path:
    tiny.use_facts(monkeypatch, home / "facts", "cifar-fs", tiny.CIFAR, None)
    tiny.use_facts(monkeypatch, home / "facts", "fc100", tiny.FC100, None)
    for split, classes in tiny.CIFAR.items():
        for label in classes:
            (home / "cifar-fs" / split / label).mkdir(parents=True)
            for i in range(tiny.PER_CLASS):
                picture = Image.new("RGB", (32, 32), (ord(label[0]), i, 0))
                (home / "cifar-fs" / split / label / f"{i}.png").write_bytes(tiny.png(picture))
    return home / "cifar-fs"
