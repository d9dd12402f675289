"""Features come from the cache exactly when nothing that determines them has changed."""

import itertools
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.features import contents, digests_of, fill, one_sentence, random_images, small_disk, write_image_folder
from onelook import backbones
from onelook.backbones import Backbone
from onelook.data import embed as module
from onelook.data.augment import Augmentation
from onelook.data.embed import Averaging, EmbedConfig, embed, embed_files, parse_averaging
from onelook.data.images import ImageSet, load
from onelook.data.listing import Listing, list_images
from onelook.errors import DataError, SettingsError, StorageError
from onelook.events import finish
from onelook.tasks import Embeddings

AUGMENTED = EmbedConfig(Augmentation(crop_padding=2), n_views=3)
AVERAGED = EmbedConfig(average=Averaging(mirror=True, crops=2, crop_padding=2))
BOTH = replace(AUGMENTED, average=AVERAGED.average)


class Counting(Backbone):
    """A small network that counts the images it sees."""

    def __init__(self, channels: int = 3, image_size: int = 16, seed: int = 0) -> None:
        super().__init__(channels, image_size, 5)
        draw = torch.Generator().manual_seed(seed)
        size = channels * image_size**2
        self.weight = torch.nn.Parameter(torch.randn(size, 5, generator=draw) / size**0.5)
        self.norm = torch.nn.BatchNorm1d(5)
        self.seen = 0

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        self.seen += len(pixels)
        return self.norm(pixels.flatten(1) @ self.weight)


def computed(backbone: Counting, images: ImageSet, config: EmbedConfig, cache: Path | None) -> tuple[Embeddings, int]:
    """The features, and how many images the network has seen for them."""
    before = backbone.seen
    embeddings = finish(embed(images, backbone, config, cache))
    return embeddings, backbone.seen - before


def conv4(channels: int = 3) -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return backbones.create("conv4-64", channels, 16)


def taken(images: ImageSet, rows: list[int]) -> ImageSet:
    return replace(
        images,
        pixels=images.pixels[:, rows],
        labels=images.labels[rows],
        names=tuple(images.names[i] for i in rows),
        digests=tuple(images.digests[i] for i in rows),
    )


def with_pixels(images: ImageSet, pixels: torch.Tensor) -> ImageSet:
    return replace(images, pixels=pixels, digests=digests_of(pixels))


CONFIGS = {"plain": EmbedConfig(), "augmented": AUGMENTED, "averaged": AVERAGED, "both": BOTH}
each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def n_views(config: EmbedConfig) -> int:
    return config.n_views if config.augmentation else 1


def n_passes(config: EmbedConfig) -> int:
    """Through the network, for an image."""
    versions = {"none": 1, "mirror+crops:2": 6}[str(config.average)]
    return n_views(config) * versions


# -------------------------------------------------------------------------------------------- what is computed again


@each_config
def test_the_second_call_computes_nothing_and_gives_the_same(config: EmbedConfig, tmp_path: Path) -> None:
    backbone, images = Counting(), random_images()
    first, n_first = computed(backbone, images, config, tmp_path)
    second, n_second = computed(backbone, images, config, tmp_path)
    assert (n_first, n_second) == (n_passes(config) * len(images), 0)
    assert torch.equal(first.views, second.views)
    assert torch.equal(first.views, computed(Counting(), images, config, None)[0].views)


@each_config
def test_changing_one_image_computes_exactly_that_one(config: EmbedConfig, tmp_path: Path) -> None:
    backbone, images = Counting(), random_images()
    first, _ = computed(backbone, images, config, tmp_path)
    pixels = images.pixels.clone()
    pixels[0, 7, 0, 0, 0] ^= 255
    second, n_second = computed(backbone, with_pixels(images, pixels), config, tmp_path)
    assert n_second == n_passes(config)
    changed = (first.views != second.views).any(-1)
    assert changed[:, 7].all()
    assert int(changed.sum()) == n_views(config)
    torch.testing.assert_close(second.views, computed(Counting(), with_pixels(images, pixels), config, None)[0].views)
    assert computed(backbone, images, config, tmp_path)[1] == 0  # the old one is still known


