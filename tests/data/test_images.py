"""What people bring as images, and what becomes of it."""

import io
import os
import resource
import struct
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin

from helpers.formats import tiff
from helpers.images import (
    blank_png,
    class_image,
    classes,
    encoded,
    picture,
    png_file,
    write_files,
    write_table,
    write_zip,
)
from onelook.data.formats import SUFFIXES
from onelook.data.images import ImageSet, Rejected, decode, load
from onelook.data.listing import Listing, list_images
from onelook.data.tables import read_labels
from onelook.errors import DataError
from onelook.events import finish

GOOD = class_image(0, 0)


def read(source: Path, split: str | None = None, size: int = 16, channels: int = 3) -> ImageSet:
    return finish(load(list_images(source, split), size, channels))


def listing_of(files: dict[str, bytes]) -> Listing:
    """As if the files were there; a name that is not among them cannot be read."""

    def content(name: str) -> bytes:
        if name not in files:
            raise FileNotFoundError(2, "No such file or directory", name)
        return files[name]

    return Listing(tuple(files), (0,) * len(files), ("a",), "memory", content)


def reason(content: bytes) -> str:
    """Why an image is left out among others."""
    images = finish(load(listing_of({"good.png": GOOD, "bad.png": content}), 16, 3))
    assert images.names == ("good.png",)
    (rejected,) = images.rejected
    assert rejected.name == "bad.png"
    assert rejected.reason
    assert "\n" not in rejected.reason
    return rejected.reason


def error(source: Path, split: str | None = None) -> str:
    with pytest.raises(DataError) as caught:
        read(source, split)
    message = str(caught.value)
    assert str(source) in message
    assert message.endswith(".")
    return message


# ------------------------------------------------------------------------------------------------ listing

PLAIN = classes(3, 2) | {
    "class 00/deeper/x.JPG": encoded(picture(1), "JPEG"),
    "two/levels/y.webp": encoded(picture(2), "WEBP"),
}
DIVIDED = classes(2, 2, "train/") | classes(2, 1, "val/", 2) | classes(3, 1, "test/", 4)
CLUTTER = {
    ".DS_Store": b"x",
    "class 00/.hidden.png": GOOD,
    ".thumbnails/t.png": GOOD,
    "__MACOSX/class 00/._00.png": b"x",
    "class 01/notes.txt": b"x",
    "class 01/Thumbs.db": b"x",
    "readme.md": b"x",
}


def table_rows(files: dict[str, bytes], own_split: bool) -> list[tuple[str, ...]]:
    rows = []
    for name in files:
        top, *middle = Path(name).parent.parts
        rows.append((name, "/".join(middle), top) if own_split else (name, "/".join((top, *middle))))
    return rows


def in_all_shapes(files: dict[str, bytes], folder: Path, own_split: bool) -> list[Path]:
    files = {name: files[name] for name in sorted(files, key=lambda name: Path(name).parts)}
    columns = ("filename", "label", "split") if own_split else ("filename", "label")
    wrapped = {f"my data/{name}": content for name, content in files.items()}
    return [
        write_files(folder / "plain", files),
        write_files(folder / "wrapped", wrapped),
        write_zip(folder / "plain.zip", files),
        write_zip(folder / "wrapped.zip", wrapped),
        write_table(folder / "table", files, table_rows(files, own_split), columns),
    ]


@pytest.mark.parametrize("split", [None, "train", "val", "test"])
def test_a_folder_a_zip_and_a_table_of_the_same_images_give_the_same_set(split: str | None, tmp_path: Path) -> None:
    files = PLAIN if split is None else DIVIDED
    expected, *others = [read(source, split) for source in in_all_shapes(files, tmp_path, split is not None)]
    assert len(expected) == sum(split is None or name.startswith(split) for name in files)
    for images in others:
        assert torch.equal(images.pixels, expected.pixels)
        assert torch.equal(images.labels, expected.labels)
        assert images.class_names == expected.class_names
        assert images.digests == expected.digests
        assert [name.removeprefix("my data/") for name in images.names] == list(expected.names)


