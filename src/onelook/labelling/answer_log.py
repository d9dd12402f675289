"""Answers of people about the images of a folder: an append-only log in one SQLite file, and the state that it tells.

Every answer, every class that is added, renamed or merged, and every undo and redo is an entry. An entry is on the disk
before `AnswerLog` returns (write-ahead log, synchronous FULL), so that no kill or crash loses what was acknowledged.
Undoing adds an entry as well: nothing that a person did is ever removed from the file. Several processes may use one
file; each sees the entries of the others with `refresh`.
"""

import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from onelook.errors import ArtifactError, SettingsError, StorageError, quote_name
from onelook.files import parse_json, require_regular, require_replaceable

LOG_NAME = "review.sqlite"
"""File of the answers, in the folder of what is written."""
LOG_SUFFIX = ".sqlite"
CLEARED, NONE_OF_THESE = -1, -2
"""Labels that are no class: the image is to be labelled again, or it is of none of the classes."""
KINDS = ("unlabelled", "given", "confirmed", "corrected", "answered", "rejected")
"""Ways to a label: by folder or table; a person agreed with the prediction, corrected it, or answered without one; a
person said that it is none of the classes."""
VERSION = 1
LAST_ID, LONGEST_NAME = 2**15 - 1, 200  # labels have 16 bits
_NOT_UNDONE = ("undo", "redo", "given_class")


@dataclass(frozen=True)
class Image:
    """An image as an answer names it, with the kind of the answer (one of KINDS)."""

    name: str
    digest: str
    """SHA-256 of its file in hexadecimal; empty where there is no file."""
    kind: str = "answered"


@dataclass(frozen=True)
class Answer:
    """The last answer about an image."""

    image: Image
    label: int
    """Class id, CLEARED or NONE_OF_THESE."""
    who: str
    when: str
    """Time in UTC, by ISO 8601."""


@dataclass
class Reviewed:
    """The state after all entries that are not undone."""

    names: dict[int, str] = field(default_factory=dict)
    """Names of the classes by their id, in the order in which they came."""
    merged: dict[int, int] = field(default_factory=dict)
    """Classes that are part of another one now."""
    answers: dict[str, Answer] = field(default_factory=dict)
    """Answers by name of the image."""

    def class_of(self, label: int) -> int:
        """The class that a label means by now; CLEARED where its class is gone."""
        while label in self.merged:
            label = self.merged[label]
        return label if label in self.names or label == NONE_OF_THESE else CLEARED

    def labels(self) -> dict[str, str]:
        """Names of the classes by name of the image, where a person named one."""
        found = {name: self.class_of(answer.label) for name, answer in self.answers.items()}
        return {name: self.names[label] for name, label in found.items() if label in self.names}

    def apply(self, entry: "Entry") -> None:
        what = entry.content
        if "add" in what:
            self.names[what["add"]["id"]] = what["add"]["name"]
            self.merged.pop(what["add"]["id"], None)
        if entry.action == "rename" and what["id"] in self.names:
            self.names[what["id"]] = what["name"]
        elif entry.action == "merge" and {what["id"], what["into"]} <= self.names.keys() and what["id"] != what["into"]:
            self.merged[what["id"]] = what["into"]
            del self.names[what["id"]]
        elif entry.action == "answer":
            for name, digest, kind in what["images"]:
                self.answers[name] = Answer(Image(name, digest, kind), what["label"], entry.who, entry.when)


@dataclass(frozen=True)
class Entry:
    """A row of the log."""

    sequence: int
    when: str
    who: str
    action: str
    content: dict[str, Any]


