"""Lists of the images of a folder, an archive or a table. No image is read here."""

import errno
import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath, PurePosixPath

from onelook.data.formats import has_image_suffix
from onelook.data.tables import PARQUET, read_labels
from onelook.errors import DataError
from onelook.files import is_regular, read_regular

SPLITS = ("train", "val", "test")
LARGEST = 1 << 30
"""Bytes of a file that no image has, and no memory should be asked for."""


@dataclass(frozen=True)
class Listing:
    """Image files and the class of each."""

    names: tuple[str, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...]
    source: str
    read: Callable[[str], bytes]
    """Returns the bytes of a file by its name; raises OSError."""
    measure: Callable[[str], int] = lambda _: 0
    """Returns the number of bytes of a file before it is read, where that is known; raises OSError."""
    split: str | None = None
    """The split that was taken, where the source has splits of its own."""

    def take(self, rows: Sequence[int]) -> "Listing":
        """A selection of the images; the classes stay what they are."""
        names = tuple(self.names[i] for i in rows)
        return replace(self, names=names, labels=tuple(self.labels[i] for i in rows))


def list_images(source: Path, split: str | None = None) -> Listing:
    """List the images of a folder of class folders, a zip of it, or a table (`path,label`) beside its images.

    split: where the top level holds train, val and test, the one to take. Raises DataError.
    """
    if source.is_dir():
        return replace(_listing(files_below(source), str(source), split, read_below(source)), measure=measure(source))
    if not source.exists():
        raise DataError(f"There is no file or folder {source}; give a folder of class folders, a zip, or a table.")
    if not is_regular(source):
        raise DataError(f"{source} is neither a folder nor a regular file; give a folder, a zip, or a table.")
    if source.suffix.lower() in (".csv", ".tsv", *PARQUET):
        return _list_table(source, split)
    if source.suffix.lower() == ".zip" or zipfile.is_zipfile(source):
        return _list_zip(source, split)
    raise DataError(f"{source} is neither a folder nor a zip nor a table (path,label); give one of these.")


def read_below(folder: Path) -> Callable[[str], bytes]:
    """The `read` of a listing of files in a folder."""
    return lambda name: read_regular(folder / name, LARGEST)


def measure(folder: Path) -> Callable[[str], int]:
    """The `measure` of a listing of files in a folder."""
    return lambda name: (folder / name).stat().st_size


def _complain(error: OSError) -> None:
    if error.errno != errno.ELOOP:
        raise error


def files_below(folder: Path, complain: Callable[[OSError], None] = _complain) -> Iterator[str]:
    """Relative names of all files, also behind links to folders, but not round in circles, and through no link twice.

    complain: called with the OSError of a folder that cannot be read, or that a link leads back to; raises the first
        by default.
    """
    entered: set[Path] = set()
    for place, folders, files in os.walk(folder, onerror=complain, followlinks=True):
        here = Path(place)
        if links := [f for f in folders if (here / f).is_symlink()]:
            around = here.resolve()
            for link in links:
                target = (here / link).resolve()
                if around.is_relative_to(target) or folder.resolve().is_relative_to(target) or target in entered:
                    folders.remove(link)
                    complain(OSError(errno.ELOOP, "it is a link to a folder that is listed already", str(here / link)))
                entered.add(target)
        prefix = "" if here == folder else f"{here.relative_to(folder).as_posix()}/"
        yield from (prefix + file for file in files)


DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError, struct.error)
"""Errors of zipfile for an archive that is damaged, locked with a password or of an unknown compression."""


def _list_zip(path: Path, split: str | None) -> Listing:
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, *DAMAGED) as error:
        raise DataError(f"{path} cannot be opened as a zip ({error}); copy or download it again.") from error
    names = (entry.filename for entry in archive.infolist() if not entry.is_dir())

    def read(name: str) -> bytes:
        try:
            if archive.getinfo(name).file_size > LARGEST:
                raise OSError("it is too large for an image")
            return archive.read(name)
        except (OSError, *DAMAGED) as error:
            raise OSError(f"it cannot be taken out of the archive: {error}") from error

    return replace(_listing(names, str(path), split, read), measure=lambda name: archive.getinfo(name).file_size)


def hidden(path: PurePath) -> bool:
    """Whether a file belongs to the system, or lies in such a folder."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def _listing(found: Iterable[str], source: str, split: str | None, read: Callable[[str], bytes]) -> Listing:
    """Classes are the folders; a first level of train, val and test is a split and never a class."""
    paths = {name: PurePosixPath(name) for name in found}
    names = [name for name, path in paths.items() if has_image_suffix(path) and not hidden(path)]
    if not names:
        raise DataError(f"{source} holds no images (JPEG, PNG, TIFF and others); expected a folder for each class.")
    parts = {name: paths[name].parts for name in names}
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
        raise DataError(f"{len(loose)} images of {source} lie in no class folder, {loose[0]} first; move them there.")
    if not found:
        return _with_classes(names, [classes[name] for name in names], source, read)
    return replace(_with_classes(names, [classes[name] for name in names], f"{source}:{split}", read), split=split)


def _without_wrapping(parts: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Cut off the one folder that holds everything, as in an archive made of a folder; it would hide the splits."""
    tops = {p[0] for p in parts.values()}
    if len(tops) == 1 and tops.isdisjoint(SPLITS) and all(len(p) > 2 for p in parts.values()):
        return _without_wrapping({name: p[1:] for name, p in parts.items()})
    return parts


def _list_table(table: Path, split: str | None) -> Listing:
    """The rows of a table of labels, of one split where it has a column `split`; paths are relative to its folder."""
    rows = read_labels(table).rows
    if unlabelled := [row for row in rows if not row.label]:
        raise DataError(f"{table}, line {unlabelled[0].line}: label is empty; fill it or remove the line.")
    own = split if rows[0].split is not None else None
    kept = [row for row in rows if own is None or row.split == own]
    if not kept:
        found = ", ".join(sorted({str(row.split) for row in rows}))
        raise DataError(f"{table} has no row of the split {split!r}, but {found}.")
    names, labels = [row.name for row in kept], [row.label for row in kept]
    listing = _with_classes(names, labels, str(table), read_below(table.parent))
    listing = replace(listing, measure=measure(table.parent))
    return replace(listing, source=f"{table}:{own}", split=own) if own else listing


def _with_classes(names: Iterable[str], classes: list[str], source: str, read: Callable[[str], bytes]) -> Listing:
    class_names = tuple(sorted(set(classes)))
    index = {name: k for k, name in enumerate(class_names)}
    return Listing(tuple(names), tuple(index[c] for c in classes), class_names, source, read)
