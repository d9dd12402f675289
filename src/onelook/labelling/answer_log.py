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
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from onelook.errors import ArtifactError, SettingsError, StorageError, quote_name
from onelook.files import require_regular, require_replaceable
from onelook.labelling.answers import CLEARED, LAST_ID, NONE_OF_THESE, Entry, Image, Reviewed, read_entry

LOG_NAME = "review.sqlite"
"""File of the answers, in the folder of what is written."""
LOG_SUFFIX = ".sqlite"
VERSION = 1
LONGEST_NAME = 200
_NOT_UNDONE = ("undo", "redo", "given_class")


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
                self._take(read_entry(*row))
            return bool(rows)

    def answer(
        self, images: Sequence[Image], label: int | Sequence[int], who: str, new_class: str | None = None
    ) -> int:
        """Answer about images: a label, or one for each, or a class named `new_class`. Returns the (first) label."""
        with self._transaction():
            labels, content = [label] * len(images) if isinstance(label, int) else list(label), dict[str, Any]()
            if new_class is not None:
                which, content = self._find_or_add(new_class)
                labels = [which] * len(images)
            elif gone := {*labels} - self.state.names.keys() - {CLEARED, NONE_OF_THESE}:
                self._require(gone.pop())
            pairs = zip(images, labels, strict=True)
            content["images"] = [(one.name, one.digest, one.kind, number) for one, number in pairs]
            self._append("answer", who, content)
            return labels[0]

    def add_class(self, name: str, who: str, is_given: bool = False) -> int:
        """The id of a class of that name, which is added where there is none. is_given: by the folder or a table."""
        with self._transaction():
            which, content = self._find_or_add(name, is_given)
            if content:
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

    def read(self, who: str) -> tuple[Reviewed, dict[str, bool]]:
        """A copy of the state, which later entries leave as it is, and whether this person can undo and redo."""
        with self._lock:
            one, can = self.state, {"undo": bool(self._done.get(who)), "redo": bool(self._again.get(who))}
            return Reviewed(dict(one.names), dict(one.merged), dict(one.answers)), can

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

    def _find_or_add(self, name: str, is_given: bool = False) -> tuple[int, dict[str, Any]]:
        """Id of the class of that name, and what an entry says of it where it is new."""
        if (known := self._find(name)) is not None:
            return known, {}
        which = self._next_id()
        return which, {"add": {"id": which, "name": name if is_given else _check_name(name)}}

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


def _check_name(name: str) -> str:
    if not name.strip() or name != name.strip() or not name.isprintable() or len(name) > LONGEST_NAME:
        raise SettingsError(
            f"The name of a class is 1 to {LONGEST_NAME} characters that can be printed, without spaces around it."
        )
    return name
