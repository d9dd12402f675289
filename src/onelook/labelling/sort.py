"""Images sorted into a folder for each label, as copies or as links; the originals are only ever read.

A manifest in the target says what sorting made there. Sorting again replaces what is still as it was made and leaves
all else: what a person changed, renamed or added there is theirs. The manifest is written before the files that it
names, and a file appears whole, so that sorting again also completes what was interrupted, at whatever moment.
"""

import contextlib
import hashlib
import itertools
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Generator, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath

from onelook.data.images import Rejected, describe_error
from onelook.data.listing import hidden
from onelook.errors import ArtifactError, SettingsError, describe_cause, plural, quote_name, unknown_name
from onelook.events import Progress
from onelook.files import parse_json, read_regular, storage_error, write_atomically
from onelook.labelling.export import Prediction

MODES = ("copy", "link")
UNKNOWN_FOLDER = "_unknown"
"""Folder of the images of none of the classes."""
MANIFEST = ".onelook-sorted.json"
PART = ".onelook-sorted.part"
"""Beginning of the name of a copy under way, in the target."""
STALE = 3600.0
"""Seconds after which a copy under way is taken for one that was given up."""


@dataclass(frozen=True)
class Sorted:
    """Outcome of sorting."""

    target: str
    n_sorted: int
    left: tuple[Rejected, ...] = ()
    """Files in the target that belong to a person now, and why."""
    failed: tuple[Rejected, ...] = ()
    """Images that could not be sorted."""

    def summary(self) -> list[str]:
        lines = [f"Sorted {plural(self.n_sorted, 'image')} into {quote_name(self.target)}."]
        if self.left:
            first, more = self.left[0], f" and {len(self.left) - 1:,} more" if len(self.left) > 1 else ""
            lines.append(f"What you changed or added there stays: {quote_name(first.name)} ({first.reason}){more}.")
        return lines + [f"  {quote_name(one.name)} was not sorted: {one.reason}" for one in self.failed]


@dataclass(frozen=True)
class _Made:
    """A file that sorting makes."""

    source: str
    sha256: str
    """Digest of a copy; empty for a link."""

    def is_at(self, place: Path) -> bool:
        if not self.sha256:
            return place.is_symlink() and str(place.readlink()) == self.source
        return place.is_file() and not place.is_symlink() and _hash(place) == self.sha256


def sort_images(
    predictions: Iterable[Prediction], target: Path, mode: str = "copy", root: Path = Path()
) -> Generator[Progress, None, Sorted]:
    """Put each image into the folder of its label in `target`, unknown ones into UNKNOWN_FOLDER; undecided ones stay.

    mode: copy, or link (a symbolic link to the image).
    root: the folder that the paths of the predictions are relative to.
    A name that is taken becomes `name (2)`. A copy that a person changed stands for its image as long as the label of
    the image stays. A copy whose original is gone is left, because it may be the last one. Links in the target are
    never followed.
    Raises SettingsError where an original lies in the target, ArtifactError for a damaged manifest, StorageError.
    """
    if mode not in MODES:
        raise unknown_name("mode", mode, MODES)
    rows = [one for one in predictions if one.unknown or not one.is_undecided]
    sources = [Path(os.path.normpath((root / one.path).absolute())) for one in rows]
    base = target.resolve()
    require_outside(base, sources)
    _read_manifest(base / MANIFEST)  # before the work, if it is damaged
    try:
        found, failed = yield from _read_sources(rows, sources, mode)
        _remove_stale(base)
        there = _list_files(base)
        before = _read_manifest(base / MANIFEST)  # after the list, so that it names what another run has made by now
        left = _list_left(base, there, before, {made.sha256 for _, made in found})
        wanted = _choose_places(found, before, left)
        _remove_old(base, before, wanted, left)
        after = {name: made for name, made in before.items() if name in left} | wanted
        if after != before:
            content = json.dumps({name: asdict(made) for name, made in sorted(after.items())}, indent=1)
            write_atomically(base / MANIFEST, content.encode())
        for i, (name, made) in enumerate(wanted.items(), 1):
            try:
                if name not in left:
                    _make(made, base / name, base)
            except OSError as error:
                if not isinstance(error, FileExistsError | NotADirectoryError) and os.access(made.source, os.R_OK):
                    raise
                failed.append(Rejected(made.source, describe_error(error)))
            yield Progress("sorting images", i, len(wanted))
    except OSError as error:
        raise storage_error(base, error) from error
    shown = tuple(Rejected(name, why) for name, why in sorted(left.items()) if not hidden(PurePath(name)))
    return Sorted(str(target), len(rows) - len(failed), shown, tuple(failed))


def require_outside(target: Path, originals: Iterable[Path]) -> None:
    """Raises SettingsError where an original, a file or a folder, lies in the target."""
    base = target.resolve()
    if inside := next((path for path in originals if path.resolve().is_relative_to(base)), None):
        raise SettingsError(f"{target} is to hold sorted images, but {inside} lies in it; choose another place.")


def escape_label(label: str) -> Path:
    """The folder of a label below the target: a / in it makes folders in folders, nothing leads out or is hidden."""
    bad = r'[\0\\<>:"|?*]' if os.name == "nt" else r"[\0\\]"
    parts = []
    for part in label.split("/"):
        safe = re.sub(bad, lambda m: f"%{ord(m[0]):02X}", re.sub(r"%(?=[0-9A-F]{2})|^%$", "%25", part))
        parts.append(re.sub(r"^\.", "%2E", safe) or "%")
    return Path(*parts)


