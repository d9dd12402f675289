"""Files that a review gives away: tables and annotations of labels, sorted copies, the classifier."""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from onelook.errors import DataError, SettingsError
from onelook.events import finish
from onelook.files import replacing, write_atomically
from onelook.labelling.answers import CLEARED, NONE_OF_THESE
from onelook.labelling.export import Prediction, csv_text, write_coco, write_label_studio
from onelook.labelling.folder import SORTED_FOLDER
from onelook.labelling.sort import sort_images
from onelook.server.moment import Moment
from onelook.server.relearning import Learned
from onelook.server.session import Session


def collect(paths: Sequence[str], now: Moment) -> tuple[Prediction, ...]:
    """The label of every image that has one: of a person, or predicted. Raises DataError where none has."""
    names, one, labels = now.names, now.learned, now.labels.tolist()
    rows = []
    for i, path in enumerate(paths):
        label, p, runner_up = labels[i], 1.0, ""
        margin, predicted = 1.0, int(one.predicted[i])
        if label == CLEARED and predicted in names:
            label, p, margin = predicted, *_numbers(one, i)
            runner_up = names.get(int(one.runner_up[i]), "")
        if label in names:
            rows.append(Prediction(path, names[label], p, runner_up, margin))
        elif label == NONE_OF_THESE and predicted in names:
            rows.append(Prediction(path, names[predicted], *_numbers(one, i)[:1], "", 0.0, True))
    if not rows:
        raise DataError("There is nothing to write yet: label an image of each of two classes first.")
    return tuple(rows)


def _numbers(one: Learned, row: int) -> tuple[float, float]:
    p, other = one.probability[row], one.runner_up_probability[row]
    return round(float(p), 6), round(float(p - other), 6)


def _table(session: Session) -> list[str]:
    path, now = session.out / "review.csv", session.now
    by_people = {session.names[i] for i in np.flatnonzero(now.labels >= 0)}
    write_atomically(path, csv_text(collect(session.names, now), by_people).encode())
    return _named(path)


def _coco(session: Session) -> list[str]:
    path, now = session.out / "review.coco.json", session.now
    write_coco(path, collect(session.names, now), tuple(now.names.values()), session.config.folder)
    return _named(path)


def _label_studio(session: Session) -> list[str]:
    path, now = session.out / "review.label-studio.json", session.now
    write_label_studio(path, collect(session.names, now), tuple(now.names.values()))
    return _named(path, path.with_suffix(".xml"))


def _sorted_copies(session: Session) -> list[str]:
    finish(sort_images(collect(session.names, session.now), session.out / SORTED_FOLDER, "copy", session.config.folder))
    return _named(session.out / SORTED_FOLDER)


def _named(*paths: Path) -> list[str]:
    return [str(path) for path in paths]


def _parquet(session: Session) -> list[str]:
    try:
        arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise SettingsError('A Parquet table needs the package pyarrow; pip install "onelook[parquet]".') from error
    path = session.out / "review.parquet"
    rows = [vars(one) for one in collect(session.names, session.now)]
    with replacing(path) as temporary:
        parquet.write_table(arrow.Table.from_pylist(rows), temporary)
    return _named(path)


def _classifier(session: Session) -> list[str]:
    path, origin = session.out / "model.safetensors", session.now.origin
    session.fit_to_keep().save(path, network=None if origin is None else origin.identity)
    return _named(path)


EXPORTS: dict[str, Callable[[Session], list[str]]] = {
    "csv": _table,
    "parquet": _parquet,
    "coco": _coco,
    "label-studio": _label_studio,
    "sorted": _sorted_copies,
    "classifier": _classifier,
}
