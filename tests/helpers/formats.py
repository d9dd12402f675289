"""Files as phones, cameras and laboratories write them (HEIC, DNG, DICOM), of four quarters of one colour each."""

import base64
import io
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from helpers.images import encoded

QUARTERS = ((200, 60, 40), (60, 160, 60), (40, 60, 180), (220, 220, 210))
"""Colours of the upright picture: upper left, upper right, lower left, lower right."""


def quarters(width: int, height: int) -> Image.Image:
    image = Image.new("RGB", (2, 2))
    image.putdata(QUARTERS)
    return image.resize((width, height), Image.Resampling.NEAREST)


# 16 × 24 pixels, made by pillow-heif 1.8.1 (x265), which no test needs. As those of a phone that was held upright, the
# pixels lie on their side, and both the box irot and Exif tell so: a reader that obeys both turns them twice.
#   stored = pillow_heif.from_pillow(quarters(16, 24).transpose(Image.Transpose.ROTATE_90))
#   stored.info["exif"] = exif.tobytes()   # of an Image.Exif with the tag 274 at 6
#   stored.save(file, quality=80, save_nclx_profile=False)
HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAbNtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAADRpbG9jAA"
    "AAAERAAAIAAQAAAAAB1wABAAAAAAAAAJYAAgAAAAACbQABAAAAAAAAACQAAAA4aWluZgAAAAAAAgAAABVpbmZlAgAAAAABAABodmMxAAAAABVp"
    "bmZlAgAAAQACAABFeGlmAAAAAA5waXRtAAAAAAABAAAA8mlwcnAAAADSaXBjbwAAAHVodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGE"
    "ABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQApQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbqrprm4CGgwIAAAAyAAAADAIRiAAEABkQBwXPBiQAA"
    "ABRpc3BlAAAAAAAAAEAAAABAAAAAKGNsYXAAAAAYAAAAAQAAABAAAAAB////2AAAAAL////QAAAAAgAAABBwaXhpAAAAAAMICAgAAAAJaXJvdA"
    "MAAAAYaXBtYQAAAAAAAAABAAEFgQIEg4UAAAAaaXJlZgAAAAAAAAAOY2RzYwACAAEAAQAAAMJtZGF0AAAAkigBrwTyHknBMEJQle7zL/8U//73"
    "Pv9BQvGjSkcfE6KXF28hNFEefUDYWGxftA4rDh9SQ6aGgUCv3LrzEJTUsH0MM51k461rf/Vt4gexxLksaeZ6QeT/Ck+mTn9q39K+eB2fgw/hHi"
    "DiYTEovK9tcKJx+aoPR6Ph/uDIvQzb9wO1Lbjc9BK6JWhDuzzMEwivS0xAAAAABkV4aWYAAE1NACoAAAAIAAEBEgADAAAAAQAGAAAAAAAA"
)


def dng(width: int = 64, height: int = 48, orientation: int = 1, preview: Image.Image | None = None) -> bytes:
    """A RAW of the quarters as a sensor of red, green, green and blue sees them, turned as `orientation` tells.

    preview: a JPEG in the file's first directory, as cameras put there, with the data of the sensor in a second one.
    """
    seen = np.asarray(quarters(width, height), dtype=np.float64) / 255
    linear = np.where(seen > 0.04045, ((seen + 0.055) / 1.055) ** 2.4, seen / 12.92)  # IEC 61966-2-1
    linear = {1: linear, 3: np.rot90(linear, 2), 6: np.rot90(linear, 1), 8: np.rot90(linear, -1)}[orientation]
    channel = np.array([[0, 1], [1, 2]])[np.indices(linear.shape[:2])[0] % 2, np.indices(linear.shape[:2])[1] % 2]
    sensor = (np.take_along_axis(linear, channel[..., None], 2)[..., 0] * 16383).astype("<u2")
    xyz_to_srgb = (32405, -15371, -4985, -9693, 18760, 416, 556, -2040, 10572)  # in units of 1/10000
    about: list[tuple[int, str, Sequence[int] | bytes]] = [
        *((271, "s", b"Onelook\0"), (272, "s", b"Test\0"), (274, "H", (orientation,)), (50706, "B", (1, 4, 0, 0))),
        *((50708, "s", b"Onelook Test\0"), (50721, "r", [n for x in xyz_to_srgb for n in (x, 10000)])),
        *((50728, "R", (1, 1, 1, 1, 1, 1)), (50778, "H", (21,))),
    ]
    raw: list[tuple[int, str, Sequence[int] | bytes]] = [
        *((254, "I", (0,)), (256, "I", (sensor.shape[1],)), (257, "I", (sensor.shape[0],)), (258, "H", (16,))),
        *((259, "H", (1,)), (262, "H", (32803,)), (277, "H", (1,)), (278, "I", (sensor.shape[0],))),
        *((33421, "H", (2, 2)), (33422, "B", (0, 1, 1, 2)), (50714, "H", (0,)), (50717, "I", (16383,))),
    ]
    if preview is None:
        return tiff([[*raw, *about]], [sensor.tobytes()])
    jpeg = encoded(preview, "JPEG", quality=95)
    small: list[tuple[int, str, Sequence[int] | bytes]] = [
        *((254, "I", (1,)), (256, "I", (preview.width,)), (257, "I", (preview.height,)), (258, "H", (8, 8, 8))),
        *((259, "H", (7,)), (262, "H", (6,)), (277, "H", (3,)), (278, "I", (preview.height,))),
    ]
    return tiff([[*small, *about], raw], [jpeg, sensor.tobytes()])


