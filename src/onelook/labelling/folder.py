"""The images of a folder: which are labelled and how, and which are to be labelled.

Labels come from sub-folders, from a table, or from a pattern of file names; nothing is read or decoded here.
"""

import functools
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from onelook.data.images import Rejected, describe_error
from onelook.data.listing import SPLITS, SUFFIXES, Listing, files_below, hidden
from onelook.data.tables import LabelRow, read_labels
from onelook.errors import DataError, SettingsError, plural, quote_name
from onelook.files import read_regular

UNLABELLED = -1
"""The label of an image that is to be labelled."""
UNLABELLED_FOLDERS = (
    "inbox",
    "new",
    "queries",
    "query",
    "test",
    "to_be_labeled",
    "to_be_labelled",
    "to_label",
    "todo",
    "unclassified",
    "unknown",
    "unlabeled",
    "unlabelled",
    "unsorted",
    "untagged",
)
"""Folders of images to label, in any case, with any of _ - . and spaces in and around the name."""


@dataclass(frozen=True)
class FolderListing:
    """Images of a folder with their labels, and what was passed over."""

    listing: Listing
    """All images; a label is a class index, or UNLABELLED."""
    skipped: tuple[Rejected, ...] = ()
    """Folders that cannot be read, and rows of the table without an image."""
    notes: tuple[str, ...] = ()
    """Sentences on how the table of labels was read."""

    @property
    def labelled(self) -> tuple[int, ...]:
        """Rows of the listing."""
        return tuple(i for i, label in enumerate(self.listing.labels) if label != UNLABELLED)

    @property
    def unlabelled(self) -> tuple[int, ...]:
        """Rows of the listing."""
        return tuple(i for i, label in enumerate(self.listing.labels) if label == UNLABELLED)

    def messages(self) -> tuple[str, ...]:
        """Sentences on what was found and on what a person should know of it."""
        listing, counts = self.listing, Counter(self.listing.labels)
        sizes = ", ".join(f"{quote_name(name)} {counts[k]}" for k, name in enumerate(listing.class_names[:20]))
        more = f", and {len(listing.class_names) - 20} more" if len(listing.class_names) > 20 else ""
        lines = [
            f"{quote_name(listing.source)}: labelled examples {len(self.labelled)}, classes {len(listing.class_names)} "
            f"({sizes}{more}), images to label {len(self.unlabelled)}."
        ]
        if len(listing.class_names) == 1:
            lines.append(
                f"All labelled examples are {quote_name(listing.class_names[0])}; label one of another class as well."
            )
        if not self.unlabelled:
            lines.append("Every image is labelled already; put those to label beside the class folders.")
        lines += [quote_name(note) for note in self.notes]
        lines += [f"{quote_name(one.name)} was passed over: {one.reason}." for one in self.skipped]
        return tuple(lines)


SORTED_FOLDER = "onelook-sorted"
"""Folder of images that Onelook sorted by labels of its own; it is never a source of labels."""


