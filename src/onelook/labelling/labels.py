"""Labels of the images of a folder: from its sub-folders, from a table, or from a pattern of file names."""

import difflib
import functools
import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from onelook.data.formats import BY_SUFFIX
from onelook.data.images import Rejected
from onelook.data.listing import SPLITS
from onelook.data.tables import LabelRow, read_labels
from onelook.errors import DataError, SettingsError, list_names, plural, quote_name
from onelook.files import read_regular
from onelook.labelling.answer_log import LOG_SUFFIX, read_reviewed

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
class Sources:
    """Where labels come from."""

    tables: tuple[Path, ...] = ()
    pattern: str | None = None
    unlabelled_folders: tuple[str, ...] = UNLABELLED_FOLDERS
    also_classes: tuple[str, ...] = ()
    not_classes: tuple[str, ...] = ()
    answers: Path | None = None
    """File of `onelook review` whose answers count before all else."""
    are_needed: bool = True
    """Refuse a folder without any label."""

    def __post_init__(self) -> None:
        if self.tables and self.pattern is not None:
            raise SettingsError("Labels come from a table or from a pattern of file names; drop one of the two.")
        if both := set(self.also_classes) & set(self.not_classes):
            raise SettingsError(f"{list_names(sorted(both))} cannot be a class and none; drop one of the two options.")
        if self.pattern is not None:
            _make_finder(self.pattern)  # a mistake in it is told before the folder is listed


@dataclass(frozen=True)
class FoundLabels:
    labels: dict[str, str]
    """Labels by the names of images, of those that have one."""
    skipped: tuple[Rejected, ...] = ()
    """Rows of the table without an image."""
    notes: tuple[str, ...] = ()
    """Sentences on where the labels are from, and how the table was read."""


def find_labels(folder: Path, names: list[str], sources: Sources) -> FoundLabels:
    """The labels of the images of a folder. Raises DataError where there is none, and SettingsError."""
    if sources.pattern is not None:
        finder = _make_finder(sources.pattern)
        found = FoundLabels({name: label for name in names if (label := finder(name))})
    else:
        _require_folders(folder, names, (*sources.also_classes, *sources.not_classes))
        by_folder = _read_folders(names, sources)
        found = FoundLabels(by_folder)
        if sources.tables:
            by_table = _read_tables(folder, names, sources.tables)
            labels, notes = _merge(by_folder, by_table.labels, sources)
            found = FoundLabels(labels, by_table.skipped, (*by_table.notes, *notes))
        found = replace(found, notes=(*found.notes, *_describe_nested(by_folder, found.labels)))
    if sources.answers is not None:
        found = _add_answers(folder, names, found, sources.answers)
    if sources.are_needed and not found.labels:
        raise DataError(_explain_no_labels(folder, names, sources))
    return found


def _read_tables(folder: Path, names: list[str], tables: Iterable[Path]) -> FoundLabels:
    """The labels of tables together; an empty one means to be labelled. Raises DataError where two differ."""
    labels: dict[str, str] = {}
    skipped, notes = list[Rejected](), list[str]()
    for table in tables:
        read = read_answers if table.suffix == LOG_SUFFIX else _read_table
        found, unmatched, told = read(folder, names, table)
        for name, label in found.items():
            before = labels.get(name)
            if before and label and before != label:
                raise DataError(
                    f"{table} calls {quote_name(name)} {label!r}, but another table {before!r}; keep one of them."
                )
            labels[name] = label or before or ""
        skipped += unmatched
        notes += told
    return FoundLabels(labels, tuple(skipped), tuple(notes))


Matched = tuple[dict[str, str], list[Rejected], tuple[str, ...]]
"""The label of each image that is named, which may be empty; what was passed over; and sentences on how it was read."""


def _read_table(folder: Path, names: list[str], file: Path) -> Matched:
    table = read_labels(file)
    return (*_match_table(folder, names, file, table.rows), table.notes)