KINDS = {"B": (1, "B"), "s": (2, ""), "H": (3, "H"), "I": (4, "I"), "R": (5, "I"), "r": (10, "i")}
"""Types of the values of TIFF, and how they are packed."""


def tiff(directories: list[list[tuple[int, str, Sequence[int] | bytes]]], strips: list[bytes]) -> bytes:
    """A TIFF of one strip for each directory; those after the first are its sub-images."""
    starts = [8 + sum(len(strip) + len(strip) % 2 for strip in strips[:i]) for i in range(len(strips) + 1)]
    body, places = b"".join(strip + bytes(len(strip) % 2) for strip in strips), list[int]()
    for i in reversed(range(len(directories))):
        tags = [*directories[i], (273, "I", (starts[i],)), (279, "I", (len(strips[i]),))]
        tags += [(330, "I", tuple(places))] if i == 0 and places else []
        places.insert(0, 8 + len(body))
        body += _directory(sorted(tags, key=lambda tag: tag[0]), places[0])
    return struct.pack("<2sHI", b"II", 42, places[0]) + body


def _directory(tags: list[tuple[int, str, Sequence[int] | bytes]], place: int) -> bytes:
    entries, beyond = b"", b""
    for number, kind, values in tags:
        code, pack = KINDS[kind]
        content = values if isinstance(values, bytes) else struct.pack(f"<{len(values)}{pack}", *values)
        count = len(values) // (2 if kind in "Rr" else 1)
        if len(content) > 4:
            at = place + 6 + 12 * len(tags) + len(beyond)
            beyond += content + bytes(len(content) % 2)
            content = struct.pack("<I", at)
        entries += struct.pack("<HHI", number, code, count) + content.ljust(4, b"\0")
    return struct.pack("<H", len(tags)) + entries + bytes(4) + beyond


def dicom_file(pixels: np.ndarray, photometric: str = "MONOCHROME2", **about: Any) -> Dataset:
    """A DICOM of (frames,) rows, columns (, colours) in whole numbers; `about` are further elements, by keyword."""
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = SecondaryCaptureImageStorage
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = "1.2.3.4"
    colours = photometric in ("RGB", "YBR_FULL")
    shape = pixels.shape[:-1] if colours else pixels.shape
    if len(shape) == 3:
        file.NumberOfFrames = shape[0]
    file.Rows, file.Columns = shape[-2:]
    file.SamplesPerPixel, file.PhotometricInterpretation = 3 if colours else 1, photometric
    if colours:
        file.PlanarConfiguration = 0
    bits = 8 * pixels.itemsize
    file.BitsAllocated, file.BitsStored, file.HighBit = bits, bits, bits - 1
    file.PixelRepresentation = int(pixels.dtype.kind == "i")
    file.PixelData = pixels.tobytes()
    for name, value in about.items():
        setattr(file, name, value)
    return file


def dicom(file: Dataset) -> bytes:
    stream = io.BytesIO()
    file.save_as(stream, enforce_file_format=True)
    return stream.getvalue()
