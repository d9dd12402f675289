"""Made-up feature sets, to meta-train a method that is to serve any feature network.

A method that learns from the features of one network learns that network too. Here every set is a network of its own:
classes around centres of which few directions matter, a spread that all classes have in common but for its size,
Gaussian or with heavy tails, a common mean, and often the ReLU in which networks end.

Within and between the classes the variances add up to 1 a feature, and the fraction of the latter makes a set easy or
hard. How hard depends on all else, so a set is configured by the accuracy of nearest centroids on it, and the fraction
is found by bisection.

Axes: N rows, D features, K classes, P rows that are probed, M tasks of one query that are tried.
"""

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch

from onelook.errors import (
    Bound,
    Checked,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    SettingsError,
    TwoOrMore,
)
from onelook.tasks import Embeddings

PROBED = 600
"""Rows that the accuracy is measured on, as many of every class."""
TRIALS = 4000
TOLERANCE = 5.0
"""Largest difference, in percent, of the accuracy from the requested one."""


@dataclass(frozen=True)
class SyntheticConfig(Checked):
    n_features: PositiveInt = 64
    n_classes: Annotated[int, Bound(">=", 5)] = 50
    rows_per_class: TwoOrMore = 60
    freedom: Annotated[float, Bound(">", 2)] = math.inf
    """Degrees of freedom of the multivariate t distribution of a class, above 2: the fewer, the heavier its tails;
    infinitely many are a Gaussian."""
    relu: bool = True
    """Whether negative features become 0."""
    decay: NonNegativeFloat = 1.0
    """Direction i of the class centres has a variance in proportion to i ** -decay."""
    rank: PositiveInt = 8
    """Directions in which all classes spread more than in the others, with variances that decay as the centres' do;
    of fewer features, all."""
    low_rank: Fraction = 0.5
    """Fraction of the spread that lies in these, 0 … 1."""
    alignment: Fraction = 0.5
    """How far these are the directions in which the class centres differ most: 0 not at all, 1 the same. The more,
    the less is gained by further shots, and the features of trained networks have much of it."""
    unevenness: NonNegativeFloat = 0.3
    """Standard deviation of the logarithm of a class's spread: some are wide, some tight."""
    offset: NonNegativeFloat = 1.0
    """Standard deviation of the entries of the common mean."""
    accuracy: Annotated[float, Bound(">=", 25), Bound("<=", 95)] = 60.0
    """Approximate accuracy in percent of 5-way 1-shot tasks by the nearest centroid among rows of unit length."""
    seed: NonNegativeInt = 0


def synthetic_features(config: SyntheticConfig = SyntheticConfig()) -> Embeddings:
    """The set of this configuration, class after class; a function of nothing else."""
    rng = np.random.default_rng(config.seed)
    parts = _Parts.draw(config, rng)
    features = parts.mix(_find_fraction(parts, config, rng))
    return Embeddings(
        torch.from_numpy(features.reshape(1, -1, config.n_features)),
        torch.arange(config.n_classes).repeat_interleave(config.rows_per_class),
        tuple(f"made-up {k}" for k in range(config.n_classes)),
        source=f"made up: {config}",
    )


def synthetic_suite(seed: int, n: int) -> list[Embeddings]:
    """`n` sets of all sorts. Set i is a function of (seed, i); it takes 3 MB on average and 26 MB at most."""
    return [synthetic_features(random_config(np.random.default_rng([seed, i]))) for i in range(n)]


def random_config(rng: np.random.Generator) -> SyntheticConfig:
    """Wide enough to hold the networks in use: 16 to 640 features, nearest centroids right in 40 to 85 percent."""
    return SyntheticConfig(
        n_features=round(16 * 40 ** rng.random()),
        n_classes=int(rng.integers(20, 101)),
        rows_per_class=int(rng.integers(40, 101)),
        freedom=rng.uniform(3, 5) if rng.random() < 0.4 else math.inf,
        relu=bool(rng.random() < 0.6),
        decay=rng.uniform(0.5, 2),
        rank=int(rng.integers(2, 17)),
        low_rank=rng.uniform(0, 0.95),
        alignment=rng.random(),
        unevenness=rng.uniform(0, 0.6),
        offset=rng.uniform(0, 1.5),
        accuracy=rng.uniform(40, 85),
        seed=int(rng.integers(2**31)),
    )


