"""A learning curve of what a person has labelled already: how often a few of the labels tell the others.

In each draw the examples of a class are put in random order, the first of them are kept and the others are left out,
to be told by the nearest mean of those kept. It is the classifier without unlabelled rows: each row is judged by
itself, so that a draw costs next to nothing and what is left out can be told with no other. A class of several keeps
at least one row out, whatever the size, so that every point is about the same classes in the same proportions; a class
of one row can be taken for, and is not asked for.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from onelook import ops
from onelook.errors import DataError, SettingsError

REPEATS = 100
"""Draws."""
LARGEST_WORK = 4e10
"""Multiplications, a few seconds; where all draws take more there are fewer of them, but never fewer than 10."""
LARGEST_CHUNK = 2**24
"""Numbers in the rows of the draws that are judged together."""


@dataclass(frozen=True)
class CurvePoint:
    """How accurate the classes of several rows were, each as frequent as it seems to be."""

    per_class: int
    """Labels kept of each class, or all but one where it has no more."""
    n_labels: int
    """Of all classes together."""
    accuracy: float
    """Mean over the draws."""
    low: float
    high: float
    """Between these were 95 of 100 draws: so much depends on which labels they are, and on those left out."""


def learning_curve(
    features: Float[Tensor, "S D"],
    labels: Int[Tensor, "S"],
    n_way: int,
    share: Float[Tensor, "K"] | None = None,
    repeats: int = REPEATS,
    seed: int = 0,
) -> tuple[CurvePoint, ...]:
    """A point for 1, 2, 3, 5, 8 … labels of each class, as long as the largest class has more; none for classes of one.

    share: how frequent the classes are; all alike without it. The same arguments give the same curve, and draw i is the
    same however many there are. Raises DataError for a class without a row, SettingsError for no draw.
    """
    if repeats < 1:
        raise SettingsError(f"A learning curve needs one draw at least, but repeats is {repeats}.")
    counts = labels.bincount(minlength=n_way)
    if len(counts) > n_way or int(counts.min()) < 1:
        raise DataError(f"Each of {n_way} classes needs a labelled example, but their numbers are {counts.tolist()}.")
    sizes = _sizes(int(counts.max()))
    work = len(sizes) * len(labels) * n_way * features.shape[1]
    repeats = min(repeats, max(10, int(LARGEST_WORK / max(work, 1))))
    places = torch.from_numpy(np.stack([_places(labels.numpy(), [seed, i]) for i in range(repeats)]))
    weight = (torch.ones(n_way) if share is None else share).double() * (counts > 1)
    points = []
    for size in sizes:
        n_kept = (counts - 1).clamp(1, size)
        of_row = (weight / weight.sum() / (counts - n_kept).clamp_min(1))[labels]
        right = _right(features, labels, n_way, places < n_kept[labels])
        accuracy = (right * of_row).sum(1)
        mean = min(accuracy.mean().item(), 1.0)
        low, high = accuracy.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
        # Where nearly all draws are alike, their mean may lie beyond 95 of 100 of them.
        points.append(CurvePoint(size, int(n_kept.sum()), mean, min(low, mean), min(max(high, mean), 1.0)))
    return tuple(points)


def _sizes(largest: int) -> list[int]:
    """1, 2, 3, 5, 8 … below `largest`."""
    sizes, following = [], (1, 2)
    while following[0] < largest:
        sizes.append(following[0])
        following = following[1], sum(following)
    return sizes


def _places(labels: np.ndarray, seed: list[int]) -> np.ndarray:
    """Of each row the place 0, 1, 2 … that chance gives it within its class."""
    order = np.lexsort((np.random.default_rng(seed).random(len(labels)), labels))
    counts = np.bincount(labels)
    places = np.empty_like(labels)
    places[order] = np.arange(len(labels)) - np.repeat(counts.cumsum() - counts, counts)
    return places


def _right(
    features: Float[Tensor, "S D"], labels: Int[Tensor, "S"], n_way: int, kept: Bool[Tensor, "R S"]
) -> Bool[Tensor, "R S"]:
    """Whether a row is left out of a draw and told right by those kept; every draw keeps as many."""
    right = torch.zeros_like(kept)
    step = max(1, LARGEST_CHUNK // features.numel())
    for first in range(0, len(kept), step):
        some = kept[first : first + step]
        support, query = (part.nonzero()[:, 1].view(len(some), -1) for part in (some, ~some))
        means = ops.class_means(features[support], labels[support], n_way)
        answers = ops.squared_distance(features[query], means).argmin(-1)
        right[first : first + step].scatter_(1, query, answers == labels[query])
    return right
