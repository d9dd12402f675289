"""Tables of predictions that a person looked through: the rows that were confirmed, and those that were corrected."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from onelook.data.missing import is_missing
from onelook.errors import DataError

LABEL = "label"
CONFIRMED = "confirmed"
"""Column of the predictions of `onelook label` in which a person writes yes where the label is right."""
GUESS = "best_guess"
"""Column of the label that was predicted, which nobody corrects."""
YES, NO = ("yes", "y", "true", "1", "x"), ("no", "n", "false", "0")

Row = tuple[int, dict[str, Any]]
"""Line of the file, and the cells by their columns."""


def are_predictions(columns: Collection[str]) -> bool:
    return {"probability", "runner_up"} <= set(columns)


def take_confirmed(table: Path, rows: list[Row]) -> tuple[list[Row], tuple[str, ...]]:
    """The rows of predictions that a person confirmed, and a sentence on those that were corrected only.

    Raises DataError where none was, or where it is not clear what was confirmed.
    """
    confirmed = [row for row in rows if is_confirmed(table, *row)]
    if not confirmed:
        raise DataError(
            f"{table} holds predictions, and none that a person confirmed; correct labels that are wrong, write yes in "
            f"the column {CONFIRMED} of each row that you looked at, and give it again with another --out. To take all "
            f"its rows for labels, remove those that are wrong, and the column probability."
        )
    for line, row in confirmed:
        if is_missing(row.get(LABEL)):
            raise DataError(f"{table}, line {line} is confirmed, but its label is empty; write the label there.")
    n = sum(is_corrected(row) and not is_confirmed(table, line, row) for line, row in rows)
    if not n:
        return confirmed, ()
    other = "1 row has" if n == 1 else f"{n:,} rows have"
    passed = "it was" if n == 1 else "they were"
    told = f"{table.name}: {other} another label than was predicted, but no yes in the column {CONFIRMED};"
    return confirmed, (f"{told} {passed} passed over.",)


def is_confirmed(table: Path, line: int, row: dict[str, Any]) -> bool:
    word = "" if is_missing(row.get(CONFIRMED)) else str(row[CONFIRMED]).strip().casefold()
    if word and word not in YES + NO:
        raise DataError(f"{table}, line {line}: {CONFIRMED} is {word[:40]!r}; write yes there, or nothing.")
    return word in YES


def is_corrected(row: dict[str, Any]) -> bool:
    label, guess = row.get(LABEL), row.get(GUESS)
    return not is_missing(label) and guess is not None and str(label).strip() != str(guess).strip()
