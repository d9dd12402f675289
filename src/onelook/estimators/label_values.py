"""Labels as people give them: of any kind, with markers where there is none."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool

MARKERS = (-1, None, math.nan, "")
"""What "auto" takes for the label of a row without one."""


def markers(setting: Any) -> tuple[Any, ...]:
    """The markers that a setting means: "auto", a tuple or list of them, or one."""
    if isinstance(setting, str) and setting == "auto":
        return MARKERS
    return tuple(setting) if isinstance(setting, tuple | list) else (setting,)


def without_marked(labels: np.ndarray, markers: tuple[Any, ...]) -> tuple[np.ndarray, Bool[np.ndarray, "N"]]:
    """The labels of the rows that have one, and which rows have none."""
    is_marked = np.array([any(_is(label, marker) for marker in markers) for label in labels.tolist()], dtype=bool)
    labels = labels[~is_marked]
    if labels.dtype == object and len({isinstance(label, str) for label in labels}) == 1:
        plain = np.array(labels.tolist())  # words or numbers, as they would be had there been no marker
        labels = plain if plain.ndim == 1 and plain.dtype.kind in "biufU" else labels
    return labels, is_marked


def alike(some: np.ndarray, others: np.ndarray) -> bool:
    """Whether labels can stand in one array and remain what they are: numpy makes words of numbers among words."""
    kinds = {array.dtype.kind for array in (some, others)}
    return "O" in kinds or len({kind in "US" for kind in kinds}) == 1


def as_json(setting: Any) -> Any:
    """What JSON cannot tell apart, or does not know, as objects that `from_json` knows: NaN, tuples, dicts."""
    if isinstance(setting, np.ndarray | np.generic):
        return as_json(setting.tolist())
    if isinstance(setting, float) and math.isnan(setting):
        return {"nan": True}
    if isinstance(setting, Mapping):
        return {"pairs": [[as_json(key), as_json(value)] for key, value in setting.items()]}
    if isinstance(setting, tuple):
        return {"tuple": [as_json(x) for x in setting]}
    return [as_json(x) for x in setting] if isinstance(setting, list) else setting


def from_json(found: Any) -> Any:
    if isinstance(found, list):
        return [from_json(x) for x in found]
    if not isinstance(found, dict):
        return found
    if "pairs" in found:
        return {from_json(key): from_json(value) for key, value in found["pairs"]}
    return tuple(from_json(x) for x in found["tuple"]) if "tuple" in found else math.nan


def _is(label: Any, marker: Any) -> bool:
    """Whether a label is this marker. NaN is like the missing value of tables (NA)."""
    missing = type(label).__name__ == "NAType"
    if isinstance(marker, float) and math.isnan(marker):
        return missing or (isinstance(label, float) and math.isnan(label))
    if missing or label is None or marker is None:
        return label is marker
    return isinstance(label, str) == isinstance(marker, str) and bool(label == marker)