class AnswerLog:
    """The log in a file, which is made where there is none.

    Raises ArtifactError for a file that is no such log, StorageError where it cannot be written.
    """

    def __init__(self, path: Path, read_only: bool = False) -> None:
        self.path = path
        self.state = Reviewed()
        self._entries: dict[int, Entry] = {}
        self._undone: set[int] = set()
        self._done: dict[str, list[int]] = {}
        self._again: dict[str, list[int]] = {}
        self._lock = threading.RLock()
        with self._explained():
            (require_regular if read_only else require_replaceable)(path)
            if not read_only:
                path.parent.mkdir(parents=True, exist_ok=True)
            mode = "rwc" if not read_only else "ro" if Path(f"{path.resolve()}-wal").exists() else "ro&immutable=1"
            where = f"{path.absolute().as_uri()}?mode={mode}"
            self._file = sqlite3.connect(where, uri=True, check_same_thread=False, isolation_level=None, timeout=10)
            if not read_only:
                self._prepare()
            self.refresh()

    @property
    def sequence(self) -> int:
        """Number of the last entry that was seen."""
        return next(reversed(self._entries), 0)

    def close(self) -> None:
        with self._lock:
            self._file.close()

    def refresh(self) -> bool:
        """Read the entries that came since, from other processes too; whether there were any."""
        with self._lock, self._explained():
            rows = self._file.execute(
                "SELECT sequence, time, who, action, content FROM entries WHERE sequence > ? ORDER BY sequence",
                (self.sequence,),
            ).fetchall()
            for row in rows:
                self._take(_read_entry(*row))
            return bool(rows)

    def answer(self, images: Sequence[Image], label: int, who: str, new_class: str | None = None) -> int:
        """Answer about images, all alike; with `new_class` for a class of that name. Returns the label."""
        with self._transaction() as state:
            content: dict[str, Any] = {"images": [(one.name, one.digest, one.kind) for one in images]}
            if new_class is not None:
                known = self._find(new_class)
                label = self._next_id() if known is None else known
                content |= {} if known is not None else {"add": {"id": label, "name": _check_name(new_class)}}
            elif label >= 0 and label not in state.names:
                raise SettingsError("That class is gone by now; choose another.")
            self._append("answer", who, content | {"label": label})
            return label

    def add_class(self, name: str, who: str, is_given: bool = False) -> int:
        """The id of a class of that name, which is added where there is none. is_given: by the folder or a table."""
        with self._transaction():
            known = self._find(name)
            if known is not None:
                return known
            which = self._next_id()
            content = {"add": {"id": which, "name": name if is_given else _check_name(name)}}
            self._append("given_class" if is_given else "add_class", who, content)
            return which

    def rename_class(self, which: int, name: str, who: str) -> None:
        with self._transaction():
            self._require(which)
            if self._find(name) not in (None, which):
                raise SettingsError(f"There is a class {quote_name(name)} already; merge the two instead.")
            self._append("rename", who, {"id": which, "name": _check_name(name)})

    def merge_classes(self, which: int, into: int, who: str) -> None:
        with self._transaction():
            self._require(which)
            self._require(into)
            if which == into:
                raise SettingsError("A class cannot be merged with itself; choose another.")
            self._append("merge", who, {"id": which, "into": into})

    def undo(self, who: str) -> Entry | None:
        """Undo the last thing that this person did; None where there is nothing left."""
        return self._turn("undo", self._done, who)

    def redo(self, who: str) -> Entry | None:
        """Do again what this person undid last, unless something else was done since."""
        return self._turn("redo", self._again, who)

    def can(self, who: str) -> dict[str, bool]:
        return {"undo": bool(self._done.get(who)), "redo": bool(self._again.get(who))}

    def _turn(self, action: str, stacks: dict[str, list[int]], who: str) -> Entry | None:
        with self._transaction():
            if not stacks.get(who):
                return None
            sequence = stacks[who][-1]
            self._append(action, who, {"of": sequence})
            return self._entries[sequence]

    def _prepare(self) -> None:
        self._file.execute("PRAGMA journal_mode = WAL")
        self._file.execute("PRAGMA synchronous = FULL")
        (found,) = self._file.execute("PRAGMA user_version").fetchone()
        if found > VERSION:
            raise ArtifactError(f"{self.path} was written by a newer Onelook; update Onelook.")
        self._file.execute(
            "CREATE TABLE IF NOT EXISTS entries (sequence INTEGER PRIMARY KEY AUTOINCREMENT, time TEXT NOT NULL, "
            "who TEXT NOT NULL, action TEXT NOT NULL, content TEXT NOT NULL)"
        )
        self._file.execute(f"PRAGMA user_version = {VERSION}")

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Reviewed]:
        """The state with the entries of others, while nobody else can add one. What was added is on the disk after."""
        with self._lock, self._explained():
            self._file.execute("BEGIN IMMEDIATE")
            self._added: list[Entry] = []
            try:
                self.refresh()
                yield self.state
                self._file.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._file.execute("ROLLBACK")
                raise
            for entry in self._added:
                self._take(entry)

    def _append(self, action: str, who: str, content: dict[str, Any]) -> None:
        when = datetime.now(UTC).isoformat(timespec="milliseconds")
        words = json.dumps(content)
        row = self._file.execute(
            "INSERT INTO entries (time, who, action, content) VALUES (?, ?, ?, ?)", (when, who, action, words)
        )
        self._added.append(Entry(int(row.lastrowid or 0), when, who, action, json.loads(words)))

    def _take(self, entry: Entry) -> None:
        self._entries[entry.sequence] = entry
        done, again = self._done.setdefault(entry.who, []), self._again.setdefault(entry.who, [])
        if entry.action not in _NOT_UNDONE:
            done.append(entry.sequence)
            again.clear()
        if entry.action not in ("undo", "redo"):
            self.state.apply(entry)
            return
        of, is_undo = entry.content["of"], entry.action == "undo"
        source, target = (done, again) if is_undo else (again, done)
        if of in source:
            source.remove(of)
            target.append(of)
        (self._undone.add if is_undo else self._undone.discard)(of)
        self.state = Reviewed()
        for one in self._entries.values():
            if one.sequence not in self._undone:
                self.state.apply(one)

    def _find(self, name: str) -> int | None:
        return next((k for k, known in self.state.names.items() if known == name), None)

    def _next_id(self) -> int:
        used = (entry.content["add"]["id"] for entry in self._entries.values() if "add" in entry.content)
        if (which := max(used, default=0) + 1) > LAST_ID:
            raise SettingsError(f"There are {LAST_ID:,} classes, the most that a review can have.")
        return which

    def _require(self, which: int) -> None:
        if which not in self.state.names:
            raise SettingsError("That class is gone by now; choose another.")

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.DatabaseError, OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, SettingsError):
                raise
            if isinstance(error, sqlite3.OperationalError | OSError):
                raise StorageError(
                    f"{self.path} could not be used ({error}); choose a folder that can be written, and end other "
                    f"programs that hold it. What was there is intact."
                ) from error
            raise ArtifactError(
                f"{self.path} is no file of answers of `onelook review`, or damaged ({error}); choose another folder."
            ) from error


