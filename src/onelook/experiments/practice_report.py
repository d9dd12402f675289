"""Report of `FewShotClassifier` about its own answers to a simulated user, compared with the truth.

Its probabilities (calibration), the accuracy that it expects, its sets of classes, and what it sets aside as of no
known class (unknown images). Each figure has an interval, over users.
"""

from collections.abc import Generator
from dataclasses import dataclass, replace

import numpy as np
import torch

from onelook.data.protocols import UNKNOWN
from onelook.data.sampler import TaskSampler, TaskSpec
from onelook.estimators.calibration import clopper_pearson
from onelook.estimators.classifier import FewShotClassifier
from onelook.events import Progress
from onelook.ops import normalise
from onelook.scoring import Estimate
from onelook.tasks import Embeddings

ALPHA = 0.1
"""Prediction sets may miss the truth so often."""
RATE = 0.05
"""Images of known classes may be set aside so often."""
UNKNOWN_FRACTION = 0.2
"""Fraction of unknown images in the pools that have some."""
N_BINS = 15
"""Bins of the calibration error."""
N_RESAMPLES = 1000
ENERGY_SCALE = 10.0
"""Scale of the cosines in the energy score."""


@dataclass(frozen=True)
class User:
    """A task as arrays: labelled rows x (S, D) with labels y, and the pool (Q, D) with its truth; rows of length 1."""

    x: np.ndarray
    y: np.ndarray
    pool: np.ndarray
    truth: np.ndarray


def draw_user(sampler: TaskSampler, number: int) -> User:
    tasks = sampler.sample([number])
    assert tasks.query_labels is not None
    rows = (normalise(tasks.support[0]), tasks.support_labels[0], normalise(tasks.query[0]), tasks.query_labels[0])
    return User(*(x.numpy() for x in rows))


def make_classifier() -> FewShotClassifier:
    """A classifier of features of a network; "auto" would find out the same, as they have 32 columns or more."""
    return FewShotClassifier(features="network", unlabeled_marker=())


class Report:
    """Notes of one user after the other."""

    def __init__(self) -> None:
        self.confidence: list[np.ndarray] = []
        self.right: list[np.ndarray] = []
        self.figures: list[tuple[float, ...]] = []
        """Coverage and size of the prediction sets; whether the interval covers, its width, and what is expected too
        much; the largest class."""

    def note(self, own: FewShotClassifier, user: User) -> None:
        """own: fitted to that user."""
        self.confidence.append(own.transduction_proba_.max(1))
        self.right.append(own.transduction_ == user.truth)
        sets = own.predict_set(user.pool, alpha=ALPHA)
        expected = own.estimate_accuracy().accuracy
        accuracy = float(self.right[-1].mean())
        covers, excess = bool(expected.low <= accuracy <= expected.high), expected.value - accuracy
        largest = float(np.bincount(user.truth).max() / len(user.truth))
        in_set, set_size = float(sets[np.arange(len(sets)), user.truth].mean()), float(sets.sum(1).mean())
        self.figures.append((in_set, set_size, covers, expected.high - expected.low, excess, largest))

    def summary(self, seed: int) -> dict[str, float]:
        """Fractions from 0 to 1. seed: of the resampling."""
        confidence, right = np.stack(self.confidence), np.stack(self.right)
        in_set, set_size, covers, width, excess, largest = zip(*self.figures, strict=True)
        n_covered = sum(covers)
        low, high = clopper_pearson(float(n_covered), float(len(covers) - n_covered), 0.95)
        found = {
            "calibration_error": calibration_error(confidence.ravel(), right.ravel()),
            "calibration_error_ci95": calibration_ci95(confidence, right, seed),
            "estimate_covers": n_covered / len(covers),
            "estimate_covers_low": low,
            "estimate_covers_high": high,
            "estimate_width": float(np.mean(width)),
            **Estimate.from_values(torch.tensor(excess)).record("estimate_excess", "estimate_excess_ci95", 4, 1),
            **Estimate.from_values(torch.tensor(in_set)).record("set_coverage", "set_coverage_ci95", 4, 1),
            "set_size": float(np.mean(set_size)),
            "largest_share": float(np.mean(largest)),
        }
        return {name: round(value, 4) for name, value in found.items()}


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error over bins of equal width (Guo et al., ICML 2017, arXiv:1706.04599)."""
    gaps = _gaps(confidence[None], right[None])
    return float(np.abs(gaps).sum() / len(confidence))


def calibration_ci95(confidence: np.ndarray, right: np.ndarray, seed: int) -> float:
    """1.96 standard deviations of the error over users drawn with replacement; both (users, queries).

    A quantile of the redrawn errors would not do: with their noise they all lie above the error itself.
    """
    gaps = _gaps(confidence, right)
    n = len(gaps)
    times = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), N_RESAMPLES)
    return float(1.96 * (np.abs(times @ gaps).sum(1) / confidence.size).std())


def _gaps(confidence: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(users, queries) -> (users, bins): by how much the confidence in a bin adds up to more than the right answers."""
    bins = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
    return np.stack([((confidence - right) * (bins == b)).sum(1) for b in range(N_BINS)], 1)


def add_unknown(spec: TaskSpec) -> TaskSpec:
    """Users of `spec` with images in their pools of no class that they have labelled."""
    return replace(spec, protocol=f"{spec.protocol}+unknown:{UNKNOWN_FRACTION}")


def sample_unknown(data: Embeddings, spec: TaskSpec) -> TaskSampler | None:
    """Users of `add_unknown`; None where they know all classes of the set."""
    return TaskSampler(data, add_unknown(spec)) if len(data.class_names) > spec.n_way else None


def measure_unknown(
    data: Embeddings, spec: TaskSpec, n_users: int, stage: str
) -> Generator[Progress, None, dict[str, float]]:
    """Measure what is set aside of pools with unknown images, where there are any. spec: of the users without."""
    sampler = sample_unknown(data, spec)
    if sampler is None:
        return {}
    values: dict[str, list[float]] = {}
    for number in range(n_users):
        user = draw_user(sampler, number)
        own = make_classifier().fit(user.x, user.y, unlabeled=user.pool)
        unknown = user.truth == UNKNOWN
        aside = own.reject(user.pool, rate=RATE)
        found = {
            "false_rejections": aside[~unknown].mean(),
            "unknown_found": aside[unknown].mean(),
            "auroc": area(own.unknown_score(user.pool), unknown),
            "auroc_energy": area(_energy(user), unknown),
            "auroc_nearest": area(1 - (user.pool @ user.x.T).max(1), unknown),
        }
        for name, value in found.items():
            values.setdefault(name, []).append(float(value))
        yield Progress(f"{stage}, with unknown images", number + 1, n_users)
    record: dict[str, float] = {}
    for name, of_users in values.items():
        record |= Estimate.from_values(torch.tensor(of_users)).record(name, f"{name}_ci95", 4, 1)
    return record


def _energy(user: User) -> np.ndarray:
    """The energy score (Liu et al., NeurIPS 2020, arXiv:2010.03759) of the cosines to the class means."""
    means = np.stack([user.x[user.y == k].mean(0) for k in np.unique(user.y)])
    cosines = user.pool @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T
    return np.asarray(-torch.from_numpy(ENERGY_SCALE * cosines).logsumexp(1).numpy())


def area(score: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve: how often a positive has the larger score; half where equal."""
    difference = score[positive][:, None] - score[~positive][None]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())
