"""Calibration of a classifier of class means and ridge regression: temperature, conformal prediction, accuracy.

The logits of a row x are exp(b) s_k + log prior_k, where s_k are the scores of its distances |x - w_k|^2 / u from the
class means w_k and of ridge regression (`methods.glance_support.Voices`), u is the mean squared distance between the
means, and b, the log scale, is the logarithm of an inverse temperature. A few labelled examples say little about b and
about the error rate, so each estimate starts from a prior (constants chosen on validation tasks, docs/log.md) and is
corrected by the leave-one-out errors of the labelled examples.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import optimize
from scipy.special import betaincinv, stdtrit
from torch import Tensor

from onelook import ops
from onelook.methods.glance_support import leave_one_out, unit_of_means
from onelook.scoring import Estimate

LOG_SCALE_SPREAD = 0.4
"""Prior standard deviation of the log scale, whose mean is 0."""
ACCURACY = (-0.34, 1.0, 0.13)
"""Prior logit of Glance's accuracy: coefficients for 1, the logit of its mean confidence and the logarithm of the mean
shots."""
CAUTION = 1.5
"""Divisor of the logits behind sets of classes where no labelled example has tested the calibration: features that
hardly separate the classes are overconfident there, and others pay with larger sets."""
PRIOR_COUNT = 6.0
"""Weight of the mean confidence in an estimated accuracy, as a number of leave-one-out examples."""
GAIN = (0.25, 0.06)
"""Part of the gain in mean confidence that is one in accuracy, and the usual gain with one labelled example a class;
with more of these there is less to gain."""
FEW = 5
"""Scores beyond a quantile below which a normal distribution tells more than the quantile."""


@dataclass(frozen=True)
class AccuracyEstimate:
    """Estimated accuracy on the unlabelled rows, judged without any labels beyond the given ones.

    >>> confusion = np.array([[3, 0], [1, 2]])
    >>> print(AccuracyEstimate(Estimate(0.8, 0.5, 0.95), 0.7, {"cat": 0.9, "dog": 0.7}, confusion))
    80 % (50 to 95)
    """

    accuracy: Estimate
    inductive_accuracy: float
    """Estimated accuracy of the labelled examples alone, without the use of unlabelled rows."""
    per_class: dict[Any, float]
    """Estimated accuracy on the rows of each class."""
    confusion: np.ndarray
    """Leave-one-out counts (K, K) of the labelled examples: true class by row, predicted class by column."""

    def __str__(self) -> str:
        return str(self.accuracy)


def class_separation(means: Float[Tensor, "K D"]) -> float:
    """Mean squared distance u between the class means, at least 1e-6: below, rounding would look like evidence."""
    return unit_of_means(means[None], 1e-6).item()


def scaled_distances(x: Float[Tensor, "N D"], means: Float[Tensor, "K D"]) -> Float[Tensor, "N K"]:
    return _squared(x, means) / class_separation(means)


def fit_log_scale(scores: Float[Tensor, "S K"], labels: Int[Tensor, "S"]) -> float:
    """Most probable log scale of the scores of labelled rows that were left out; the mean of the prior without any."""
    grid, losses = torch.linspace(-2, 2, 41, dtype=torch.float64), []
    for x in grid.tolist():
        log_p = (math.exp(x) * scores).log_softmax(1).gather(1, labels.unsqueeze(1))
        losses.append(-log_p.sum().item() + x * x / (2 * LOG_SCALE_SPREAD**2))
    return grid[int(torch.tensor(losses).argmin())].item()


def match_log_scale(offset: Float[Tensor, "K"] | float, slope: Float[Tensor, "Q K"], confidence: float) -> float:
    """Log scale b, from -10 to 10, at which the largest posteriors of offset + exp(b) slope average `confidence`.

    Without an offset it is temperature scaling (Guo et al., ICML 2017).
    """

    def excess(log_scale: float) -> float:
        # The largest of a softmax is 1 / sum of exp(z - largest z), without a table of the others.
        z = offset + math.exp(log_scale) * slope
        return (1 / (z - z.amax(1, keepdim=True)).exp_().sum(1)).mean().item() - confidence

    low, high = excess(-10.0), excess(10.0)
    if low >= 0 or high <= 0:
        return -10.0 if low >= 0 else 10.0
    return float(optimize.brentq(excess, -10.0, 10.0, xtol=1e-11))


def prior_accuracy(logits: Float[Tensor, "Q C"], shots: Float[Tensor, "K"]) -> float:
    """Usual accuracy of Glance with so many labelled examples where it is as confident as in these logits."""
    constant, slope, of_shots = ACCURACY
    confidence = logits.softmax(1).amax(1).mean().clamp(1e-3, 1 - 1e-3)
    return torch.sigmoid(constant + slope * confidence.logit() + of_shots * shots.mean().log()).item()


def judge_gain(gain: float, shots: Float[Tensor, "K"]) -> float:
    """Gain in accuracy by unlabelled rows that seem to add so much confidence; exactly 0 says that they have no say."""
    return GAIN[0] * gain + GAIN[1] / shots.mean().item() if gain else 0.0


def cumulative_sets(probability: Float[Tensor, "N K"], coverage: float) -> Bool[Tensor, "N K"]:
    """Sets of the most probable classes until their probabilities add up to `coverage`."""
    p, order = probability.sort(1, descending=True)
    before = p.cumsum(1) - p
    return torch.zeros_like(p, dtype=torch.bool).scatter(1, order, before < coverage)


def conformal_p_values(
    x: Float[Tensor, "N D"], rows: Float[Tensor, "S D"], labels: Int[Tensor, "S"], n_way: int
) -> Float[Tensor, "N K"]:
    """Full conformal prediction (Vovk, Gammerman, Shafer 2005): a p-value of every class for every row of x.

    The row is added to the class, and every row whose class has several is left out in turn. Its score is its corrected
    distance to its own class less the distance to the nearest other class; the p-value is the fraction of rows with a
    score no smaller than that of x. Where x and the labelled rows are exchangeable, the p-value of the true class is at
    most a with probability at most a.
    """
    if len(x) > 256:  # bounds the memory, which is that of 256 x S scores
        starts = range(0, len(x), 256)
        return torch.cat([conformal_p_values(x[i : i + 256], rows, labels, n_way) for i in starts])
    hot = ops.one_hot(labels.unsqueeze(0), n_way, rows.dtype)[0]
    n = hot.sum(0)
    means = hot.T @ rows / n.unsqueeze(1)
    all_SK, new = _squared(rows, means), _squared(x, means)
    own = leave_one_out(all_SK, hot, n).gather(1, labels.unsqueeze(1)).squeeze(1)
    others = all_SK.masked_fill(hot.bool(), torch.inf)
    p_values = []
    for k in range(n_way):
        grown = n[k] + 1  # shots of the class once x is in it
        factor = (grown + 1) * (grown - 1) / grown**2
        rest = _drop_column(others, k).amin(1)
        score_of_x = factor * new[:, k] - _drop_column(new, k).amin(1)
        inside = labels == k
        outside = (n[labels] > 1) & ~inside
        to_grown = _squared((n[k] * means[k] + x) / grown, rows[outside])
        outside_scores = own[outside] - torch.minimum(rest[outside], to_grown)
        # Each row of the class itself is compared with the mean of x and the other rows.
        others_of_class = (n[k] * means[k] - rows[inside]) / n[k]
        inside_scores = factor * _squared(x / n[k], rows[inside] - others_of_class) - rest[inside]
        scores = torch.cat([outside_scores, inside_scores], 1)
        p_values.append(((scores >= score_of_x.unsqueeze(1)).sum(1) + 1) / (scores.shape[1] + 1))
    return torch.stack(p_values, 1).to(x.dtype)


def conformal_threshold(scores: Float[Tensor, "S"], rate: float) -> float:
    """Split conformal quantile: a new score exceeds it with probability at most `rate`; infinite for too few scores.

    >>> conformal_threshold(torch.arange(9.0), 0.2), conformal_threshold(torch.arange(9.0), 0.05)
    (7.0, inf)
    """
    rank = math.ceil((len(scores) + 1) * (1 - rate))
    return scores.sort().values[rank - 1].item() if rank <= len(scores) else math.inf


def prediction_limit(scores: Float[Tensor, "S"], rate: float) -> float:
    """A new score of the same origin exceeds this limit with probability `rate`; infinite for fewer than three scores.

    The split conformal quantile where FEW scores lie beyond it; else Student's limit for a normal distribution,
    mean + t s (1 + 1/n)^1/2, since the quantile would be one of the largest scores of all, or none.

    >>> f"{prediction_limit(torch.arange(9.0), 0.05):.1f}", prediction_limit(torch.arange(99.0), 0.1)
    ('9.4', 89.0)
    """
    n = len(scores)
    if n < 3 or rate * n >= FEW:
        return conformal_threshold(scores, rate)
    return scores.mean().item() + float(stdtrit(n - 1, 1 - rate)) * scores.std().item() * math.sqrt(1 + 1 / n)


def clopper_pearson(hits: float, misses: float, level: float) -> tuple[float, float]:
    """Clopper and Pearson's interval (1934) for a fraction, which covers at least at `level`; counts may be fractional.

    >>> "%.3f %.3f" % clopper_pearson(9.0, 1.0, 0.95)
    '0.555 0.997'
    """
    tail = (1 - level) / 2
    low = float(betaincinv(hits, misses + 1, tail)) if hits > 0 else 0.0
    return low, float(betaincinv(hits + 1, misses, 1 - tail)) if misses > 0 else 1.0


def _squared(x: Float[Tensor, "N D"], y: Float[Tensor, "M D"]) -> Float[Tensor, "N M"]:
    return ops.squared_distance(x.unsqueeze(0), y.unsqueeze(0))[0]


def _drop_column(x: Float[Tensor, "N K"], k: int) -> Float[Tensor, "N L"]:
    return torch.cat([x[:, :k], x[:, k + 1 :]], 1)