def list_folder(
    folder: Path,
    labels: Path | None = None,
    pattern: str | None = None,
    unlabelled_folders: Collection[str] = UNLABELLED_FOLDERS,
    also_classes: Collection[str] = (),
    suffixes: Collection[str] = SUFFIXES,
) -> FolderListing:
    """The images of `folder`; hidden ones, those in a SORTED_FOLDER and other files are passed over.

    labels: a CSV or Parquet file with the columns path (or filename) and label; paths are relative to `folder` or to
        the table. An image that it does not name, or names without a label, is to be labelled.
    pattern: of file names, with * and ? and {label}, as in {label}_*, or a regular expression with a group `label`.
        With a / in it, it is about the path below `folder`. An image that does not match is to be labelled.
    unlabelled_folders: without `labels` and `pattern` every sub-folder with images is a class, but for these. Train
        and val, and one folder around all classes, are no part of the name of a class.
    also_classes: names of such folders that are classes nevertheless.
    suffixes: of what counts as an image, in small letters.
    Raises DataError, SettingsError.
    """
    if labels is not None and pattern is not None:
        raise SettingsError("Labels come from a table or from a pattern of file names, but both were given; drop one.")
    finder = None if pattern is None else _make_finder(pattern)
    names, skipped = list_images(folder, suffixes)
    own = {name: _find_sorted_folder(name) for name in names}
    names = [name for name in names if not own[name]]
    if not names:
        raise DataError(f"All images of {folder} were sorted by Onelook; rename the folder if its labels are right.")
    skipped += [
        Rejected(place, "it was written by `onelook label --sort`; rename it if its labels are right")
        for place in sorted(set(own.values()) - {""})
    ]
    notes: tuple[str, ...] = ()
    if labels is not None:
        table = read_labels(labels)
        found, unmatched = _match_table(folder, names, labels, table.rows)
        skipped, notes = skipped + unmatched, table.notes
    elif finder is not None:
        found = {name: label for name in names if (label := finder(name))}
    else:
        found = _read_folders(names, unlabelled_folders, also_classes)
    if not found:
        raise DataError(_explain_no_labels(folder, names, labels, pattern))
    class_names = tuple(sorted(set(found.values())))
    number = {name: k for k, name in enumerate(class_names)}
    numbers = tuple(number[found[name]] if name in found else UNLABELLED for name in names)
    read = functools.partial(read_file, folder)
    return FolderListing(Listing(tuple(names), numbers, class_names, str(folder), read), tuple(skipped), notes)


def is_unlabelled(folder_name: str, unlabelled_folders: Collection[str] = UNLABELLED_FOLDERS) -> bool:
    """Whether a folder of that name, by its name, holds images to label."""
    return _normalise_name(folder_name) in {_normalise_name(name) for name in unlabelled_folders}


def _normalise_name(name: str) -> str:
    return re.sub(r"[\s_.-]", "", name).casefold() or name


def read_file(folder: Path, name: str) -> bytes:
    return read_regular(folder / name)


def require_folder(folder: Path) -> None:
    """Raises DataError."""
    if not folder.exists():
        raise DataError(f"There is no folder {folder}; give the folder that your images are in.")
    if not folder.is_dir():
        raise DataError(f"{folder} is a file; give the folder that your images are in.")


def list_images(folder: Path, suffixes: Collection[str] = SUFFIXES) -> tuple[list[str], list[Rejected]]:
    """The names of all images in order, and the folders that cannot be read. Raises DataError where there is none."""
    require_folder(folder)
    refused: list[OSError] = []
    files = [name for name in files_below(folder, refused.append) if not hidden(PurePosixPath(name))]
    names = [name for name in files if PurePosixPath(name).suffix.lower() in suffixes]
    skipped = [
        Rejected(_relative_name(folder, error), f"the folder cannot be read ({describe_error(error)})")
        for error in refused
    ]
    if not names:
        first = (
            f" and cannot be read whole, {quote_name(skipped[0].name)} first ({skipped[0].reason})" if skipped else ""
        )
        raise DataError(
            f"{folder} holds {plural(len(files), 'file')} but no image{first}; "
            f"put images ({', '.join(s[1:] for s in SUFFIXES)}) there."
        )
    return sorted(names, key=lambda name: PurePosixPath(name).parts), skipped


def _find_sorted_folder(name: str) -> str:
    """The SORTED_FOLDER that an image lies in, or nothing."""
    parts = PurePosixPath(name).parts[:-1]
    return "/".join(parts[: parts.index(SORTED_FOLDER) + 1]) if SORTED_FOLDER in parts else ""


def _relative_name(folder: Path, error: OSError) -> str:
    path = Path(error.filename or folder)
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def _read_folders(names: Iterable[str], unlabelled: Collection[str], also: Collection[str]) -> dict[str, str]:
    passed = {_normalise_name(name) for name in unlabelled}
    parts = {name: PurePosixPath(name).parts[:-1] for name in names}
    parts = {
        name: folders
        for name, folders in parts.items()
        if folders and not any(_normalise_name(part) in passed and part not in also for part in folders)
    }
    # What stands around all classes says nothing about any: the folder of an archive, or train and val.
    while parts and all(len(folders) > 1 for folders in parts.values()):
        tops = {folders[0] for folders in parts.values()}
        if len(tops) > 1 and not tops <= set(SPLITS):
            break
        parts = {name: folders[1:] for name, folders in parts.items()}
    return {name: "/".join(folders) for name, folders in parts.items()}