def read_answers(folder: Path, names: list[str], file: Path) -> Matched:
    """Answers of `onelook review`, as far as their images are as they were. Raises ArtifactError, StorageError."""
    state, known = read_reviewed(file), set(names)
    labels, found, skipped = state.labels(), dict[str, str](), []
    for name, answer in state.answers.items():
        if name not in known:
            skipped.append(Rejected(name, f"{file.name} has an answer for it, but it is not in the folder"))
        elif answer.image.digest not in ("", hashlib.sha256(read_regular(folder / name)).hexdigest()):
            skipped.append(Rejected(name, f"it was changed since its answer in {file.name}"))
        else:
            found[name] = labels.get(name, "")
    return found, skipped, ()


def _add_answers(folder: Path, names: list[str], given: FoundLabels, file: Path) -> FoundLabels:
    """The labels that were given, and the answers of a person, who has the last word as on the page."""
    found, skipped, _ = read_answers(folder, names, file)
    if not found:
        other = (f"{file} has answers about images that are not in {folder}, or were changed; it is not used.",)
        return replace(given, notes=(*given.notes, *(other if skipped else ())))
    rest = {name: label for name, label in given.labels.items() if name not in found}
    named = {name: label for name, label in found.items() if label}
    note = f"{plural(len(named), 'label')} of `onelook review` count, from {file}"
    if differ := [name for name in found if given.labels.get(name, found[name]) != found[name]]:
        note += f", also where other labels differ ({plural(len(differ), 'image')}, {quote_name(differ[0])} first)"
    note += "; --no-reviewed leaves them out."
    return FoundLabels(rest | named, (*given.skipped, *skipped), (*given.notes, note))