@pytest.mark.parametrize("name", ["a", "a b", "a-b", "a.b", "a!"])
def test_classes_whose_names_begin_alike_come_in_the_same_order_from_a_folder_and_a_zip(
    name: str, tmp_path: Path
) -> None:
    files = {f"{folder}/{i}.png": GOOD for folder in ("a", name, "b") for i in range(2)}
    folder, archive = write_files(tmp_path / "f", files), write_zip(tmp_path / "f.zip", files)
    assert list_images(folder).names == list_images(archive).names


def test_a_split_is_never_a_class(tmp_path: Path) -> None:
    write_files(tmp_path, DIVIDED)
    for split, n_classes in (("train", 2), ("val", 2), ("test", 3)):
        names = list_images(tmp_path, split).class_names
        assert len(names) == n_classes
        assert not {"train", "val", "test"} & set(names)
    assert "train, val, test; say which one with --split" in error(tmp_path)


def test_images_right_inside_the_splits_lie_in_no_class(tmp_path: Path) -> None:
    write_files(tmp_path, {"train/a.png": GOOD, "test/b.png": GOOD})
    assert "1 images" in error(tmp_path, "train")
    assert "no class folder, train/a.png first" in error(tmp_path, "train")


def test_a_folder_of_trains_beside_other_vehicles_is_a_class(tmp_path: Path) -> None:
    write_files(tmp_path, {"train/a.png": GOOD, "bus/b.png": GOOD})
    assert list_images(tmp_path, "train").class_names == ("bus", "train")


def test_a_split_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    files = {name: content for name, content in DIVIDED.items() if not name.startswith("val")}
    for source in (write_files(tmp_path / "f", files), write_zip(tmp_path / "f.zip", files)):
        assert "'val', but train, test" in error(source, "val")
    table = write_table(tmp_path / "t", files, table_rows(files, own_split=True), ("filename", "label", "split"))
    assert "'val', but test, train" in error(table, "val")


def test_hidden_files_and_other_files_are_passed_over(tmp_path: Path) -> None:
    files = classes(2, 2)
    for source in (write_files(tmp_path / "f", files | CLUTTER), write_zip(tmp_path / "f.zip", files | CLUTTER)):
        images = read(source)
        assert set(images.names) == set(files)
        assert not images.rejected


def test_the_place_of_the_folder_may_be_hidden(tmp_path: Path) -> None:
    assert len(read(write_files(tmp_path / ".cache" / "__MACOSX", classes(2, 2)))) == 4


@pytest.mark.parametrize("name", ["a b", 'it\'s "so"', "🦊 лис", "two\nlines", "[bold]", "100%", "a,b;c", "..a"])
def test_any_name_of_a_class_or_a_file_will_do(name: str, tmp_path: Path) -> None:
    files = {f"x{name}/{i} {name}.png": class_image(0, i) for i in range(2)} | classes(1, 2)
    for source in in_all_shapes(files, tmp_path, own_split=False):
        images = read(source)
        assert f"x{name}" in images.class_names
        assert len(images) == 4


@pytest.mark.parametrize("suffix", [*SUFFIXES, *(s.upper() for s in SUFFIXES)])
def test_every_usual_suffix_is_an_image_in_any_case(suffix: str, tmp_path: Path) -> None:
    write_files(tmp_path, {f"a/x{suffix}": GOOD, f"b/x{suffix}": GOOD})
    assert len(list_images(tmp_path).names) == 2


def test_a_link_to_a_class_folder_is_followed(tmp_path: Path) -> None:
    write_files(tmp_path, {f"{name}": content for name, content in classes(2, 2, "far/away/").items()})
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "linked").symlink_to(tmp_path / "far" / "away" / "class 00")
    write_files(tmp_path / "here", classes(1, 2, first=1))
    assert read(tmp_path / "here").class_names == ("class 01", "linked")


