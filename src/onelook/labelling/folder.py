"""The images of a folder: which are labelled and how, and which are to be labelled.

Labels come from sub-folders, from a table, or from a pattern of file names; nothing is read or decoded here.
"""

import errno
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from onelook.data.addresses import find_address
from onelook.data.formats import OTHER, Kind, PassedOver, find_kind, group_by_kind
from onelook.data.images import Rejected, describe_error
from onelook.data.listing import Listing, files_below, hidden, measure, read_below
from onelook.errors import DataError, plural, quote_name
from onelook.labelling.labels import UNLABELLED_FOLDERS, Sources, find_labels

UNLABELLED = -1
"""The label of an image that is to be labelled."""


@dataclass(frozen=True)
class FolderListing:
    """Images of a folder with their labels, and what was passed over."""

    listing: Listing
    """All images; a label is a class index, or UNLABELLED."""
    skipped: tuple[Rejected, ...] = ()
    """Things that cannot be read: folders, pipes, links that lead nowhere; and rows of the table without an image."""
    passed: tuple[PassedOver, ...] = ()
    """Files that are of no kind that is read."""
    notes: tuple[str, ...] = ()
    """Sentences on where the labels are from, and how the table was read."""

    @property
    def labelled(self) -> tuple[int, ...]:
        """Rows of the listing."""
        return tuple(i for i, label in enumerate(self.listing.labels) if label != UNLABELLED)

    @property
    def unlabelled(self) -> tuple[int, ...]:
        """Rows of the listing."""
        return tuple(i for i, label in enumerate(self.listing.labels) if label == UNLABELLED)

    @property
    def lacks(self) -> tuple[str, ...]:
        """Sentences on what is missing, so that there is nothing to learn or to label."""
        source, classes = quote_name(self.listing.source), self.listing.class_names
        first = f" ({quote_name(self.skipped[0].name)}: {self.skipped[0].reason})" if self.skipped else ""
        lines = []
        if len(classes) < 2:
            only = quote_name(classes[0])
            lines.append(f"All labelled examples of {source} are {only}{first}; label one of another class as well.")
        if not self.unlabelled:
            lines.append(
                f"Every image of {source} is labelled already{first}; put those to label beside the class folders."
            )
        return tuple(lines)

    def messages(self) -> tuple[str, ...]:
        """Sentences on what was found and on what a person should know of it."""
        listing, counts = self.listing, Counter(self.listing.labels)
        sizes = ", ".join(f"{quote_name(name)} {counts[k]}" for k, name in enumerate(listing.class_names[:20]))
        more = f", and {len(listing.class_names) - 20} more" if len(listing.class_names) > 20 else ""
        lines = [
            f"{quote_name(listing.source)}: labelled examples {len(self.labelled)}, classes {len(listing.class_names)} "
            f"({sizes}{more}), images to label {len(self.unlabelled)}."
        ]
        lines += self.lacks
        lines += [quote_name(note) for note in self.notes]
        lines += [f"{quote_name(one.name)} was passed over: {one.reason}." for one in self.skipped]
        return (*lines, *name_kinds(self.passed))


def name_kinds(passed: Iterable[PassedOver]) -> tuple[str, ...]:
    """Sentences on the files that a person may take for images, one for each kind."""
    return tuple(str(one) for one in passed if one.kind is not OTHER)


SORTED_FOLDER = "onelook-sorted"
"""Folder of images that Onelook sorted by labels of its own; it is never a source of labels."""