def _read_manifest(path: Path) -> dict[str, _Made]:
    try:
        made = {name: _Made(**one) for name, one in parse_json(read_regular(path)).items()}
        if any(Path(name).is_absolute() or ".." in Path(name).parts for name in made):
            raise ValueError("a name that leads out of the folder")
        return made
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        reason = describe_cause(error)
        raise ArtifactError(
            f"{path}, which says what was sorted, is damaged ({reason}); rename {path.parent.name}, and sort again."
        ) from error


def _list_files(base: Path) -> list[Path]:
    """Files and links in the target, but for those that are sorting's own."""
    places = [Path(folder, name) for folder, folders, files in os.walk(base) for name in (*files, *folders)]
    own = (MANIFEST, PART)
    return [
        p for p in places if (p.is_symlink() or not p.is_dir()) and not (p.parent == base and p.name.startswith(own))
    ]


def _list_left(base: Path, there: list[Path], before: dict[str, _Made], originals: set[str]) -> dict[str, str]:
    """Files in the target that are not to be touched, and why; originals: the digests of those that are there."""
    left = {}
    for place in there:
        name = place.relative_to(base).as_posix()
        made = before.get(name)
        if made is None:
            left[name] = "added"
        elif not made.is_at(place):
            left[name] = "changed"
        elif made.sha256 and made.sha256 not in originals and not Path(made.source).exists():
            left[name] = "its original is gone"
    return left


def _read_sources(
    rows: Sequence[Prediction], sources: Sequence[Path], mode: str
) -> Generator[Progress, None, tuple[list[tuple[Path, _Made]], list[Rejected]]]:
    """The place that the label of each image asks for and what belongs there, and the images that cannot be read."""
    found, failed = [], []
    for i, (row, source) in enumerate(zip(rows, sources, strict=True), 1):
        try:
            source.stat()
            made = _Made(str(source), _hash(source) if mode == "copy" else "")
            found.append(((Path(UNKNOWN_FOLDER) if row.unknown else escape_label(row.label)) / source.name, made))
        except OSError as error:
            failed.append(Rejected(row.path, describe_error(error)))
        yield Progress("comparing images", i, len(rows))
    return found, failed


def _choose_places(
    found: Sequence[tuple[Path, _Made]], before: dict[str, _Made], left: dict[str, str]
) -> dict[str, _Made]:
    taken = {name.casefold() for name in left}  # as on the disks of Windows and macOS, also elsewhere
    wanted: dict[str, _Made] = {}
    for place, made in found:
        others = (f"{place.stem} ({n}){place.suffix}" for n in itertools.count(2))
        while (name := place.as_posix()).casefold() in taken:
            if name in left and name in before and before[name].source == made.source:
                made = before[name]  # changed by a person, and still the copy of this image
                break
            place = place.with_name(next(others))
        taken.add(name.casefold())
        wanted[name] = made
    return wanted


def _remove_old(base: Path, before: dict[str, _Made], wanted: dict[str, _Made], left: dict[str, str]) -> None:
    """Remove what sorting made and is not wanted any more, and the folders that are empty then."""
    for name, made in before.items():
        place = base / name
        if name in left or wanted.get(name) == made or not _is_inside(place):
            continue
        if made.is_at(place):  # asked once more, because hashing all the others took its time
            place.unlink()
        folder = place.parent
        while folder != base and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
            folder = folder.parent


def _is_inside(place: Path) -> bool:
    """Whether no link leads to another folder on the way to `place`."""
    return place.parent.resolve() == place.parent


def _remove_stale(base: Path) -> None:
    for part in base.glob(f"{PART}*"):
        with contextlib.suppress(FileNotFoundError):  # another run has just finished it
            if time.time() - part.stat().st_ctime > STALE:
                part.unlink()


def _make(made: _Made, place: Path, base: Path) -> None:
    """Make it unless it is there. Raises FileExistsError where something else is, and other kinds of OSError."""
    if not _is_inside(place):
        raise FileExistsError(0, "a link is where its folder would be")
    if os.path.lexists(place):
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        if made.sha256:
            _copy(made, place, base)
        else:
            place.symlink_to(made.source)
    except FileExistsError:
        if not made.is_at(place):  # or another run made the same at the same time
            raise


def _copy(made: _Made, place: Path, base: Path) -> None:
    handle, name = tempfile.mkstemp(dir=base, prefix=PART)  # of its own, where two runs sort at once
    os.close(handle)
    part = Path(name)
    try:
        shutil.copyfile(made.source, part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())  # or a crash could leave the name on an empty file, which would pass for a change
        shutil.copystat(made.source, part)
        if _hash(part) != made.sha256:
            raise FileExistsError(0, "it changed while it was sorted")
        try:
            place.hardlink_to(part)  # not rename, which overwrites
        except FileExistsError:
            raise
        except OSError as error:  # a disk without hard links
            if os.path.lexists(place):
                raise FileExistsError(0, "file exists") from error
            part.rename(place)
    finally:
        part.unlink(missing_ok=True)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
