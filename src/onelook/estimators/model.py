"""Models behind FewShotClassifier: the parents of Glance on labelled rows, and its answers to unlabelled ones.

Glance's answers are calibrated by the labelled rows and mixed in as far as the guard trusts them; its parents, class
means and ridge regression, then learn from these answers to judge new rows.
"""

import math
from collections.abc import Generator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from onelook import ops
from onelook.errors import SettingsError
from onelook.estimators import calibration
from onelook.estimators.asking import Transduction, listen
from onelook.estimators.inductive import AdaptedModel, InductiveModel
from onelook.estimators.pool import Answers, Pool, evenly, sum_of
from onelook.events import Progress
from onelook.methods.glance_pool import CANDIDATES
from onelook.methods.glance_support import Labelled, leave_one_out
from onelook.methods.priors import ClassPriors
from onelook.methods.regression import Linear, Moments, Regression, equalise, weigh_queries
from onelook.scoring import Estimate
from onelook.tasks import Tasks

JUDGING, ANSWERING = "judging", "answering"
"""Stages of the work."""
LEARNT = 4_096
"""Unlabelled rows from which ridge regression learns."""

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

    def is_as(self, other: "Scaling") -> bool:
        """Whether both bring each row to the same scale."""
        if not (self.is_table or other.is_table):
            return True
        alike = self.is_table == other.is_table and self.spread == other.spread
        return alike and np.array_equal(self.centre, other.centre)

    def __call__(self, rows: np.ndarray) -> Float[Tensor, "N D"]:
        """Rows of unit length. A constant column of 2 keeps those of a table on a nearly flat part of the sphere."""
        if self.is_table:
            flat = (rows - self.centre.astype(rows.dtype)) / rows.dtype.type(self.spread)
            rows = np.hstack([flat, np.full((len(rows), 1), 2.0, rows.dtype)])
        return ops.normalise(torch.tensor(rows))


@dataclass(frozen=True, eq=False)
class Alone:
    """Answers of the labelled rows alone to the unlabelled ones."""

    nearest: Int[np.ndarray, "Q"]
    """The most probable class if all are equally frequent."""
    confidence: float
    """Mean largest posterior; without unlabelled rows, half-way between chance and certainty."""