def test_links_that_lead_round_in_circles_end(tmp_path: Path) -> None:
    write_files(tmp_path, {"a/x.png": GOOD, "b/y.png": GOOD})
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "other").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "other").symlink_to(tmp_path / "a")
    (tmp_path / "b" / "self").symlink_to("self")
    names = list_images(tmp_path).names
    assert {"a/x.png", "b/y.png"} <= set(names)
    assert len(names) < 10


# ------------------------------------------------------------------------------------------------ sources that fail


def test_a_source_that_is_nothing_of_the_kind_is_one_sentence(tmp_path: Path) -> None:
    write_files(tmp_path, {"empty/x.txt": b"", "words.txt": b"words", "damaged.zip": b"PK\3\4 and no more"})
    assert "no images" in error(tmp_path / "empty")
    assert "no file or folder" in error(tmp_path / "missing")
    assert "neither a folder nor a zip nor a table" in error(tmp_path / "words.txt")
    assert "cannot be opened as a zip" in error(tmp_path / "damaged.zip")
    assert "no images" in error(write_zip(tmp_path / "empty.zip", {}))


def test_loose_images_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    write_files(tmp_path, {"1.png": GOOD, "2.png": GOOD, "a/3.png": GOOD})
    message = error(tmp_path)
    assert "2 images" in message
    assert "1.png first" in message


def test_a_source_without_one_readable_image_says_why(tmp_path: Path) -> None:
    write_files(tmp_path, {"a/1.png": b"words", "b/2.png": b""})
    assert "None of the 2 images" in error(tmp_path)
    assert "a/1.png: it is not an image" in error(tmp_path)


TABLES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "needs a column path (or filename) and a column label, but has none"),
    "other columns": (b"name,kind\na.png,x\n", "but has name, kind"),
    "no rows": (b"filename,label\n", "no rows"),
    "empty label": (b"filename,label\na.png,x\n\na.png,\n", "line 4: label is empty"),
    "no label": (b"filename,label\na.png\n", "line 2: label is empty"),
    "empty filename": (b"filename,label\n ,x\n", "line 2: path is empty"),
    "no encoding": (b"filename,label\na.png,caf\x81\n", "is no text in UTF-8, UTF-16 or Windows-1252"),
    "no text": (b"filename,label\na.png,\xff\x01\n", "is no text; give a table in CSV"),
    "zero bytes": (b"filename,label\na.png,\0\n\0,x\n", r"line 2: label holds '\x00', which is no text"),
    "a comma too many": (b"filename,label\na.png,x\nb.png,x, y\n", "line 3 has 3 cells, but there are 2 columns; put"),
    "a column twice": (b"filename,Label,label \na.png,x,y\n", "has 2 columns named label; rename or remove"),
    "text after a quote": (b'filename,label\n"a.png"b,x\n', "line 2 cannot be read as a table"),
    "missing files": (b"filename,label\nno.png,x\n", "no.png: no such file or directory"),
    "unclosed quote": (
        b'filename,label\n"a.png,x\nb.png,y\n',
        "line 3 cannot be read as a table (unexpected end of data)",
    ),
}


@pytest.mark.parametrize("case", TABLES)
def test_a_table_that_will_not_do_is_one_sentence(case: str, tmp_path: Path) -> None:
    content, expected = TABLES[case]
    write_files(tmp_path, {"table.csv": content})
    assert expected in error(tmp_path / "table.csv")


