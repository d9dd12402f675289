"""Image files that packages of their own read: HEIC of phones, RAW of cameras, DICOM of laboratories and hospitals."""

import importlib
import io
import warnings
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image, ImageOps

from onelook.errors import DataError

TURNS = {3: Image.Transpose.ROTATE_180, 5: Image.Transpose.ROTATE_90, 6: Image.Transpose.ROTATE_270}
"""Orientations of LibRaw, and what makes the image upright."""
ORIENTATION = 274
"""Tag of Exif."""


class Picture:
    """An image file whose header was read."""

    size: tuple[int, int]
    """Width and height of the upright image."""

    @property
    def n_bytes(self) -> int:
        """Memory that decoding takes."""
        raise NotImplementedError

    def reduce(self, enough: int, grey: bool) -> None:
        """Decode at a fraction of the size where that is cheaper and leaves both sides at `enough` pixels or more."""

    def load(self) -> Image.Image:
        """Decode the image, upright."""
        raise NotImplementedError


class Heic(Picture):
    """HEIC and HEIF, by libheif, which also turns them upright."""

    def __init__(self, content: bytes) -> None:
        self._image = importlib.import_module("pi_heif").open_heif(content)
        self.size: tuple[int, int] = self._image.size

    @property
    def n_bytes(self) -> int:
        return self.size[0] * self.size[1] * 14  # planes, their colours, the image, and it without transparency

    def load(self) -> Image.Image:
        image: Image.Image = self._image.to_pillow()
        del self._image
        return image


class Raw(Picture):
    """RAW of a camera, by LibRaw: the preview in the file where it is large enough, or else developed here."""

    def __init__(self, content: bytes) -> None:
        self._package = importlib.import_module("rawpy")
        self._file = self._package.imread(io.BytesIO(content))
        sizes = self._file.sizes
        self._flip = sizes.flip
        self.size: tuple[int, int] = (sizes.width, sizes.height)
        if self._flip in (5, 6):
            self.size = (sizes.height, sizes.width)
        self._n_pixels = sizes.raw_width * sizes.raw_height
        self._halved = False
        self._preview: Image.Image | None = None

    @property
    def n_bytes(self) -> int:
        if self._preview is not None:
            return self._preview.width * self._preview.height * 12
        return int(self._n_pixels) * (2 + (4 if self._halved else 16))

    def reduce(self, enough: int, grey: bool) -> None:
        self._halved = min(self.size) // 2 >= enough
        preview = self._find_preview()
        if preview is not None and min(preview.size) >= enough:
            preview.draft("L" if grey else "RGB", (enough, enough))
            self._preview = preview

    def _find_preview(self) -> Image.Image | None:
        try:
            preview = self._file.extract_thumb()
        except self._package.LibRawError:
            return None
        if preview.format != self._package.ThumbFormat.JPEG:
            return None
        image = Image.open(io.BytesIO(preview.data), formats=("JPEG",))
        ratio = max(image.size) / min(image.size) * min(self.size) / max(self.size)
        return image if 0.9 < ratio < 1.1 else None  # of another shape: cut by the camera

    def load(self) -> Image.Image:
        if self._preview is None:
            # Thresholds of brightness are those of LibRaw, as of a camera's own pictures.
            return Image.fromarray(self._file.postprocess(use_camera_wb=True, half_size=self._halved, output_bps=8))
        if self._preview.getexif().get(ORIENTATION) is None and self._flip in TURNS:
            return self._preview.transpose(TURNS[self._flip])
        return ImageOps.exif_transpose(self._preview)


class Dicom(Picture):
    """DICOM, by pydicom: the middle frame, in the window that the file asks for."""

    def __init__(self, content: bytes) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._file = importlib.import_module("pydicom").dcmread(io.BytesIO(content))
        if "Rows" not in self._file or "PixelData" not in self._file:
            raise DataError("it is a DICOM file without a picture")
        self.size: tuple[int, int] = (int(self._file.Columns), int(self._file.Rows))

    @property
    def n_bytes(self) -> int:
        return self.size[0] * self.size[1] * 24 * int(self._file.get("SamplesPerPixel", 1))  # some of it in float64

    def load(self) -> Image.Image:
        n_frames = int(self._file.get("NumberOfFrames") or 1)
        pixels = importlib.import_module("pydicom.pixels")
        try:
            frame = pixels.pixel_array(self._file, index=n_frames // 2)
        except RuntimeError as error:
            if not self._file.file_meta.TransferSyntaxUID.is_compressed:
                raise
            name = self._file.file_meta.TransferSyntaxUID.name
            raise DataError(
                f"its pixels are compressed as {name}, which this pydicom cannot decompress; "
                f"pip install pylibjpeg[all], or save it uncompressed"
            ) from error
        if self._file.PhotometricInterpretation == "PALETTE COLOR":
            frame = _to_bytes(pixels.apply_color_lut(frame, self._file))
        return Image.fromarray(self._grey(frame, pixels) if frame.ndim == 2 else _to_bytes(frame))

    def _grey(self, frame: Shaped[np.ndarray, "H W"], pixels: Any) -> UInt8[np.ndarray, "H W"]:
        values = pixels.apply_modality_lut(frame, self._file).astype(np.float32)
        low, high = float(values.min()), float(values.max())
        if self._file.get("WindowWidth") is not None and self._file.get("WindowCenter") is not None:
            centre, width = (float(np.ravel(self._file[name].value)[0]) for name in ("WindowCenter", "WindowWidth"))
            # DICOM PS3.3, C.11.2.1.2: the linear function of a window.
            low, high = centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2
        elif "VOILUTSequence" in self._file:
            values = pixels.apply_voi_lut(values.astype(np.int64), self._file).astype(np.float32)
            low, high = 0.0, 2.0 ** int(self._file.VOILUTSequence[0].LUTDescriptor[2]) - 1
        values -= low
        values *= 255 / max(high - low, 1e-9)
        grey: np.ndarray = values.clip(0, 255, out=values).round().astype(np.uint8)
        return 255 - grey if self._file.PhotometricInterpretation == "MONOCHROME1" else grey


def _to_bytes(frame: Shaped[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    return frame if frame.dtype == np.uint8 else (frame >> 8 * (frame.dtype.itemsize - 1)).astype(np.uint8)