@dataclass(frozen=True, eq=False)
class SupportModel(InductiveModel):
    """Everything that the labelled rows alone determine."""

    classes: np.ndarray
    scaling: Scaling
    rows: Float[Tensor, "S D"]
    labels: Int[Tensor, "S"]
    class_priors: Float[Tensor, "K"]
    """Given class priors; NaN: unknown."""
    shots: Float[Tensor, "K"]
    penalty: Float[Tensor, "1 1 1"]
    """Penalty of ridge regression."""
    testable: Bool[Tensor, "S"]
    """Rows whose class has others, so that they can be left out and judged by these."""
    left_out_strangeness: Float[Tensor, "S"]
    """Strangeness of the labelled rows, each left out, and its class without its weight: rather too large than too
    small, so that not too many rows of the classes are taken for strangers."""

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
        x, priors = scaling(rows), class_priors.tensor(classes.tolist())
        labelled = Labelled.read(Tasks(x[None], y[None], x[None, :1], len(classes)))
        means, shots, voices = labelled.means[0], labelled.shots[0], listen(labelled)
        testable, distances = shots[y] > 1, calibration.scaled_distances(x, means)
        left_out = leave_one_out(distances, labelled.support_hot[0], shots)
        opinion = equalise(labelled.left_out[0], labelled.support_hot[0], shots)
        scores = voices.mix(left_out[None], opinion[None])[0]
        log_scale = calibration.fit_log_scale(scores[testable], y[testable])
        log_priors = priors.nan_to_num(1 / len(classes)).clamp_min(1e-4).log()
        parents = (means, labelled.ridge, voices, log_priors, log_scale, left_out, opinion)
        strange = _strangeness(left_out, labelled.left_out[0])
        return cls(*parents, classes, scaling, x, y, priors, shots, labelled.penalty, testable, strange)

    def judge(self, pool: Pool) -> Generator[Any, None, Alone]:
        """Judge the unlabelled rows one by one."""
        parts = yield from pool.map(self._judge)
        nearest, largest = (torch.cat(some) for some in zip(*parts, strict=True))
        confidence = largest.mean(dtype=torch.float64).item() if len(pool) else (1 + 1 / len(self.classes)) / 2
        return Alone(nearest.numpy(), confidence)

    def _judge(self, pool: Pool) -> Generator[Any, None, tuple[Int[Tensor, "Q"], Float[Tensor, "Q"]]]:
        """The nearest class and the largest posterior of each row."""
        nearest, largest = [], []
        for part, x in pool.blocks():
            logits = self.logits(x)
            nearest.append((logits - self.log_priors.to(logits)).argmax(1))
            largest.append(logits.softmax(1).amax(1))
            yield Progress(JUDGING, part.stop, len(pool))
        return torch.cat(nearest), torch.cat(largest)

    def strangeness(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N"]:
        """How little each row is like any of the classes: far from their means, or claimed by none in the regression.

        The means that the unlabelled rows have moved are also near to the strangers among these.
        """
        return _strangeness(*self.compare(x))

    def answer(self, pool: Pool, candidates: Int[Tensor, "Q C"] | None = None) -> Generator[Any, None, Answers]:
        """Probabilities of the unlabelled rows one by one, for candidates or for all classes that count."""
        values, chosen, n_way = [], [], len(self.classes)
        for part, x in pool.blocks():
            logits = self.logits(x)
            if candidates is None and pool.is_large and n_way > CANDIDATES:
                chosen.append(logits.topk(CANDIDATES, 1).indices.int())
            elif candidates is not None:
                chosen.append(candidates[part])
            values.append((logits.gather(1, chosen[-1].long()) if chosen else logits).softmax(1))
            yield Progress(ANSWERING, part.stop, len(pool))
        return Answers(torch.cat(values), torch.cat(chosen) if chosen else None, n_way)

    def adapt(self, pool: Pool, found: Transduction, alone: Alone) -> AdaptedModel:
        """Move means, class priors and scale by the posteriors of the unlabelled rows, as far as these are trusted."""
        confidence, gain = found.confidence, found.confidence - alone.confidence
        if not found.trust:
            own = {one.name: getattr(self, one.name) for one in fields(InductiveModel)}
            return AdaptedModel(**own, confidence=confidence, gain=gain)
        trust, posterior, hot = found.trust, found.posterior, _one_hot(self.labels, len(self.classes))
        share = trust * weigh_queries(len(pool), len(self.classes))[0]
        mass = self.shots + sum_of((share * p).sum(0) for _, p in posterior.blocks())
        moved = sum_of((share * posterior.block(part)).mT @ x for part, x in pool.blocks())
        means = (hot.mT @ self.rows + moved) / mass.unsqueeze(1)
        some = evenly(len(pool), LEARNT)
        x, p = pool.take(some), posterior.block(some)
        known = pool.recall(("learnt", len(some)), lambda: Moments.of(x.float()[None])) if pool.is_remembered else None
        weight = trust * weigh_queries(len(x), len(self.classes))[1]
        ridge, opinion = self._regress(hot, x, p, weight, known)
        log_priors = self.estimate_log_priors(posterior.mass(), len(pool), trust)
        distances = calibration.scaled_distances(x, means.to(x))
        distances = leave_one_out(distances, share * p, mass.to(x)).double()
        scores = self.voices.mix(distances[None], opinion[None, len(hot) :])[0]
        log_scale = calibration.match_log_scale(log_priors, scores, posterior.top())
        left_out = leave_one_out(calibration.scaled_distances(self.rows, means), hot, mass)
        heard = self.shots + weight * posterior.mass() * len(some) / len(pool)
        about_labelled = equalise(opinion[: len(hot)], hot, heard.to(hot))
        parents = (means, ridge, self.voices, log_priors, log_scale, left_out, about_labelled)
        return AdaptedModel(*parents, confidence, gain)

    def _regress(
        self,
        hot: Float[Tensor, "S K"],
        x: Float[Tensor, "N D"],
        posterior: Float[Tensor, "N K"],
        of_unlabelled: float,
        known: Moments | None,
    ) -> tuple[Linear, Float[Tensor, "M K"]]:
        """Ridge regression on labelled and unlabelled rows, and its opinion about each of them, left out.

        of_unlabelled: weight of each unlabelled row; known: moments of these.
        """
        weight = torch.cat([self.rows.new_ones(len(hot)), self.rows.new_full((len(x),), of_unlabelled)])
        rows = torch.cat([self.rows.float(), x.float()])[None]
        regression = Regression.fit(rows, weight.float()[None], self.penalty.float(), known)
        targets = torch.cat([hot.float(), posterior.float()])[None]
        return regression.solve(targets).to(self.rows), regression.leave_out(targets)[0].double()

    def estimate_log_priors(self, mass: Float[Tensor, "K"], n_rows: int, trust: float) -> Float[Tensor, "K"]:
        """Log class priors: the given ones, or those estimated from the mass of each class, shrunk by trust."""
        if not self.class_priors.isnan().any():
            return self.log_priors
        n_way = len(self.classes)
        estimated = (mass.double() + 1) / (n_rows + n_way)
        return (trust * estimated + (1 - trust) / n_way).log()

    def estimate_accuracy(
        self, log_priors: Float[Tensor, "K"], confidence: float, gain: float, n_rows: int, level: float = 0.95
    ) -> calibration.AccuracyEstimate:
        """Estimate the accuracy on n_rows unlabelled rows (0: on rows like the labelled ones).

        The leave-one-out accuracy is raised by what the unlabelled rows add, told by their `gain` in confidence;
        `confidence` itself counts as PRIOR_COUNT more examples. The interval is Clopper and Pearson's for these counts.
        """
        labels, answers = self.labels[self.testable], self.left_out_logits()[self.testable].argmax(1)
        confusion = torch.zeros(len(self.shots), len(self.shots), dtype=torch.int64)
        confusion.index_put_((labels, answers), torch.tensor(1), accumulate=True)
        weight = (log_priors.exp() / self.shots)[labels]
        weight = weight / weight.sum()
        n = 1 / weight.square().sum().item() if len(weight) else 0.0
        # A class that attracts answers seems both frequent and well recognised: class priors weigh by half.
        right = labels == answers
        inductive = ((weight * right).sum() + right.sum() / max(len(right), 1)).item() / 2
        gain = calibration.judge_gain(gain, self.shots)
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


def _strangeness(distances: Float[Tensor, "N K"], opinion: Float[Tensor, "N K"]) -> Float[Tensor, "N"]:
    # Both in units of the difference between classes; factors of 0.5 to 2 were as good on validation classes.
    return distances.amin(1) - opinion.amax(1)


def _one_hot(labels: Int[Tensor, "S"], n_way: int) -> Float[Tensor, "S K"]:
    return ops.one_hot(labels[None], n_way, torch.float64)[0]
