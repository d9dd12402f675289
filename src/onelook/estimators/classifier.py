"""FewShotClassifier: Glance with the face of scikit-learn, for feature vectors and labels of any kind."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data
from torch import Tensor

from onelook import artifacts, ops
from onelook.artifacts import load_shipped
from onelook.errors import ArtifactError, SettingsError
from onelook.estimators import calibration, label_values, persistence
from onelook.estimators.calibration import AccuracyEstimate as AccuracyEstimate
from onelook.estimators.learning_curve import REPEATS, CurvePoint, learning_curve
from onelook.estimators.scaling import sphere_of
from onelook.methods import Glance
from onelook.methods.guard import Verdict
from onelook.methods.priors import ClassPriors
from onelook.tasks import Tasks


class FewShotClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Classifies rows by a few labelled examples of each class and the unlabelled rows themselves.

    `fit` answers for the unlabelled rows together (`transduction_`); `predict` answers for new rows, each by itself:
    by class means that the unlabelled rows have moved as far as the guard trusts them, and their estimated
    proportions; without unlabelled rows by the nearest class mean.

    Parameters
    ----------
    class_priors: how frequent the classes are among the unlabelled rows: "unknown", "balanced", a dict with a number
        for each class, or the numbers in the order of `classes_`.
    guard: whether unlabelled rows are believed only as far as the evidence goes (`methods.guard`).
    unlabeled_marker: labels in y that say that a row has none: a value, a tuple of values, or "auto" for -1, None,
        NaN and "". Such rows are unlabelled, and the marker never is a class. (): there are none.
    features: "network": only the direction of a row means something; "table": its place does, and neither the origin
        nor the unit; "auto": a table below 32 columns.

    Attributes
    ----------
    classes_, n_features_in_: as everywhere in scikit-learn.
    transduction_, transduction_proba_: labels (Q,) and probabilities (Q, K) of the unlabelled rows: those of X with a
        marker first, then those of `unlabeled`.
    inductive_: labels (Q,) of the same rows by the nearest class mean of the labelled examples alone.
    guard_: in words, whether the unlabelled rows were used, and why.
    verdict_: the numbers behind it; None without unlabelled rows or without a guard.
    """

    def __init__(
        self, *, class_priors: Any = "unknown", guard: Any = True, unlabeled_marker: Any = (), features: Any = "auto"
    ) -> None:  # scikit-learn wants anything to be taken here, and refused in fit
        self.class_priors = class_priors
        self.guard = guard
        self.unlabeled_marker = unlabeled_marker
        self.features = features

    def fit(self, X: Any, y: Any, unlabeled: Any = None) -> "FewShotClassifier":
        """X (n, d), y (n) labels; unlabeled (m, d). Raises SettingsError, a ValueError, for what cannot be used."""
        rows, labels, marked = self._taken_apart(X, y, reset=True)
        pool = (
            rows[:0]
            if unlabeled is None or not len(unlabeled)
            else validate_data(self, unlabeled, reset=False, dtype=np.float64)
        )
        return self._learn(rows, labels, marked, pool)

    def add_examples(self, X: Any, y: Any) -> "FewShotClassifier":
        """More labelled examples (or rows with a marker), of known classes or new ones.

        The classifier is the one that `fit` would make of all rows so far.
        """
        check_is_fitted(self)
        rows, labels, marked = self._taken_apart(X, y, reset=False)
        if not label_values.alike(self._labels, labels):
            raise SettingsError(
                f"The labels so far are of type {self._labels.dtype}, but the new ones are of type "
                f"{labels.dtype}; give labels of one kind."
            )
        return self._learn(
            np.concatenate([self._rows, rows]),
            np.concatenate([self._labels, labels]),
            np.concatenate([self._marked, marked]),
            self._pool,
        )

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> "FewShotClassifier":
        """`add_examples`, or `fit` the first time. classes: needless here; a label beyond them is refused."""
        is_first = not self.__sklearn_is_fitted__()
        if classes is not None:
            strange = set(self._taken_apart(X, y, reset=is_first)[1].tolist()) - set(np.asarray(classes).tolist())
            if strange:
                raise SettingsError(f"y has labels that are not among `classes`: {sorted(map(str, strange))[:5]}.")
        return self.fit(X, y) if is_first else self.add_examples(X, y)

    def decision_function(self, X: Any) -> np.ndarray:
        """Scores (n, K); of two classes the difference (n,)."""
        logits = self._logits(self._embedded(X)).numpy()
        return logits if len(self.classes_) > 2 else logits[:, 1] - logits[:, 0]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Calibrated probabilities (n, K), in the order of `classes_`; each row by itself."""
        return self._logits(self._embedded(X)).softmax(1).numpy()

    def predict(self, X: Any) -> np.ndarray:
        answers = self._logits(self._embedded(X)).argmax(1).numpy()  # refuses what is not fitted
        return np.asarray(self.classes_[answers])

    def predict_set(self, X: Any, alpha: float = 0.1) -> np.ndarray:
        """Which classes (n, K) a row may be of: the true one is among them with probability 1 - alpha or more.

        Full conformal prediction by the labelled examples left out; the most probable class always belongs. Where
        these are fewer than 1 / alpha - 1, which could rule out nothing, the most probable classes until their
        probabilities add up to 1 - alpha: there the promise rests on the calibration, which is taken with caution.
        """
        _require_share("alpha", alpha)
        x = self._embedded(X)
        logits = self._logits(x)
        if self._several.sum() + 1 < 1 / alpha:
            return calibration.cumulative_sets((logits / calibration.CAUTION).softmax(1), 1 - alpha).numpy()
        p_values = calibration.conformal_p_values(x, self._support, self._codes, len(self.classes_))
        best = torch.zeros_like(logits, dtype=torch.bool).scatter(1, logits.argmax(1, keepdim=True), True)
        return ((p_values > alpha) | best).numpy()

    def unknown_score(self, X: Any) -> np.ndarray:
        """How strange each row is (n,): the larger, the less like any of the classes."""
        return self._distances(self._embedded(X)).amin(1).numpy()

    def reject(self, X: Any, rate: float = 0.05) -> np.ndarray:
        """Which rows (n,) are taken for none of the classes, such that at most `rate` of the others are too.

        The threshold is a conformal quantile of the labelled examples left out; where these are too few, of the
        unlabelled rows, strangers among them included; where these are too few as well, nothing is rejected.
        """
        _require_share("rate", rate)
        known = self._left_out[self._several].amin(1)
        threshold = calibration.conformal_threshold(known, rate)
        if math.isinf(threshold):
            threshold = calibration.conformal_threshold(self._pool_distances.amin(1), rate)
        return self.unknown_score(X) > threshold

    def estimate_accuracy(self, level: float = 0.95) -> AccuracyEstimate:
        """How many answers to the unlabelled rows are right (to new rows, where there are none), by the labelled ones.

        See `calibration.estimate_accuracy`.
        """
        check_is_fitted(self)
        _require_share("level", level)
        n_rows, share = len(self.transduction_proba_), self._log_share.exp()
        return self._estimate(self._believed, self._alone_believed, share, n_rows, level)

    def learning_curve(self, repeats: int = REPEATS, seed: int = 0) -> tuple[CurvePoint, ...]:
        """How accurate fewer of the labelled examples are at telling the others, without unlabelled rows.

        See `onelook.estimators.learning_curve`.
        """
        check_is_fitted(self)
        x, share = self._support.float(), self._log_share.exp()
        return learning_curve(x, self._codes, len(self.classes_), share, repeats, seed)

    def save(self, path: str | Path, network: dict[str, str] | None = None) -> None:
        """One safetensors file with the rows, labels, settings and answers.

        network: words about what made the features, kept with it; `load` has them as `network_`.
        Raises StorageError, and SettingsError for labels that are neither words nor numbers.
        """
        check_is_fitted(self)
        try:
            artifacts.save(persistence.artifact(self, network), Path(path))
        except TypeError as error:  # of JSON
            raise SettingsError(f"A file holds labels and settings that are words or numbers, but {error}.") from error

    @classmethod
    def load(cls, path: str | Path) -> "FewShotClassifier":
        """What `save` wrote. Raises ArtifactError."""
        file = artifacts.load(Path(path), "classifier")
        try:
            return persistence.restored(cls, file)  # type: ignore[no-any-return]
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise ArtifactError(
                f"{path} describes no classifier that this Onelook knows; update Onelook, or make the file again."
            ) from error

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "transduction_proba_")

    def _taken_apart(self, X: Any, y: Any, reset: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Labelled rows, their labels, and the rows that are marked as unlabelled."""
        if y is None:
            raise SettingsError("FewShotClassifier requires y to be passed, but the target y is None.")
        markers = label_values.markers(self.unlabeled_marker)
        if not markers:
            rows, labels = validate_data(self, X, y, reset=reset, dtype=np.float64)
            check_classification_targets(labels)
            return rows, labels, rows[:0]
        rows = validate_data(self, X, reset=reset, dtype=np.float64)
        # As objects, or numpy would make the word "nan" of a NaN among words.
        given = column_or_1d(np.asarray(y, dtype=object) if isinstance(y, list | tuple) else np.asarray(y), warn=True)
        if len(given) != len(rows):
            raise SettingsError(f"X has {len(rows)} rows, but y has {len(given)} labels.")
        labels, is_marked = label_values.without_marked(given, markers)
        check_classification_targets(labels)
        return rows[~is_marked], labels, rows[is_marked]

    def _learn(self, rows: np.ndarray, labels: np.ndarray, marked: np.ndarray, pool: np.ndarray) -> "FewShotClassifier":
        self._prepare(rows, marked, pool, labels)
        query = self._unlabelled()
        if not len(query):
            self.verdict_: Verdict | None = None
            self.guard_ = "There are no unlabelled images: the labelled examples alone decide."
            unknown = (1 + 1 / len(self.classes_)) / 2
            self._settle(query.new_zeros(0, len(self.classes_)), 0.0, unknown, unknown)
            return self
        alone = self._logits(query).softmax(1)
        proba, believed = alone, (alone_believed := alone.amax(1).mean().item())
        logits, trust = self._answered(query)
        if trust:
            usual = calibration.prior_accuracy(logits)
            # As sure as they are right, by what is usual and by the labelled examples.
            share = self._log_shares(logits.softmax(1), trust).exp()
            accuracy = self._estimate(usual, alone_believed, share, len(query), 0.95).accuracy.value
            proba = trust * calibration.calibrate(logits, accuracy) + (1 - trust) * alone
            believed = trust * usual + (1 - trust) * alone_believed
        self._settle(proba, trust, believed, alone_believed)
        return self

    def _answered(self, query: Float[Tensor, "Q D"]) -> tuple[Float[Tensor, "Q K"], float]:
        """What Glance says of the unlabelled rows, and how far that is to be trusted."""
        tasks = Tasks(self._support.float()[None], self._codes[None], query.float()[None], len(self.classes_))
        method, priors = load_shipped("glance"), self._priors.float()[None]
        assert isinstance(method, Glance)
        trust = 1.0
        with torch.inference_mode():
            if self.guard:
                logits, self.verdict_ = method.answer(tasks, priors)
                trust = self.verdict_.trust.item()
                self.guard_ = self.verdict_.words()[0]
            else:
                self.verdict_, self.guard_ = None, "The guard is off: the unlabelled images were used."
            if not self.guard or 0 < trust < 1:  # the guarded logits are those of a mixture
                logits = method.trajectory(tasks, priors)[-1]
        return logits[0].double(), trust

    def _estimate(
        self, believed: float, alone: float, share: Float[Tensor, "K"], n_rows: int, level: float
    ) -> AccuracyEstimate:
        """believed, alone: the accuracy with and without the unlabelled rows, as far as these themselves tell."""
        some = self._several
        left_out = calibration.LeaveOneOut(self._codes[some], self._alone[some].argmin(1), self._shots, share)
        return calibration.estimate_accuracy(
            left_out, self.classes_.tolist(), believed, believed - alone, n_rows, level
        )

    def _prepare(self, rows: np.ndarray, marked: np.ndarray, pool: np.ndarray, labels: np.ndarray) -> None:
        """All that the labelled examples alone say."""
        try:
            self.classes_, codes = np.unique(labels, return_inverse=True)
        except TypeError as error:
            raise SettingsError("The labels in y are of kinds that have no order; give labels of one kind.") from error
        if len(self.classes_) < 2:
            raise SettingsError(
                f"FewShotClassifier needs examples of at least 2 classes, but y has "
                f"{len(self.classes_)} class{'' if len(self.classes_) == 1 else 'es'}."
            )
        self._rows, self._marked, self._pool, self._labels = rows, marked, pool, labels
        self._codes = torch.from_numpy(codes.astype(np.int64))
        self._sphere = sphere_of(rows, self.features)
        self._support = self._sphere(rows)
        self._weights = ops.class_means(self._support[None], self._codes[None], len(self.classes_))[0]
        self._shots = self._codes.bincount().double()
        self._several = self._shots[self._codes] > 1
        self._priors = ClassPriors.parse(self.class_priors).tensor(self.classes_.tolist())
        self._log_share = self._priors.nan_to_num(1 / len(self._shots)).clamp_min(1e-4).log()
        self._hot = ops.one_hot(self._codes[None], len(self.classes_), torch.float64)[0]
        self._alone = calibration.leave_one_out(self._distances(self._support), self._hot, self._shots)
        usual = calibration.prior_log_scale(self._shots, calibration.class_separation(self._weights))
        several = self._several
        self._log_scale = calibration.fit_log_scale(usual, self._alone[several], self._codes[several])
        self.inductive_ = self.classes_[self._distances(self._unlabelled()).argmin(1).numpy()]

    def _settle(self, proba: Float[Tensor, "Q K"], trust: float, believed: float, alone_believed: float) -> None:
        """What new rows are told, by the posteriors of the unlabelled ones as far as they are trusted.

        believed: the accuracy among these, as far as they themselves tell; alone_believed: without them.
        """
        self._trust, self._believed, self._alone_believed = trust, believed, alone_believed
        self.transduction_proba_ = proba.numpy()
        self.transduction_ = self.classes_[proba.argmax(1).numpy()]
        query = self._unlabelled()
        share = trust * proba
        mass = self._shots + share.sum(0)
        if trust:
            self._weights = ops.soft_class_means(self._support[None], self._codes[None], query[None], share[None])[0]
            self._log_share = self._log_shares(proba, trust)
        self._left_out = calibration.leave_one_out(self._distances(self._support), self._hot, mass)
        self._pool_distances = calibration.leave_one_out(self._distances(query), share, mass)
        if trust:
            believed = proba.amax(1).mean().item()
            self._log_scale = calibration.match_log_scale(self._pool_distances, self._log_share, believed)

    def _log_shares(self, proba: Float[Tensor, "Q K"], trust: float) -> Float[Tensor, "K"]:
        """Logarithms of the class priors: those given, or those of the posteriors as far as they are trusted."""
        if not self._priors.isnan().any():
            return self._log_share
        estimated = (proba.sum(0) + 1) / (len(proba) + len(self.classes_))
        return (trust * estimated + (1 - trust) / len(self.classes_)).log()

    def _unlabelled(self) -> Float[Tensor, "Q D"]:
        return self._sphere(np.concatenate([self._marked, self._pool]))

    def _embedded(self, X: Any) -> Float[Tensor, "N D"]:
        check_is_fitted(self)
        return self._sphere(validate_data(self, X, reset=False, dtype=np.float64))

    def _logits(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N K"]:
        return self._log_share - math.exp(self._log_scale) * self._distances(x)

    def _distances(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N K"]:
        return calibration.scaled_distances(x, self._weights)


def _require_share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise SettingsError(f"{name} must lie between 0 and 1, but is {value}.")
