"""One door to all data: names, paths and their divisions."""

from pathlib import Path

import pytest
import torch

from helpers.benchmarks import CIFAR, use_facts
from helpers.images import class_image, classes, divided, write_files, write_table, write_zip
from onelook.data import glyphs
from onelook.data.datasets import BENCHMARKS
from onelook.data.glyphs import GlyphsConfig
from onelook.data.images import ImageSet
from onelook.data.listing import SPLITS
from onelook.data.sources import FRACTIONS, open_data
from onelook.errors import DataError, SettingsError
from onelook.events import finish


def opened(data: str | Path, split: str, **how: int) -> ImageSet:
    return finish(open_data(str(data)).images(split, **how))


@pytest.mark.parametrize("n_classes", [5, 6, 10, 25, 26])
def test_undivided_data_is_divided_by_class_into_parts_that_cover_it_and_share_nothing(
    n_classes: int, tmp_path: Path
) -> None:
    write_files(tmp_path, classes(n_classes, 2))
    whole = opened(tmp_path, "all")
    parts = [opened(tmp_path, split) for split in SPLITS]
    names = [name for part in parts for name in part.class_names]
    assert sorted(names) == list(whole.class_names)
    assert sorted(name for part in parts for name in part.names) == sorted(whole.names)
    for part, fraction in zip(parts, (*FRACTIONS, 1 - sum(FRACTIONS)), strict=True):
        assert abs(len(part.class_names) - fraction * n_classes) <= 1
        classes_of_rows = [part.class_names[k] for k in part.labels]
        assert classes_of_rows == [name.split("/")[0] for name in part.names]
        assert f"{len(part.class_names)} of its {n_classes} classes" in part.source


def test_the_division_is_always_the_same_and_not_in_the_order_of_the_names(tmp_path: Path) -> None:
    write_files(tmp_path / "here", classes(12, 1))
    write_zip(tmp_path / "there.zip", classes(12, 1))
    for split in SPLITS:
        names = opened(tmp_path / "here", split).class_names
        assert opened(tmp_path / "there.zip", split).class_names == names
    assert opened(tmp_path / "here", "train").class_names != opened(tmp_path / "here", "all").class_names[:8]


@pytest.mark.parametrize("kind", ["folder", "zip", "table"])
def test_data_with_a_division_of_its_own_keeps_it(kind: str, tmp_path: Path) -> None:
    files = divided(3, 1)
    if kind == "folder":
        source = write_files(tmp_path / "data", files)
    elif kind == "zip":
        source = write_zip(tmp_path / "data.zip", files)
    else:
        rows = [(name, name.split("/")[1], name.split("/")[0]) for name in files]
        source = write_table(tmp_path, files, rows, ("filename", "label", "split"))
    for split in SPLITS:
        images = opened(source, split)
        assert set(images.names) == {name for name in files if name.startswith(split)}
        assert len(images.class_names) == 3
        assert images.source == f"{source}:{split}"


def test_a_folder_whose_name_ends_like_a_split_is_divided_all_the_same(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "mine:train", classes(10, 1))
    assert len(opened(folder, "train").class_names) == 6


def test_too_few_classes_to_divide_are_named_with_the_remedy(tmp_path: Path) -> None:
    write_files(tmp_path, classes(2, 1))
    with pytest.raises(DataError, match=r"2 classes, too few to set some aside for val; use --split all"):
        opened(tmp_path, "val")
    assert len(opened(tmp_path, "all").class_names) == 2


@pytest.mark.parametrize("size", [16, 20])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_a_path_come_in_the_size_that_is_asked_for(size: int, channels: int, tmp_path: Path) -> None:
    write_files(tmp_path, classes(2, 1))
    assert opened(tmp_path, "all", size=size, channels=channels).pixels.shape == (1, 2, channels, size, size)
    assert opened(tmp_path, "all").pixels.shape == (1, 2, 3, 32, 32)


def test_a_standard_set_is_opened_by_its_name_at_its_usual_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_facts(monkeypatch, tmp_path / "facts", "cifar-fs", CIFAR, None)
    files = {f"{s}/{c}/0.png": class_image(0, 0) for s, names in CIFAR.items() for c in names}
    write_files(tmp_path / "home" / "cifar-fs", files)
    monkeypatch.setenv("ONELOOK_DATA", str(tmp_path / "home"))
    images = opened("cifar-fs", "train")
    assert list(images.class_names) == CIFAR["train"]
    assert images.pixels.shape[-1] == BENCHMARKS["cifar-fs"].image_size
    assert finish(open_data("cifar-fs", tmp_path / "home").images("test")).class_names == tuple(CIFAR["test"])


def test_glyphs_are_rendered_at_the_size_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    characters = glyphs.characters
    monkeypatch.setattr(glyphs, "characters", lambda split: characters(split)[:2])
    images = opened("glyphs", "val", size=16)
    assert images.pixels.shape == (GlyphsConfig().val_environments, 40, 3, 16, 16)
    assert opened("glyphs", "val").pixels.shape[-1] == GlyphsConfig().size
    assert torch.equal(opened("glyphs", "val", size=16).pixels, images.pixels)


@pytest.mark.parametrize("data", ["cifar-sf", "GLYPHS", "nothing"])
def test_an_unknown_name_is_refused_with_the_known_ones(data: str) -> None:
    with pytest.raises(DataError, match=rf"no data named '{data}'.*glyphs, cifar-fs"):
        opened(data, "train")


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file or folder .*gone"):
        opened(tmp_path / "gone", "train")


def test_a_folder_that_may_not_be_listed_is_named_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path, classes(2, 1))

    def refused(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.scandir", refused)
    with pytest.raises(DataError, match=r"cannot be read \(Permission denied\)"):
        finish(open_data(str(tmp_path)).images("all"))


@pytest.mark.parametrize("data", ["folder", "glyphs", "cifar-fs"])
def test_an_unknown_split_is_refused_with_the_known_ones(data: str, tmp_path: Path) -> None:
    source = str(write_files(tmp_path, classes(2, 1))) if data == "folder" else data
    with pytest.raises(SettingsError, match=r"no split.*'training'"):
        opened(source, "training")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_only_sets_with_rotations_are_rotated_and_characters_are_never_mirrored(name: str) -> None:
    assert open_data(name).rotated == (BENCHMARKS[name].rotations == 4)
    assert open_data(name).augmentation.flip == (name != "omniglot")
    assert not open_data("glyphs").augmentation.flip