def test_a_table_may_begin_with_a_byte_order_mark_and_have_more_columns(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbflabel,note,filename,\nx,1,a.png,\ny,2,b.png, ,\n,,,\n\n"
    write_files(tmp_path, {"table.csv": content, "a.png": GOOD, "b.png": GOOD})
    assert read(tmp_path / "table.csv").class_names == ("x", "y")


@pytest.mark.parametrize("kind", ["csv", "semicolons", "parquet"])
@pytest.mark.parametrize("column", ["path", "filename"])
def test_a_table_for_training_may_have_any_form_that_a_table_of_labels_has(
    kind: str, column: str, tmp_path: Path
) -> None:
    files = {f"{i}.png": class_image(i % 2, i) for i in range(4)}
    write_files(tmp_path, files)
    table = pandas.DataFrame({column: list(files), "label": ["x", "y"] * 2, "split": ["train"] * 3 + ["val"]})
    file = tmp_path / ("table.parquet" if kind == "parquet" else "table.csv")
    if kind == "parquet":
        table.to_parquet(file)
    else:
        table.to_csv(file, index=False, sep=";" if kind == "semicolons" else ",")
    assert read(file, "train").names == ("0.png", "1.png", "2.png")
    assert read(file).labels.tolist() == [0, 1, 0, 1]
    assert [row.label for row in read_labels(file).rows] == ["x", "y"] * 2


def test_a_missing_file_of_a_table_is_left_out_with_its_name(tmp_path: Path) -> None:
    rows: list[tuple[str, ...]] = [("a.png", "x"), ("gone.png", "y"), (str(tmp_path / "a.png"), "y")]
    images = read(write_table(tmp_path, {"a.png": GOOD}, rows, ("filename", "label")))
    assert images.rejected == (Rejected("gone.png", "no such file or directory"),)
    assert images.labels.tolist() == [0, 1]


# ------------------------------------------------------------------------------------------------ images that fail


def exif(orientation: int) -> bytes:
    return b"Exif\0\0MM\0*\0\0\0\10\0\1\1\22\0\3\0\0\0\1" + struct.pack(">HH", orientation, 0) + bytes(4)


BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "it is empty"),
    "text": (b"this is a text file that somebody renamed", "not an image"),
    "truncated JPEG": (encoded(picture(), "JPEG")[:-200], "truncated"),
    "header of a JPEG": (encoded(picture(), "JPEG")[:400], "truncated"),
    "truncated PNG": (encoded(picture(width=64, height=64))[:2000], ""),
    "header of a PNG": (encoded(picture())[:40], ""),
    "EPS by another name": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
        "postscript drawing; save as png",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_an_image_that_cannot_be_read_is_left_out_among_others_with_the_reason(case: str) -> None:
    content, expected = BAD[case]
    assert expected in reason(content).lower()


@pytest.mark.parametrize("side", [10_000, 20_000])
def test_an_image_of_too_many_pixels_is_left_out_before_it_takes_their_memory(side: int) -> None:
    bomb = blank_png(side, side)
    assert len(bomb) < 10_000_000
    started, peak = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert reason(bomb) == "it has more than 89 million pixels; make it smaller"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < side * side / 2 / 1024
    assert time.perf_counter() - started < 5


def test_what_is_not_a_readable_file_is_left_out_among_others(tmp_path: Path) -> None:
    write_files(tmp_path, classes(2, 2) | {"class 00/folder.png/x.png": GOOD})
    (tmp_path / "class 00" / "dangling.png").symlink_to("nowhere.png")
    (tmp_path / "class 00" / "itself.png").symlink_to("itself.png")
    images = read(tmp_path)
    assert {r.name: r.reason for r in images.rejected} == {
        "class 00/dangling.png": "no such file or directory",
        "class 00/itself.png": "too many levels of symbolic links",
    }
    assert "class 00/folder.png" in images.class_names  # a folder is a class whatever its name


def test_a_file_that_may_not_be_read_is_left_out_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Path.read_bytes

    def guarded(path: Path) -> bytes:
        if path.name == "01.png":
            raise PermissionError(13, "Permission denied", str(path))
        return whole(path)

    monkeypatch.setattr(Path, "read_bytes", guarded)
    images = read(write_files(tmp_path, classes(2, 3)))
    assert [r.name for r in images.rejected] == ["class 00/01.png", "class 01/01.png"]
    assert {r.reason for r in images.rejected} == {"permission denied"}


