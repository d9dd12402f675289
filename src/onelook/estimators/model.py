"""Models behind FewShotClassifier: nearest class means of labelled rows, and Glance's answers to unlabelled ones.

Glance's answers are calibrated by the labelled rows and mixed in as far as the guard trusts them; the means are then
adapted to them.
"""

import functools
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from onelook import ops
from onelook.artifacts import SHIPPED_METHODS, load_method
from onelook.errors import SettingsError
from onelook.estimators import calibration
from onelook.methods import Method
from onelook.methods.glance import Glance
from onelook.methods.guard import Verdict
from onelook.methods.priors import ClassPriors
from onelook.methods.second_opinion import second_opinion
from onelook.scoring import Estimate
from onelook.tasks import Tasks

FEW_DIMENSIONS = 32
"""Number of columns below which "auto" takes rows for a table, where lengths and the origin carry meaning."""


@dataclass(frozen=True)
class Scaling:
    """Centre and spread of the labelled rows, by which all rows of a table are scaled."""

    centre: np.ndarray
    spread: float
    is_table: bool

    @classmethod
    def fit(cls, rows: np.ndarray, features: str) -> "Scaling":
        """Measure the labelled rows alone, so that unlabelled ones do not change the scale. Raises SettingsError."""
        if features not in ("auto", "network", "table"):
            raise SettingsError(f"features must be auto, network or table, but is {features!r}.")
        is_table = features == "table" or (features == "auto" and rows.shape[1] < FEW_DIMENSIONS)
        centre = rows.mean(0)
        return cls(centre, math.sqrt(np.square(rows - centre).sum(1).mean()) or 1.0, is_table)

    def __call__(self, rows: np.ndarray) -> Float[Tensor, "N D"]:
        """Rows of unit length. A constant column of 2 keeps those of a table on a nearly flat part of the sphere."""
        if self.is_table:
            rows = np.hstack([(rows - self.centre) / self.spread, np.full((len(rows), 1), 2.0)])
        return ops.normalise(torch.tensor(rows))


