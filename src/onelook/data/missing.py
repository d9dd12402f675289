"""Missing labels: one rule for tables, frames, arrays and lists."""

import contextlib
from typing import Any

import numpy as np

WORDS = frozenset({"nan", "NaN", "NAN", "null", "NULL", "None", "<NA>", "NaT"})
"""Texts that programs write for a missing value; in other capitals they are names."""
DOUBTFUL = frozenset({"NA", "N/A", "n/a", "na", "none", "#N/A", "Null", "\\N"})
"""Texts that may mean a missing value too, but that people choose as the name of a class: Namibia, none of these."""


def is_missing(label: Any) -> bool:
    """Whether a label is none: blank, one of WORDS, None, NaN, NaT, or the null of pandas, Arrow or a masked array.

    >>> [is_missing(one) for one in ("", " ", "nan", None, float("nan"), np.datetime64("NaT"))]
    [True, True, True, True, True, True]
    >>> [is_missing(one) for one in ("cat", "NA", "none", "Nan", 0, False)]
    [False, False, False, False, False, False]
    """
    if isinstance(label, bytes):
        label = label.decode("utf-8", "replace")
    if isinstance(label, str):
        return label.strip() in WORDS or not label.strip()
    if label is None or label is np.ma.masked or type(label).__name__ == "NAType":
        return True
    if isinstance(label, int):  # which most labels are
        return False
    if getattr(label, "is_valid", None) is False:  # of Arrow
        return True
    with contextlib.suppress(Exception):  # arrays, and whatever objects make of a comparison
        return bool(label != label)  # nothing but a missing value differs from itself
    return False