def test_a_folder_that_may_not_be_listed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path, classes(2, 1))
    whole = os.scandir

    def guarded(path: Any) -> Any:
        if Path(path).name == "class 01":
            raise PermissionError(13, "Permission denied", str(path))
        return whole(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(OSError, match="class 01"):  # a sentence of sources.list_path
        list_images(tmp_path)


def patched(path: Path, change: Any) -> Path:
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(bytes(content))
    return path


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_member_of_an_archive_is_left_out_among_others(compression: int, tmp_path: Path) -> None:
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("a/1.png", GOOD)
        archive.writestr("a/2.png", GOOD)
    start = path.read_bytes().index(b"a/2.png") + len("a/2.png")

    def damage(content: bytearray) -> None:
        for i in range(start + 20, start + 60):
            content[i] ^= 0x55

    images = read(patched(path, damage))
    assert images.names == ("a/1.png",)
    assert [r.name for r in images.rejected] == ["a/2.png"]
    assert "archive" in images.rejected[0].reason


@pytest.mark.parametrize(("offset", "value", "expected"), [(6, 1, "encrypted"), (8, 99, "compression method")])
def test_a_locked_member_and_one_of_unknown_compression_are_left_out_with_the_reason(
    offset: int, value: int, expected: str, tmp_path: Path
) -> None:
    path = write_zip(tmp_path / "images.zip", {"a/1.png": GOOD, "a/2.png": GOOD})

    def alter(content: bytearray) -> None:
        content[content.rindex(b"PK\3\4") + offset] = value
        content[content.rindex(b"PK\1\2") + offset + 2] = value

    images = read(patched(path, alter))
    assert images.names == ("a/1.png",)
    assert expected in images.rejected[0].reason


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
@given(data=st.data())
def test_damaged_bytes_are_either_an_image_or_left_out(kind: str, data: st.DataObject) -> None:
    content = bytearray(encoded(picture(3), kind))
    for at, bit in data.draw(st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 7)), max_size=12)):
        content[at] ^= 1 << bit
    content = content[: data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))]
    started = time.perf_counter()
    images = finish(load(listing_of({"x.jpg": bytes(content), "good.png": GOOD}), 8, 3))
    assert images.pixels.shape == (1, 2 - len(images.rejected), 3, 8, 8)
    assert time.perf_counter() - started < 5


# ------------------------------------------------------------------------------------------------ decoding


def close(actual: np.ndarray, expected: np.ndarray, tolerance: float = 2.0) -> None:
    assert actual.shape == expected.shape
    assert actual.dtype == np.uint8
    assert np.abs(actual.astype(float) - expected).mean() <= tolerance


