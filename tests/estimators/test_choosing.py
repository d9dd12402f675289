"""Choice of a network by what images look like."""

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from sklearn.datasets import load_digits, load_sample_images
from sklearn.exceptions import NotFittedError

from helpers.images import encoded, picture, write_files
from onelook.artifacts import AUTO, DRAWINGS, PHOTOGRAPHS, load_network
from onelook.data.images import decode
from onelook.data.listing import Listing
from onelook.errors import DataError, SettingsError
from onelook.estimators.choosing import (
    LOOKED_AT,
    NEARLY_ALL,
    Choice,
    choose_by_kind,
    choose_network,
    is_drawing,
    measure_two_levels,
    sample_rows,
)
from onelook.estimators.image_features import ImageFeatures
from onelook.events import finish

pytestmark = pytest.mark.usefixtures("network_for_photographs")


def drawing(seed: int, side: int = 90) -> Image.Image:
    """A few black strokes on white."""
    image, draw = Image.new("L", (side, side), "white"), random.Random(seed)
    for _ in range(3):
        points = [(draw.randrange(side), draw.randrange(side)) for _ in range(2)]
        ImageDraw.Draw(image).line(points, fill="black", width=max(1, side // 15))
    return image


def listing(images: list[bytes]) -> Listing:
    names = tuple(map(str, range(len(images))))
    return Listing(names, (-1,) * len(images), (), "here", lambda name: images[int(name)])


def digits() -> list[Image.Image]:
    return [Image.fromarray((one * 255 / 16).round().astype(np.uint8)) for one in load_digits().images[::20]]


def test_strokes_and_digits_are_drawings_of_any_size_and_either_ink() -> None:
    for side in (20, 90, 400):
        for seed in range(5):
            dark = drawing(seed, side)
            light = Image.eval(dark, lambda value: 255 - value)
            assert all(is_drawing(decode(encoded(one), 64, 3)) for one in (dark, light, dark.convert("1")))
    found = [is_drawing(decode(encoded(one), 64, 3)) for one in digits()]
    assert np.mean(found) > 0.95


def test_photographs_even_spreads_of_grey_and_blank_pages_are_none() -> None:
    for pixels in load_sample_images().images:
        assert not is_drawing(decode(encoded(Image.fromarray(pixels)), 64, 3))
    assert not is_drawing(np.arange(4096).reshape(1, 64, 64).repeat(3, 0).astype(np.uint8))
    assert not any(is_drawing(decode(encoded(Image.new("RGB", (30, 30), c)), 64, 3)) for c in ("white", "black"))
    in_colour = Image.composite(Image.new("RGB", (90, 90), "red"), Image.new("RGB", (90, 90), "white"), drawing(0))
    assert not is_drawing(decode(encoded(in_colour), 64, 3))


@given(st.lists(st.integers(0, 255), min_size=1, max_size=30))
def test_the_part_between_two_levels_is_the_best_of_all_thresholds(values: list[int]) -> None:
    grey = np.array(values)
    best = 0.0
    for cut in range(256):
        low, high = grey[grey <= cut], grey[grey > cut]
        if len(low) and len(high):
            between = len(low) * (low.mean() - grey.mean()) ** 2 + len(high) * (high.mean() - grey.mean()) ** 2
            best = max(best, between / len(grey) / grey.var())
    assert measure_two_levels(grey) == pytest.approx(best, abs=1e-9)


def test_three_quarters_of_drawings_make_a_folder_of_drawings() -> None:
    for n in (1, 4, 64):
        least = int(np.ceil(NEARLY_ALL * n))
        assert choose_by_kind([True] * least + [False] * (n - least)).name == DRAWINGS
        assert choose_by_kind([True] * (least - 1) + [False] * (n - least + 1)).name == PHOTOGRAPHS
    assert choose_by_kind([]).name == PHOTOGRAPHS
    assert f"{3} of the 4 images looked at" in choose_by_kind([True] * 3 + [False]).sentence()


@given(st.integers(1, 500))
def test_a_few_images_are_looked_at_from_the_first_to_the_last(n: int) -> None:
    rows = sample_rows(n)
    assert len(set(rows)) == len(rows) == min(n, LOOKED_AT)
    assert (rows[0], rows[-1]) == (0, n - 1) or n == 1


def test_the_choice_does_not_depend_on_the_order_and_bears_damage() -> None:
    images = [encoded(drawing(i)) for i in range(8)] + [b"words", encoded(picture(0))]
    found = finish(choose_network(AUTO, listing(images)))
    assert found == finish(choose_network(AUTO, listing(images[::-1])))
    assert found == Choice(DRAWINGS, "8 of the 9 images looked at are black and white like drawings or characters")
    assert finish(choose_network(AUTO, listing([b"words"] * 3))).name == PHOTOGRAPHS


def test_a_network_that_is_named_is_taken_without_a_look() -> None:
    def forbidden(name: str) -> bytes:
        raise AssertionError(name)

    unread = Listing(("a",), (-1,), (), "here", forbidden)
    assert finish(choose_network("lite2", unread)) == Choice("lite2", "")
    with pytest.raises(SettingsError, match="auto chooses a network for images, of which there are none here"):
        finish(load_network(AUTO))


def test_image_features_choose_by_the_images_of_fit_in_any_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawings = [drawing(i) for i in range(4)]
    files = write_files(tmp_path, {f"{i}.png": encoded(one) for i, one in enumerate(drawings)})
    features = ImageFeatures(cache=tmp_path / "cache")
    with pytest.raises(NotFittedError, match="call fit first"):
        features.transform(drawings)
    names = []
    monkeypatch.setattr(
        ImageFeatures, "_load", lambda self: names.append(self.choice_.name) or finish(load_network("small"))[0]
    )
    for images in (drawings, [files / f"{i}.png" for i in range(4)], [np.asarray(one) for one in drawings]):
        assert features.fit(images).network_["name"] == DRAWINGS
    assert features.fit([picture(0), picture(1)]).choice_ == Choice(PHOTOGRAPHS, "the images look like photographs")
    assert names == [DRAWINGS] * 3 + [PHOTOGRAPHS]
    with pytest.raises(DataError, match=r"bad\.png cannot be read"):
        features.fit([write_files(tmp_path, {"bad.png": b"words"}) / "bad.png"])
