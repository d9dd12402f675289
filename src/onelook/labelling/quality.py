"""Is it good enough? What the labelled examples and the images to label say of the answers, and of more labels."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from onelook.errors import plural, quote_name
from onelook.estimators.calibration import AccuracyEstimate, interval_of_share
from onelook.estimators.learning_curve import CurvePoint
from onelook.labelling.suggest import Estimate, after_more

GROWTHS = (2, 4)
"""Times as many labels, of which the accuracy to expect is told."""


@dataclass(frozen=True)
class OfClass:
    """What is known of a class by its labelled examples alone."""

    name: str
    n: int
    """Its labelled examples."""
    n_left_out: int
    """Those that could be judged by others of the class: all, or none where there is one."""
    n_right: int
    low: float
    """Ends of an interval for the share of right answers, 0 … 1; all of that where nothing was judged."""
    high: float
    expected: float
    """Of the images of the class, the share that should be right."""


@dataclass(frozen=True)
class Assessment:
    """K classes. Shares are 0 … 1, `Estimate`s in percent."""

    class_names: tuple[str, ...]
    n_examples: tuple[int, ...]
    estimate: AccuracyEstimate
    curve: tuple[CurvePoint, ...]
    n_images: int
    """To label."""
    n_changed: int
    """Of which the unlabelled images changed the answer."""

    @property
    def confusion(self) -> np.ndarray:
        """(K, K): how many labelled examples of each class (row), left out, are taken for which (column)."""
        return self.estimate.confusion

    @property
    def now(self) -> Estimate:
        one = self.estimate
        return Estimate(100 * one.accuracy, 100 * one.low, 100 * one.high)

    @property
    def n_labelled(self) -> int:
        return sum(self.n_examples)

    def after(self, n_more: int) -> Estimate:
        """With so many of the suggested images labelled as well."""
        return after_more(self.now, self.n_labelled, n_more)

    def later(self) -> list[tuple[int, Estimate]]:
        """Of 2 and 4 times as many labels, where there are as many images: their number, and what to expect."""
        numbers = [(growth - 1) * self.n_labelled for growth in GROWTHS]
        return [(self.n_labelled + n, self.after(n)) for n in numbers if n < self.n_images]

    def classes(self, level: float = 0.95) -> list[OfClass]:
        expected = self.estimate.per_class.values()
        rows = []
        for k, (name, n, share) in enumerate(zip(self.class_names, self.n_examples, expected, strict=True)):
            judged, right = int(self.confusion[k].sum()), int(self.confusion[k, k])
            low, high = interval_of_share(float(right), float(judged - right), level)
            rows.append(OfClass(name, n, judged, right, low, high, share))
        return rows

    def confused(self) -> list[tuple[int, str, str]]:
        """How many examples of which class are taken for which other, the most frequent first."""
        return confused_pairs(self.confusion, self.class_names)

    def words(self) -> list[str]:
        """For a person at a terminal."""
        changed = f"{self.n_changed:,} of {plural(self.n_images, 'answer')} changed"
        now, alone = self.now, 100 * self.estimate.inductive_accuracy
        first = (
            f"Expected accuracy {now.mean:.0f} %, between {now.low:.0f} and {now.high:.0f}; "
            f"{alone:.0f} % by the labelled examples alone ({changed})."
        )
        return [first, *self._weakness()]

    def _weakness(self) -> list[str]:
        judged = [one for one in self.classes() if one.n_left_out]
        if not judged:
            return ["No class has two labelled examples, so that none can be left out and judged by another."]
        n, right = sum(one.n_left_out for one in judged), sum(one.n_right for one in judged)
        all_of_them = f"Labelled examples, each left out: {right:,} of {n:,} right"
        if right == n:
            return [f"{all_of_them}."]
        # The expected share, because one error of two says less than ten of thirty.
        weak = min((one for one in judged if one.n_right < one.n_left_out), key=lambda one: one.expected)
        times, own, taken = self.confused()[0]
        return [
            f"{all_of_them}, fewest of {quote_name(weak.name)} ({weak.n_right:,} of {weak.n_left_out:,}).",
            f"Confused most: {quote_name(own)}, taken for {quote_name(taken)} ({times:,} of {self._judged(own):,}).",
        ]

    def _judged(self, name: str) -> int:
        return int(self.confusion[self.class_names.index(name)].sum())

    def record(self) -> dict[str, Any]:
        """For JSON: all numbers, shares 0 … 1."""
        one = self.estimate
        return {
            "expected_accuracy": one.accuracy,
            "low": one.low,
            "high": one.high,
            "expected_accuracy_of_labelled_alone": one.inductive_accuracy,
            "n_changed": self.n_changed,
            "classes": [vars(of_class) for of_class in self.classes()],
            "confusion": self.confusion.tolist(),
            "learning_curve": [vars(point) for point in self.curve],
            "with_more_labels": [{"n_labels": n} | then.shares() for n, then in self.later()],
        }


def confused_pairs(matrix: np.ndarray, names: tuple[str, ...]) -> list[tuple[int, str, str]]:
    """Counts off the diagonal that are not zero, the largest first, with the class and what it was taken for."""
    pairs = [(int(matrix[i, j]), names[i], names[j]) for i, j in np.argwhere(matrix) if i != j]
    return sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2]))
