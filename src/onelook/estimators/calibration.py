"""How far the answers of a nearest-mean classifier can be believed: probabilities, sets of classes, intervals.

The model has a mean w_k a class; the scores of a row are -e^b |x - w_k|^2 / u + log share_k, with u the mean squared
distance between the means. What is to be known of it is b, and how far its errors reach. Few labelled examples say
little of either, so each is what is usual (constants chosen on validation tasks, docs/log.md) corrected by what the
labelled examples say when they are left out.

A row that is left out is farther from the mean of its n-1 fellows than a new row from the mean of n: by the factor
n / (n-1) against (n+1) / n on average. Distances to the own class are corrected by the ratio of the two, so that one
distance of left-out rows stands for n shots and not for n - 1.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.special import betaincinv
from torch import Tensor

from onelook import ops

LOG_SCALE = (1.945, -0.017, 0.098, 0.140)
"""Of the usual b: 1, the logarithms of the mean shots, of the number of classes and of u."""
LOG_SCALE_SPREAD = 0.4
"""Standard deviation of b about what is usual."""
ACCURACY = (-0.5, 1.1)
"""Logit of how many answers of Glance are right, before the labelled examples have been asked: 1, the logit of its mean
confidence."""
CAUTION = 1.5
"""Divides the scores behind sets of classes where nothing has tested the calibration: features that hardly tell the
classes are believed too much there, and others pay with larger sets."""
PRIOR_COUNT = 6.0
"""How many left-out examples the mean confidence is worth in an estimate of the accuracy."""


@dataclass(frozen=True)
class AccuracyEstimate:
    """How many of the answers are right, judged without other labels than those that were given."""

    accuracy: float
    low: float
    high: float
    per_class: dict[Any, float]
    """Of the rows of each class."""
    confusion: np.ndarray
    """(K, K): of the labelled examples of each class (row), left out, how many are taken for which (column)."""
    inductive_accuracy: float
    """That of the labelled examples alone, had there been no unlabelled rows."""


class LeftOut(NamedTuple):
    """The labelled examples of classes of several, each judged by the others."""

    truth: Int[Tensor, "S"]
    answers: Int[Tensor, "S"]
    shots: Float[Tensor, "K"]
    """All labelled examples of each class."""
    share: Float[Tensor, "K"]
    """How frequent the classes seem to be among the rows that the estimate is about."""


def estimate(
    left_out: LeftOut, classes: list[Any], believed: float, gain: float, n_rows: int, level: float
) -> AccuracyEstimate:
    """The accuracy among n_rows unlabelled rows; 0: among rows like the labelled ones.

    The labelled examples that are left out count as so many rows of classes as frequent as they seem to be. What the
    unlabelled rows add is the `gain` in mean confidence, and that confidence (`believed`) counts as a few examples
    more. The interval is Clopper and Pearson's for these counts.
    """
    truth, answers, shots, share = left_out
    k, right = len(classes), (truth == answers).double()
    confusion = torch.zeros(k, k, dtype=torch.int64).index_put_((truth, answers), torch.tensor(1), accumulate=True)
    weight = (share / shots)[truth]
    weight = weight / weight.sum()
    n = 1 / weight.square().sum().item() if len(weight) else 0.0
    alone = (weight * right).sum().item()
    # With more labelled examples there is less to gain, and what seems so is the error of the calibration.
    gain = gain / shots.mean().item() ** 0.25
    hits = n * min(max(alone + gain, 0.0), 1.0) + PRIOR_COUNT * believed
    total = n + PRIOR_COUNT
    # Of few rows the share itself varies as much as that of as many examples.
    part = n_rows / (n_rows + total) if n_rows else 1.0
    low, high = interval_of_share(part * hits, part * (total - hits), level)
    if n_rows:  # to shares that so few rows can have
        low, high = math.floor(low * n_rows) / n_rows, math.ceil(high * n_rows) / n_rows
    of_class = (confusion.diagonal() + PRIOR_COUNT * believed) / (confusion.sum(1) + PRIOR_COUNT)
    inductive = (n * alone + PRIOR_COUNT * (believed - gain)) / total
    per_class = dict(zip(classes, of_class.tolist(), strict=True))
    return AccuracyEstimate(hits / total, low, high, per_class, confusion.numpy(), inductive)


def unit_of(means: Float[Tensor, "K D"]) -> float:
    """u, the mean squared distance between the class means; never so small that rounding looks like evidence."""
    apart = 2 * (means - means.mean(0)).square().sum() / max(len(means) - 1, 1)
    return max(apart.item(), 1e-6)


def distances(x: Float[Tensor, "N D"], means: Float[Tensor, "K D"]) -> Float[Tensor, "N K"]:
    return ops.squared_distance(x.unsqueeze(0), means.unsqueeze(0))[0] / unit_of(means)


def as_if_new(
    distance: Float[Tensor, "N K"], share: Float[Tensor, "N K"], mass: Float[Tensor, "K"]
) -> Float[Tensor, "N K"]:
    """Distances of rows that count in the means, as if they did not: corrected as above.

    share: how much a row counts in each mean; mass: how much all rows do. What counts alone in a mean says nothing.
    """
    return distance * (mass + share) / (mass - share).clamp_min(0.5)


def usual_log_scale(shots: Float[Tensor, "K"], unit: float) -> float:
    known = (1.0, math.log(shots.mean().item()), math.log(len(shots)), math.log(unit))
    return sum(a * b for a, b in zip(LOG_SCALE, known, strict=True))


def fitted_log_scale(usual: float, distance: Float[Tensor, "S K"], labels: Int[Tensor, "S"]) -> float:
    """b of the left-out rows, the more drawn to what is usual the fewer they are; without any it is that."""
    grid = torch.linspace(-2, 2, 41, dtype=torch.float64)
    losses = [_loss(-math.exp(usual + x) * distance, labels) + x * x / (2 * LOG_SCALE_SPREAD**2) for x in grid.tolist()]
    return usual + grid[int(torch.tensor(losses).argmin())].item()


def matching_log_scale(distance: Float[Tensor, "Q K"], log_share: Float[Tensor, "K"], confidence: float) -> float:
    """b with which the mean of the largest posteriors is `confidence`."""
    return _log_scale(lambda scale: log_share - scale * distance, confidence)


def usual_accuracy(logits: Float[Tensor, "Q K"]) -> float:
    """How many answers of Glance are right where they are as confident as these."""
    constant, slope = ACCURACY
    confident = logits.softmax(1).amax(1).mean().clamp(1e-3, 1 - 1e-3)
    return torch.sigmoid(constant + slope * confident.logit()).item()


def calibrated(logits: Float[Tensor, "Q K"], accuracy: float) -> Float[Tensor, "Q K"]:
    """Posteriors whose largest are `accuracy` in the mean, as they are where they are calibrated."""
    return (logits * math.exp(_log_scale(lambda scale: scale * logits, accuracy))).softmax(1)


def cumulative_sets(probability: Float[Tensor, "N K"], coverage: float) -> Bool[Tensor, "N K"]:
    """The most probable classes until their probabilities reach `coverage`."""
    p, order = probability.sort(1, descending=True)
    before = p.cumsum(1) - p
    return torch.zeros_like(p, dtype=torch.bool).scatter(1, order, before < coverage)


def conformal_p_values(
    x: Float[Tensor, "N D"], rows: Float[Tensor, "S D"], labels: Int[Tensor, "S"], n_way: int
) -> Float[Tensor, "N K"]:
    """Full conformal prediction (Vovk, Gammerman, Shafer 2005): a p-value of every class for every row.

    The row is added to the class, every row of a class of several is left out in turn, and its score is the distance
    to its own class, corrected, less that to the nearest other. The p-value is the share of rows whose score is no
    smaller. Where the row and the labelled ones are exchangeable, that of the true class is below a with probability
    at most a.
    """
    if len(x) > 256:  # the memory is that of 256 x S scores
        starts = range(0, len(x), 256)
        return torch.cat([conformal_p_values(x[i : i + 256], rows, labels, n_way) for i in starts])
    hot = ops.one_hot(labels.unsqueeze(0), n_way, rows.dtype)[0]
    n = hot.sum(0)
    means = hot.T @ rows / n.unsqueeze(1)
    all_SK, new = _squared(rows, means), _squared(x, means)
    own = as_if_new(all_SK, hot, n).gather(1, labels.unsqueeze(1)).squeeze(1)
    others = all_SK.masked_fill(hot.bool(), torch.inf)
    p_values = []
    for k in range(n_way):
        grown = n[k] + 1  # of the class with x in it
        factor = (grown + 1) * (grown - 1) / grown**2
        rest = _without(others, k).amin(1)
        score_of_x = factor * new[:, k] - _without(new, k).amin(1)
        inside = labels == k
        outside = (n[labels] > 1) & ~inside
        met = _squared((n[k] * means[k] + x) / grown, rows[outside])
        of_outside = own[outside] - torch.minimum(rest[outside], met)
        # Rows of the class itself meet the mean of x and their fellows.
        fellows = (n[k] * means[k] - rows[inside]) / n[k]
        of_inside = factor * _squared(x / n[k], rows[inside] - fellows) - rest[inside]
        scores = torch.cat([of_outside, of_inside], 1)
        p_values.append(((scores >= score_of_x.unsqueeze(1)).sum(1) + 1) / (scores.shape[1] + 1))
    return torch.stack(p_values, 1).to(x.dtype)


def conformal_threshold(scores: Float[Tensor, "S"], rate: float) -> float:
    """What a new score of the same kind exceeds with probability at most `rate`; infinite where there are too few."""
    rank = math.ceil((len(scores) + 1) * (1 - rate))
    return scores.sort().values[rank - 1].item() if rank <= len(scores) else math.inf


def interval_of_share(hits: float, misses: float, level: float) -> tuple[float, float]:
    """Clopper and Pearson's interval (1934), which covers at least as often as it says; counts need not be whole."""
    tail = (1 - level) / 2
    low = float(betaincinv(hits, misses + 1, tail)) if hits > 0 else 0.0
    return low, float(betaincinv(hits + 1, misses, 1 - tail)) if misses > 0 else 1.0


def _log_scale(logits_of: Callable[[float], Float[Tensor, "Q K"]], confidence: float) -> float:
    """Of the scale with which the mean of the largest posteriors is `confidence`, by bisection."""
    low, high = -10.0, 10.0
    for _ in range(40):
        middle = (low + high) / 2
        mean = logits_of(math.exp(middle)).softmax(1).amax(1).mean().item()
        low, high = (middle, high) if mean < confidence else (low, middle)
    return (low + high) / 2


def _loss(logits: Float[Tensor, "S K"], labels: Int[Tensor, "S"]) -> float:
    return -logits.log_softmax(1).gather(1, labels.unsqueeze(1)).sum().item()


def _squared(x: Float[Tensor, "N D"], y: Float[Tensor, "M D"]) -> Float[Tensor, "N M"]:
    return ops.squared_distance(x.unsqueeze(0), y.unsqueeze(0))[0]


def _without(x: Float[Tensor, "N K"], k: int) -> Float[Tensor, "N L"]:
    """All columns but k."""
    return torch.cat([x[:, :k], x[:, k + 1 :]], 1)
