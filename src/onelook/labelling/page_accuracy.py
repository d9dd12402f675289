"""Of the page of labelled images: what was taken for what, and whether the labels are good enough."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from onelook.estimators.learning_curve import CurvePoint
from onelook.labelling.quality import Assessment, confused_pairs
from onelook.scoring import Estimate

LARGEST_MATRIX = 30
"""Classes; a confusion matrix of more is a list of what is confused most."""
MOST_CONFUSED = 20
MOST_OPEN = 10
"""Classes; the table of more labelled classes is folded."""
MOST_NAMES = 5
"""In a sentence or a short list."""
WIDTH, HEIGHT = 400, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 396, 12, 186
"""Edges of the curve in its picture."""
MARGIN = 14
"""Left and right of the points."""
NARROWEST = 30
"""Between two numbers below the curve."""


def confusion(matrix: np.ndarray, names: tuple[str, ...]) -> dict[str, Any]:
    """Of true classes (rows) and what they were taken for (columns)."""
    counts = matrix.tolist()
    rows = [
        {
            "name": name,
            "counts": row,
            "n": sum(row),
            "right": row[i],
            "percent": f"{100 * row[i] / sum(row):.0f} %" if sum(row) else "none",
        }
        for i, (name, row) in enumerate(zip(names, counts, strict=True))
    ]
    n, right = int(matrix.sum()), int(matrix.trace())
    return {
        "rows": rows,
        "n": n,
        "right": right,
        "percent": f"{100 * right / n:.1f}" if n else "",
        "confused": confused_pairs(matrix, names)[:MOST_CONFUSED],
        "whole": len(names) <= LARGEST_MATRIX,
    }


def assessed(assessment: Assessment, n_suggested: int) -> dict[str, Any]:
    """What the section about it shows. n_suggested: images that the page suggests to label."""
    table = confusion(assessment.estimate.confusion, assessment.class_names)
    classes = assessment.classes()
    for row, of_class in zip(table["rows"], classes, strict=True):
        row |= {"n": of_class.n, "percent": str(of_class.recall or "?")}
    table["confused"] = table["confused"][:MOST_NAMES]
    are_left = n_suggested < assessment.n_images
    return {
        "estimate": assessment.estimate,
        "table": table,
        "n_images": assessment.n_images,
        "n_changed": assessment.n_changed,
        "single": _some([one.name for one in classes if not one.n_left_out]),
        "n_single": sum(not one.n_left_out for one in classes),
        "folded": len(classes) > MOST_OPEN,
        "curve": curve(assessment),
        "after": assessment.after(n_suggested) if are_left else None,
    }


def _some(names: list[str]) -> list[str]:
    return names if len(names) <= MOST_NAMES else [*names[: MOST_NAMES - 1], f"{len(names) - MOST_NAMES + 1:,} others"]


# ------------------------------------------------------------------------------------------------------ the curve


@dataclass(frozen=True)
class _Point:
    kind: str
    """measured, now or expected."""
    n_labels: int
    words: str
    estimate: Estimate


def curve(assessment: Assessment) -> dict[str, Any]:
    """Where the points of the learning curve lie in its picture, and the same numbers as rows of a table.

    From left to right is the logarithm of the number of labels: a curve that is straight there gains as much by each
    doubling.
    """
    points = _points(assessment)
    lowest = min(point.estimate.low for point in points)
    floor = min(math.floor(5 * lowest) / 5, 0.8)
    first, last = points[0].n_labels, points[-1].n_labels

    def x(n: int) -> float:
        part = math.log(n / first) / math.log(last / first) if last > first else 0.5
        return round(LEFT + MARGIN + (RIGHT - LEFT - 2 * MARGIN) * part, 1)

    def y(accuracy: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * (accuracy - floor) / (1 - floor), 1)

    marks = [
        {
            "kind": p.kind,
            "n": p.n_labels,
            "words": p.words,
            "estimate": p.estimate,
            "x": x(p.n_labels),
            "y": y(p.estimate.value),
            "low": y(p.estimate.low),
            "high": y(p.estimate.high),
        }
        for p in points
    ]
    measured = [mark for mark in marks if mark["kind"] == "measured"]
    expected = [mark for mark in marks if mark["kind"] != "measured"]
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": RIGHT,
        "bottom": BOTTOM,
        "marks": marks,
        "levels": [(level, y(level / 100)) for level in range(round(100 * floor), 101, 20 if floor < 0.6 else 10)],
        "numbers": _apart(marks),
        "measured": _line(measured),
        "expected": _line(expected),
        "band": _line(
            [
                *({"x": m["x"], "y": m["high"]} for m in measured),
                *({"x": m["x"], "y": m["low"]} for m in reversed(measured)),
            ]
        ),
    }


def _points(assessment: Assessment) -> list[_Point]:
    measured = [
        _Point(
            "measured",
            one.n_labels,
            f"measured, {_of_each(one, len(assessment.class_names))} of each class",
            one.accuracy,
        )
        for one in assessment.curve
    ]
    n = assessment.n_labelled
    expected = [
        _Point("expected", n_labels, f"expected, {n_labels // n} times as many", then)
        for n_labels, then in assessment.with_more_labels()
    ]
    return [*measured, _Point("now", n, "now, estimated", assessment.estimate.accuracy), *expected]


def _of_each(point: CurvePoint, n_classes: int) -> str:
    fewer = point.n_labels < point.n_shot * n_classes
    return f"{'up to ' if fewer else ''}{point.n_shot:,}"


def _line(marks: Iterable[dict[str, Any]]) -> str:
    return " ".join(f"{mark['x']},{mark['y']}" for mark in marks)


def _apart(marks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The marks whose numbers can stand below the curve without touching: that of now, and others from there on."""
    chosen: list[dict[str, Any]] = []
    for mark in sorted(marks, key=lambda mark: (mark["kind"] != "now", mark["kind"] != "expected", -mark["x"])):
        if all(abs(mark["x"] - other["x"]) >= NARROWEST for other in chosen):
            chosen.append(mark)
    return sorted(chosen, key=lambda mark: float(mark["x"]))
