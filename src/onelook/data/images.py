"""Images decoded to one size.

A bad image among many is left out and listed with the reason; only a source without a single readable image stops
the work.
"""

import hashlib
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image, ImageOps
from torch import Tensor

from onelook.backbones.framing import Framing
from onelook.data.budget import CONTENTS, PIXELS
from onelook.data.colours import flatten
from onelook.data.listing import Listing
from onelook.data.opening import open_image
from onelook.errors import DataError, UnreachableError
from onelook.events import Progress

Result = TypeVar("Result")

PREPROCESSING = "upright, on white, middle square, bicubic, version 2"
"""Description of `decode` for the keys of caches: change it whenever a pixel would change."""


@dataclass(frozen=True)
class Rejected:
    """An image that was left out, and the reason."""

    name: str
    reason: str


Reading = Progress | Rejected
"""Events of reading images: progress, and images that are left out."""


@dataclass(frozen=True)
class ImageSet:
    """Decoded images in V views of every one: V = 1, or one view for each environment (data/glyphs.py)."""

    pixels: UInt8[Tensor, "V N C H W"]
    labels: Int[Tensor, "N"]
    class_names: tuple[str, ...]
    names: tuple[str, ...]
    digests: tuple[bytes, ...]
    """SHA-256 of the N files (or of whatever determines the pixels), the keys of cached features."""
    source: str
    rejected: tuple[Rejected, ...] = ()
    framing: Framing | None = None
    """How images became squares, for the keys of caches; None: by PREPROCESSING, or they were made so."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def views(self) -> UInt8[Tensor, "V N C H W"]:
        """The pixels, under the name that Embeddings have for theirs."""
        return self.pixels

    @property
    def environments(self) -> bool:
        return len(self.pixels) > 1


def load(
    listing: Listing, size: int, channels: int, framing: Framing | None = None
) -> Generator[Reading, None, ImageSet]:
    """Read and decode all images to `channels` × `size` × `size`, leaving out those that cannot be read.

    Raises DataError where none can.
    """

    def read(content: bytes) -> tuple[bytes, np.ndarray]:
        return hashlib.sha256(content).digest(), decode(content, size, channels, framing)

    results = yield from each_image(listing, read, "reading images")
    good = [(i, r) for i, r in enumerate(results) if not isinstance(r, Rejected)]
    rejected = tuple(r for r in results if isinstance(r, Rejected))
    yield from rejected
    require_some(len(good), listing, rejected)
    kept = listing.take([i for i, _ in good])
    return ImageSet(
        pixels=torch.from_numpy(np.stack([r[1] for _, r in good])).unsqueeze(0),
        labels=torch.tensor(kept.labels, dtype=torch.long),
        class_names=listing.class_names,
        names=kept.names,
        digests=tuple(r[0] for _, r in good),
        source=listing.source,
        rejected=rejected,
        framing=framing,
    )


def each_image(
    listing: Listing, look: Callable[[bytes], Result], stage: str
) -> Generator[Progress, None, list[Result | Rejected]]:
    """Results of `look` for the content of each image, or the reason where it fails."""
    results: list[Result | Rejected] = []
    for batch in image_batches(listing, look):
        results += batch
        yield Progress(stage, len(results), len(listing.names))
    return results


def image_batches(
    listing: Listing, look: Callable[[bytes], Result], size: int = 500
) -> Iterator[list[Result | Rejected]]:
    """`each_image`, `size` images at a time and in their order. Each file is read once. Raises UnreachableError.

    Threads do it, because Pillow and hashing let go of the interpreter lock.
    """

    def read(name: str) -> Result | Rejected:
        try:
            with CONTENTS.hold(listing.measure(name)):
                return look(listing.read(name))
        except UnreachableError:
            raise
        except Exception as error:  # what Pillow raises on damaged bytes has no common base
            return Rejected(name, describe_error(error))

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(listing.names), size):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                # A warning about a bomb must not pass as a picture.
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                batch = list(pool.map(read, listing.names[start : start + size]))
            yield batch


def require_some(n_images: int, listing: Listing, rejected: Sequence[Rejected]) -> None:
    if not n_images:
        first = f", for example {rejected[0].name}: {rejected[0].reason}" if rejected else ""
        raise DataError(f"None of the {len(listing.names)} images of {listing.source} can be read{first}.")


def decode(content: bytes, size: int, channels: int, framing: Framing | None = None) -> np.ndarray:
    """One image as uint8 C H W: upright, without transparency, its middle square scaled to `size`.

    framing: what a network asks for instead of the middle square.
    """
    # A large JPEG can be decoded at a fraction; at twice the size or more, what was published is met more closely.
    enough = 2 * framing.resize if framing else size
    with open_image(content) as picture:
        picture.reduce(enough, grey=channels == 1)
        with PIXELS.hold(picture.n_bytes):
            return image_array(picture.load(), size, channels, framing)


def image_array(
    image: Image.Image, size: int, channels: int, framing: Framing | None = None, white: float | None = None
) -> np.ndarray:
    """`decode` of an image that is open already, and upright.

    white: `find_white` of the file, where the image is a copy that does not know it.
    """
    plain = flatten(image, "RGB" if channels == 3 else "L", white)
    if framing is not None:
        box = framing.box(*plain.size, size)
        plain = plain.resize((size, size), Image.Resampling[framing.resample.upper()], box)
    elif plain.size != (size, size):
        plain = ImageOps.fit(plain, (size, size), Image.Resampling.BICUBIC)
    array = np.asarray(plain)
    return array[None] if channels == 1 else np.ascontiguousarray(array.transpose(2, 0, 1))


def describe_error(error: BaseException) -> str:
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"it has more than {(Image.MAX_IMAGE_PIXELS or 0) // 1_000_000} million pixels; make it smaller"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return " ".join(str(error).split()) or type(error).__name__
