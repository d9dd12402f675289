"""Where each image would go: a folder for each label. Nothing is written here."""

import filecmp
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from onelook.data.images import Rejected
from onelook.errors import plural, quote_name, unknown_name
from onelook.labelling.export import Prediction

MODES = ("copy", "move", "link")
UNKNOWN_FOLDER = "_unknown"
"""Where images of none of the classes go."""


@dataclass(frozen=True)
class Step:
    """One file and its new place, both absolute."""

    source: str
    target: str


@dataclass(frozen=True)
class Plan:
    """What `carry_out` would do; nothing is done yet."""

    mode: str
    target: str
    journal: str
    steps: tuple[Step, ...]
    skipped: tuple[Rejected, ...] = ()

    def words(self) -> tuple[str, ...]:
        done = {"copy": "copied to", "move": "moved to", "link": "linked from"}[self.mode]
        folders = Counter(Path(step.target).parent for step in self.steps)
        n_images, n_folders = plural(len(self.steps), "image"), plural(len(folders), "folder")
        said = [f"{n_images} would be {done} {n_folders} in {quote_name(self.target)}."]
        said += [f"{quote_name(str(folder.relative_to(self.target)))}: {n}." for folder, n in sorted(folders.items())]
        return (*said, *(f"{quote_name(one.name)} is passed over: {one.reason}." for one in self.skipped))


def plan_folders(predictions: Iterable[Prediction], target: Path, mode: str = "copy", root: Path = Path()) -> Plan:
    """A plan to put each image into the folder of its label in `target`; unknown ones into UNKNOWN_FOLDER.

    mode: copy, move, or link (a symbolic link to the image, which stays).
    root: what the paths of the predictions are relative to.
    A name that is taken becomes `name (2)`; an image that lies there already is passed over. Raises SettingsError.
    """
    if mode not in MODES:
        raise unknown_name("mode", mode, MODES)
    base = Path(os.path.normpath(target.absolute()))
    steps, skipped, taken, seen = [], [], set[str](), set[str]()
    for one in predictions:
        source = os.path.normpath((root / one.path).absolute())
        folder = base / (UNKNOWN_FOLDER if one.unknown else folder_of(one.label))
        reason = _unfit(Path(source), mode, folder) or ("it is named twice" if source in seen else "")
        seen.add(source)
        place = folder / Path(source).name
        while not reason and (str(place).casefold() in taken or os.path.lexists(place)):
            if mode != "move" and is_done(mode, Path(source), place) and str(place).casefold() not in taken:
                reason = "it is there already"
            place = next_name(place)
        if reason:
            skipped.append(Rejected(one.path, reason))
            continue
        taken.add(str(place).casefold())
        steps.append(Step(source, str(place)))
    content = json.dumps([mode, str(base), [asdict(step) for step in steps]]).encode()
    home = next(p for p in (base, *base.parents) if p.is_dir())
    journal = home / f".onelook-{hashlib.sha256(content).hexdigest()[:16]}.jsonl"
    while journal.exists():  # of the same plan, carried out once: what it made may be gone since
        journal = next_name(journal)
    return Plan(mode, str(base), str(journal), tuple(steps), tuple(skipped))


def folder_of(label: str) -> Path:
    """The folder of a label below the target: a / in it makes folders in folders, nothing leads out or is hidden."""
    bad = r'[\0\\<>:"|?*]' if os.name == "nt" else r"[\0\\]"
    parts = []
    for part in label.split("/"):
        safe = re.sub(bad, lambda m: f"%{ord(m[0]):02X}", re.sub(r"%(?=[0-9A-F]{2})|^%$", "%25", part))
        parts.append(re.sub(r"^\.", "%2E", safe) or "%")
    return Path(*parts)


def _unfit(source: Path, mode: str, folder: Path) -> str:
    """Why a file is no part of a plan."""
    if not source.is_file():
        return "there is no such file"
    if mode == "move" and source.is_symlink():
        return "it is a link, which would lead elsewhere after a move; copy it, or link to it"
    return "it is there already" if source.parent == folder else ""


def next_name(place: Path) -> Path:
    found = re.fullmatch(r"(.*) \((\d+)\)", place.stem, re.DOTALL)
    stem, number = (found[1], int(found[2]) + 1) if found else (place.stem, 2)
    return place.with_name(f"{stem} ({number}){place.suffix}")


def is_done(mode: str, source: Path, place: Path) -> bool:
    """Whether at `place` is what the step would make."""
    if mode == "link":
        return place.is_symlink() and str(place.readlink()) == str(source)
    return place.is_file() and not place.is_symlink() and source.is_file() and filecmp.cmp(source, place, shallow=False)
