"""Small pictures of images for a page, kept in a cache folder under a name that changes when the file does."""

import hashlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from onelook.data.budget import PIXELS
from onelook.data.colours import flatten
from onelook.data.listing import LARGEST
from onelook.data.opening import open_image
from onelook.errors import DataError, StorageError
from onelook.files import read_regular, write_atomically

SIDES = {"small": 256, "large": 1600}
"""Largest side of a picture, in pixels."""
MOST_PIXELS = 100_000_000


def stamp(folder: Path, name: str) -> str:
    """Name of the version of a file that is there now: by its name, size and time of change."""
    try:
        about = (folder / name).stat()
        words = f"{name}\0{about.st_size}\0{about.st_mtime_ns}"
    except OSError:
        words = name
    return hashlib.sha256(words.encode("utf-8", "surrogateescape")).hexdigest()[:24]


@dataclass(frozen=True)
class Pictures:
    """Pictures of the images of a folder."""

    folder: Path
    cache: Path

    def read(self, name: str, version: str, size: str) -> bytes:
        """A WebP of an image, upright and on white. Raises DataError where there is none.

        size: a key of SIDES. version: its `stamp`.
        """
        path = self.cache / "pictures" / size / version[:2] / f"{version}.webp"
        try:
            return path.read_bytes()
        except OSError:
            content = make_picture(self.folder / name, SIDES[size])
        try:
            write_atomically(path, content)
        except StorageError:  # a full disk is no reason to show nothing
            return content
        return content


def make_picture(path: Path, side: int) -> bytes:
    """A WebP of an image file, at most `side` pixels wide and high. Raises DataError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_image(read_regular(path, LARGEST)) as image:
                if image.size[0] * image.size[1] > MOST_PIXELS:
                    raise DataError("it has too many pixels for a picture on a page")
                image.reduce(side, grey=False)
                with PIXELS.hold(image.n_bytes):
                    return _encode(flatten(image.load(), "RGB"), side)
    except DataError:
        raise
    except Exception as error:  # what Pillow raises on damaged bytes has no common base
        raise DataError(f"No picture can be made of an image: {error or type(error).__name__}") from error


def _encode(image: Image.Image, side: int) -> bytes:
    picture = image.copy()
    picture.thumbnail((side, side), Image.Resampling.BICUBIC, reducing_gap=2.0)
    stream = io.BytesIO()
    picture.save(stream, "WEBP", quality=80, method=2)
    return stream.getvalue()