def _merge(
    by_folder: dict[str, str], by_table: dict[str, str], sources: Sources
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Labels by sub-folders and by the table, which is right where both speak, and sentences on how they fit together.

    by_table: an empty label means to be labelled.
    """
    file, notes = list_names(table.name for table in sources.tables), []
    given = set(by_table.values()) - {""}
    inside = [name for name, label in by_table.items() if label and name in by_folder]
    if inside and given.isdisjoint(by_folder.values()):
        by_folder = {name: label for name, label in by_folder.items() if label in sources.also_classes}
        notes.append(
            f"Sub-folders are no classes here, as {file} labels images in them by other names ({quote_name(inside[0])} "
            f"as {quote_name(by_table[inside[0]])}, for example); name those that are with --also-class."
        )
    rest = {name: label for name, label in by_folder.items() if name not in by_table}
    named = {name: label for name, label in by_table.items() if label}
    if rest and named:
        notes.append(f"Labels are from {file} ({len(named):,}) and from sub-folders ({len(rest):,}).")
    if differ := [name for name in inside if name in by_folder and by_folder[name] != by_table[name]]:
        one = differ[0]
        notes.append(
            f"{file} and the sub-folders differ on {plural(len(differ), 'image')}; {file} counts ({quote_name(one)} is "
            f"{quote_name(by_table[one])} there and {quote_name(by_folder[one])} by its folder, for example)."
        )
    return rest | named, tuple(notes)


def _describe_nested(by_folder: dict[str, str], labels: dict[str, str]) -> list[str]:
    """A sentence where folders in folders became classes."""
    nested = sorted({label for name, label in by_folder.items() if "/" in label and labels.get(name) == label})
    if not nested:
        return []
    are = "is a class of its own" if len(nested) == 1 else "are classes of their own"
    return [f"Folders in folders become classes: {list_names(nested)} {are}; move their images up if not meant so."]


def _require_folders(folder: Path, names: Iterable[str], wanted: Collection[str]) -> None:
    """Raise DataError for the name of a folder in which no image is."""
    places = {PurePosixPath(name).parent for name in names} if wanted else set()
    known = {part for place in places for part in place.parts}
    known |= {above.as_posix() for place in places for above in (place, *place.parents)}
    if missing := next((name for name in wanted if name.rstrip("/") not in known), None):
        near = difflib.get_close_matches(missing, known, n=1)
        hint = f"did you mean {quote_name(near[0])}?" if near else "give the name of one."
        raise DataError(f"{folder} has no folder {quote_name(missing)} with images; {hint}")


def is_unlabelled(folder_name: str, unlabelled_folders: tuple[str, ...] = UNLABELLED_FOLDERS) -> bool:
    """Whether a folder of that name, by its name, holds images to label."""
    return _normalise_name(folder_name) in _normalise_names(unlabelled_folders)


@functools.cache
def _normalise_names(names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(map(_normalise_name, names))


@functools.lru_cache(maxsize=10_000)
def _normalise_name(name: str) -> str:
    return re.sub(r"[\s_.-]", "", name).casefold() or name


def _read_folders(names: Iterable[str], sources: Sources) -> dict[str, str]:
    parts = {name: PurePosixPath(name).parts[:-1] for name in names}
    parts = {name: folders for name, folders in parts.items() if folders and not _is_passed_over(folders, sources)}
    # What stands around all classes says nothing about any: the folder of an archive, or train and val.
    while parts and all(len(folders) > 1 for folders in parts.values()):
        tops = {folders[0] for folders in parts.values()}
        if len(tops) > 1 and not tops <= set(SPLITS):
            break
        parts = {name: folders[1:] for name, folders in parts.items()}
    return {name: "/".join(folders) for name, folders in parts.items()}


def _is_passed_over(folders: tuple[str, ...], sources: Sources) -> bool:
    """Whether folders in folders, the outermost first, hold images to label."""
    no_classes = {name.rstrip("/") for name in sources.not_classes}
    if any(part in no_classes or "/".join(folders[: i + 1]) in no_classes for i, part in enumerate(folders)):
        return True
    return any(is_unlabelled(part, sources.unlabelled_folders) and part not in sources.also_classes for part in folders)


def _match_table(
    folder: Path, names: list[str], table: Path, rows: Sequence[LabelRow]
) -> tuple[dict[str, str], list[Rejected]]:
    """The label that a table gives to each image that it names, which may be empty, and its rows without an image."""
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
    return {name: row.label for name, row in named.items()}, skipped


def find_names(folder: Path, names: Sequence[str], table: Path, paths: Iterable[str]) -> list[list[str]]:
    """The images of the folder that a table may mean by each of its paths: one, but for mistakes."""
    known = set(names)
    short: dict[str, list[str]] = {}
    for name in names:
        short.setdefault(PurePosixPath(name).name, []).append(name)
    bases = [Path(os.path.normpath(one.absolute())) for one in (folder, table.parent)]
    return [[path] if path in known else _match(bases, path, known, short) for path in paths]


def _match(bases: list[Path], path: str, known: set[str], short: Mapping[str, list[str]]) -> list[str]:
    """bases: the folder, and others in which a path may begin."""
    root = str(bases[0] / "_")[:-1]
    for spelling in dict.fromkeys((path, path.replace("\\", "/"))):
        for base in bases:
            full = os.path.normpath(base / spelling)
            name = full.removeprefix(root).replace(os.sep, "/")
            if full.startswith(root) and name in known:
                return [name]
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
        search, whole = re.compile(text, re.DOTALL).fullmatch, pattern.lower().endswith((*BY_SUFFIX, ".*"))
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


def _explain_no_labels(folder: Path, names: list[str], sources: Sources) -> str:
    found = f"{folder} holds {plural(len(names), 'image')}, {quote_name(names[0])} first, but none is labelled"
    if sources.tables:
        return f"{found} by {list_names(sources.tables)}; fill its column label for at least one image of each class."
    if sources.pattern is not None:
        return f"{found} by the pattern {sources.pattern!r}; write one that the names have."
    return f"{found}; put a few of each class into a sub-folder with the name of the class, or give a table of labels."