@dataclass(frozen=True)
class _Parts:
    """Parts that a set is mixed from; single precision, of variance 1 a feature each."""

    centres: np.ndarray  # K 1 D
    deviations: np.ndarray  # K N/K D
    mean: np.ndarray  # D
    relu: bool

    @staticmethod
    def draw(config: SyntheticConfig, rng: np.random.Generator) -> "_Parts":
        size, rank = config.n_features, min(config.rank, config.n_features)
        axes = _orthogonal(rng.standard_normal((size, size)))
        variance = np.arange(1.0, size + 1) ** -config.decay
        centres = rng.standard_normal((config.n_classes, 1, size)) * np.sqrt(variance / variance.mean()) @ axes.T
        others = _orthogonal(rng.standard_normal((size, rank)))
        wide = _orthogonal(config.alignment * axes[:, :rank] + (1 - config.alignment) * others)
        shape = (config.n_classes, config.rows_per_class)
        deviations = math.sqrt(1 - config.low_rank) * rng.standard_normal((*shape, size))
        spectrum = variance[:rank] / variance[:rank].sum()
        deviations += rng.standard_normal((*shape, rank)) * np.sqrt(config.low_rank * size * spectrum) @ wide.T
        if math.isfinite(config.freedom):
            # One divisor for all entries of a row makes the t distribution multivariate.
            deviations *= np.sqrt((config.freedom - 2) / rng.chisquare(config.freedom, (*shape, 1)))
        scale = np.exp(config.unevenness * rng.standard_normal((config.n_classes, 1, 1)))
        deviations *= scale / np.sqrt((scale**2).mean())
        mean = config.offset * rng.standard_normal(size)
        single = np.float32
        return _Parts(centres.astype(single), deviations.astype(single), mean.astype(single), config.relu)

    def first(self, n: int) -> "_Parts":
        """The first `n` rows of every class."""
        return _Parts(self.centres, self.deviations[:, :n], self.mean, self.relu)

    def mix(self, fraction: float) -> np.ndarray:
        """K N/K D. fraction: that of the variance which is between the classes."""
        x: np.ndarray = self.mean + math.sqrt(fraction) * self.centres + math.sqrt(1 - fraction) * self.deviations
        return np.maximum(x, 0) if self.relu else x


def _orthogonal(x: np.ndarray) -> np.ndarray:
    """Orthonormal columns that span those of x."""
    return np.linalg.qr(x)[0]


def _find_fraction(parts: _Parts, config: SyntheticConfig, rng: np.random.Generator) -> float:
    """The fraction of the variance between the classes that gives the configured accuracy."""
    n_rows = min(config.rows_per_class, max(2, PROBED // config.n_classes))
    probed = parts.first(n_rows)
    classes = np.stack([rng.choice(config.n_classes, 5, replace=False) for _ in range(TRIALS)])  # the first is right
    query = rng.integers(n_rows, size=TRIALS)
    support = rng.integers(n_rows, size=(TRIALS, 5))
    support[:, 0] = (query + rng.integers(1, n_rows, size=TRIALS)) % n_rows  # never the query itself
    query_M, support_M5 = classes[:, :1] * n_rows + query[:, None], classes * n_rows + support

    def accuracy(fraction: float) -> float:
        rows = probed.mix(fraction).reshape(-1, config.n_features)
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        similarity = (rows @ rows.T)[query_M, support_M5]
        return 100 * float((similarity[:, 0] > similarity[:, 1:].max(1)).mean())

    low, high = -14.0, 14.0  # of the logit
    for _ in range(16):
        middle = (low + high) / 2
        low, high = (low, middle) if accuracy(_logistic(middle)) > config.accuracy else (middle, high)
    fraction = _logistic((low + high) / 2)
    if abs(accuracy(fraction) - config.accuracy) > TOLERANCE:
        found = f"an accuracy of {config.accuracy:g} percent; the nearest have {accuracy(fraction):.0f}"
        raise SettingsError(f"No made-up features have {found}. Ask for more features or another accuracy.")
    return fraction


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))
