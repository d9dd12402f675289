"""Files of phones, cameras and laboratories come out upright and in their colours, as other programs show them."""

import io
from typing import Any

import numpy as np
import pytest
import rawpy
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, apply_windowing
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from helpers.formats import HEIC, QUARTERS, dicom, dicom_file, dng, quarters
from helpers.images import encoded, picture
from onelook.data.images import decode
from onelook.data.opening import open_image
from onelook.errors import DataError


def opened(content: bytes, enough: int = 1000) -> Image.Image:
    with open_image(content) as one:
        one.reduce(enough, grey=False)
        size, n_bytes = one.size, one.n_bytes
        image = one.load()
        assert enough < 1000 or image.size == size
        assert n_bytes >= image.width * image.height * len(image.getbands())
        return image


def colours(image: Image.Image) -> list[tuple[int, ...]]:
    """What is in the middle of each quarter."""
    width, height = image.size
    return [image.getpixel((width * x // 4, height * y // 4)) for y in (1, 3) for x in (1, 3)]


def near(image: Image.Image, tolerance: int) -> bool:
    return bool(np.abs(np.subtract(colours(image), QUARTERS)).max() <= tolerance)


def test_a_photograph_of_a_phone_is_upright_and_is_turned_once() -> None:
    image = opened(HEIC)
    assert image.size == (16, 24)
    assert near(image, 3)
    assert decode(HEIC, 8, 3).shape == (3, 8, 8)


# ------------------------------------------------------------------------------------------------ RAW


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_raw_is_developed_upright_as_rawpy_does_by_itself(orientation: int) -> None:
    content = dng(orientation=orientation)
    image = opened(content)
    assert image.size == (64, 48)
    assert near(image, 40)  # brightened, as cameras do
    with rawpy.imread(io.BytesIO(content)) as file:
        assert np.array_equal(np.asarray(image), file.postprocess(use_camera_wb=True))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_preview_of_a_camera_is_taken_where_it_is_large_enough(orientation: int) -> None:
    turns = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    small = quarters(32, 24)
    content = dng(orientation=orientation, preview=small.transpose(turns[orientation]) if orientation > 1 else small)
    preview, developed = opened(content, 24), opened(content, 25)
    assert preview.size == (32, 24)
    assert near(preview, 4)
    assert developed.size == (64, 48)
    assert near(developed, 40)


def test_a_preview_that_the_camera_cut_is_not_taken() -> None:
    assert opened(dng(preview=quarters(32, 32)), 16).size == (32, 24)  # half of what is developed


@pytest.mark.parametrize("n_bytes", [8, 100, 400, 5000])
def test_half_a_raw_is_damaged(n_bytes: int) -> None:
    content = dng(preview=quarters(32, 24))
    with pytest.raises(Exception):  # noqa: B017, PT011 - what rawpy and Pillow raise has no common base
        decode(content[:n_bytes], 16, 3)


# ------------------------------------------------------------------------------------------------ DICOM

SLOPE = {"RescaleSlope": 2, "RescaleIntercept": -1024}
DEPTHS = [np.uint8, np.uint16, np.int16]


def ramp(kind: type[np.generic]) -> np.ndarray:
    top = 255 if kind is np.uint8 else 4095
    return np.linspace(0, top, 32 * 24).reshape(24, 32).astype(kind)


@pytest.mark.parametrize("kind", DEPTHS)
@pytest.mark.parametrize("about", [{}, SLOPE], ids=["as stored", "rescaled"])
def test_without_a_window_a_dicom_goes_from_its_least_to_its_largest_number(
    kind: type[np.generic], about: dict[str, Any]
) -> None:
    values = ramp(kind)
    image = np.asarray(opened(dicom(dicom_file(values, **about))), dtype=float)
    expected = (values - float(values.min())) / (float(values.max()) - float(values.min())) * 255
    assert np.abs(image - expected).max() <= 0.5


@pytest.mark.parametrize("kind", DEPTHS)
@pytest.mark.parametrize("window", [(100, 80), ([60, 1], [50, 2]), (40, 1), (5000, 3)])
def test_the_window_is_that_of_pydicom(kind: type[np.generic], window: tuple[Any, Any]) -> None:
    file = dicom_file(ramp(kind), WindowCenter=window[0], WindowWidth=window[1], **SLOPE)
    shown = apply_windowing(apply_modality_lut(file.pixel_array, file), file)
    bits, signed = 8 * file.pixel_array.itemsize, file.PixelRepresentation
    least, most = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    expected = (shown - (least * 2 - 1024)) / ((most - least) * 2) * 255  # its output fills the range of the pixels
    assert np.abs(np.asarray(opened(dicom(file)), dtype=float) - expected).max() <= 0.51


@pytest.mark.parametrize("about", [{}, {"WindowCenter": 900, "WindowWidth": 500}])
def test_monochrome_1_is_the_negative_of_monochrome_2(about: dict[str, Any]) -> None:
    values = ramp(np.uint16)
    light, dark = (np.asarray(opened(dicom(dicom_file(values, f"MONOCHROME{i}", **about)))) for i in (2, 1))
    assert np.array_equal(dark, 255 - light)


def test_an_image_of_one_value_is_an_image() -> None:
    assert set(np.asarray(opened(dicom(dicom_file(np.full((8, 8), 7, np.uint16))))).flat) == {0}


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_colours_are_kept(depth: type[np.generic]) -> None:
    values = np.asarray(quarters(16, 24)).astype(depth) * np.array(257 if depth is np.uint16 else 1, depth)
    assert colours(opened(dicom(dicom_file(values, "RGB")))) == list(QUARTERS)


@pytest.mark.parametrize("wide", [False, True])
def test_a_palette_gives_its_colours(wide: bool) -> None:
    index = np.array([[0, 1], [2, 3]], np.uint8).repeat(8, 0).repeat(8, 1)
    about: dict[str, Any] = {}
    for k, name in enumerate(("Red", "Green", "Blue")):
        column = np.array([colour[k] for colour in QUARTERS])
        about[f"{name}PaletteColorLookupTableDescriptor"] = [4, 0, 16 if wide else 8]
        data = (column * 257).astype("<u2") if wide else column.astype(np.uint8)
        about[f"{name}PaletteColorLookupTableData"] = data.tobytes()
    assert colours(opened(dicom(dicom_file(index, "PALETTE COLOR", **about)))) == list(QUARTERS)


def test_a_table_of_grey_levels_is_obeyed() -> None:
    item = dicom_file(np.zeros((1, 1), np.uint8))
    item.LUTDescriptor, item.LUTData = [4, 0, 8], np.array([10, 250, 90, 30], "<u2").tobytes()
    index = np.array([[0, 1], [2, 3]], np.uint8).repeat(8, 0).repeat(8, 1)
    assert colours(opened(dicom(dicom_file(index, VOILUTSequence=[item])))) == [10, 250, 90, 30]


@pytest.mark.parametrize("n_frames", [1, 2, 5])
def test_the_middle_frame_stands_for_all(n_frames: int) -> None:
    frames = np.stack([np.asarray(picture(i, 16, 16, "L")) for i in range(n_frames)])
    image = np.asarray(opened(dicom(dicom_file(frames, WindowCenter=128, WindowWidth=256))))
    assert np.abs(image.astype(int) - frames[n_frames // 2]).max() <= 1


def test_compressed_frames_are_those_that_were_compressed() -> None:
    file = dicom_file(ramp(np.uint16))
    plain = np.asarray(opened(dicom(file)))
    file.compress(RLELossless)
    assert np.array_equal(np.asarray(opened(dicom(file))), plain)


@pytest.mark.parametrize(("syntax", "kind"), [(JPEGBaseline8Bit, "JPEG"), (JPEG2000Lossless, "JPEG2000")])
def test_frames_of_jpeg_have_their_colours(syntax: Any, kind: str) -> None:
    drawn = quarters(32, 48)
    file = dicom_file(np.asarray(drawn), "RGB")
    file.PhotometricInterpretation = "YBR_FULL_422" if kind == "JPEG" else "YBR_RCT"
    file.PixelData = encapsulate([encoded(drawn, kind)])
    file["PixelData"].is_undefined_length = True
    file.file_meta.TransferSyntaxUID = syntax
    assert near(opened(dicom(file)), 3)


def test_a_dicom_without_a_picture_says_so() -> None:
    file = dicom_file(np.zeros((4, 4), np.uint8))
    del file.PixelData
    with pytest.raises(DataError, match="without a picture"):
        decode(dicom(file), 8, 3)
