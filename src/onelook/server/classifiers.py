"""The folder of classifiers that a server works on: files of `onelook label --save` and of `FewShotClassifier.save`."""

import contextlib
import re
import stat
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from fastapi import HTTPException

from onelook.artifacts import IDENTITY, is_identity
from onelook.errors import ArtifactError
from onelook.estimators.classifier import FewShotClassifier
from onelook.estimators.persistence import make_artifact

SUFFIX = ".safetensors"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
LOADED = 32
"""Classifiers that are held in memory."""
WRITERS = 16
"""Changes of one classifier that wait or are under way."""


@dataclass(frozen=True)
class Kept:
    """A classifier and what its file says besides."""

    name: str
    classifier: FewShotClassifier
    network: dict[str, str] | None
    """Feature network of its rows, if that is known."""
    tag: str
    """Differs from that of every other content of the file."""

    @cached_property
    def tensors(self) -> dict[str, Any]:
        """Labelled rows, their labels, and unlabelled rows (those with a marker first), as they are saved."""
        return make_artifact(self.classifier, None).tensors

    def count_examples(self) -> list[int]:
        """Labelled rows of each class."""
        counts = Counter(self.tensors["labels"].tolist())
        return [counts[k] for k in range(len(self.classifier.classes_))]

    def describe(self) -> dict[str, Any]:
        names = [str(name) for name in self.classifier.classes_]
        counts = self.count_examples()
        return {
            "name": self.name,
            "classes": [{"name": name, "n_examples": counts[k]} for k, name in enumerate(names)],
            "n_examples": sum(counts),
            "n_unlabelled": len(self.classifier.transduction_),
            "feature_size": int(self.classifier.n_features_in_),
            "network": self.network,
            "guard": self.classifier.guard_,
        }


@dataclass
class Classifiers:
    """Classifiers by name. Reading is free, changes of one classifier wait for each other (`changing`)."""

    folder: Path
    limit: int = 1_000
    _loaded: "OrderedDict[str, Kept]" = field(default_factory=OrderedDict, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _changes: dict[str, threading.Lock] = field(default_factory=dict, init=False)
    _writers: Counter[str] = field(default_factory=Counter, init=False)

    def list(self) -> list[dict[str, Any]]:
        rows = []
        for path in sorted(self._files()):
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                about = path.stat()
                changed = datetime.fromtimestamp(about.st_mtime, UTC).isoformat(timespec="seconds")
                rows.append({"name": path.name.removesuffix(SUFFIX), "bytes": about.st_size, "changed": changed})
        return rows

    def open(self, name: str) -> Kept:
        """Read a classifier, or find it in memory. Raises HTTPException (404) and ArtifactError."""
        while True:
            tag = self._tag(name)
            with self._lock:
                kept = self._loaded.get(name)
            if kept is not None and kept.tag == tag:
                return kept
            try:
                classifier = FewShotClassifier.load(self.path(name))
            except ArtifactError:
                if self._tag(name) == tag:
                    raise
                continue  # it was deleted or replaced while it was read
            kept = Kept(name, classifier, _read_network(classifier), tag)
            self._hold(kept)
            return kept

    def open_file(self, name: str) -> BinaryIO:
        """File of a classifier, which stays whole for its reader whatever happens to it. Raises HTTPException (404)."""
        try:
            return self.require(name).open("rb")
        except FileNotFoundError:
            raise _missing(name) from None

    def save(self, name: str, classifier: FewShotClassifier, network: dict[str, str] | None) -> Kept:
        """Write a classifier. It is on the disk, whole, when this returns. Raises StorageError."""
        path = self.path(name)
        classifier.save(path, network)
        kept = Kept(name, classifier, network, self._tag(name))
        self._hold(kept)
        return kept

    def delete(self, name: str) -> None:
        """Raises HTTPException (404)."""
        self.require(name).unlink(missing_ok=True)
        with self._lock:
            self._loaded.pop(name, None)

    def path(self, name: str) -> Path:
        """File of a name, which leads nowhere else. Raises HTTPException (404)."""
        if not NAME.fullmatch(name):
            raise HTTPException(
                404, "A classifier is named by 1 to 64 letters, digits, dots, - and _, with a letter or a digit first."
            )
        return self.folder / f"{name}{SUFFIX}"

    def require(self, name: str) -> Path:
        """File of a classifier that exists. Raises HTTPException (404)."""
        self._tag(name)
        return self.path(name)

    def _tag(self, name: str) -> str:
        """Mark of the present content of a file, which no other content has. Raises HTTPException (404)."""
        with contextlib.suppress(OSError):
            about = self.path(name).lstat()
            if stat.S_ISREG(about.st_mode):
                return f"{about.st_ino:x}-{about.st_size:x}-{about.st_mtime_ns:x}"
        raise _missing(name)

    def require_room(self, name: str, replace: bool) -> None:
        """Raises HTTPException: 409 where there is such a classifier already, 507 where there are too many."""
        path = self.path(name)
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise HTTPException(409, f"{name} is no file of a classifier.")
        if path.exists() and not replace:
            raise HTTPException(
                409, f"There is a classifier {name} already; replace it by PUT, or choose another name."
            )
        if not path.exists() and sum(1 for _ in self._files()) >= self.limit:
            raise HTTPException(507, f"There are {self.limit:,} classifiers already; delete one first.")

    @contextlib.contextmanager
    def changing(self, name: str) -> Iterator[None]:
        """Wait, in a thread, until nobody else changes this classifier.

        Raises HTTPException: 404 for an impossible name, 429 where too many wait already.
        """
        self.path(name)
        with self._lock:
            if self._writers[name] >= WRITERS:
                raise HTTPException(
                    429,
                    f"{WRITERS} changes of {name} wait already; send the next when one is done.",
                    {"retry-after": "1"},
                )
            self._writers[name] += 1
            lock = self._changes.setdefault(name, threading.Lock())
        try:
            with lock:
                yield
        finally:
            with self._lock:
                self._writers[name] -= 1
                if not self._writers[name]:  # nobody waits for the lock
                    del self._writers[name], self._changes[name]

    def _files(self) -> Iterator[Path]:
        for path in self.folder.glob(f"*{SUFFIX}"):
            if NAME.fullmatch(path.name.removesuffix(SUFFIX)) and path.is_file() and not path.is_symlink():
                yield path

    def _hold(self, kept: Kept) -> None:
        with self._lock:
            self._loaded[kept.name] = kept
            self._loaded.move_to_end(kept.name)
            while len(self._loaded) > LOADED:
                self._loaded.popitem(last=False)


def _missing(name: str) -> HTTPException:
    return HTTPException(404, f"There is no classifier {name}.")


def _read_network(classifier: FewShotClassifier) -> dict[str, str] | None:
    found = classifier.network_
    if found is None:
        return None
    if not is_identity(found):
        raise ArtifactError("The file of the classifier says nothing understandable about its feature network.")
    return {key: found[key] for key in IDENTITY}