def read_reviewed(path: Path) -> Reviewed:
    """Answers of a file of `onelook review`; no other file is left beside it. Raises ArtifactError, StorageError."""
    log = AnswerLog(path, read_only=True)
    log.close()
    return log.state


def _read_entry(sequence: int, when: Any, who: Any, action: Any, words: Any) -> Entry:
    """A row as an entry. Raises ValueError, KeyError or TypeError for one that no `AnswerLog` has written."""
    what = dict(parse_json(words))
    images, added = what.get("images", []), [what["add"]] if "add" in what else []
    ids = [what[key] for key in ("id", "into", "label") if key in what] + [one["id"] for one in added]
    texts = [when, who, action, *(one["name"] for one in (what, *added) if "name" in one)]
    texts += [part for image in images for part in image]
    are_ids = all(type(one) is int and NONE_OF_THESE <= one <= LAST_ID for one in ids)
    if not (are_ids and all(isinstance(one, str) for one in texts) and all(kind in KINDS for _, _, kind in images)):
        raise ValueError(f"entry {sequence} is none")
    return Entry(sequence, when, who, action, what)


def _check_name(name: str) -> str:
    if not name.strip() or name != name.strip() or not name.isprintable() or len(name) > LONGEST_NAME:
        raise SettingsError(
            f"The name of a class is 1 to {LONGEST_NAME} characters that can be printed, without spaces around it."
        )
    return name
