"""Learning curve of the labelled examples: accuracy on held-out ones by the number that the classifier is fitted to.

Each draw puts the examples of a class in random order and fits the nearest class mean to the first few; the others are
its test set. Unlabelled rows play no part, so a draw costs next to nothing. A class of several examples always holds
out at least one, whatever the size, so that every point is about the same classes in the same proportions; a class of
one example can be predicted but is never tested.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from onelook import ops
from onelook.errors import DataError, SettingsError
from onelook.scoring import Estimate

REPEATS = 100
"""Draws."""
LARGEST_WORK = 4e10
"""Multiplications, a few seconds; above this there are fewer draws, but never fewer than 10."""
LARGEST_CHUNK = 2**24
"""Numbers in the rows of the draws that are computed together."""


@dataclass(frozen=True)
class CurvePoint:
    """Accuracy with n_shot labels per class, on held-out examples weighted by the class priors."""

    n_shot: int
    """Labels of each class, or all but one where it has no more."""
    n_labels: int
    """Labels of all classes together."""
    accuracy: Estimate
    """Mean and central 95 % of the draws: they differ in which examples are drawn and which are held out."""


def learning_curve(
    features: Float[Tensor, "S D"],
    labels: Int[Tensor, "S"],
    n_way: int,
    class_priors: Float[Tensor, "K"] | None = None,
    repeats: int = REPEATS,
    seed: int = 0,
) -> tuple[CurvePoint, ...]:
    """Measure a point for 1, 2, 3, 5, 8 … labels per class, as long as the largest class has more.

    class_priors: class frequencies; None: balanced. The curve is empty where every class has one example. The same
    arguments give the same curve, and draw i is the same however many there are.
    Raises DataError for a class without examples, SettingsError for repeats < 1.

    >>> rows, labels = torch.eye(2).repeat(3, 1), torch.arange(2).repeat(3)
    >>> [(point.n_shot, str(point.accuracy)) for point in learning_curve(rows, labels, n_way=2)]
    [(1, '100 % (100 to 100)'), (2, '100 % (100 to 100)')]
    """
    if repeats < 1:
        raise SettingsError(f"A learning curve needs repeats >= 1, but repeats is {repeats}.")
    counts = labels.bincount(minlength=n_way)
    if len(counts) > n_way or int(counts.min()) < 1:
        raise DataError(f"Each of {n_way} classes needs a labelled example, but the counts are {counts.tolist()}.")
    sizes = _sizes(int(counts.max()))
    work = len(sizes) * len(labels) * n_way * features.shape[1]
    repeats = min(repeats, max(10, int(LARGEST_WORK / max(work, 1))))
    ranks = torch.from_numpy(np.stack([_ranks(labels.numpy(), [seed, i]) for i in range(repeats)]))
    weight = (torch.ones(n_way) if class_priors is None else class_priors).double() * (counts > 1)
    points = []
    for size in sizes:
        n_fitted = (counts - 1).clamp(1, size)
        row_weight = (weight / weight.sum() / (counts - n_fitted).clamp_min(1))[labels]
        right = _right(features, labels, n_way, ranks < n_fitted[labels])
        accuracy = (right * row_weight).sum(1)
        mean = min(accuracy.mean().item(), 1.0)
        low, high = accuracy.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
        # Where nearly all draws are equal, their mean may lie outside the central 95 %.
        estimate = Estimate(mean, min(low, mean), min(max(high, mean), 1.0))
        points.append(CurvePoint(size, int(n_fitted.sum()), estimate))
    return tuple(points)


def _sizes(largest: int) -> list[int]:
    """1, 2, 3, 5, 8 … below `largest`."""
    sizes, following = [], (1, 2)
    while following[0] < largest:
        sizes.append(following[0])
        following = following[1], sum(following)
    return sizes


def _ranks(labels: np.ndarray, seed: list[int]) -> np.ndarray:
    """Random rank 0, 1, 2 … of each row within its class."""
    order = np.lexsort((np.random.default_rng(seed).random(len(labels)), labels))
    counts = np.bincount(labels)
    ranks = np.empty_like(labels)
    ranks[order] = np.arange(len(labels)) - np.repeat(counts.cumsum() - counts, counts)
    return ranks


def _right(
    features: Float[Tensor, "S D"], labels: Int[Tensor, "S"], n_way: int, fitted: Bool[Tensor, "R S"]
) -> Bool[Tensor, "R S"]:
    """Held-out rows that the fitted ones predict correctly; every draw is fitted to the same number of rows."""
    right = torch.zeros_like(fitted)
    step = max(1, LARGEST_CHUNK // features.numel())
    for first in range(0, len(fitted), step):
        some = fitted[first : first + step]
        support, query = (part.nonzero()[:, 1].view(len(some), -1) for part in (some, ~some))
        means = ops.class_means(features[support], labels[support], n_way)
        answers = ops.squared_distance(features[query], means).argmin(-1)
        right[first : first + step].scatter_(1, query, answers == labels[query])
    return right