def square(image: Image.Image, size: int = 16) -> np.ndarray:
    """The middle square, C H W, without `decode`: by an exact crop of an even margin and one resize."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    middle = image.convert("RGB").crop((left, top, left + side, top + side))
    return np.asarray(middle.resize((size, size), Image.Resampling.BICUBIC)).transpose(2, 0, 1)


@pytest.mark.parametrize(("width", "height"), [(16, 16), (24, 16), (16, 24), (120, 40), (8, 12), (400, 400)])
def test_the_middle_square_is_kept_and_not_squeezed(width: int, height: int) -> None:
    image = picture(5, width, height)
    close(decode(encoded(image), 16, 3), square(image), 1.0)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 3000), (3000, 1)])
def test_an_image_of_one_pixel_or_one_line_is_an_image(width: int, height: int) -> None:
    assert decode(encoded(Image.new("RGB", (width, height), (9, 8, 7))), 16, 3).tolist() == [
        [[value] * 16] * 16 for value in (9, 8, 7)
    ]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
@pytest.mark.parametrize("channels", [1, 3])
def test_decoding_is_a_function_of_the_bytes(kind: str, channels: int) -> None:
    content = encoded(picture(7, 64, 64), kind)
    first = decode(content, 16, channels)
    decode(encoded(picture(8, 64, 64), kind), 16, channels)
    assert np.array_equal(decode(content, 16, channels), first)
    assert first.shape == (channels, 16, 16)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_grey_is_the_luminance_of_the_colours(kind: str) -> None:
    content = encoded(picture(9, 40, 40), kind)
    red, green, blue = decode(content, 16, 3).astype(float)
    close(decode(content, 16, 1)[0], 0.299 * red + 0.587 * green + 0.114 * blue)


def test_a_grey_image_has_three_equal_channels() -> None:
    red, green, blue = decode(encoded(picture(9, mode="L")), 16, 3)
    assert np.array_equal(red, green)
    assert np.array_equal(green, blue)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_the_inks_of_cmyk_become_the_colours_they_print(kind: str) -> None:
    # Pillow writes JPEG as Adobe does, inverted and marked so; TIFF as it is.
    image = picture(11, 16, 16, "CMYK")
    content = encoded(image, kind)
    assert (b"Adobe" in content) == (kind == "JPEG")
    close(decode(content, 16, 3), np.asarray(picture(11, 16, 16)).transpose(2, 0, 1), 4.0)


RAMP = np.linspace(0, 1, 16)[None].repeat(16, 0)

DEEP: dict[str, tuple[np.ndarray, str]] = {
    "16-bit PNG": ((RAMP * 65535).astype(np.uint16), "PNG"),
    "16-bit TIFF": ((RAMP * 65535).astype(np.uint16), "TIFF"),
    "16-bit TIFF of the other byte order": ((RAMP * 65535).astype(">u2"), "TIFF"),
    "32-bit TIFF": ((RAMP * 2_000_000_000).astype(np.int32), "TIFF"),
    "floating TIFF up to 1": (RAMP.astype(np.float32), "TIFF"),
    "floating TIFF up to 255": ((RAMP * 255).astype(np.float32), "TIFF"),
    "floating TIFF up to 10000": ((RAMP * 10_000).astype(np.float32), "TIFF"),
}


@pytest.mark.parametrize("case", DEEP)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_deep_ramp_stays_a_ramp(case: str, channels: int) -> None:
    values, kind = DEEP[case]
    for plane in decode(encoded(Image.fromarray(values), kind), 16, channels):
        close(plane, RAMP * 255, 1.0)


def test_half_a_range_of_16_bits_is_half_a_range_of_8() -> None:
    half = Image.fromarray(np.full((16, 16), 32768, np.uint16))
    assert set(decode(encoded(half), 16, 1).flat) <= {127, 128}


MICROSCOPE = (RAMP * 4095).astype(np.uint16)
DIM = (RAMP * 1000).astype(np.uint16)
OME = '<OME><Image><Pixels BigEndian="false" SignificantBits="{}" Type="uint16"/></Image></OME>'


def shown(values: np.ndarray, kind: str = "TIFF", **about: Any) -> float:
    """How light the lightest pixel is, of 255."""
    return float(decode(encoded(Image.fromarray(values), kind, **about), 16, 1).max())


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("channels", [1, 3])
def test_12_bits_in_a_file_of_16_are_as_light_as_if_they_were_16(kind: str, channels: int) -> None:
    for plane in decode(encoded(Image.fromarray(MICROSCOPE), kind), 16, channels):
        close(plane, RAMP * 255, 1.0)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_dim_image_of_12_bits_stays_dim_beside_its_like(kind: str) -> None:
    assert shown(DIM, kind) == pytest.approx(255 * 1000 / 4095, abs=1)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_dark_photograph_of_16_bits_stays_as_dark_as_it_is(kind: str) -> None:
    assert shown((RAMP * 5000).astype(np.uint16), kind) == pytest.approx(255 * 5000 / 65535, abs=1)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert shown(MICROSCOPE, kind, icc_profile=profile) == pytest.approx(255 * 4095 / 65535, abs=1)


def test_a_format_that_states_its_depth_is_believed() -> None:
    assert shown(DIM, "JPEG2000") == pytest.approx(255 * 1000 / 65535, abs=1)
    for most, white in ((4095, 255), (65535, 16)):
        content = b"P5 16 16 %d\n" % most + MICROSCOPE.astype(">u2").tobytes()
        assert decode(content, 16, 1).max() == pytest.approx(white, abs=1)


@pytest.mark.parametrize(
    ("tags", "largest", "white"),
    [
        ({281: 16383}, 9000, 16383),
        ({281: 65535}, 4000, 65535),
        ({281: 1023}, 1000, 1023),
        ({281: 3021}, 3021, 4095),  # the largest pixel, and no range
        ({281: 4095}, 9000, 65535),  # not true
        ({270: OME.format(14)}, 9000, 16383),
        ({270: OME.format(16)}, 4000, 65535),
        ({270: OME.format(12), 281: 3000}, 3000, 4095),
        ({270: 'SignificantBits="' + "9" * 5000 + '"'}, 4000, 4095),
    ],
)
def test_a_tiff_may_say_which_number_is_white(tags: dict[int, Any], largest: int, white: int) -> None:
    assert shown((RAMP * largest).astype(np.uint16), tiffinfo=tags) == pytest.approx(255 * largest / white, abs=1)


def test_a_tiff_of_12_bits_packed_is_one_of_12_bits_whatever_its_profile() -> None:
    first, second = MICROSCOPE.reshape(-1, 2).astype(int).T
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 1).astype(np.uint8).tobytes()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    tags: list[Any] = [(256, "I", (16,)), (257, "I", (16,)), (258, "H", (12,)), (259, "H", (1,)), (262, "H", (1,))]
    content = tiff([[*tags, (277, "H", (1,)), (278, "I", (16,)), (34675, "B", profile)]], [packed])
    close(decode(content, 16, 1)[0], RAMP * 255, 1.0)


def deep_colours(kind: str, most: int) -> bytes:
    """A file of 16 bits for each of three colours, which Pillow cannot write, up to `most`."""
    values = np.stack([RAMP, RAMP.T, RAMP[:, ::-1]], 2) * most
    if kind == "TIFF":
        strip = values.astype("<u2").tobytes()
        tags: list[Any] = [(256, "I", (16,)), (257, "I", (16,)), (258, "H", (16, 16, 16)), (259, "H", (1,))]
        return tiff([[*tags, (262, "H", (2,)), (277, "H", (3,)), (278, "I", (16,))]], [strip])
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png_file(struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0), zlib.compress(rows))


def test_a_text_of_a_png_is_no_fact_about_its_pixels() -> None:
    about = PngImagePlugin.PngInfo()
    for key in ("bits", "tag_v2", "white"):
        about.add_text(key, "(16,)")
    image = picture(3, 16, 16)
    assert np.array_equal(decode(encoded(image, pnginfo=about), 16, 3), decode(encoded(image), 16, 3))


@pytest.mark.parametrize("kind", ["TIFF", "PNG"])
@pytest.mark.parametrize(("most", "white"), [(4095, 4095), (65535, 65535), (9000, 65535)])
def test_colours_of_12_bits_are_as_light_as_they_were_seen(kind: str, most: int, white: int) -> None:
    pixels = decode(deep_colours(kind, most), 16, 3)
    for plane, expected in zip(pixels, (RAMP, RAMP.T, RAMP[:, ::-1]), strict=True):
        close(plane, expected * 255 * most / white, 9 if white == 4095 else 1)  # Pillow keeps 4 of the 12 bits


def test_floating_pixels_that_are_no_numbers_are_black() -> None:
    values = RAMP.astype(np.float32)
    values[0, :3] = (np.nan, np.inf, -np.inf)
    content = encoded(Image.fromarray(values), "TIFF")
    plane = finish(load(listing_of({"x.tif": content}), 16, 1)).pixels[0, 0, 0].numpy()
    assert plane[0, :3].tolist() == [0, 0, 0]
    close(plane[1:], RAMP[1:] * 255, 1.0)


def see_through(mode: str) -> tuple[Image.Image, dict[str, Any]]:
    """Left half opaque black, right half transparent; and how to save it."""
    alpha = Image.fromarray(np.repeat([[255, 0]], 8, 1).repeat(16, 0).astype(np.uint8))
    if mode in ("LA", "RGBA"):
        image = Image.new(mode, (16, 16), 0)
        image.putalpha(alpha)
        return image, {}
    marks = Image.eval(alpha, lambda a: 0 if a else 1)
    if mode == "P":
        marks.putpalette([0, 0, 0, 200, 0, 0])
        return marks, {"transparency": 1}
    grey = Image.eval(alpha, lambda a: 0 if a else 77)
    return (grey, {"transparency": 77}) if mode == "L" else (grey.convert("RGB"), {"transparency": (77, 77, 77)})


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("RGBA", "PNG"),
        ("LA", "PNG"),
        ("P", "PNG"),
        ("P", "GIF"),
        ("L", "PNG"),
        ("RGB", "PNG"),
        ("RGBA", "WEBP"),
        ("RGBA", "TIFF"),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_transparent_is_white(mode: str, kind: str, channels: int) -> None:
    image, how = see_through(mode)
    how |= {"lossless": True} if kind == "WEBP" else {}
    plane = decode(encoded(image, kind, **how), 16, channels)
    assert (plane[:, :, :8] == 0).all()
    assert (plane[:, :, 8:] == 255).all()


def test_half_transparent_black_is_grey() -> None:
    assert set(decode(encoded(Image.new("RGBA", (16, 16), (0, 0, 0, 127))), 16, 3).flat) <= {127, 128}


def test_one_bit_is_black_and_white() -> None:
    bits = Image.fromarray(RAMP > 0.5)
    assert bits.mode == "1"
    assert np.array_equal(decode(encoded(bits), 16, 1)[0], (RAMP > 0.5) * np.uint8(255))


STORED = {
    1: lambda x: x,
    2: np.fliplr,
    3: lambda x: np.rot90(x, 2),
    4: np.flipud,
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, 1),
    7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
    8: lambda x: np.rot90(x, -1),
}
"""From the upright picture to the rows that a camera stores with each orientation mark (EXIF 2.3, tag 0x0112)."""


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_picture_taken_with_a_turned_camera_comes_out_upright(orientation: int, kind: str) -> None:
    upright = picture(13, 48, 32)
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](np.asarray(upright))))
    content = encoded(stored, kind, exif=exif(orientation))
    close(decode(content, 16, 3), square(upright), 3.0)


@pytest.mark.parametrize(
    "cut", [b"Exif\0\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0" + bytes(40), exif(6)[:-9], exif(200)]
)
def test_damaged_exif_does_not_cost_the_picture(cut: bytes) -> None:
    image = picture(14, 16, 16)
    images = finish(load(listing_of({"x.jpg": encoded(image, "JPEG", exif=cut, quality=95)}), 16, 3))
    assert not images.rejected
    close(images.pixels[0, 0].numpy(), square(image), 6.0)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_a_moving_picture_the_first_frame_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "green")]
    content = encoded(
        frames[0],
        kind,
        save_all=True,
        append_images=frames[1:],
        duration=100,
        **({"lossless": True} if kind == "WEBP" else {}),
    )
    with Image.open(io.BytesIO(content)) as image:
        assert image.n_frames == 3
    assert decode(content, 16, 3).mean((1, 2)).tolist() == [pytest.approx(255, abs=1), *[pytest.approx(0, abs=1)] * 2]


def test_progress_ends_with_all_images_and_what_was_left_out() -> None:
    events = list(load(listing_of({"good.png": GOOD, "bad.png": b""}), 16, 3))
    assert (events[0].done, events[0].total) == (2, 2)
    assert events[1:] == [Rejected("bad.png", "it is empty")]
