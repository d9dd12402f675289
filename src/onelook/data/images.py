"""Images from folders, archives and tables: listed first, then decoded to one size.

A bad image among many does not stop the work: it is left out and listed with the reason. What stops the work is a
source without a single readable image.
"""

import csv
import hashlib
import io
import warnings
import zipfile
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from onelook.errors import DataError
from onelook.events import Progress

SPLITS = ("train", "val", "test")
PREPROCESSING = "upright, on white, middle square, bicubic, version 1"
"""What `decode` does, for the keys of caches: change it whenever a pixel would change."""
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Listing:
    """Which image files there are and the class of each. Nothing is read yet."""

    names: tuple[str, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...]
    source: str
    read: Callable[[str], bytes]
    """From a name to the bytes of the file; raises OSError."""


@dataclass(frozen=True)
class Rejected:
    """An image that was left out, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class ImageSet:
    """Decoded images in V views of every one: V = 1, or one view for each environment (data/glyphs.py)."""

    pixels: UInt8[Tensor, "V N C H W"]
    labels: Int[Tensor, "N"]
    class_names: tuple[str, ...]
    names: tuple[str, ...]
    digests: tuple[bytes, ...]
    """SHA-256 of the N files (or of whatever determines the pixels), the key of the embedding cache."""
    source: str
    rejected: tuple[Rejected, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    @property
    def views(self) -> UInt8[Tensor, "V N C H W"]:
        """The pixels, under the name that Embeddings have for theirs."""
        return self.pixels

    @property
    def environments(self) -> bool:
        return len(self.pixels) > 1


def list_images(source: Path, split: str | None = None) -> Listing:
    """The images of a folder of class folders, a zip of the same, or a CSV (`filename,label`) beside its images.

    split: where the top level holds train, val and test, the one to take. Raises DataError.
    """
    if source.is_dir():
        return _list_folder(source, split)
    if not source.exists():
        raise DataError(f"There is no file or folder {source}; give a folder of class folders, a zip of it, or a CSV.")
    if source.suffix.lower() == ".csv":
        return _list_table(source, split)
    if zipfile.is_zipfile(source):
        return _list_zip(source, split)
    raise DataError(f"{source} is neither a folder nor a zip nor a CSV (filename,label); give one of these.")


def load(listing: Listing, size: int, channels: int) -> Generator[Progress, None, ImageSet]:
    """Read and decode all images to `channels` × `size` × `size`, leaving out those that cannot be read."""
    kept: list[int] = []
    pixels: list[np.ndarray] = []
    digests: list[bytes] = []
    rejected: list[Rejected] = []

    def read(name: str) -> tuple[bytes, np.ndarray] | Rejected:
        try:
            content = listing.read(name)
            return hashlib.sha256(content).digest(), decode(content, size, channels)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Warning) as error:
            return Rejected(name, _reason(error))

    total = len(listing.names)
    # Pillow lets go of the interpreter lock while it decodes; a warning about a bomb must not pass as a picture.
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for i, result in enumerate(pool.map(read, listing.names)):
            if isinstance(result, Rejected):
                rejected.append(result)
            else:
                kept.append(i)
                digests.append(result[0])
                pixels.append(result[1])
            if i % 500 == 499 or i == total - 1:
                yield Progress("reading images", i + 1, total)
    if not kept:
        first = f", for example {rejected[0].name}: {rejected[0].reason}" if rejected else ""
        raise DataError(f"None of the {total} images of {listing.source} can be read{first}.")
    return ImageSet(
        pixels=torch.from_numpy(np.stack(pixels)).unsqueeze(0),
        labels=torch.tensor([listing.labels[i] for i in kept]),
        class_names=listing.class_names,
        names=tuple(listing.names[i] for i in kept),
        digests=tuple(digests),
        source=listing.source,
        rejected=tuple(rejected),
    )


def decode(content: bytes, size: int, channels: int) -> np.ndarray:
    """One image as uint8 C H W: upright, without transparency, its middle square scaled to `size`."""
    with Image.open(io.BytesIO(content)) as image:
        image.draft("RGB" if channels == 3 else "L", (size, size))  # lets a large JPEG be decoded at a fraction
        upright = ImageOps.exif_transpose(image)
        plain = _without_alpha(_eight_bit(upright)).convert("RGB" if channels == 3 else "L")
        if plain.size != (size, size):
            plain = ImageOps.fit(plain, (size, size), Image.Resampling.BICUBIC)
        array = np.asarray(plain)
    return array[None] if channels == 1 else np.ascontiguousarray(array.transpose(2, 0, 1))


def _eight_bit(image: Image.Image) -> Image.Image:
    """Pillow would cut 16-bit and floating pixels at 255; they are scaled by the range of their type instead."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image, dtype=np.float64)
    top = 65535.0 if image.mode.startswith("I") else max(1.0, float(values.max(initial=0)))
    return Image.fromarray((values.clip(0, top) * (255 / top)).round().astype(np.uint8))


