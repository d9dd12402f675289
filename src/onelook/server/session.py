"""The review of one folder: its images, what people and the classifier say of them, and the threads that learn.

Answers are durable before a method returns. Features are computed in parts, in an order without a pattern, so that the
first answers come early. Two threads learn after every answer: one quickly from a part of the images, the other, once
nobody has answered for a while, from more of them. Only the newest state of the labels is learned from. All that is
known is in `now`, which is replaced as a whole: a page is never told of parts of two moments.
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
from onelook.server.moment import Moment
from onelook.server.near_copies import NearCopies
from onelook.server.pictures import Pictures, stamp
from onelook.server.pools import Origin, compute_pools
from onelook.server.relearning import Learned, Pool, add_copies, choose_next, fit_to_keep, learn

PAUSE = 1.5
"""Seconds without an answer after which the thorough learning begins."""
POLL = 1.0
"""Seconds after which the answers of other processes are looked for."""


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
        self.changed = threading.Condition()
        self._last_answer = 0.0
        self._stopped = False
        self._threads: list[threading.Thread] = []
        notices = tuple(self.found.messages() if class_names else ())
        self.now = Moment(**self._read_labels(), learned=Learned.nothing(n), notices=notices)

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
        now, name = self.now, self.names[row]
        predicted = int(now.learned.predicted[row])
        kind = "confirmed" if predicted == label else "corrected"
        kind = "answered" if predicted == CLEARED else kind
        kind = "checked" if label == now.labels[row] >= 0 else kind
        kind = "unlabelled" if label == CLEARED else "rejected" if label == NONE_OF_THESE else kind
        digest = ""
        with contextlib.suppress(OSError):
            digest = hashlib.sha256(read_regular(self.config.folder / name)).hexdigest()
        return Image(name, digest, kind)

    def _after_labels(self) -> None:
        self._last_answer = time.monotonic()
        with self.changed:
            now = self.now
            self._tell(**self._read_labels(), revision=now.revision + 1, arrays=now.arrays + 1)

    def _read_labels(self) -> dict[str, Any]:
        """Fields of a moment about the labels: those of the folder, then what people said."""
        state, can = self.log.read(self.who)
        ids, places = np.unique(self._from_folder, return_inverse=True)
        labels = np.array([state.class_of(int(k)) for k in ids], np.int16)[places]
        kinds = np.where(labels >= 0, KINDS.index("given"), 0).astype(np.uint8)
        for name, answer in state.answers.items():
            row = self.row_of.get(name)
            if row is not None:
                labels[row] = state.class_of(answer.label)
                kinds[row] = KINDS.index(answer.image.kind) if labels[row] != CLEARED else 0
        return {"labels": labels, "kinds": kinds, "names": state.names, "can": can}

    # --------------------------------------------------------------------------------------------- what is told

    @property
    def has_stopped(self) -> bool:
        return self._stopped

    def fit_to_keep(self) -> FewShotClassifier:
        """A classifier of the labels so far, for a file. Raises DataError where there is too little to go by."""
        now = self.now
        if now.pool is None or len(set(now.labels[(now.labels >= 0) & now.pool.is_ready].tolist())) < 2:
            raise DataError("There is no classifier yet: label an image of each of two classes first.")
        return fit_to_keep(now.pool, now.labels, now.names)

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

    def _tell(self, is_news: bool = True, **what: Any) -> None:
        """Change what is known; whoever waits for news is told. is_news: False for what can wait for the next."""
        with self.changed:
            self.now = replace(self.now, version=self.now.version + is_news, **what)
            if is_news:
                self._ring()

    def _ring(self) -> None:
        """Wake all that wait; the lock is held."""
        self.changed.notify_all()
        self.on_change()

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
            self._tell(pool=pool, revision=self.now.revision + 1)

    def _note(self, event: Any) -> None:
        if self._stopped:
            raise _Stop
        if isinstance(event, Pool):
            self._take_pool(event)
        elif isinstance(event, Origin):
            self._tell(is_news=False, origin=event)
        elif isinstance(event, Progress):
            self._tell(progress=event)
        elif isinstance(event, Notice):
            self._tell(notices=(*self.now.notices, event.text))
        elif isinstance(event, Rejected):
            self._tell(is_news=False, n_rejected=self.now.n_rejected + 1)

    def _await_facts(self, after: int, thorough: bool) -> Moment | None:
        """The newest moment with features beyond revision `after`, once there is one; None at the end."""
        with self.changed:
            while not self._stopped:
                now = self.now
                pause = self._last_answer + PAUSE - time.monotonic() if thorough else 0.0
                ready = now.revision > after and now.pool is not None
                if ready and (not thorough or (pause <= 0 and now.learned_revision == now.revision)):
                    return now
                self.changed.wait(pause if ready and pause > 0 else None)
        return None

    def _learn_on(self, thorough: bool) -> None:
        # Each of the two threads has one core of the processor: with more, small products wait for each other.
        torch.set_num_threads(1)
        done = 0
        while (facts := self._await_facts(done, thorough)) is not None:
            done = facts.revision
            try:
                self._learn(facts, thorough)
            except UserError as error:
                self._tell(problem=str(error), learned_revision=done)
            except Exception as error:  # a fault of ours must not end the thread: the next answer is learned from
                logging.getLogger("uvicorn.error").exception("The labels could not be learned from.")
                self._tell(problem=f"These labels could not be learned from: {describe_cause(error)}.")

    def _learn(self, facts: Moment, thorough: bool) -> None:
        pool, given = facts.pool, facts.labels
        if pool is None or (thorough and self.now.learned.is_thorough):
            return
        pairs = self._copies.find_contradictory(pool.features, pool.is_ready, given)
        learned = learn(pool, given, thorough, facts.is_checked)
        learned = add_copies(learned, given, pairs, facts.is_checked)
        with self.changed:
            now = self.now
            if not self._is_newest(facts, thorough):
                return
            moved = int(((learned.predicted != now.learned.predicted) & (given == CLEARED)).sum())
            self._tell(learned=learned, learned_revision=facts.revision, arrays=now.arrays + 1, moved=moved, problem="")
            if facts.revision != now.revision:
                return  # somebody has answered meanwhile: what to label next is chosen after that answer
        upcoming = choose_next(pool, given, learned, facts.names)
        with self.changed:
            if self._is_newest(facts, thorough):
                self._tell(upcoming=upcoming, chosen_revision=facts.revision)

    def _is_newest(self, facts: Moment, thorough: bool) -> bool:
        """Whether what was learned from these facts is told: nothing later is replaced by it."""
        return facts.revision >= self.now.learned_revision and (not thorough or facts.revision == self.now.revision)


class _Stop(Exception):
    """The end of the review, in the middle of work."""


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "reviewer"
