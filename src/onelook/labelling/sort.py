"""Images sorted into a folder for each label, by a plan that can be stopped anywhere, taken up and undone.

The journal holds the plan and then a line before and after each operation, on the disk before the next one. Whatever
the moment of a stop, the journal and the files together tell what was done. No file is ever overwritten.
"""

import hashlib
import os
import shutil
from collections.abc import Generator
from dataclasses import asdict, dataclass
from pathlib import Path

from onelook.data.images import Rejected, reason_of
from onelook.errors import ArtifactError, StorageError
from onelook.events import Progress
from onelook.files import storage_error
from onelook.labelling.journal import Journal
from onelook.labelling.plan import Plan, is_done, next_name


@dataclass(frozen=True)
class Filed:
    """What was carried out."""

    n_done: int
    journal: Path
    """For `undo`."""
    failed: tuple[Rejected, ...] = ()


@dataclass(frozen=True)
class Undone:
    n_undone: int
    kept: tuple[Rejected, ...] = ()
    """What was left as it is because it was changed since; the journal is kept then too."""


class _RefusedError(Exception):
    """One file cannot be had; the others can."""


def carry_out(plan: Plan) -> Generator[Progress, None, Filed]:
    """Do it, or what is left of it after a stop. Raises StorageError where the target cannot be written."""
    journal = Journal(Path(plan.journal)).read()
    if journal.undoing:
        raise StorageError(f"The plan of {plan.journal} is being undone; finish that and make the plan again.")
    place = journal.path
    try:
        if journal.plan is None:
            entry = {"mode": plan.mode, "target": plan.target, "steps": [asdict(step) for step in plan.steps]}
            journal.write({"plan": entry})
        for i, step in enumerate(plan.steps):
            place = Path(step.target)
            if i not in journal.done and i not in journal.failed:
                _carry_out(journal, plan, i)
            yield Progress("sorting images", i + 1, len(plan.steps))
    except OSError as error:
        raise storage_error(place, error) from error
    failed = tuple(Rejected(plan.steps[i].source, reason) for i, reason in sorted(journal.failed.items()))
    return Filed(len(journal.done), journal.path, failed)


def _carry_out(journal: Journal, plan: Plan, i: int) -> None:
    source, place = Path(plan.steps[i].source), journal.begun.get(i, Path(plan.steps[i].target))
    part = _part(journal, place)
    part.unlink(missing_ok=True)
    if i in journal.begun and os.path.lexists(place):
        if plan.mode == "move" and not source.exists():
            return journal.write({"done": i, "sha256": ""})
        if is_done(plan.mode, source, place):
            if plan.mode == "move":
                source.unlink()
            return journal.write({"done": i, "sha256": _sha256(place) if plan.mode == "copy" else ""})
    _make_folders(journal, place.parent)
    while True:
        while os.path.lexists(place):
            place = next_name(place)
        journal.write({"begin": i, "target": str(place)})
        try:
            digest = _transfer(plan.mode, source, place, part)
        except FileExistsError:  # made by somebody else in this moment
            continue
        except _RefusedError as error:
            return journal.write({"failed": i, "reason": str(error)})
        return journal.write({"done": i, "sha256": digest})


def _make_folders(journal: Journal, folder: Path) -> None:
    missing = [p for p in (folder, *folder.parents) if not p.is_dir()]
    for one in reversed(missing):
        journal.write({"folder": str(one)})
        one.mkdir()


def _part(journal: Journal, place: Path) -> Path:
    """A copy on its way to `place`; by its name it is known after a stop."""
    return place.with_name(f"{journal.path.stem}.part")


def _transfer(mode: str, source: Path, place: Path, part: Path) -> str:
    """Raises FileExistsError where the place is taken, _RefusedError where the source cannot be had, OSError."""
    if mode == "copy":
        return _copy(source, place, part)
    if mode == "link":
        if not source.exists():
            raise _RefusedError("there is no such file any more")
        place.symlink_to(source)
        return ""
    try:
        place.hardlink_to(source)  # not rename, which overwrites
    except FileExistsError:
        raise
    except OSError:  # to another disk, or on one without hard links
        _copy(source, place, part)
    try:
        source.unlink()
    except OSError as error:
        place.unlink()
        raise _RefusedError(f"it cannot be taken away: {reason_of(error)}") from error
    return ""


def _copy(source: Path, place: Path, part: Path) -> str:
    """Returns the SHA-256. The copy appears at its place as a whole."""
    try:
        reading = source.open("rb")
    except OSError as error:
        raise _RefusedError(reason_of(error)) from error
    with reading, part.open("xb") as writing:
        shutil.copyfileobj(reading, writing, 1 << 20)
        writing.flush()
        os.fsync(writing.fileno())
    shutil.copystat(source, part)
    digest = _sha256(part)
    try:
        place.hardlink_to(part)
    except FileExistsError:
        part.unlink()
        raise
    except OSError as error:  # a disk without hard links
        if os.path.lexists(place):
            part.unlink()
            raise FileExistsError(place) from error
        part.rename(place)
    part.unlink(missing_ok=True)
    return digest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ------------------------------------------------------------------------------------------------------------ undoing


def undo(journal: Path) -> Generator[Progress, None, Undone]:
    """Bring everything back: move back what was moved, remove copies and links that were made and are unchanged.

    Folders that were made are removed where they are empty, and at last the journal. May be stopped and called again.
    Raises ArtifactError, StorageError.
    """
    if not journal.is_file():
        raise ArtifactError(f"There is no journal {journal}; give the one that sorting the images named.")
    held = Journal(journal).read()
    kept: list[Rejected] = []
    place = journal
    try:
        if held.plan is not None and not held.undoing:
            held.write({"undo": True})
        for n, (i, place) in enumerate(reversed(held.begun.items()), 1):
            assert held.plan is not None, "a step without a plan"
            _part(held, place).unlink(missing_ok=True)
            reason = "" if i in held.failed else _take_back(held, Path(held.plan.steps[i].source), place, i)
            kept += [Rejected(str(place), reason)] if reason else []
            yield Progress("undoing", n, len(held.begun))
        for folder in reversed(held.folders):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        if not kept:
            journal.unlink()
    except OSError as error:
        raise storage_error(place, error) from error
    return Undone(len(held.begun) - len(held.failed) - len(kept), tuple(kept))


def _take_back(journal: Journal, source: Path, place: Path, i: int) -> str:
    """Undo one step, done or stopped in the middle. Returns why it was kept, or nothing."""
    assert journal.plan is not None, "a step without a plan"
    mode = journal.plan.mode
    if mode == "move":
        return _move_back(source, place, _part(journal, source))
    if not os.path.lexists(place):
        return ""
    if mode == "copy" and i in journal.done:
        ours = place.is_file() and not place.is_symlink() and _sha256(place) == journal.done[i]
    else:
        ours = is_done(mode, source, place)
    if ours:
        place.unlink()
    return "" if ours or i not in journal.done else "it was changed since"


def _move_back(source: Path, place: Path, part: Path) -> str:
    part.unlink(missing_ok=True)
    if not os.path.lexists(place):
        return "" if source.exists() else "it is gone"
    if os.path.lexists(source):
        if not is_done("move", source, place):
            return "another file has taken its old place"
        place.unlink()
        return ""
    source.parent.mkdir(parents=True, exist_ok=True)
    try:
        _transfer("move", place, source, part)
    except (_RefusedError, FileExistsError) as error:
        return str(error)
    return ""
