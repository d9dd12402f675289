"""Images from folders, archives and tables: listed first, then decoded to one size.

A bad image among many does not stop the work: it is left out and listed with the reason. What stops the work is a
source without a single readable image.
"""

import csv
import hashlib
import io
import lzma
import os
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePath, PurePosixPath
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from onelook.errors import DataError
from onelook.events import Progress

Result = TypeVar("Result")

SPLITS = ("train", "val", "test")
PREPROCESSING = "upright, on white, middle square, bicubic, version 1"
"""What `decode` does, for the keys of caches: change it whenever a pixel would change."""
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""Nothing else is tried on a file, whatever its name: Pillow would start other programs for some formats (EPS)."""


@dataclass(frozen=True)
class Listing:
    """Which image files there are and the class of each. Nothing is read yet."""

    names: tuple[str, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...]
    source: str
    read: Callable[[str], bytes]
    """From a name to the bytes of the file; raises OSError."""
    split: str | None = None
    """Which split of its own division the source was asked for; None where it is not divided."""

    def take(self, rows: Sequence[int]) -> "Listing":
        """Some of the images; the classes stay what they are."""
        names = tuple(self.names[i] for i in rows)
        return replace(self, names=names, labels=tuple(self.labels[i] for i in rows))


@dataclass(frozen=True)
class Rejected:
    """An image that was left out, and why."""

    name: str
    reason: str


Reading = Progress | Rejected
"""The events of reading images: how far it is, and then what was left out."""


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
    if source.suffix.lower() == ".zip" or zipfile.is_zipfile(source):
        return _list_zip(source, split)
    raise DataError(f"{source} is neither a folder nor a zip nor a CSV (filename,label); give one of these.")


def load(listing: Listing, size: int, channels: int) -> Generator[Reading, None, ImageSet]:
    """Read and decode all images to `channels` × `size` × `size`, leaving out those that cannot be read.

    Raises DataError where none can.
    """
    images = yield from load_any(listing, size, channels)
    require_some(len(images), listing, images.rejected)
    return images


def load_any(listing: Listing, size: int, channels: int) -> Generator[Reading, None, ImageSet]:
    """`load`, content with no image at all."""

    def read(name: str) -> tuple[bytes, np.ndarray] | Rejected:
        try:
            content = listing.read(name)
            return hashlib.sha256(content).digest(), decode(content, size, channels)
        except Exception as error:  # what Pillow raises on damaged bytes has no common base
            return Rejected(name, _reason(error))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # A warning about a bomb must not pass as a picture.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        results = yield from _in_parallel(read, listing.names, "reading images")
    good = [(i, r) for i, r in enumerate(results) if not isinstance(r, Rejected)]
    rejected = tuple(r for r in results if isinstance(r, Rejected))
    yield from rejected
    pixels = np.stack([r[1] for _, r in good]) if good else np.empty((0, channels, size, size), np.uint8)
    kept = listing.take([i for i, _ in good])
    return ImageSet(
        pixels=torch.from_numpy(pixels).unsqueeze(0),
        labels=torch.tensor(kept.labels, dtype=torch.long),
        class_names=listing.class_names,
        names=kept.names,
        digests=tuple(r[0] for _, r in good),
        source=listing.source,
        rejected=rejected,
    )


def fingerprint(listing: Listing) -> Generator[Progress, None, list[bytes | None]]:
    """SHA-256 of each file; None for one that cannot be read. Nothing is decoded."""

    def read(name: str) -> bytes | None:
        try:
            return hashlib.sha256(listing.read(name)).digest()
        except (OSError, ValueError):  # a name that cannot be one, such as with a zero byte in it
            return None

    return (yield from _in_parallel(read, listing.names, "reading files"))


def require_some(n_images: int, listing: Listing, rejected: Sequence[Rejected]) -> None:
    if not n_images:
        first = f", for example {rejected[0].name}: {rejected[0].reason}" if rejected else ""
        raise DataError(f"None of the {len(listing.names)} images of {listing.source} can be read{first}.")


def _in_parallel(
    function: Callable[[str], Result], names: Sequence[str], stage: str
) -> Generator[Progress, None, list[Result]]:
    """Results in the order of the names. Pillow and hashing let go of the interpreter lock."""
    results: list[Result] = []
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(names), 500):
            results += pool.map(function, names[start : start + 500])
            yield Progress(stage, len(results), len(names))
    return results


def decode(content: bytes, size: int, channels: int) -> np.ndarray:
    """One image as uint8 C H W: upright, without transparency, its middle square scaled to `size`."""
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        image.draft("RGB" if channels == 3 else "L", (size, size))  # lets a large JPEG be decoded at a fraction
        upright = ImageOps.exif_transpose(image)
        plain = _without_alpha(_eight_bit(upright)).convert("RGB" if channels == 3 else "L")
        if plain.size != (size, size):
            plain = ImageOps.fit(plain, (size, size), Image.Resampling.BICUBIC)
        array = np.asarray(plain)
    return array[None] if channels == 1 else np.ascontiguousarray(array.transpose(2, 0, 1))


def _eight_bit(image: Image.Image) -> Image.Image:
    """Pillow would cut these at 255. Here 255 stands for 65535 or 1.0, or for the largest pixel where that is more."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0)
    top = max(65535.0 if image.mode.startswith("I") else 1.0, float(values.max(initial=0)))
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
    names = [
        name for name in _files_below(folder)
        if PurePosixPath(name).suffix.lower() in SUFFIXES and not _hidden(PurePosixPath(name))
    ]  # fmt: skip
    return _listing(names, str(folder), split, lambda name: (folder / name).read_bytes())


