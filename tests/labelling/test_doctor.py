"""What is wrong with a folder is found, said worst first, and nothing else is said."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from helpers.images import encoded, picture, write_files
from onelook.data.images import Rejected
from onelook.data.listing import Listing
from onelook.events import Progress, finish
from onelook.labelling.doctor import BITS, NEAR_BITS, Copies, Diagnosis, examine, near_groups
from onelook.labelling.folder import list_folder


def photo(seed: int, side: int = 64, kind: str = "PNG", **settings: Any) -> bytes:
    return encoded(picture(seed, side, side), kind, **settings)


def good() -> dict[str, bytes]:
    return {f"{name}/{i}.png": photo(10 * k + i) for k, name in enumerate(("cat", "dog")) for i in range(3)}


def diagnosed(folder: Path, files: dict[str, bytes], **settings: Any) -> Diagnosis:
    return finish(examine(list_folder(write_files(folder, files), **settings).listing))


def test_of_a_good_folder_nothing_is_said(tmp_path: Path) -> None:
    found = diagnosed(tmp_path, good() | {"1.png": photo(90), "test/1.png": photo(91)})
    assert found == Diagnosis(str(tmp_path), 8, {"cat": 3, "dog": 3})
    assert found.messages() == ()


def test_classes_in_folders_of_different_depths_are_told(tmp_path: Path) -> None:
    names = ("birds/egret", "birds/heron", "fox")
    files = {f"{name}/{i}.png": photo(10 * k + i) for k, name in enumerate(names) for i in range(2)}
    found = diagnosed(tmp_path, files)
    assert found.uneven_classes == ("birds/egret", "birds/heron")
    (told,) = found.messages()
    assert told.startswith("birds/egret, birds/heron are classes of their own, in deeper folders than fox; move")


def test_the_same_file_in_two_classes_is_said_first(tmp_path: Path) -> None:
    found = diagnosed(tmp_path, good() | {"dog/x.png": photo(0), "a.png": b"words", "fox/1.png": photo(50)})
    assert found.conflicts == (Copies(("cat/0.png", "dog/x.png"), ("cat", "dog"), True),)
    assert found.duplicates == ()
    assert "the same picture is labelled cat/0.png as cat, dog/x.png as dog; keep one" in found.messages()[0]
    assert "1 image cannot be read, a.png first: it is not an image" in found.messages()[1]


def test_copies_are_found_across_labelled_images_and_those_to_label(tmp_path: Path) -> None:
    found = diagnosed(tmp_path, good() | {"a.png": photo(0), "b.png": photo(90), "c.png": photo(90)})
    assert found.duplicates == (
        Copies(("a.png", "cat/0.png"), (None, "cat"), True),
        Copies(("b.png", "c.png"), (None, None), True),
    )
    assert [copies.answered for copies in found.duplicates] == [True, False]
    assert (
        "2 pictures have copies, a.png, cat/0.png first, 1 of them both labelled and to be labelled."
        in found.messages()[0]
    )


CHANGES = {
    "compressed": lambda image: encoded(image, "JPEG", quality=60),
    "smaller": lambda image: encoded(image.resize((90, 90))),
    "brighter": lambda image: encoded(Image.eval(image, lambda v: min(255, v + 3))),
    "another format": lambda image: encoded(image, "WEBP", quality=70),
    "turned by a mark": lambda image: encoded(image.rotate(-90), "JPEG", exif=_turned()),
    "with a plain background": lambda image: encoded(image, "JPEG", quality=80),
}


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 8
    return exif


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_near_copies_are_found_and_in_two_classes_they_are_a_conflict(change: str, seed: int, tmp_path: Path) -> None:
    image = picture(seed + 100, 128, 128)
    if "plain" in change:
        image.paste("white", (0, 0, 128, 80))
    found = diagnosed(tmp_path, good() | {"cat/a.png": encoded(image), "b.jpg": CHANGES[change](image)})
    assert found.near_duplicates == (Copies(("b.jpg", "cat/a.png"), (None, "cat"), False),)
    (tmp_path / "b.jpg").rename(tmp_path / "dog" / "b.jpg")
    again = finish(examine(list_folder(tmp_path).listing))
    assert again.conflicts == (Copies(("cat/a.png", "dog/b.jpg"), ("cat", "dog"), False),)
    assert "nearly the same picture" in again.messages()[0]


def test_the_noise_of_a_plain_background_hides_no_near_copy(tmp_path: Path) -> None:
    draw, pixels = np.random.default_rng(0), np.full((2, 64, 64, 3), 128, np.uint8)
    pixels[:, 20:40, 20:40] = np.asarray(picture(3, 20, 20))
    rough = draw.integers(-1, 2, (2, 8, 8, 3)).repeat(8, 1).repeat(8, 2)
    files = {f"{k}.png": encoded(Image.fromarray((pixels[k] + rough[k]).clip(0, 255).astype(np.uint8))) for k in (0, 1)}
    found = diagnosed(tmp_path, good() | files)
    assert [copies.names for copies in found.near_duplicates] == [("0.png", "1.png")]


def test_contradictions_of_the_same_file_are_said_before_those_of_near_copies(tmp_path: Path) -> None:
    near = {"cat/a.png": photo(300), "dog/a.jpg": photo(300, kind="JPEG", quality=80)}
    found = diagnosed(tmp_path, good() | near | {"cat/z.png": photo(301), "dog/z.png": photo(301)})
    assert ["nearly" in sentence for sentence in found.messages()] == [False, True]


def test_other_pictures_are_no_near_copies_not_even_plain_ones_or_in_another_colour(tmp_path: Path) -> None:
    plain = {f"{c}.png": encoded(Image.new("RGB", (64, 64), c)) for c in ("red", "blue", "green", "white", "black")}
    grey = picture(7, 64, 64).convert("L")
    zero = Image.new("L", grey.size)
    tinted = {f"{k}.png": encoded(Image.merge("RGB", [grey if i == k else zero for i in range(3)])) for k in range(3)}
    found = diagnosed(tmp_path, good() | plain | tinted | {f"p{i}.png": photo(200 + i) for i in range(100)})
    assert found.near_duplicates == ()


def test_classes_that_are_tiny_or_unequal_and_a_single_class_are_said(tmp_path: Path) -> None:
    few = {f"cat/{i}.png": photo(i) for i in range(10)} | {"dog/1.png": photo(99)}
    found = diagnosed(tmp_path / "a", few)
    assert (found.tiny_classes, found.unequal) == (("dog",), True)
    assert "1 class has fewer than two labelled examples (dog)" in found.messages()[0]
    assert "cat has 10 labelled examples and dog 1" in found.messages()[1]
    assert not diagnosed(tmp_path / "b", {k: v for k, v in few.items() if k != "cat/9.png"}).unequal
    one = diagnosed(tmp_path / "c", {"cat/1.png": photo(1), "cat/2.png": photo(2), "3.png": photo(3)})
    assert one.messages() == ("1 class has labelled examples; at least two must.",)


def test_a_class_whose_images_cannot_be_read_counts_as_empty(tmp_path: Path) -> None:
    found = diagnosed(tmp_path, good() | {"fox/1.png": b"", "fox/2.png": b"words"})
    assert found.class_sizes["fox"] == 0
    assert found.tiny_classes == ("fox",)
    assert not found.unequal


def test_names_that_invite_mistakes_are_said(tmp_path: Path) -> None:
    files = good() | {"Cat/9.png": photo(70), "Cat/8.png": photo(71), "test/5.png": photo(72), "test/6.png": photo(73)}
    found = diagnosed(tmp_path, files | {"a.png": photo(80), "A.PNG": photo(81)}, also_classes=["test"])
    assert found.suspicious_classes == ("test",)
    assert found.same_but_for_case == (("Cat", "cat"), ("A.PNG", "a.png"))
    said = " ".join(found.messages())
    assert "test would be a class, but is named like a place of images to label" in said
    assert "Cat, cat differ only in case" in said


def test_small_and_wide_images_are_said(tmp_path: Path) -> None:
    wide = {"w.png": encoded(picture(60, 400, 100)), "v.png": encoded(picture(61, 100, 301))}
    found = diagnosed(tmp_path, good() | wide | {"s.png": photo(62, 31), "t.png": encoded(picture(63, 300, 100))})
    assert (found.small, found.wide) == (("s.png",), ("v.png", "w.png"))
    assert "31" not in found.messages()[0]
    assert "1 image is smaller than 32 pixels" in found.messages()[0]
    assert "crop them" in found.messages()[1]


def test_files_that_vanish_are_listed_with_a_reason_and_the_events_tell_so(tmp_path: Path) -> None:
    listing = list_folder(write_files(tmp_path, good() | {os.fsdecode(b"\xff\n.png"): photo(5)})).listing
    (tmp_path / "cat/0.png").unlink()
    events = list(examine(listing))
    assert events == [Progress("examining images", 7, 7), Rejected("cat/0.png", "no such file or directory")]
    found = finish(examine(listing))
    assert found.unreadable == (events[1],)
    assert found.class_sizes == {"cat": 2, "dog": 3}


def test_a_folder_without_one_readable_image_is_diagnosed_too(tmp_path: Path) -> None:
    found = diagnosed(tmp_path, {"cat/1.png": b"", "dog/1.png": b""})
    assert len(found.unreadable) == 2
    assert "2 images cannot be read" in found.messages()[0]


def test_every_sentence_and_the_json_survive_any_name(tmp_path: Path) -> None:
    name = os.fsdecode(b"two\nlines \xff")
    files = {f"{name}/{i}.png": photo(0) for i in range(2)} | {f"dog/{name}.png": photo(0), f"{name}.png": b""}
    found = diagnosed(tmp_path, files)
    assert found.messages()
    for sentence in found.messages():
        assert sentence.isprintable()
        assert sentence.endswith(".")
    content = json.loads(found.to_json())
    assert content["messages"] == list(found.messages())
    assert content["conflicts"][0]["names"] == [f"dog/{name}.png", f"{name}/0.png", f"{name}/1.png"]


@given(st.integers(0, 40), st.integers(0, 2**32))
def test_every_near_copy_is_near_the_first_of_its_group_and_no_two_firsts_are_near(n: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    bits = np.where(draw.random((4, BITS)) < 0.5, 1, -1)[draw.integers(0, 4, n)]
    bits = np.where(draw.random(bits.shape) < 0.04, -bits, bits).astype(np.int8)
    groups = near_groups(bits, np.zeros((n, 3, 2, 2), np.uint8))
    grouped = [k for group in groups for k in group]
    assert len(set(grouped)) == len(grouped)
    distance = (bits[:, None] != bits[None]).sum(-1)
    assert all(distance[group[0], k] <= NEAR_BITS for group in groups for k in group)
    firsts = [group[0] for group in groups] + [k for k in range(n) if k not in grouped]
    assert all(distance[a, b] > NEAR_BITS for a in firsts for b in firsts if a != b)
    assert all(len(group) > 1 for group in groups)


def test_five_thousand_hashes_are_compared_in_a_moment() -> None:
    draw = np.random.default_rng(0)
    bits = np.where(draw.random((5000, BITS)) < 0.5, 1, -1).astype(np.int8)
    bits[4999] = bits[0]
    assert near_groups(bits, np.zeros((5000, 3, 2, 2), np.uint8)) == [[0, 4999]]


def test_a_listing_from_elsewhere_will_do() -> None:
    files = {"a": photo(0), "b": photo(0)}
    found = finish(examine(Listing(("a", "b"), (0, -1), ("x",), "memory", files.__getitem__)))
    assert found.duplicates == (Copies(("a", "b"), ("x", None), True),)