@each_config
@given(data=st.data())
def test_any_selection_and_order_of_known_images_is_found(
    config: EmbedConfig, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Also one with repetitions, and from several files: adding images computes only the new ones."""
    cache = tmp_path_factory.mktemp("cache")
    backbone, images = Counting(), random_images()
    whole = computed(Counting(), images, config, None)[0].views
    known: set[int] = set()
    for rows in data.draw(st.lists(st.lists(st.integers(0, 11), min_size=1, max_size=8), min_size=1, max_size=4)):
        new = [i for i in rows if i not in known]
        found, n_computed = computed(backbone, taken(images, rows), config, cache)
        assert n_passes(config) * len(set(new)) <= n_computed <= n_passes(config) * len(new)
        torch.testing.assert_close(found.views, whole[:, rows])
        known |= set(new)


CHANGES: dict[str, Any] = {
    "one weight": lambda _, i, c: (_touched("weight"), i, c),
    "running statistics": lambda _, i, c: (_touched("norm.running_mean"), i, c),
    "pixel statistics": lambda _, i, c: (_touched("pixel_mean"), i, c),
    "precision": lambda b, i, c: (b, i, replace(c, precision="bfloat16")),
    "padding of crops": lambda b, i, c: (b, i, replace(c, augmentation=replace(c.augmentation, crop_padding=3))),
    "flips": lambda b, i, c: (b, i, replace(c, augmentation=replace(c.augmentation, flip=False))),
    "jitter": lambda b, i, c: (b, i, replace(c, augmentation=replace(c.augmentation, jitter=0.1))),
    "no augmentation": lambda b, i, c: (b, i, replace(c, augmentation=None)),
    "more views": lambda b, i, c: (b, i, replace(c, n_views=4)),
    "fewer views": lambda b, i, c: (b, i, replace(c, n_views=2)),
    "no average": lambda b, i, c: (b, i, replace(c, average=Averaging())),
    "no mirror": lambda b, i, c: (b, i, replace(c, average=replace(c.average, mirror=False))),
    "more crops": lambda b, i, c: (b, i, replace(c, average=replace(c.average, crops=3))),
    "no crops": lambda b, i, c: (b, i, replace(c, average=replace(c.average, crops=0))),
    "padding of averaged crops": lambda b, i, c: (b, i, replace(c, average=replace(c.average, crop_padding=1))),
    "seed": lambda b, i, c: (b, i, replace(c, seed=1)),
    "image size": lambda _, i, c: (Counting(3, 20), _same_digests(random_images(size=20), i), c),
    "channels": lambda _, i, c: (Counting(1), _same_digests(random_images(channels=1), i), c),
}


def _touched(name: str) -> Counting:
    again = Counting()
    again.state_dict()[name].view(-1)[0] += 1e-3
    return again


def _same_digests(images: ImageSet, like: ImageSet) -> ImageSet:
    """The same files, decoded otherwise."""
    return replace(images, digests=like.digests)


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_determines_a_feature_is_in_its_key(change: str, tmp_path: Path) -> None:
    backbone, images, config = Counting(), random_images(), BOTH
    computed(backbone, images, config, tmp_path)
    other_backbone, other_images, other_config = CHANGES[change](backbone, images, config)
    found, n_computed = computed(other_backbone, other_images, other_config, tmp_path)
    assert n_computed == n_views(other_config) * other_config.average.n_versions * len(images)
    fresh = computed(CHANGES[change](Counting(), images, config)[0], other_images, other_config, None)[0]
    assert torch.equal(found.views, fresh.views)
    assert computed(backbone, images, config, tmp_path)[1] == 0  # what was there is there still


def test_a_new_version_of_the_preprocessing_computes_all_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, images = Counting(), random_images()
    computed(backbone, images, EmbedConfig(), tmp_path)
    monkeypatch.setattr(module, "PREPROCESSING", module.PREPROCESSING + "0")
    assert computed(backbone, images, EmbedConfig(), tmp_path)[1] == len(images)


def test_what_does_not_determine_a_feature_is_not_in_its_key(tmp_path: Path) -> None:
    """Labels, names, the source, and settings of an augmentation that there is none of."""
    backbone, images = Counting(), random_images()
    first, _ = computed(backbone, images, EmbedConfig(), tmp_path)
    renamed = replace(images, labels=images.labels.flip(0), names=tuple(f"{n}.jpg" for n in images.names), source="x")
    second, n_second = computed(backbone, renamed, EmbedConfig(seed=3), tmp_path)
    assert n_second == 0
    assert torch.equal(first.views, second.views)
    assert second.items == renamed.names
    assert second.source == "x"
    assert torch.equal(second.labels, renamed.labels)


def test_every_environment_is_a_view_and_is_kept(tmp_path: Path) -> None:
    backbone, images = Counting(), random_images(n_views=2)
    first, n_first = computed(backbone, images, EmbedConfig(), tmp_path)
    assert n_first == 2 * len(images)
    assert first.environments
    for view in range(2):
        alone = computed(Counting(), with_pixels(images, images.pixels[view : view + 1]), EmbedConfig(), None)[0]
        assert torch.equal(first.views[view], alone.features)
    second, n_second = computed(backbone, images, EmbedConfig(), tmp_path)
    assert n_second == 0
    assert torch.equal(first.views, second.views)


# --------------------------------------------------------------------------------------------- files that are damaged


@given(data=st.data())
def test_a_file_of_the_cache_that_is_cut_is_computed_again_and_mended(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cache = tmp_path_factory.mktemp("cache")
    backbone, images = Counting(), random_images()
    first, _ = computed(backbone, images, AUGMENTED, cache)
    ((name, whole),) = contents(cache).items()
    (cache / name).unlink()  # or the features that are mapped from it would be cut too
    (cache / name).write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    second, n_second = computed(backbone, images, AUGMENTED, cache)
    assert n_second == 3 * len(images)
    assert torch.equal(first.views, second.views)
    assert computed(backbone, images, AUGMENTED, cache)[1] == 0


@pytest.mark.parametrize("content", [b"", b"something else", b"\0" * 100, (2).to_bytes(8, "little") + b"{}"])
def test_a_foreign_file_in_the_cache_does_no_harm(tmp_path: Path, content: bytes) -> None:
    backbone, images = Counting(), random_images()
    first, _ = computed(backbone, images, EmbedConfig(), tmp_path)
    (folder,) = {p.parent for p in tmp_path.rglob("*.safetensors")}
    (folder / "0000.safetensors").write_bytes(content)
    second, n_second = computed(backbone, images, EmbedConfig(), tmp_path)
    assert n_second == 0
    assert torch.equal(first.views, second.views)


# ------------------------------------------------------------------------------------------------------- independence


@each_config
def test_the_feature_of_an_image_does_not_depend_on_its_neighbours_or_place(config: EmbedConfig) -> None:
    images, backbone = random_images(), conv4()
    whole = finish(embed(images, backbone, config)).views
    for rows in ([3], [11, 0, 5], list(range(11, -1, -1))):
        torch.testing.assert_close(
            finish(embed(taken(images, rows), backbone, config)).views, whole[:, rows], rtol=1e-4, atol=1e-5
        )


@each_config
def test_the_number_of_images_computed_at_once_does_not_matter(
    config: EmbedConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, backbone = random_images(), conv4()
    whole = finish(embed(images, backbone, config)).views
    monkeypatch.setattr(module, "CHUNK", 5)
    torch.testing.assert_close(finish(embed(images, backbone, config)).views, whole, rtol=1e-4, atol=1e-5)


def test_augmented_views_of_an_image_differ_and_more_views_leave_the_earlier_ones_as_they_are() -> None:
    images, backbone = random_images(), Counting()
    three = finish(embed(images, backbone, AUGMENTED)).views
    five = finish(embed(images, backbone, replace(AUGMENTED, n_views=5))).views
    assert torch.equal(five[:3], three)
    for first, second in itertools.combinations(range(5), 2):
        assert not torch.allclose(five[first], five[second])


@each_config
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("how", ["to the end", "stopped", "failed"])
def test_the_network_is_left_in_the_mode_and_state_it_was_in(config: EmbedConfig, training: bool, how: str) -> None:
    backbone = Counting().train(training)
    before = backbone.digest()
    work: Generator[Any, None, Embeddings] = embed(random_images(), backbone, config)
    if how == "to the end":
        assert not finish(work).views.requires_grad
    elif how == "stopped":
        next(work)
        work.close()
    else:
        backbone.features = lambda _: 1 / 0
        with pytest.raises(ZeroDivisionError):
            finish(work)
    assert backbone.training == training
    assert backbone.norm.training == training
    assert backbone.digest() == before


def test_features_computed_in_evaluation_mode_may_be_trained_on(tmp_path: Path) -> None:
    """Tensors made under inference_mode may not enter a graph; features must."""
    for cache in (None, tmp_path, tmp_path):
        embeddings = finish(embed(random_images(), Counting(), EmbedConfig(), cache))
        weight = torch.ones(5, requires_grad=True)
        (embeddings.features @ weight).sum().backward()
        assert weight.grad is not None


def test_the_global_random_numbers_are_neither_used_nor_moved() -> None:
    images, backbone = random_images(), Counting()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = finish(embed(images, backbone, AUGMENTED)).views
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(finish(embed(images, backbone, AUGMENTED)).views, first)


# ------------------------------------------------------------------------------------------------------------ averages


def averaged(images: ImageSet, average: Averaging, config: EmbedConfig = EmbedConfig()) -> torch.Tensor:
    return finish(embed(images, conv4(), replace(config, average=average))).views


def mirrored(images: ImageSet) -> ImageSet:
    return with_pixels(images, images.pixels.flip(-1))


def test_averaged_with_its_mirror_image_a_feature_is_the_mean_of_both_and_does_not_tell_them_apart() -> None:
    images = random_images()
    single = [finish(embed(each, conv4(), EmbedConfig())).views for each in (images, mirrored(images))]
    found = averaged(images, Averaging(mirror=True))
    assert not torch.allclose(*single)
    assert torch.equal(found, (single[0] + single[1]) / 2)
    assert torch.equal(averaged(mirrored(images), Averaging(mirror=True)), found)


def test_an_image_that_is_its_own_mirror_image_keeps_its_feature() -> None:
    images = random_images()
    symmetric = with_pixels(images, torch.maximum(images.pixels, images.pixels.flip(-1)))
    assert torch.equal(averaged(symmetric, Averaging(mirror=True)), averaged(symmetric, Averaging()))


def test_views_and_environments_are_averaged_each_with_its_own_mirror_image() -> None:
    images = random_images(n_views=2)
    found = averaged(images, Averaging(mirror=True))
    for view in range(2):
        alone = with_pixels(images, images.pixels[view : view + 1])
        assert torch.equal(found[view], averaged(alone, Averaging(mirror=True))[0])
    # Of an augmentation that only mirrors, the mean over both is the same for all views.
    flips = EmbedConfig(Augmentation(crop_padding=0, jitter=0.0), n_views=4)
    plain, views = (averaged(random_images(), a, flips) for a in (Averaging(), Averaging(mirror=True)))
    assert not torch.equal(plain[0], plain[1])
    assert torch.equal(views, views[:1].expand_as(views))


def test_crops_are_the_image_moved_at_random_and_none_when_they_may_not_move() -> None:
    images = random_images()
    plain = averaged(images, Averaging())
    still = averaged(images, Averaging(crops=2, crop_padding=0))
    torch.testing.assert_close(still, plain)
    moved = averaged(images, Averaging(crops=1, crop_padding=1))
    torch.testing.assert_close(moved, averaged(images, Averaging(crops=1, crop_padding=1)))
    padded = torch.nn.functional.pad(images.pixels[0].float(), (1, 1, 1, 1), "reflect")
    shifts = [
        with_pixels(images, padded[None, :, :, y : y + 16, x : x + 16].byte()) for y in range(3) for x in range(3)
    ]
    features = torch.cat([finish(embed(each, conv4(), EmbedConfig())).views for each in shifts])  # 9, N, D
    distances = (2 * moved - plain - features).norm(dim=-1)
    assert (distances.amin(0) < 1e-3 * plain.norm(dim=-1)).all()
    assert len(set(distances.argmin(0).tolist())) > 2  # each image is moved by itself


def test_an_image_without_content_is_the_same_wherever_it_is_moved() -> None:
    images = random_images()
    blank = with_pixels(images, torch.full_like(images.pixels, 90))
    torch.testing.assert_close(averaged(blank, AVERAGED.average), averaged(blank, Averaging()))


def test_the_source_of_averaged_features_says_so() -> None:
    images = random_images()
    found = finish(embed(images, Counting(), AVERAGED))
    assert found.source == f"{images.source}, each the mean over mirror+crops:2"
    assert finish(embed(images, Counting(), EmbedConfig())).source == images.source


@pytest.mark.parametrize("text", ["none", "mirror", "crops:1", "crops:30", "mirror+crops:4"])
def test_averages_are_written_as_they_are_read(text: str) -> None:
    found = parse_averaging(text, Augmentation(crop_padding=3))
    assert str(found) == text
    assert found.crop_padding == 3


@pytest.mark.parametrize(
    "text", ["", "mirrors", "crops", "crops:0", "crops:x", "crops:2+mirror", "mirror+", "none+mirror"]
)
def test_an_average_that_is_none_of_them_is_refused(text: str) -> None:
    with pytest.raises(SettingsError) as error:
        parse_averaging(text)
    assert f"mirror+crops:N, with N from 1 to 99, but got {text!r}" in one_sentence(error.value)


def test_characters_are_not_averaged_with_their_mirror_images() -> None:
    characters = Augmentation(crop_padding=2, flip=False, jitter=0.0)
    assert parse_averaging("crops:2", characters) == Averaging(crops=2, crop_padding=2)
    for text in ("mirror", "mirror+crops:2"):
        with pytest.raises(SettingsError, match="A mirrored character is another character"):
            parse_averaging(text, characters)


@pytest.mark.parametrize("numbers", [(-1, 4), (2, -1)])
def test_impossible_crops_are_refused(numbers: tuple[int, int]) -> None:
    with pytest.raises(SettingsError, match=r"crop\w* of \w+ must be a whole number >= 0, but is -1"):
        Averaging(False, *numbers)


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(("channels", "size"), [(3, 20), (1, 16)])
def test_images_of_another_shape_are_refused_with_both_shapes(channels: int, size: int, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        finish(embed(random_images(channels=channels, size=size), Counting(), EmbedConfig(), tmp_path))
    message = one_sentence(error.value)
    assert str((3, 16, 16)) in message
    assert str((channels, size, size)) in message
    assert "made up" in message
    assert contents(tmp_path) == {}


def test_a_full_disk_is_a_storage_error_and_leaves_the_cache_as_it_was(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kilobytes=64) as disk:
        backbone, images = Counting(), random_images()
        first, _ = computed(backbone, images, EmbedConfig(), disk)
        before = contents(disk)
        more = random_images(n_classes=15, images_per_class=100, seed=1)
        with pytest.raises(StorageError, match="free some space") as error:
            computed(backbone, more, EmbedConfig(), disk)
        assert str(disk) in one_sentence(error.value)
        assert contents(disk) == before
        fill(disk)
        with pytest.raises(StorageError, match="free some space"):
            computed(backbone, images, replace(EmbedConfig(), precision="bfloat16"), disk)
        assert {k: v for k, v in contents(disk).items() if k != "filler"} == before
        second, n_second = computed(backbone, images, EmbedConfig(), disk)  # what is there is of use still
        assert n_second == 0
        assert torch.equal(first.views, second.views)


@pytest.mark.parametrize("config", [EmbedConfig(), AUGMENTED], ids=["plain", "augmented"])
def test_work_that_is_stopped_leaves_no_file(config: EmbedConfig, tmp_path: Path) -> None:
    work = embed(random_images(), Counting(), config, tmp_path)
    next(work)
    work.close()
    assert contents(tmp_path) == {}


# ------------------------------------------------------------------------------------------------- straight from files


def listing(folder: Path) -> Listing:
    return list_images(folder, "train")


@each_config
def test_from_files_the_features_are_those_of_the_loaded_images(config: EmbedConfig, tmp_path: Path) -> None:
    files = listing(write_image_folder(tmp_path / "data", {"train": (3, 4)}))
    expected = finish(embed(finish(load(files, 16, 3)), Counting(), config))
    backbone = Counting()
    for cache, n_expected in ((None, 12), (tmp_path / "cache", 12), (tmp_path / "cache", 0)):
        before = backbone.seen
        found = finish(embed_files(files, backbone, config, cache))
        assert backbone.seen - before == n_passes(config) * n_expected
        assert torch.equal(found.views, expected.views)
        assert torch.equal(found.labels, expected.labels)
        assert (found.items, found.class_names, found.source) == (expected.items, expected.class_names, expected.source)


def test_less_memory_makes_smaller_blocks_but_never_none() -> None:
    network, config = Counting(), EmbedConfig()
    assert config.count_at_once(network) == module.READ_AT_ONCE
    assert replace(config, memory=8 * 7 * 3 * 16 * 16).count_at_once(network) == 7
    assert replace(config, memory=1).count_at_once(network) == 1


@pytest.mark.parametrize("block", [1, 5, 1000])
def test_from_files_each_file_is_read_once_and_one_that_is_known_is_not_decoded(
    block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK_BYTES", block * 3 * 16 * 16)
    files = listing(write_image_folder(tmp_path / "data", {"train": (3, 4)}))
    reads: list[str] = []
    decoded: list[bytes] = []

    def read(name: str) -> bytes:
        reads.append(name)
        return files.read(name)

    def decode(content: bytes, *how: Any) -> Any:
        decoded.append(content)
        return original(content, *how)

    original = module.decode
    monkeypatch.setattr(module, "decode", decode)
    some = replace(files.take(range(7)), read=read)
    finish(embed_files(some, Counting(), EmbedConfig(), tmp_path / "cache"))
    assert (sorted(reads), len(decoded)) == (sorted(some.names), 7)
    reads.clear()
    finish(embed_files(replace(files, read=read), Counting(), EmbedConfig(), tmp_path / "cache"))
    assert (sorted(reads), len(decoded)) == (sorted(files.names), 12)


def test_from_files_only_an_image_whose_bytes_changed_is_computed_again(tmp_path: Path) -> None:
    folder = write_image_folder(tmp_path / "data", {"train": (3, 4)})
    backbone = Counting()
    finish(embed_files(listing(folder), backbone, EmbedConfig(), tmp_path / "cache"))
    first, second = sorted(folder.rglob("*.png"))[:2]
    first.write_bytes(second.read_bytes())  # an image that is known under another name
    before = backbone.seen
    found = finish(embed_files(listing(folder), backbone, EmbedConfig(), tmp_path / "cache"))
    assert backbone.seen == before
    assert torch.equal(found.features[0], found.features[1])
    other = write_image_folder(tmp_path / "other", {"x": (1, 1), "train": (1, 1)})  # other noise
    first.write_bytes(next((other / "train").rglob("*.png")).read_bytes())
    found = finish(embed_files(listing(folder), backbone, EmbedConfig(), tmp_path / "cache"))
    assert backbone.seen == before + 1
    assert not torch.equal(found.features[0], found.features[1])


@pytest.mark.parametrize("others_are_known", [False, True])
def test_from_files_of_which_none_can_be_read_is_a_data_error(others_are_known: bool, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    if others_are_known:
        good = write_image_folder(tmp_path / "good", {"train": (3, 4)})
        finish(embed_files(listing(good), Counting(), EmbedConfig(), cache))
    folder = write_image_folder(tmp_path / "data", {"train": (3, 4)})
    for path in folder.rglob("*.png"):
        path.write_bytes(b"not an image")
    with pytest.raises(DataError, match="None of the 12 images"):
        finish(embed_files(listing(folder), Counting(), EmbedConfig(), cache))


def test_from_files_those_that_cannot_be_read_are_left_out_as_when_loading(tmp_path: Path) -> None:
    folder = write_image_folder(tmp_path / "data", {"train": (3, 4)})
    sorted(folder.rglob("*.png"))[5].write_bytes(b"not an image")
    expected = finish(embed(finish(load(listing(folder), 16, 3)), Counting(), EmbedConfig()))
    for _ in range(2):
        found = finish(embed_files(listing(folder), Counting(), EmbedConfig(), tmp_path / "cache"))
        assert found.items == expected.items
        assert torch.equal(found.views, expected.views)
        assert torch.equal(found.labels, expected.labels)