def _files_below(folder: Path) -> Iterator[str]:
    """Relative names of all files, also behind links to folders, but not round in circles. Raises OSError."""

    def complain(error: OSError) -> None:
        raise error

    for place, folders, files in os.walk(folder, onerror=complain, followlinks=True):
        here = Path(place)
        if links := {f for f in folders if (here / f).is_symlink()}:
            entered = {p.resolve() for p in (here, *here.parents) if p.is_relative_to(folder)}
            folders[:] = [f for f in folders if f not in links or (here / f).resolve() not in entered]
        yield from ((here / file).relative_to(folder).as_posix() for file in files)


DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError, struct.error)
"""What zipfile raises on an archive that is damaged, locked with a password or of an unknown compression."""


def _list_zip(path: Path, split: str | None) -> Listing:
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, *DAMAGED) as error:
        raise DataError(f"{path} cannot be opened as a zip ({error}); copy or download it again.") from error
    names = [
        entry.filename for entry in archive.infolist() if not entry.is_dir()
        and PurePosixPath(entry.filename).suffix.lower() in SUFFIXES and not _hidden(PurePosixPath(entry.filename))
    ]  # fmt: skip

    def read(name: str) -> bytes:
        try:
            return archive.read(name)
        except (OSError, *DAMAGED) as error:
            raise OSError(f"it cannot be taken out of the archive: {error}") from error

    return _listing(names, str(path), split, read)


def _hidden(path: PurePath) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def _listing(names: list[str], source: str, split: str | None, read: Callable[[str], bytes]) -> Listing:
    """Classes are the folders; a first level of train, val and test is a split and never a class."""
    if not names:
        raise DataError(f"{source} holds no images ({', '.join(SUFFIXES)}); expected a folder for each class.")
    parts = {name: PurePosixPath(name).parts for name in names}
    names = sorted(names, key=lambda name: parts[name])  # alike for a folder and its zip
    parts = _without_wrapping(parts)
    tops = {p[0] for p in parts.values() if len(p) > 1}
    # A folder "train" with images right inside, beside other classes, is a class: of vehicles, perhaps.
    divided = tops <= set(SPLITS) or any(len(p) > 2 and p[0] in SPLITS for p in parts.values())
    found = [s for s in SPLITS if divided and s in tops]
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
    if not found:
        return _with_classes(names, [classes[name] for name in names], source, read)
    return replace(_with_classes(names, [classes[name] for name in names], f"{source}:{split}", read), split=split)


def _without_wrapping(parts: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Without the one folder that holds everything, as in an archive made of a folder; it would hide the splits."""
    tops = {p[0] for p in parts.values()}
    if len(tops) == 1 and tops.isdisjoint(SPLITS) and all(len(p) > 2 for p in parts.values()):
        return _without_wrapping({name: p[1:] for name, p in parts.items()})
    return parts


def _list_table(table: Path, split: str | None) -> Listing:
    """A CSV with the columns filename and label, and if it has one, split; file names are relative to its folder."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or [])
            rows = [(reader.line_num, row) for row in reader]
    except UnicodeDecodeError as error:
        raise DataError(f"{table} is not UTF-8 text ({error.reason}, byte {error.start}); save it as such.") from error
    except (OSError, csv.Error) as error:
        raise DataError(f"{table} cannot be read as a CSV ({error}).") from error
    if not {"filename", "label"} <= set(columns):
        raise DataError(f"{table} needs the columns filename and label, but has {', '.join(columns) or 'none'}.")
    if not rows:
        raise DataError(f"{table} has no rows below its columns; expected one for each image.")
    for number, row in rows:
        if not (row["filename"] or "").strip() or not (row["label"] or "").strip():
            raise DataError(f"{table}, line {number}: filename or label is empty; fill it or remove the line.")
    own = split if "split" in columns else None
    kept = [row for _, row in rows if own is None or row["split"] == own]
    if not kept:
        found = ", ".join(sorted({str(row["split"]) for _, row in rows}))
        raise DataError(f"{table} has no row of the split {split!r}, but {found}.")
    names, labels = [row["filename"] for row in kept], [row["label"] for row in kept]
    listing = _with_classes(names, labels, str(table), lambda name: (table.parent / name).read_bytes())
    return replace(listing, source=f"{table}:{own}", split=own) if own else listing


def _with_classes(names: Iterable[str], classes: list[str], source: str, read: Callable[[str], bytes]) -> Listing:
    class_names = tuple(sorted(set(classes)))
    index = {name: k for k, name in enumerate(class_names)}
    return Listing(tuple(names), tuple(index[c] for c in classes), class_names, source, read)
