"""Accuracy on the page of labelled images: its section, and the picture of the learning curve."""

import math
from collections.abc import Iterable
from typing import Any

from onelook.labelling.quality import Assessment, confused_pairs
from onelook.scoring import Estimate

LARGEST_MATRIX = 30
"""Classes of a confusion matrix that is shown whole; for more the rows are shown without their counts."""
MOST_OPEN = 10
"""Classes whose table is open; the table of more is folded."""
MOST_NAMES = 5
"""Names in a sentence or a short list."""
WIDTH, HEIGHT = 400, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 396, 12, 186
"""Edges of the curve in its picture."""
MARGIN = 14
"""Space left and right of the points."""
NARROWEST = 30
"""Least distance of two numbers below the curve."""


def fill_assessment(assessment: Assessment, n_suggested: int) -> dict[str, Any]:
    """Content of the section on accuracy; n_suggested: images that the page suggests to label."""
    matrix, names, classes = assessment.estimate.confusion, assessment.class_names, assessment.classes()
    rows = [
        {"name": one.name, "n": one.n, "percent": str(one.recall or "?"), "counts": counts}
        for one, counts in zip(classes, matrix.tolist(), strict=True)
    ]
    return {
        "estimate": assessment.estimate,
        "rows": rows,
        "n_left_out": int(matrix.sum()),
        "n_right": int(matrix.trace()),
        "confused": confused_pairs(matrix, names)[:MOST_NAMES],
        "is_whole": len(names) <= LARGEST_MATRIX,
        "is_folded": len(names) > MOST_OPEN,
        "n_images": assessment.n_images,
        "n_changed": assessment.n_changed,
        "single": _shorten([one.name for one in classes if not one.n_left_out]),
        "n_single": sum(not one.n_left_out for one in classes),
        "curve": draw_curve(assessment),
        "after": assessment.after(n_suggested) if n_suggested < assessment.n_images else None,
    }


def _shorten(names: list[str]) -> list[str]:
    return names if len(names) <= MOST_NAMES else [*names[: MOST_NAMES - 1], f"{len(names) - MOST_NAMES + 1:,} others"]


# ------------------------------------------------------------------------------------------------------ the curve


def draw_curve(assessment: Assessment) -> dict[str, Any]:
    """Marks of the learning curve in its picture, which are the rows of its table too, and the lines through them.

    The horizontal axis is the logarithm of the number of labels: a curve that is straight there gains as much by each
    doubling.
    """
    points = _list_points(assessment)
    floor = min(math.floor(5 * min(estimate.low for *_, estimate in points)) / 5, 0.8)
    first, last = points[0][1], points[-1][1]

    def x(n: int) -> float:
        part = math.log(n / first) / math.log(last / first) if last > first else 0.5
        return round(LEFT + MARGIN + (RIGHT - LEFT - 2 * MARGIN) * part, 1)

    def y(accuracy: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * (accuracy - floor) / (1 - floor), 1)

    marks = []
    for kind, n, how, one in points:
        place = {"x": x(n), "y": y(one.value), "low": y(one.low), "high": y(one.high)}
        marks.append({"kind": kind, "n": n, "how": how, "estimate": one} | place)
    measured = [mark for mark in marks if mark["kind"] == "measured"]
    upper, lower = ([{"x": mark["x"], "y": mark[end]} for mark in measured] for end in ("high", "low"))
    return {
        "frame": {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "bottom": BOTTOM},
        "marks": marks,
        "levels": [(level, y(level / 100)) for level in range(round(100 * floor), 101, 20 if floor < 0.6 else 10)],
        "numbers": _choose_numbers(marks),
        "measured": _join(measured),
        "expected": _join(mark for mark in marks if mark["kind"] != "measured"),
        "band": _join([*upper, *reversed(lower)]),
    }


def _list_points(assessment: Assessment) -> list[tuple[str, int, str, Estimate]]:
    """Kind (measured, now or expected), number of labels, explanation and accuracy of each point of the curve."""
    n, n_classes = assessment.n_labelled, len(assessment.class_names)
    points = []
    for one in assessment.curve:
        fewer = "up to " if one.n_labels < one.n_shot * n_classes else ""
        points.append(("measured", one.n_labels, f"measured, {fewer}{one.n_shot:,} of each class", one.accuracy))
    points.append(("now", n, "now, estimated", assessment.estimate.accuracy))
    for n_labels, then in assessment.with_more_labels():
        points.append(("expected", n_labels, f"expected, {n_labels // n} times as many", then))
    return points


def _join(marks: Iterable[dict[str, Any]]) -> str:
    return " ".join(f"{mark['x']},{mark['y']}" for mark in marks)


def _choose_numbers(marks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Marks whose numbers can stand below the curve without touching: that of now, and others from there on."""
    chosen: list[dict[str, Any]] = []
    for mark in sorted(marks, key=lambda mark: (mark["kind"] != "now", mark["kind"] != "expected", -mark["x"])):
        if all(abs(mark["x"] - other["x"]) >= NARROWEST for other in chosen):
            chosen.append(mark)
    return sorted(chosen, key=lambda mark: float(mark["x"]))