def _without_alpha(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)


def _reason(error: BaseException) -> str:
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"it has more than {(Image.MAX_IMAGE_PIXELS or 0) // 1_000_000} million pixels"
    if isinstance(error, UnidentifiedImageError):
        return "it is not an image"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return " ".join(str(error).split()) or type(error).__name__


def _list_folder(folder: Path, split: str | None) -> Listing:
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not _hidden(p.relative_to(folder)))
    names = [p.relative_to(folder).as_posix() for p in paths]
    return _listing(names, str(folder), split, lambda name: (folder / name).read_bytes())


def _list_zip(path: Path, split: str | None) -> Listing:
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be opened as a zip ({error}); copy or download it again.") from error
    names = sorted(
        name for name in archive.namelist()
        if PurePosixPath(name).suffix.lower() in SUFFIXES and not _hidden(PurePosixPath(name))
    )  # fmt: skip

    def read(name: str) -> bytes:
        try:
            return archive.read(name)
        except (zipfile.BadZipFile, zipfile.zlib.error) as error:  # type: ignore[attr-defined]
            raise OSError(f"damaged in the archive: {error}") from error

    return _listing(names, str(path), split, read)


def _hidden(path: PurePath) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def _listing(names: list[str], source: str, split: str | None, read: Callable[[str], bytes]) -> Listing:
    """Classes are the folders; a first level of train, val and test is a split and never a class."""
    if not names:
        raise DataError(f"{source} holds no images ({', '.join(SUFFIXES)}); expected a folder for each class.")
    parts = {name: PurePosixPath(name).parts for name in names}
    found = [s for s in SPLITS if any(len(p) > 2 and p[0] == s for p in parts.values())]
    if found and split is not None:
        if split not in found:
            raise DataError(f"{source} has no split named {split!r}, but {', '.join(found)}.")
        names = [name for name in names if parts[name][0] == split]
        classes = {name: "/".join(parts[name][1:-1]) for name in names}
    elif found:
        raise DataError(f"{source} is divided into {', '.join(found)}; say which one with --split.")
    else:
        classes = {name: "/".join(parts[name][:-1]) for name in names}
    loose = [name for name in names if not classes[name]]
    if loose:
        raise DataError(
            f"{len(loose)} images of {source} lie in no class folder, {loose[0]} first; put each in its class."
        )
    where = f"{source}:{split}" if found else source
    return _with_classes(names, [classes[name] for name in names], where, read)


def _list_table(table: Path, split: str | None) -> Listing:
    """A CSV with the columns filename and label, and if it has one, split; file names are relative to its folder."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table} cannot be read as a CSV ({error}).") from error
    columns = list(rows[0]) if rows else []
    if not {"filename", "label"} <= set(columns):
        raise DataError(
            f"{table} needs the columns filename and label, but has {', '.join(map(str, columns)) or 'no rows'}."
        )
    if "split" in columns and split is not None:
        rows = [row for row in rows if row["split"] == split]
    if not rows:
        raise DataError(f"{table} has no row of the split {split!r}.")
    for number, row in enumerate(rows, 2):
        if not row["filename"] or not row["label"]:
            raise DataError(f"{table}, line {number}: filename or label is empty; fill it or remove the line.")
    names, labels = [row["filename"] for row in rows], [row["label"] for row in rows]
    return _with_classes(names, labels, str(table), lambda name: (table.parent / name).read_bytes())


def _with_classes(names: Iterable[str], classes: list[str], source: str, read: Callable[[str], bytes]) -> Listing:
    class_names = tuple(sorted(set(classes)))
    index = {name: k for k, name in enumerate(class_names)}
    return Listing(tuple(names), tuple(index[c] for c in classes), class_names, source, read)
