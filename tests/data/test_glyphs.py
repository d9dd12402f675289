"""The laws of the built-in data set, on images too small to be pretty and large enough to be told apart."""

import importlib.util
from dataclasses import replace
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps
from torch import Tensor

from onelook.data.environments import draw_environment
from onelook.data.glyphs import GlyphsConfig, load_glyphs
from onelook.data.images import ImageSet
from onelook.data.scripts import SCRIPTS, characters
from onelook.errors import DataError, SettingsError
from onelook.events import Progress, finish

SMALL = GlyphsConfig(size=16, images_per_class=2, train_environments=2, val_environments=2, test_environments=2)
PLAIN = replace(SMALL, images_per_class=1, item_variation=0.0, environment_variation=0.0, seed=3)

EVERY = [one for split in SCRIPTS for one in characters(split)]

each_split = pytest.mark.parametrize("split", SCRIPTS)


@cache
def glyphs(split: str, config: GlyphsConfig = SMALL) -> ImageSet:
    return finish(load_glyphs(split, config))


@cache
def shapes() -> Tensor:
    """Every class of every split, (C, 1024), drawn here by the recipe of data/scripts.py: cropped and brought to one
    size, blurred, centred and of unit length."""
    (package,) = importlib.util.find_spec("matplotlib").submodule_search_locations
    font = ImageFont.truetype(Path(package) / "mpl-data/fonts/ttf/DejaVuSans.ttf", 80)
    drawn = []
    for _, character in EVERY:
        sheet = Image.new("L", (200, 200))
        ImageDraw.Draw(sheet).text((50, 50), character, fill=255, font=font)
        ink = ImageOps.contain(sheet.crop(sheet.getbbox()), (26, 26))
        drawn.append(np.asarray(ImageOps.pad(ImageOps.expand(ink, 3), (32, 32)).filter(ImageFilter.GaussianBlur(1.3))))
    flat = torch.from_numpy(np.stack(drawn)).float().flatten(1)
    flat = flat - flat.mean(1, keepdim=True)
    return flat / flat.norm(dim=1, keepdim=True)


@each_split
def test_every_item_is_there_in_every_environment(split: str) -> None:
    images = glyphs(split)
    n_classes = len(characters(split))
    assert images.pixels.shape == (2, 2 * n_classes, 3, 16, 16)
    assert images.pixels.dtype == torch.uint8
    assert images.labels.dtype == torch.int64
    assert images.labels.bincount().tolist() == [2] * n_classes
    assert len(images.class_names) == n_classes
    assert len(images.names) == len(images.digests) == len(images)
    assert images.environments


@each_split
def test_a_name_says_script_and_character_and_its_class(split: str) -> None:
    images = glyphs(split)
    assert list(images.class_names) == sorted(images.class_names)
    assert images.class_names[0].startswith(f"{min(SCRIPTS[split])}/U+")
    for name, label in zip(images.names, images.labels.tolist(), strict=True):
        assert name.rpartition("/")[0] == images.class_names[label]
    assert len(set(images.names)) == len(images.names)


def test_no_two_splits_share_a_script_or_a_character() -> None:
    for one, other in combinations(SCRIPTS, 2):
        assert not set(SCRIPTS[one]) & set(SCRIPTS[other])
        assert not {c for _, c in characters(one)} & {c for _, c in characters(other)}


@each_split
def test_no_character_is_there_twice(split: str) -> None:
    drawn = [character for _, character in characters(split)]
    assert len(set(drawn)) == len(drawn)


def test_splits_are_large_enough_to_learn_from() -> None:
    assert len(characters("train")) >= 200
    assert len(characters("val")) >= 60
    assert len(characters("test")) >= 100


@each_split
def test_the_same_call_gives_the_same_bits(split: str) -> None:
    once, again = glyphs(split), finish(load_glyphs(split, SMALL))
    assert torch.equal(once.pixels, again.pixels)
    assert once.digests == again.digests


def test_another_seed_gives_other_images_of_the_same_classes() -> None:
    one, other = glyphs("val"), glyphs("val", replace(SMALL, seed=1))
    assert one.class_names == other.class_names
    assert not any(torch.equal(a, b) for a, b in zip(one.pixels, other.pixels, strict=True))
    assert not set(one.digests) & set(other.digests)


def test_more_environments_leave_the_earlier_ones_as_they_are() -> None:
    few, many = glyphs("val"), glyphs("val", replace(SMALL, val_environments=4))
    assert torch.equal(few.pixels, many.pixels[:2])
    assert few.names == many.names


def test_more_images_per_class_leave_the_earlier_ones_as_they_are() -> None:
    few, many = glyphs("val"), glyphs("val", replace(SMALL, images_per_class=3))
    row = {name: i for i, name in enumerate(many.names)}
    same = many.pixels[:, [row[name] for name in few.names]]
    # Other chunks, so perhaps another order of summation.
    assert (few.pixels.int() - same.int()).abs().max() <= 1


def test_environments_change_all_images_of_an_item() -> None:
    first, second = glyphs("test").pixels.float()
    assert (first - second).abs().mean((1, 2, 3)).min() > 2


def test_environments_of_the_splits_differ() -> None:
    colours = torch.stack([glyphs(split).pixels.float().mean((1, 3, 4)) for split in SCRIPTS]).flatten(0, 1)
    assert torch.pdist(colours).min() > 1


@each_split
def test_a_digest_is_that_of_the_pixels(split: str) -> None:
    assert len(set(glyphs(split).digests)) == len(glyphs(split))
    other = glyphs(split, replace(SMALL, **{f"{split}_environments": 1}))
    assert not set(glyphs(split).digests) & set(other.digests)


@each_split
def test_every_image_has_ink_and_ground(split: str) -> None:
    image_N3P = glyphs(split, PLAIN).pixels[0].flatten(2) / 255
    rng = np.random.default_rng([PLAIN.seed, list(SCRIPTS).index(split), 0])
    scene = draw_environment(rng, PLAIN.size, PLAIN.environment_variation)
    ground, ink = scene.background.mean((1, 2)), scene.ink.mean((0, 2, 3))
    axis = (ink - ground) / (ink - ground).square().sum()
    inkiness_NP = ((image_N3P - ground.unsqueeze(-1)) * axis.unsqueeze(-1)).sum(1)
    part = (inkiness_NP > 0.5).float().mean(1)
    assert part.min() > 0.02
    assert part.max() < 0.6


def test_no_two_classes_look_alike_within_or_across_splits() -> None:
    similarity = (shapes() @ shapes().T).fill_diagonal_(0)
    worst = divmod(int(similarity.argmax()), len(EVERY))
    assert similarity.max() < 0.9, [EVERY[i] for i in worst]


def test_rendering_reports_its_progress_to_the_end() -> None:
    events = list(load_glyphs("val", SMALL))
    assert all(isinstance(event, Progress) for event in events)
    for stage in {event.stage for event in events}:
        done = [event.done for event in events if event.stage == stage]
        assert done == sorted(done)
        assert done[-1] == next(event.total for event in events if event.stage == stage)


def test_without_matplotlib_the_error_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(DataError, match=r'pip install "onelook\[demo\]"'):
        finish(load_glyphs("val", SMALL))


def test_an_unknown_split_is_an_error_with_a_suggestion() -> None:
    with pytest.raises(SettingsError, match="'test'"):
        finish(load_glyphs("tests", SMALL))


@pytest.mark.parametrize("wrong", [{"size": 8}, {"images_per_class": 0}, {"val_environments": 0}, {"seed": -1}])
def test_an_impossible_setting_is_named(wrong: dict[str, int]) -> None:
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        replace(SMALL, **wrong)
