"""Rows of features in the forms that people have: arrays, frames, lists and tensors."""

from typing import Any

import numpy as np
import torch
from scipy import sparse
from sklearn.utils.validation import validate_data

from onelook.errors import SettingsError, plural

LARGEST = 1e150
"""Largest number of a row: squares of larger ones are infinite."""

BLOCK = 65_536
"""Rows that are checked together."""


class RowsTypeError(SettingsError, TypeError):
    """Rows of a type that holds no numbers, which scikit-learn wants to be a TypeError too."""


def read_rows(estimator: Any, X: Any, reset: bool, name: str = "X") -> np.ndarray:
    """Rows (n, d) as float64, or float32 if they are, checked against the columns of the fit unless `reset`.

    name: argument that a message is about. Raises SettingsError.
    """
    if sparse.issparse(X):
        raise SettingsError(f"{name} is sparse, but rows of features must be dense; give {name}.toarray().")
    try:
        rows = validate_data(
            estimator, as_array(X), reset=reset, dtype=[np.float64, np.float32], ensure_all_finite=False
        )
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:  # RuntimeError: of tensors
        kind = RowsTypeError if isinstance(error, TypeError) else SettingsError
        raise kind(f"{name} cannot be used: {' '.join(str(error).split())}") from error
    for start in range(0, len(rows), BLOCK):  # a table of truths of a large file could need more memory than there is
        _require_usable(rows[start : start + BLOCK], start, name)
    return np.asarray(rows)


def _require_usable(rows: np.ndarray, start: int, name: str) -> None:
    """Raise SettingsError for numbers that are too large or none; start: number of the first row."""
    bad = np.flatnonzero(~np.isfinite(rows).all(1))
    if len(bad):
        rest = f" and in {plural(len(bad) - 1, 'row')} more" if len(bad) > 1 else ""
        raise SettingsError(f"{name} holds NaN or infinity in row {start + bad[0]}{rest}; leave such rows out.")
    if rows.size and float(np.abs(rows).max()) > LARGEST:
        raise SettingsError(f"{name} holds numbers beyond {LARGEST:g}; divide its columns by their spread.")


def is_empty(X: Any) -> bool:
    """Whether there is no row; False for what has no length."""
    try:
        return len(X) == 0
    except TypeError:
        return False


def as_array(X: Any) -> Any:
    """Tensors as arrays, wherever and however they were computed; all else as it is."""
    if isinstance(X, list | tuple) and X and all(isinstance(row, torch.Tensor) for row in X):
        X = torch.stack([row.detach().cpu() for row in X])
    if isinstance(X, torch.Tensor):
        X = X.detach().cpu()
        X = (X.double() if X.is_floating_point() else X).resolve_conj().resolve_neg().numpy()
    return X
