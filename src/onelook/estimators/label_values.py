"""Labels of any kind, with markers for rows that have none, and their form in JSON."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d

from onelook.data.missing import is_missing
from onelook.errors import SettingsError, plural
from onelook.estimators.rows import as_array

MARKERS = (-1, None)
"""Labels that "auto" takes for a marker of unlabelled rows; None stands for every missing label."""


def read_labels(y: Any, n_rows: int, setting: Any) -> tuple[np.ndarray, Bool[np.ndarray, "N"]]:
    """Labels of the labelled rows, and a mask of the unlabelled ones. setting: their markers. Raises SettingsError."""
    if y is None:
        raise SettingsError("FewShotClassifier requires y to be passed, but the target y is None.")
    try:
        labels, is_marked = drop_marked(column_or_1d(_as_labels(y), warn=True), read_markers(setting))
        if len(is_marked) != n_rows:
            raise SettingsError(f"X has {n_rows} rows, but y has {plural(len(is_marked), 'label')}.")
        if gaps := [i for i, one in enumerate(labels.tolist()) if not isinstance(one, str | bytes) and is_missing(one)]:
            raise SettingsError(
                f"y has {plural(len(gaps), 'missing label')}; fill them in, or let unlabeled_marker be None, so that "
                f"they mark the rows to be labelled."
            )
        if labels.dtype.kind == "f" and np.isinf(labels).any():
            raise SettingsError("Input y contains infinity; give a finite number, or a word, for each class.")
        # Twice, because scikit-learn warns of a regression where more than half of the labels are different.
        check_classification_targets(np.concatenate([labels, labels]))
    except SettingsError:
        raise
    except (ValueError, TypeError, RuntimeError) as error:  # of scikit-learn, numpy and torch
        raise SettingsError(f"y cannot be used: {' '.join(str(error).split())}") from error
    return labels, is_marked


def _as_labels(y: Any) -> np.ndarray:
    if isinstance(y, list | tuple):  # of type object, or numpy would turn a NaN among strings into the string "nan"
        y = np.array(
            [one.item() if hasattr(one, "item") and not np.ndim(one) else one for one in y] or [], dtype=object
        )
    if isinstance(y, np.ma.MaskedArray):
        return np.array([None if one is np.ma.masked else one for one in y.ravel()], dtype=object)
    return np.asarray(as_array(y))


def read_markers(setting: Any) -> tuple[Any, ...]:
    """Markers that a setting means: "auto", a tuple or list of them, or one."""
    if isinstance(setting, str) and setting == "auto":
        return MARKERS
    return tuple(setting) if isinstance(setting, tuple | list) else (setting,)


def drop_marked(labels: np.ndarray, markers: tuple[Any, ...]) -> tuple[np.ndarray, Bool[np.ndarray, "N"]]:
    """Labels of the labelled rows, and a mask of the unlabelled ones."""
    is_marked = np.array([any(_matches(label, marker) for marker in markers) for label in labels.tolist()], dtype=bool)
    labels = labels[~is_marked]
    if labels.dtype == object and len({isinstance(label, str) for label in labels}) == 1:
        plain = np.array(labels.tolist())  # strings or numbers, as they would be without any marker
        labels = plain if plain.ndim == 1 and plain.dtype.kind in "biufU" else labels
    return labels, is_marked


def share_kind(some: np.ndarray, others: np.ndarray) -> bool:
    """Whether labels can be put into one array unchanged: numpy turns numbers among strings into strings."""
    kinds = {array.dtype.kind for array in (some, others)}
    return "O" in kinds or len({kind in "US" for kind in kinds}) == 1


def as_json(setting: Any) -> Any:
    """Settings as JSON: lists for tuples and arrays, pairs for a dict, whose keys may be of any kind."""
    if isinstance(setting, np.ndarray | np.generic):
        setting = setting.tolist()
    if isinstance(setting, Mapping):
        return {"pairs": as_json(list(setting.items()))}
    return [as_json(x) for x in setting] if isinstance(setting, tuple | list) else setting


def from_json(found: Any) -> Any:
    """Settings as `as_json` wrote them, with tuples for lists.

    >>> from_json(as_json({1: 0.3, 2: 0.7})), from_json(as_json((-1, None)))
    ({1: 0.3, 2: 0.7}, (-1, None))
    """
    if isinstance(found, dict):
        return dict(found["pairs"])
    return tuple(found) if isinstance(found, list) else found


def _matches(label: Any, marker: Any) -> bool:
    """Whether a label is this marker. None, NaN and "" are one marker: of all that `is_missing` is true of."""
    if is_missing(label) or is_missing(marker):
        return is_missing(label) and is_missing(marker)
    return isinstance(label, str) == isinstance(marker, str) and bool(np.all(label == marker))
