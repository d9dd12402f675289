"""The review of one folder: its images, what people and the classifier say of them, and the threads that learn.

Answers are durable before a method returns. Features are computed in parts, in an order without a pattern, so that the
first answers come early. Two threads learn after every answer: one quickly from a part of the images, the other, once
nobody has answered for a while, from more of them. Only the newest state of the labels is learned from.
"""

import contextlib
import getpass
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from onelook.data.images import Rejected
from onelook.data.vectors import read_vectors
from onelook.errors import DataError, SettingsError, UserError, describe_cause
from onelook.estimators.classifier import FewShotClassifier
from onelook.events import Notice, Progress, finish
from onelook.files import read_regular
from onelook.labelling.answer_log import LOG_NAME, AnswerLog
from onelook.labelling.answers import CLEARED, KINDS, NONE_OF_THESE, Image
from onelook.labelling.folder import FolderListing
from onelook.labelling.label import LabelConfig, list_images
from onelook.machine import Place
from onelook.server.near_copies import NearCopies
from onelook.server.pictures import Pictures, stamp
from onelook.server.pools import Origin, compute_pools
from onelook.server.relearning import Learned, Pool, add_copies, choose_next, fit_to_keep, learn, least_sure

PAUSE = 1.5
"""Seconds without an answer after which the thorough learning begins."""
POLL = 1.0
"""Seconds after which the answers of other processes are looked for."""


@dataclass(frozen=True)
class Facts:
    """State of the labels and features at one moment, to learn from."""

    revision: int
    pool: Pool
    given: np.ndarray
    is_checked: np.ndarray
    names: dict[int, str]


