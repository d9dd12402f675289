"""Tasks and annotations of Label Studio projects in one SQLite file, so that a kill loses nothing acknowledged."""

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onelook.errors import StorageError
from onelook.files import digest

TABLES = """
CREATE TABLE IF NOT EXISTS tasks (
    project INTEGER, task INTEGER, image TEXT, network TEXT, feature BLOB, PRIMARY KEY (project, task)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS annotations (
    project INTEGER, id INTEGER, task INTEGER, label TEXT, PRIMARY KEY (project, id)
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Annotation:
    """Class that an annotation chooses for its task; None where it chooses none."""

    id: int
    task: int
    label: str | None


@dataclass(frozen=True)
class AnnotationStore:
    """Annotations, images and features of the tasks of all projects."""

    path: Path

    def save_annotations(self, project: int, found: Iterable[Annotation], images: dict[int, str]) -> None:
        """Keep annotations, new or changed, and the images of their tasks."""
        rows = [(project, one.id, one.task, one.label) for one in found]
        with self._open() as db:
            db.executemany("INSERT OR REPLACE INTO annotations VALUES (?, ?, ?, ?)", rows)
            self._note_images(db, project, images)

    def delete_annotations(self, project: int, ids: Sequence[int]) -> None:
        with self._open() as db:
            db.executemany("DELETE FROM annotations WHERE project = ? AND id = ?", [(project, i) for i in ids])

    def delete_tasks(self, project: int, ids: Sequence[int]) -> None:
        with self._open() as db:
            for table in ("tasks", "annotations"):
                db.executemany(f"DELETE FROM {table} WHERE project = ? AND task = ?", [(project, i) for i in ids])

    def labels(self, project: int) -> dict[int, str]:
        """Class of each annotated task, by its newest annotation that chooses one."""
        with self._open() as db:
            rows = db.execute(
                "SELECT task, label FROM annotations WHERE project = ? AND label IS NOT NULL ORDER BY id", (project,)
            )
            return dict(rows.fetchall())

    def images(self, project: int, tasks: Iterable[int]) -> dict[int, str]:
        """Images of some tasks, as far as they are known."""
        with self._open() as db:
            rows = dict(db.execute("SELECT task, image FROM tasks WHERE project = ?", (project,)).fetchall())
        return {task: rows[task] for task in tasks if task in rows}

    def save_features(self, project: int, network: str, features: dict[int, np.ndarray]) -> None:
        rows = [(network, row.astype("<f4").tobytes(), project, task) for task, row in features.items()]
        with self._open() as db:
            db.executemany("UPDATE tasks SET network = ?, feature = ? WHERE project = ? AND task = ?", rows)

    def seen(self, project: int, network: str) -> set[int]:
        """Tasks of a project that this network has seen."""
        with self._open() as db:
            found = "SELECT task FROM tasks WHERE project = ? AND network = ? AND feature IS NOT NULL"
            return {task for (task,) in db.execute(found, (project, network))}

    def features(self, project: int, network: str, tasks: Sequence[int] | None = None) -> dict[int, np.ndarray]:
        """Features of tasks that this network has seen; tasks: those that are asked for, None: all of the project."""
        found = "SELECT task, feature FROM tasks WHERE project = ? AND network = ? AND feature IS NOT NULL"
        with self._open() as db:
            if tasks is None:
                rows = db.execute(found, (project, network)).fetchall()
            else:
                each = (db.execute(f"{found} AND task = ?", (project, network, task)).fetchone() for task in tasks)
                rows = [row for row in each if row is not None]
        return {task: np.frombuffer(feature, dtype="<f4") for task, feature in rows}

    def version(self, project: int) -> str:
        """Name of what the annotations so far teach: it changes whenever these do."""
        labels = self.labels(project)
        content = repr(sorted(labels.items())).encode()
        return f"onelook-{len(labels)}-{digest(content).hex()[:8]}"

    def _note_images(self, db: sqlite3.Connection, project: int, images: dict[int, str]) -> None:
        """Keep the images of tasks; a feature of another image of the task is dropped."""
        db.executemany(
            "INSERT INTO tasks (project, task, image) VALUES (?, ?, ?) ON CONFLICT (project, task) DO UPDATE "
            "SET image = excluded.image, feature = NULL WHERE image != excluded.image",
            [(project, task, image) for task, image in images.items()],
        )

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection for one transaction, which is on the disk when the block ends. Raises StorageError."""
        try:
            with contextlib.closing(sqlite3.connect(self.path, timeout=30)) as db:
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = FULL")
                db.executescript(TABLES)
                with db:
                    yield db
        except sqlite3.Error as error:
            raise StorageError(f"{self.path} cannot be used ({error}); choose another folder, or repair it.") from error