def _match_table(
    folder: Path, names: list[str], table: Path, rows: Sequence[LabelRow]
) -> tuple[dict[str, str], list[Rejected]]:
    named: dict[str, LabelRow] = {}
    skipped = []
    for row, meant in zip(rows, find_names(folder, names, table, [row.name for row in rows]), strict=True):
        if len(meant) != 1:
            why = f"there are {len(meant)} images of that name" if meant else "there is no such image in the folder"
            skipped.append(Rejected(row.name, f"line {row.line} of {table.name} names it, but {why}"))
            continue
        before = named.setdefault(meant[0], row)
        if before.label != row.label:
            raise DataError(
                f"{table} calls {quote_name(meant[0])} {before.label!r} in line {before.line} and "
                f"{row.label!r} in line {row.line}; keep one of them."
            )
    return {name: row.label for name, row in named.items() if row.label}, skipped


def find_names(folder: Path, names: Sequence[str], table: Path, paths: Iterable[str]) -> list[list[str]]:
    """The images of the folder that a table may mean by each of its paths: one, but for mistakes."""
    known = set(names)
    short: dict[str, list[str]] = {}
    for name in names:
        short.setdefault(PurePosixPath(name).name, []).append(name)
    return [_match(folder, table, path, known, short) for path in paths]


def _match(folder: Path, table: Path, path: str, known: set[str], short: Mapping[str, list[str]]) -> list[str]:
    root = folder.absolute()
    for spelling in dict.fromkeys((path, path.replace("\\", "/"))):
        for base in (root, table.parent.absolute()):
            full = Path(os.path.normpath(base / spelling))
            if full.is_relative_to(root) and full.relative_to(root).as_posix() in known:
                return [full.relative_to(root).as_posix()]
    return [] if "/" in path or "\\" in path else short.get(path, [])


def _make_finder(pattern: str) -> Callable[[str], str]:
    """Make the function from the name of an image to its label, which is empty where there is none."""
    if "(?P<label>" in pattern:
        try:
            expression = re.compile(pattern, re.DOTALL)
        except re.error as error:
            raise SettingsError(f"The pattern {pattern!r} is no regular expression ({error}); correct it.") from error
        search, whole = expression.search, True
    elif pattern.count("{label}") == 1:
        pieces = {"{label}": "(?P<label>[^/]+?)", "*": "[^/]*", "?": "[^/]"}
        text = "".join(pieces.get(p, re.escape(p)) for p in re.split(r"(\{label\}|\*|\?)", pattern))
        search, whole = re.compile(text, re.DOTALL).fullmatch, pattern.lower().endswith((*SUFFIXES, ".*"))
    else:
        raise SettingsError(
            f"The pattern {pattern!r} does not say where the label is; write {{label}} there, as in "
            f"{{label}}_*, or a regular expression with (?P<label>...)."
        )

    def find(name: str) -> str:
        path = PurePosixPath(name)
        text = path.as_posix() if "/" in pattern else path.name
        found = search(text if whole else text.removesuffix(path.suffix))
        return (found["label"] or "").strip() if found else ""

    return find


def _explain_no_labels(folder: Path, names: list[str], labels: Path | None, pattern: str | None) -> str:
    found = f"{folder} holds {plural(len(names), 'image')}, {quote_name(names[0])} first, but none is labelled"
    if labels is not None:
        return f"{found} by {labels}; fill its column label for at least one image of each class."
    if pattern is not None:
        return f"{found} by the pattern {pattern!r}; write one that the names have."
    return f"{found}; put a few of each class into a sub-folder with the name of the class, or give a table of labels."
