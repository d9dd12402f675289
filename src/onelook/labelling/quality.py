"""Assessment of the labels: expected accuracy now and with more labels, class by class, and what is confused."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from onelook.errors import plural, quote_name
from onelook.estimators.calibration import AccuracyEstimate, clopper_pearson
from onelook.estimators.classifier import FewShotClassifier
from onelook.estimators.learning_curve import CurvePoint
from onelook.labelling.suggest import after_more
from onelook.scoring import Estimate

GROWTHS = (2, 4)
"""Multiples of the number of labels for which the expected accuracy is reported."""


@dataclass(frozen=True)
class ClassAssessment:
    """Leave-one-out results for the labelled examples of one class."""

    name: str
    n: int
    """Labelled examples."""
    n_left_out: int
    """Examples that were left out and judged by the others of the class: all, or none where there is one."""
    n_right: int
    recall: Estimate | None
    """Fraction of these that was right, with its interval; None where none was left out."""
    expected: float
    """Expected accuracy on the unlabelled images of the class."""


@dataclass(frozen=True)
class Assessment:
    """Everything that the labelled examples and the unlabelled images say about the answers."""

    class_names: tuple[str, ...]
    n_examples: tuple[int, ...]
    """Labelled examples of each class."""
    estimate: AccuracyEstimate
    curve: tuple[CurvePoint, ...]
    n_images: int
    """Unlabelled images."""
    n_changed: int
    """Images whose label changed by using the unlabelled images."""

    @property
    def n_labelled(self) -> int:
        return sum(self.n_examples)

    def after(self, n_more: int) -> Estimate:
        """Expected accuracy once n_more suggested images are labelled as well."""
        return after_more(self.estimate.accuracy, self.n_labelled, n_more)

    def with_more_labels(self) -> list[tuple[int, Estimate]]:
        """Expected accuracy with 2 and 4 times as many labels, as far as there are images for them."""
        numbers = [(growth - 1) * self.n_labelled for growth in GROWTHS]
        return [(self.n_labelled + n, self.after(n)) for n in numbers if n < self.n_images]

    def classes(self, level: float = 0.95) -> list[ClassAssessment]:
        rows = []
        for k, (name, n) in enumerate(zip(self.class_names, self.n_examples, strict=True)):
            counts = self.estimate.confusion[k]
            judged, right = int(counts.sum()), int(counts[k])
            interval = clopper_pearson(float(right), float(judged - right), level)
            recall = Estimate(right / judged, *interval) if judged else None
            rows.append(ClassAssessment(name, n, judged, right, recall, list(self.estimate.per_class.values())[k]))
        return rows

    def summary(self) -> list[str]:
        """Up to three sentences for a person at a terminal."""
        changed = f"{self.n_changed:,} of {plural(self.n_images, 'answer')} changed"
        inductive = 100 * self.estimate.inductive_accuracy
        first = f"Expected accuracy {self.estimate}; by the labelled examples alone {inductive:.0f} % ({changed})."
        return [first, *self._weakness()]

    def _weakness(self) -> list[str]:
        judged = [one for one in self.classes() if one.n_left_out]
        if not judged:
            return ["No class has two labelled examples, so none can be left out and judged by another."]
        n, right = sum(one.n_left_out for one in judged), sum(one.n_right for one in judged)
        total = f"Labelled examples, each left out in turn: {right:,} of {n:,} right"
        if right == n:
            return [f"{total}."]
        # By expected accuracy, because one error of two is weaker evidence than ten of thirty.
        weak = min((one for one in judged if one.n_right < one.n_left_out), key=lambda one: one.expected)
        times, own, taken = confused_pairs(self.estimate.confusion, self.class_names)[0]
        n_own = self.estimate.confusion[self.class_names.index(own)].sum()
        return [
            f"{total}, fewest of {quote_name(weak.name)} ({weak.n_right:,} of {weak.n_left_out:,}).",
            f"Confused most: {quote_name(own)}, taken for {quote_name(taken)} ({times:,} of {n_own:,}).",
        ]

    def record(self) -> dict[str, Any]:
        """All numbers for JSON; accuracies are fractions."""
        return {
            "expected_accuracy": asdict(self.estimate.accuracy),
            "inductive_accuracy": self.estimate.inductive_accuracy,
            "n_changed": self.n_changed,
            "classes": [asdict(one) for one in self.classes()],
            "confusion": self.estimate.confusion.tolist(),
            "learning_curve": [asdict(point) for point in self.curve],
            "with_more_labels": [{"n_labels": n, "accuracy": asdict(then)} for n, then in self.with_more_labels()],
        }


def assess(classifier: FewShotClassifier, n_examples: Iterable[int], n_changed: int) -> Assessment:
    """Assess a classifier. n_examples: labelled examples of each of its classes; n_changed: see `Assessment`."""
    return Assessment(
        tuple(str(name) for name in classifier.classes_),
        tuple(n_examples),
        classifier.estimate_accuracy(),
        classifier.learning_curve(),
        len(classifier.transduction_),
        n_changed,
    )


def confused_pairs(matrix: np.ndarray, names: tuple[str, ...]) -> list[tuple[int, str, str]]:
    """Counts off the diagonal that are not zero, the largest first, with true and predicted class.

    >>> confused_pairs(np.array([[5, 1], [2, 4]]), ("cat", "dog"))
    [(2, 'dog', 'cat'), (1, 'cat', 'dog')]
    """
    pairs = [(int(matrix[i, j]), names[i], names[j]) for i, j in np.argwhere(matrix) if i != j]
    return sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2]))