@dataclass
class Session:
    """A review under way; `start` and `stop` it. `on_change` is called, in any thread, when there is news."""

    config: LabelConfig
    place: Place
    out: Path
    who: str = field(default_factory=lambda: _user())
    on_change: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        config = self.config
        self._given = None if config.features is None else read_vectors(config.features)
        self.found: FolderListing = list_images(config, self._given, need_labels=False)
        self.names = self.found.listing.names
        self.row_of = {name: i for i, name in enumerate(self.names)}
        self.stamps = [stamp(config.folder, name) for name in self.names]
        self.pictures = Pictures(config.folder, self.place.cache)
        self._copies = NearCopies(config.folder, self.names)
        self.log = AnswerLog(self.out / LOG_NAME)
        n, class_names = len(self.names), self.found.listing.class_names
        ids = [self.log.add_class(name, self.who, is_given=True) for name in class_names]
        self._from_folder = np.array([ids[k] if k >= 0 else CLEARED for k in self.found.listing.labels], np.int16)
        self.learned = Learned.nothing(n)
        self.rejected: dict[str, str] = {}
        self.origin: Origin | None = None
        self.progress: Progress | None = None
        self.notices = list(self.found.messages() if class_names else ())
        self.problem = ""
        self.version, self.revision, self.moved = 1, 1, 0
        self.learned_revision, self.chosen_revision, self.arrays = 0, 0, 1
        self.changed = threading.Condition()
        self._last_answer = 0.0
        self._stopped = False
        self._pool: Pool | None = None
        self._threads: list[threading.Thread] = []
        self._read_labels()

    # ------------------------------------------------------------------------------------------ what people do

    def answer(self, rows: Sequence[int], label: int | Sequence[int], new_class: str | None = None) -> int:
        """Label images; label: a class id, CLEARED or NONE_OF_THESE, or one for each, all undone at once.

        Returns the (first) label. Durable when it returns.
        """
        if not rows or not all(0 <= row < len(self.names) for row in rows):
            raise SettingsError("An answer is about rows of the folder; load the page again.")
        labels = [label] * len(rows) if isinstance(label, int) else label
        if len(rows) != len(labels):
            raise SettingsError(f"There are {len(rows)} rows and {len(labels)} labels; give one for each.")
        if min(labels) < NONE_OF_THESE:
            raise SettingsError("A label is a class, or -1 for none yet, or -2 for none of the classes.")
        pairs = zip(rows, labels, strict=True)
        images = [self._image(row, one if new_class is None else None) for row, one in pairs]
        label = self.log.answer(images, labels, self.who, new_class)
        self._after_labels()
        return label

    def change(self, action: str, **words: Any) -> None:
        """Add, rename or merge classes, undo or redo: a method of `AnswerLog` by its name."""
        getattr(self.log, action)(**words, who=self.who)
        self._after_labels()

    def _image(self, row: int, label: int | None) -> Image:
        """An image as an answer names it. label: None for a class that is new."""
        name, predicted = self.names[row], int(self.learned.predicted[row])
        kind = "confirmed" if predicted == label else "corrected"
        kind = "answered" if predicted == CLEARED else kind
        kind = "checked" if label == self.labels[row] >= 0 else kind
        kind = "unlabelled" if label == CLEARED else "rejected" if label == NONE_OF_THESE else kind
        digest = ""
        with contextlib.suppress(OSError):
            digest = hashlib.sha256(read_regular(self.config.folder / name)).hexdigest()
        return Image(name, digest, kind)

    def _after_labels(self) -> None:
        self._last_answer = time.monotonic()
        with self.changed:
            self._read_labels()
            self.revision += 1
            self._ring()

    def _read_labels(self) -> None:
        """The labels as they are now: those of the folder, then what people said."""
        state = self.log.state
        ids, places = np.unique(self._from_folder, return_inverse=True)
        labels = np.array([state.class_of(int(k)) for k in ids], np.int16)[places]
        kinds = np.where(labels >= 0, KINDS.index("given"), 0).astype(np.uint8)
        for name, answer in list(state.answers.items()):
            row = self.row_of.get(name)
            if row is not None:
                labels[row] = state.class_of(answer.label)
                kinds[row] = KINDS.index(answer.image.kind) if labels[row] != CLEARED else 0
        self.labels, self.kinds = labels, kinds
        self.arrays += 1

    # --------------------------------------------------------------------------------------------- what is told

    @property
    def n_ready(self) -> int:
        """Images whose features are computed."""
        return 0 if self._pool is None else int(self._pool.is_ready.sum())

    @property
    def has_stopped(self) -> bool:
        return self._stopped

    def queue(self, kind: str, n: int) -> list[int]:
        """Rows to look at: "next" to label, or the "unsure" ones."""
        labels = self.labels
        rows = [each.index for each in self.learned.upcoming if labels[each.index] == CLEARED]
        return (rows if kind == "next" else least_sure(labels, self.learned).tolist())[:n]

    def fit_to_keep(self) -> FewShotClassifier:
        """A classifier of the labels so far, for a file. Raises DataError where there is too little to go by."""
        with self.changed:
            pool, labels, names = self._pool, self.labels, dict(self.log.state.names)
        if pool is None or len(set(labels[(labels >= 0) & pool.is_ready].tolist())) < 2:
            raise DataError("There is no classifier yet: label an image of each of two classes first.")
        return fit_to_keep(pool, labels, names)

    # --------------------------------------------------------------------------------------------- what is learned

    def start(self) -> None:
        work = (self._compute, lambda: self._learn_on(thorough=False), lambda: self._learn_on(thorough=True))
        self._threads = [threading.Thread(target=one, daemon=True) for one in (*work, self._watch)]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Let everything that waits or works come to its end."""
        with self.changed:
            self._stopped = True
            self._ring()

    def stop(self) -> None:
        self.end()
        for thread in self._threads:
            thread.join(20)
        self.log.close()

    def _ring(self) -> None:
        """Tell of a change; the lock is held."""
        self.version += 1
        self.changed.notify_all()
        self.on_change()

    def _tell(self, **what: Any) -> None:
        with self.changed:
            for name, value in what.items():
                setattr(self, name, value)
            self._ring()

    def _watch(self) -> None:
        while not self._stopped:
            time.sleep(POLL)
            with contextlib.suppress(UserError):
                if not self._stopped and self.log.refresh():
                    self._after_labels()

    def _compute(self) -> None:
        try:
            work = compute_pools(self.config, self.place, self.found.listing, self._given)
            self._take_pool(finish(work, self._note))
        except UserError as error:
            self._tell(problem=str(error))
        except _Stop:
            return
        self._tell(progress=None)

    def _take_pool(self, pool: Pool) -> None:
        with self.changed:
            self._pool = pool
            self.revision += 1
            self._ring()

    def _note(self, event: Any) -> None:
        if self._stopped:
            raise _Stop
        if isinstance(event, Pool):
            self._take_pool(event)
        elif isinstance(event, Origin):
            self.origin = event
        elif isinstance(event, Progress):
            self._tell(progress=event)
        elif isinstance(event, Notice):
            self.notices.append(event.text)
        elif isinstance(event, Rejected):
            self.rejected[event.name] = event.reason

    def _facts(self, after: int, thorough: bool) -> Facts | None:
        """The newest facts beyond revision `after`, once there are any; None at the end."""
        with self.changed:
            while not self._stopped:
                pause = self._last_answer + PAUSE - time.monotonic() if thorough else 0.0
                ready = self.revision > after and self._pool is not None
                if ready and (not thorough or (pause <= 0 and self.learned_revision == self.revision)):
                    assert self._pool is not None
                    is_checked = self.kinds == KINDS.index("checked")
                    return Facts(self.revision, self._pool, self.labels, is_checked, dict(self.log.state.names))
                self.changed.wait(pause if ready and pause > 0 else None)
        return None

    def _learn_on(self, thorough: bool) -> None:
        # Each of the two threads has one core of the processor: with more, small products wait for each other.
        torch.set_num_threads(1)
        done = 0
        while (facts := self._facts(done, thorough)) is not None:
            done = facts.revision
            try:
                self._learn(facts, thorough)
            except UserError as error:
                self._tell(problem=str(error), learned_revision=done)
            except Exception as error:  # a fault of ours must not end the thread: the next answer is learned from
                logging.getLogger("uvicorn.error").exception("The labels could not be learned from.")
                self._tell(problem=f"These labels could not be learned from: {describe_cause(error)}.")

    def _learn(self, facts: Facts, thorough: bool) -> None:
        if thorough and self.learned.is_thorough:
            return
        pairs = self._copies.find_contradictory(facts.pool.features, facts.pool.is_ready, facts.given)
        learned = learn(facts.pool, facts.given, thorough, facts.is_checked)
        learned = add_copies(learned, facts.given, pairs, facts.is_checked)
        moved = int(((learned.predicted != self.learned.predicted) & (facts.given == CLEARED)).sum())
        learned = replace(learned, upcoming=self.learned.upcoming)
        if not self._publish(facts, learned, moved, thorough) or facts.revision != self.revision:
            return  # somebody has answered meanwhile: what to label next is chosen after that answer
        upcoming = choose_next(facts.pool, facts.given, learned, facts.names)
        self._publish(facts, replace(learned, upcoming=upcoming), moved, thorough, facts.revision)

    def _publish(self, facts: Facts, learned: Learned, moved: int, thorough: bool, chosen: int = 0) -> bool:
        """Whether these answers are news: later ones are never replaced by earlier ones."""
        with self.changed:
            if facts.revision < self.learned_revision or (thorough and facts.revision != self.revision):
                return False
            self.arrays += learned.predicted is not self.learned.predicted
            self.learned, self.learned_revision, self.moved, self.problem = learned, facts.revision, moved, ""
            self.chosen_revision = max(self.chosen_revision, chosen)
            self._ring()
            return True


class _Stop(Exception):
    """The end of the review, in the middle of work."""


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "reviewer"