def list_folder(
    folder: Path,
    labels: Path | tuple[Path, ...] = (),
    pattern: str | None = None,
    unlabelled_folders: Collection[str] = UNLABELLED_FOLDERS,
    also_classes: Collection[str] = (),
    not_classes: Collection[str] = (),
    also_suffixes: Collection[str] = (),
    need_labels: bool = True,
    answers: Path | None = None,
) -> FolderListing:
    """The images of `folder`; hidden ones, those in a SORTED_FOLDER and other files are passed over.

    labels: tables (CSV, TSV or Parquet) with the columns path (or filename) and label; paths are relative to `folder`
        or to the table. A table is right where a sub-folder says otherwise, and an image that it names without a label
        is to be labelled. Where tables label images in sub-folders, and all by other names than these have, sub-folders
        are no classes.
    pattern: of file names, with * and ? and {label}, as in {label}_*, or a regular expression with a group `label`.
        With a / in it, it is about the path below `folder`. An image that does not match is to be labelled.
    unlabelled_folders: without `pattern` every sub-folder with images is a class, but for these. Train and val, and one
        folder around all classes, are no part of the name of a class.
    also_classes: names of such folders that are classes nevertheless.
    not_classes: further names of folders that are none.
    also_suffixes: of what counts as an image although none is read from it, in small letters.
    need_labels: refuse a folder without any label.
    answers: file of `onelook review`, whose answers count where anything else says otherwise.
    Raises DataError, SettingsError.
    """
    tables = (labels,) if isinstance(labels, Path) else labels
    places = (tuple(unlabelled_folders), tuple(also_classes), tuple(not_classes))
    sources = Sources(tables, pattern, *places, answers, need_labels)
    names, skipped, passed = find_images(folder, also_suffixes)
    own = {name: _find_sorted_folder(name) for name in names}
    names = [name for name in names if not own[name]]
    if not names:
        raise DataError(f"All images of {folder} were sorted by Onelook; rename the folder if its labels are right.")
    skipped += [
        Rejected(place, "it was written by `onelook label --sort`; rename it if its labels are right")
        for place in sorted(set(own.values()) - {""})
    ]
    found = find_labels(folder, names, sources)
    class_names = tuple(sorted(set(found.labels.values())))
    number = {name: k for k, name in enumerate(class_names)}
    numbers = tuple(number[found.labels[name]] if name in found.labels else UNLABELLED for name in names)
    listing = Listing(tuple(names), numbers, class_names, str(folder), read_below(folder), measure(folder))
    return FolderListing(listing, (*skipped, *found.skipped), passed, found.notes)


def require_folder(folder: Path) -> None:
    """Raises DataError."""
    if (address := find_address(folder)) is not None:
        raise DataError(
            f"{address} is not a folder of this machine; `onelook label` and `onelook embed` read such addresses with "
            f"--ray local."
        )
    if not folder.exists():
        raise DataError(f"There is no folder {folder}; give the folder that your images are in.")
    if not folder.is_dir():
        raise DataError(f"{folder} is a file; give the folder that your images are in.")


class FoundFiles(NamedTuple):
    """Files below a folder."""

    images: list[str]
    """Names in order."""
    skipped: list[Rejected]
    """Things that cannot be read: folders, pipes, links that lead nowhere."""
    passed: tuple[PassedOver, ...]
    """Files that are no images, or need another package."""


def find_images(folder: Path, also_suffixes: Collection[str] = ()) -> FoundFiles:
    """Find what lies below a folder. Raises DataError where there is no image."""
    require_folder(folder)
    refused: list[OSError] = []
    names, others = list[str](), list[tuple[str, Kind]]()
    for name in files_below(folder, refused.append):
        if hidden(PurePosixPath(name)):
            continue
        try:
            kind = find_kind(folder / name)
        except OSError as error:
            refused.append(OSError(error.errno, error.strerror, str(folder / name)))
            continue
        if kind.readable or PurePosixPath(name).suffix.lower() in also_suffixes:
            names.append(name)
        else:
            others.append((name, kind))
    skipped = sorted((_refuse(folder, error) for error in refused), key=lambda one: one.name)
    passed = group_by_kind(sorted(others, key=lambda one: one[0]))
    if not names:
        first = f", and {quote_name(skipped[0].name)} was passed over ({skipped[0].reason})" if skipped else ""
        there = f"{plural(len(others), 'file')} but " if others else ""
        raise DataError(
            " ".join(
                [
                    f"{folder} holds {there}no image{first}; "
                    f"put images (JPEG, PNG, TIFF, WebP, AVIF and others) there.",
                    *name_kinds(passed),
                ]
            )
        )
    return FoundFiles(sorted(names, key=lambda name: PurePosixPath(name).parts), skipped, passed)


def _refuse(folder: Path, error: OSError) -> Rejected:
    path = Path(error.filename or folder)
    name = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)
    kind = "the folder cannot be read" if path.is_dir() and error.errno != errno.ELOOP else ""
    reason = describe_error(error)
    return Rejected(name, f"{kind} ({reason})" if kind else reason)


def _find_sorted_folder(name: str) -> str:
    """The SORTED_FOLDER that an image lies in, or nothing."""
    parts = PurePosixPath(name).parts[:-1]
    return "/".join(parts[: parts.index(SORTED_FOLDER) + 1]) if SORTED_FOLDER in parts else ""
