"""Labels of any kind, with markers for rows that have none, and their form in JSON."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool

MARKERS = (-1, None, math.nan, "")
"""Labels that "auto" takes for a marker of unlabelled rows."""


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
    """Whether a label is this marker. NaN matches the missing value of tables (NA) too."""
    missing = type(label).__name__ == "NAType"
    if isinstance(marker, float) and math.isnan(marker):
        return missing or (isinstance(label, float) and math.isnan(label))
    if missing or label is None or marker is None:
        return label is marker
    return isinstance(label, str) == isinstance(marker, str) and bool(label == marker)