@dataclass(frozen=True, eq=False)
class NearestMeans:
    """Class means with calibrated logits; each row is judged by itself."""

    means: Float[Tensor, "K D"]
    log_priors: Float[Tensor, "K"]
    log_scale: float
    left_out: Float[Tensor, "S K"]
    """Leave-one-out distances of the labelled rows."""

    def distances(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N K"]:
        return calibration.scaled_distances(x, self.means)

    def logits(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N K"]:
        return self.log_priors - math.exp(self.log_scale) * self.distances(x)


@dataclass(frozen=True, eq=False)
class AdaptedModel(NearestMeans):
    """Means moved by the unlabelled rows as far as these are trusted."""

    query_distances: Float[Tensor, "Q K"]
    """Distances of the unlabelled rows, corrected for their part in the means."""
    confidence: float
    """Mean confidence in the answers to the unlabelled rows, as an estimate of their accuracy."""
    gain: float
    """Mean confidence less that of the labelled rows alone."""


@dataclass(frozen=True, eq=False)
class SupportModel(NearestMeans):
    """Everything that the labelled rows alone determine."""

    classes: np.ndarray
    scaling: Scaling
    rows: Float[Tensor, "S D"]
    labels: Int[Tensor, "S"]
    class_priors: Float[Tensor, "K"]
    """Given class priors; NaN: unknown."""
    shots: Float[Tensor, "K"]
    testable: Bool[Tensor, "S"]
    """Rows whose class has others, so that they can be left out and judged by these."""

    @classmethod
    def fit(cls, rows: np.ndarray, labels: np.ndarray, class_priors: ClassPriors, features: str) -> "SupportModel":
        """features: "network", "table" or "auto", as for FewShotClassifier. Raises SettingsError."""
        try:
            classes, indices = np.unique(labels, return_inverse=True)
        except TypeError as error:
            raise SettingsError("The labels in y are of kinds that have no order; give labels of one kind.") from error
        if len(classes) < 2:
            raise SettingsError(
                f"FewShotClassifier needs examples of at least 2 classes, but y has {len(classes)} "
                f"class{'' if len(classes) == 1 else 'es'}."
            )
        scaling, y = Scaling.fit(rows, features), torch.from_numpy(indices.astype(np.int64))
        x, shots = scaling(rows), y.bincount().double()
        priors = class_priors.tensor(classes.tolist())
        means, testable = ops.class_means(x[None], y[None], len(classes))[0], shots[y] > 1
        distances = calibration.scaled_distances(x, means)
        left_out = calibration.leave_one_out(distances, _one_hot(y, len(classes)), shots)
        separation = calibration.class_separation(means)
        log_scale = calibration.fit_log_scale(shots, separation, left_out[testable], y[testable])
        log_priors = priors.nan_to_num(1 / len(classes)).clamp_min(1e-4).log()
        return cls(means, log_priors, log_scale, left_out, classes, scaling, x, y, priors, shots, testable)

    def adapt(
        self, query: Float[Tensor, "Q D"], posterior: Float[Tensor, "Q K"], trust: float, confidence: float
    ) -> AdaptedModel:
        """Move means, class priors and scale by the posteriors of the unlabelled rows, as far as these are trusted."""
        gain = confidence - self.mean_confidence(query)
        if not trust:
            distances = self.distances(query)
            return AdaptedModel(self.means, self.log_priors, self.log_scale, self.left_out, distances, confidence, gain)
        weight = trust * posterior
        mass = self.shots + weight.sum(0)
        means = ops.soft_class_means(self.rows[None], self.labels[None], query[None], weight[None])[0]
        hot = _one_hot(self.labels, len(self.classes))
        left_out = calibration.leave_one_out(calibration.scaled_distances(self.rows, means), hot, mass)
        distances = calibration.leave_one_out(calibration.scaled_distances(query, means), weight, mass)
        log_priors = self.estimate_log_priors(posterior, trust)
        log_scale = calibration.match_log_scale(log_priors, -distances, posterior.amax(1).mean().item())
        return AdaptedModel(means, log_priors, log_scale, left_out, distances, confidence, gain)

    def mean_confidence(self, query: Float[Tensor, "Q D"]) -> float:
        """Mean largest posterior of unlabelled rows; without any, half-way between chance and certainty."""
        if not len(query):
            return (1 + 1 / len(self.classes)) / 2
        return self.logits(query).softmax(1).amax(1).mean().item()

    def estimate_log_priors(self, posterior: Float[Tensor, "Q K"], trust: float) -> Float[Tensor, "K"]:
        """Log class priors: the given ones, or those estimated from the posteriors, shrunk by trust."""
        if not self.class_priors.isnan().any():
            return self.log_priors
        n_way = len(self.classes)
        estimated = (posterior.sum(0) + 1) / (len(posterior) + n_way)
        return (trust * estimated + (1 - trust) / n_way).log()

    def estimate_accuracy(
        self, log_priors: Float[Tensor, "K"], confidence: float, gain: float, n_rows: int, level: float = 0.95
    ) -> calibration.AccuracyEstimate:
        """Estimate the accuracy on n_rows unlabelled rows (0: on rows like the labelled ones).

        The leave-one-out accuracy, weighted by the class priors, is raised by what the unlabelled rows add, the `gain`
        in mean confidence; the mean `confidence` itself counts as PRIOR_COUNT more examples. The interval is Clopper
        and Pearson's for these counts.
        """
        labels, answers = self.labels[self.testable], self.left_out[self.testable].argmin(1)
        confusion = torch.zeros(len(self.shots), len(self.shots), dtype=torch.int64)
        confusion.index_put_((labels, answers), torch.tensor(1), accumulate=True)
        weight = (log_priors.exp() / self.shots)[labels]
        weight = weight / weight.sum()
        n = 1 / weight.square().sum().item() if len(weight) else 0.0
        inductive = (weight * (labels == answers)).sum().item()
        # With more labelled examples there is less to gain, and what seems so is the error of the calibration.
        gain = gain / self.shots.mean().item() ** 0.25
        prior = calibration.PRIOR_COUNT * confidence
        hits, total = n * min(max(inductive + gain, 0.0), 1.0) + prior, n + calibration.PRIOR_COUNT
        # The accuracy on few rows itself varies, as much as that of as many examples.
        part = n_rows / (n_rows + total) if n_rows else 1.0
        low, high = calibration.clopper_pearson(part * hits, part * (total - hits), level)
        if n_rows:  # to fractions that so few rows can have
            low, high = math.floor(low * n_rows) / n_rows, math.ceil(high * n_rows) / n_rows
        per_class = (confusion.diagonal() + prior) / (confusion.sum(1) + calibration.PRIOR_COUNT)
        return calibration.AccuracyEstimate(
            Estimate(hits / total, low, high),
            (n * inductive + calibration.PRIOR_COUNT * (confidence - gain)) / total,
            dict(zip(self.classes.tolist(), per_class.tolist(), strict=True)),
            confusion.numpy(),
        )


def _one_hot(labels: Int[Tensor, "S"], n_way: int) -> Float[Tensor, "S K"]:
    return ops.one_hot(labels[None], n_way, torch.float64)[0]


@dataclass(frozen=True, eq=False)
class Examples:
    """Rows as they were given to `fit`, in any scale."""

    rows: np.ndarray
    labels: np.ndarray
    marked: np.ndarray
    """Rows of X whose label is a marker for none."""
    pool: np.ndarray
    """Rows of `unlabeled`."""


@dataclass(frozen=True, eq=False)
class Transduction:
    """Posteriors of the unlabelled rows and how they came about."""

    posterior: Float[Tensor, "Q K"]
    trust: float
    """Fraction of the transductive posterior, 0 to 1."""
    confidence: float
    """Usual accuracy of answers that are as confident as these."""
    message: str
    """Whether the unlabelled rows were used and why, for a person."""
    verdict: Verdict | None


def transduce(support: SupportModel, query: Float[Tensor, "Q D"], guard: bool, device: str = "cpu") -> Transduction:
    """Ask Glance, on a device, about all unlabelled rows together; nothing is asked without any."""
    inductive, confidence = support.logits(query).softmax(1), support.mean_confidence(query)
    if not len(query):
        message = "There are no unlabelled images: the labelled examples alone decide."
        return Transduction(inductive, 0.0, confidence, message, None)
    logits, verdict = _ask_glance(support, query, guard, device)
    trust, message = 1.0, "The guard is off: the unlabelled images were used."
    if verdict is not None:
        trust, message = verdict.trust.item(), verdict.messages()[0]
    if not trust:
        return Transduction(inductive, trust, confidence, message, verdict)
    usual = calibration.prior_accuracy(logits)
    log_priors = support.estimate_log_priors(logits.softmax(1), trust)
    # As confident as the answers are right, by what is usual and by the labelled rows left out.
    expected = support.estimate_accuracy(log_priors, usual, usual - confidence, len(query)).accuracy.value
    logits = _hear_second_opinion(support, query, logits)
    posterior = trust * calibration.calibrate(logits, expected) + (1 - trust) * inductive
    return Transduction(posterior, trust, trust * usual + (1 - trust) * confidence, message, verdict)


def _ask_glance(
    support: SupportModel, query: Float[Tensor, "Q D"], guard: bool, device: str
) -> tuple[Float[Tensor, "Q K"], Verdict | None]:
    """Transductive logits, and the verdict of the guard."""
    tasks = Tasks(support.rows.float()[None], support.labels[None], query.float()[None], len(support.classes))
    path = SHIPPED_METHODS["glance"]
    glance = _load_glance(path, path.stat().st_mtime_ns, device)
    tasks, priors = tasks.to(device), support.class_priors.float()[None].to(device)
    verdict = None
    with torch.inference_mode():
        if guard:
            logits, verdict = glance.answer(tasks, priors)
        if verdict is None or 0 < verdict.trust < 1:  # the guarded logits are those of a mixture
            logits = glance.trajectory(tasks, priors)[-1]
    return logits[0].cpu().double(), verdict and verdict.to("cpu")


def _hear_second_opinion(
    support: SupportModel, query: Float[Tensor, "Q D"], logits: Float[Tensor, "Q K"]
) -> Float[Tensor, "Q K"]:
    """Logits half-way between these and those of a linear classifier, once it is as confident."""
    posterior = logits.softmax(1)
    opinion = second_opinion(support.rows.float(), support.labels, query.float(), posterior.float()).double()
    opinion = calibration.calibrate(opinion, posterior.amax(1).mean().item())
    both = (logits.log_softmax(1) + opinion.clamp_min(1e-12).log()) / 2
    if support.class_priors.isnan().any():
        return both
    mass = len(query) * support.class_priors[None]
    return ops.relaxed_sinkhorn(both[None], mass, 20, stiffness=len(query) / (len(query) + both.shape[1]))[0]


@functools.lru_cache(maxsize=1)
def _load_glance(path: Path, _modified: int, device: str) -> Glance:
    """Glance as `path` holds it, read once for each version of the file; nobody else gets this module to change it."""
    method: Method = load_method(path)[0]
    assert isinstance(method, Glance)
    return method.to(device)
