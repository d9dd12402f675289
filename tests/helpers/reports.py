"""What the tests of the page of labelled images share."""

import io
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from onelook.data.images import Rejected
from onelook.estimators.calibration import AccuracyEstimate
from onelook.estimators.learning_curve import CurvePoint
from onelook.labelling.page import LabelReport
from onelook.labelling.quality import Assessment
from onelook.labelling.suggest import Suggestion
from onelook.scoring import Estimate


def jpeg(name: str) -> bytes:
    colour = tuple(np.random.default_rng(list(name.encode("utf-8", "replace"))).integers(0, 256, 3).tolist())
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(stream, "JPEG")
    return stream.getvalue()


def assessed(names: tuple[str, ...], confusion: Any = None, **changes: Any) -> Assessment:
    """Of two labelled examples of each class, all right, or of what `confusion` says."""
    k = len(names)
    matrix = 2 * np.eye(k, dtype=np.int64) if confusion is None else np.array(confusion)
    shots = tuple(max(1, int(n)) for n in matrix.sum(1))
    per_class = dict.fromkeys(names, 0.8) | {names[0]: 0.7}
    estimate = AccuracyEstimate(Estimate(0.832, 0.714, 0.901), 0.769, per_class, matrix)
    curve = (CurvePoint(1, k, Estimate(0.625, 0.5, 0.75)),)
    return replace(Assessment(names, shots, estimate, curve, 100, 7), **changes)


def report(n: int = 12, k: int = 3, names: Iterable[str] = (), **changes: Any) -> LabelReport:
    g = torch.Generator().manual_seed(0)
    probabilities = torch.randn(n, k, generator=g).mul(2).softmax(-1)
    labels = probabilities.argmax(1)
    names_of_classes = changes.get("class_names", tuple("abcdefghij"[:k]))
    items = [*names, *(f"photos/{i}.jpg" for i in range(n))][:n]
    whole = LabelReport(
        class_names=names_of_classes,
        items=tuple(items),
        labels=labels,
        probabilities=probabilities,
        labelled=tuple(f"examples/{i}.jpg" for i in range(2 * k)),
        labelled_classes=torch.arange(2 * k) % k,
        thumbnail=jpeg,
        unknown=torch.arange(n) == n - 1,
        inductive=torch.where(torch.arange(n) % 4 == 0, (labels + 1) % k, labels),
        neighbours=torch.randint(2 * k, (n, 2), generator=g),
        positions=torch.randn(n, 2, generator=g),
        labelled_positions=torch.randn(2 * k, 2, generator=g),
        guard="The unlabelled images were used.",
        assessment=assessed(names_of_classes),
        facts={"network": "conv4-64", "seconds": "3"},
        suggestions=(Suggestion(min(2, n - 1), "unsure: a or b"),),
        rejected=(Rejected("photos/broken.jpg", "it is not an image"),),
    )
    return replace(whole, **changes)
