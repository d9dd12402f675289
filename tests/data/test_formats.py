"""A file is what its content says, whatever its name; only its beginning is read to know."""

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from helpers.images import encoded, picture, write_files
from onelook.data import formats
from onelook.data.formats import FORMATS, IMAGE, KINDS, OTHER, Kind, find_kind, group_by_kind, identify
from onelook.data.images import decode

BY_CONTENT = ("AVIF", "BMP", "DDS", "GIF", "ICNS", "JPEG", "JPEG2000", "PNG", "PPM", "QOI", "TIFF", "WEBP")
BY_NAME = ("ICO", "PCX", "SGI", "TGA")
"""Formats whose files do not begin in a way that is theirs alone."""


@pytest.mark.parametrize("kind", [*BY_CONTENT, *BY_NAME])
def test_what_pillow_writes_is_read_with_its_colours(kind: str) -> None:
    pixels = decode(encoded(Image.new("RGB", (64, 64), (200, 100, 20)), kind), 16, 3)
    assert pixels.reshape(3, -1).mean(1).tolist() == pytest.approx([200, 100, 20], abs=4)


@pytest.mark.parametrize("kind", BY_CONTENT)
def test_an_image_is_known_by_its_content_under_any_name(kind: str, tmp_path: Path) -> None:
    content = encoded(picture(1, 64, 64), kind)
    assert identify(content) is IMAGE
    for name in ("none", "a.dat", "b.txt", "c.pdf", "d.mov"):
        (tmp_path / name).write_bytes(content)
        assert find_kind(tmp_path / name) is IMAGE


HEADS: dict[str, bytes] = {
    "HEIC file": b"\0\0\0\x18ftypheic",
    "camera RAW file": b"FUJIFILMCCD-RAW 0201",
    "DICOM file": bytes(128) + b"DICM",
    "SVG drawing": b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- drawn -->\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    "PDF document": b"%PDF-1.7",
    "PostScript drawing": b"%!PS-Adobe-3.0 EPSF-3.0",
    "JPEG XL file": b"\xff\x0a\0",
    "video": b"\0\0\0\x14ftypqt  ",
    "sound file": b"RIFF\0\0\0\0WAVEfmt ",
    "archive": b"PK\3\4",
    "other file": b"Pages of notes",
}


@pytest.mark.parametrize("name", HEADS)
def test_what_is_no_image_has_a_name_by_its_content(name: str) -> None:
    assert identify(HEADS[name]).name == name


def test_a_suffix_decides_where_the_content_does_not(tmp_path: Path) -> None:
    files = {
        "a.docx": b"PK\3\4",
        "b.nef": b"MM\0*\0\0\0\x08",
        "c.svg": b"",
        "d.txt": b"words",
        "e.m4a": b"\0\0\0\0ftypmp42",
    }
    found = {name: find_kind(write_files(tmp_path, {name: content}) / name).name for name, content in files.items()}
    names = ("document", "camera RAW file", "SVG drawing", "other file", "sound file")
    assert tuple(found.values()) == names


@given(st.binary(max_size=300))
def test_anything_is_of_some_kind(head: bytes) -> None:
    assert identify(head) in (*KINDS, OTHER)


@pytest.mark.parametrize("text", [b"<!-- -->", b"<?xml ", b" ", b"<", b"\0", b"P1 "])
def test_the_kind_of_hostile_text_is_known_at_once(text: bytes) -> None:
    started = time.perf_counter()
    identify(text * (formats.HEAD // len(text)))
    assert time.perf_counter() - started < 0.2


def test_programs_are_started_for_no_format_and_every_suffix_has_one_kind() -> None:
    assert {"EPS", "WMF", "FPX", "MIC", "GRIB", "BUFR", "HDF5"}.isdisjoint(FORMATS)
    suffixes = [suffix for kind in KINDS for suffix in kind.suffixes]
    assert len(suffixes) == len(set(suffixes))


def test_files_are_counted_by_kind_with_the_way_to_have_them_read() -> None:
    heic, video = (next(kind for kind in KINDS if kind.name == name) for name in ("HEIC file", "video"))
    found: list[tuple[str, Kind]] = [("a\n.mov", video), ("b.heic", heic), ("c.heic", heic)]
    assert [str(one) for one in group_by_kind(found)] == [
        '2 HEIC files were passed over, b.heic first; pip install "onelook[heic]" reads such files.',
        "1 video was passed over, 'a\\n.mov' first; save frames as images.",
    ]
