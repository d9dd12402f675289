"""Image files opened as far as their header, whatever their format, and decoded when there is memory for it."""

import contextlib
import io
from collections.abc import Callable, Iterator

from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from onelook.data.colours import BITS
from onelook.data.extras import ORIENTATION, Dicom, Heic, Picture, Raw
from onelook.data.formats import DICOM, FORMATS, HEIC, IMAGE, OTHER, RAW, Kind, identify
from onelook.errors import DataError

TURNED = (5, 6, 7, 8)
"""Orientations of Exif in which width and height change places."""
SUBFILE_TYPE, SUB_IMAGES, PHOTOMETRIC, DNG_VERSION = 254, 330, 262, 50706
"""Tags of TIFF."""
PNG_BITS = 24
"""Place of the number of bits in a PNG."""
TIFF_HEADS = (b"II*\0", b"MM\0*")
OF_SENSORS = (32803, 34892)
"""Photometric interpretations of camera RAW."""
NARROW = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}
"""Bytes of a pixel of Pillow; all other modes have 4."""
WORKSPACE = {"JPEG": 3, "JPEG2000": 16, "WEBP": 8, "AVIF": 8}
"""Bytes that decoding takes for each pixel of the file besides the image that it gives."""


class _Plain(Picture):
    """An image of Pillow."""

    def __init__(self, image: Image.Image, content: bytes) -> None:
        self.image, self._content = image, content
        if image.format == "PNG" and content[PNG_BITS] == 16:
            image.info[BITS] = (16,)
        width, height = self._decoded = image.size
        self.size = (height, width) if _is_turned(image) else (width, height)

    @property
    def n_bytes(self) -> int:
        n_pixels, pixel = self.image.width * self.image.height, NARROW.get(self.image.mode, 4)
        work = self._decoded[0] * self._decoded[1] * WORKSPACE.get(self.image.format or "", 1)
        return n_pixels * (2 * pixel + 4) + work  # decoded, turned, and in the colours of a network

    def reduce(self, enough: int, grey: bool) -> None:
        if isinstance(self.image, Jpeg2KImageFile):
            steps = (k for k in range(_count_levels(self._content), 0, -1) if min(self.size) >> k >= enough)
            self.image.reduce = step = next(steps, 0)
            self._decoded = (self.size[0] >> step, self.size[1] >> step)
        else:
            self.image.draft("L" if grey else "RGB", (enough, enough))

    def load(self) -> Image.Image:
        ImageOps.exif_transpose(self.image, in_place=True)
        return self.image


def _is_turned(image: Image.Image) -> bool:
    # Pillow turns a TIFF itself, and decodes a PNG to find Exif behind its pixels.
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return False
    return image.getexif().get(ORIENTATION) in TURNED


def _count_levels(content: bytes) -> int:
    """How often a JPEG 2000 can be halved while it is decoded (ISO 15444-1, A.6.1)."""
    at = content.find(b"\xff\x52\0", 0, 1 << 16)
    return min(content[at + 9], 32) if 0 <= at < len(content) - 9 else 0


READERS: dict[Kind, Callable[[bytes], Picture]] = {HEIC: Heic, RAW: Raw, DICOM: Dicom}


@contextlib.contextmanager
def open_image(content: bytes) -> Iterator[Picture]:
    """Read the header of an image. Raises DataError, and whatever a library raises on damaged bytes."""
    kind = RAW if _is_raw(content) else identify(content)
    if kind in READERS:
        yield _open_with_extra(kind, content)
        return
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            require_size(image.size)
            yield _Plain(image, content)
    except UnidentifiedImageError as error:
        raise DataError(_describe(kind, content)) from error


def require_size(size: tuple[int, int]) -> None:
    """Raises DecompressionBombError."""
    if Image.MAX_IMAGE_PIXELS is not None and size[0] * size[1] > Image.MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError


def _open_with_extra(kind: Kind, content: bytes) -> Picture:
    if not kind.readable:
        raise DataError(f"{kind.name}; {kind.remedy}")
    picture = READERS[kind](content)
    require_size(picture.size)
    return picture


def _is_raw(content: bytes) -> bool:
    """Whether a TIFF is of a camera: Pillow would not know it, or take a thumbnail for the image."""
    if content[:4] not in TIFF_HEADS:
        return False
    with contextlib.suppress(Exception):  # what Pillow raises on damaged bytes has no common base
        stream, tags = io.BytesIO(content), ImageFileDirectory_v2(content[:8])
        stream.seek(tags.next)
        tags.load(stream)
        thumbnail = tags.get(SUBFILE_TYPE, 0) & 1 and SUB_IMAGES in tags
        return bool(DNG_VERSION in tags or tags.get(PHOTOMETRIC) in OF_SENSORS or thumbnail)
    return False


def _describe(kind: Kind, content: bytes) -> str:
    if not content:
        return "it is empty"
    if kind in (IMAGE, OTHER):
        return "it is not an image" if kind is OTHER else "it is damaged or of a kind that is not read"
    return f"{kind.name}; {kind.remedy}"
