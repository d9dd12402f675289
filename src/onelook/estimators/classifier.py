"""FewShotClassifier: Glance as a scikit-learn classifier, for feature vectors and labels of any kind."""

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from onelook import artifacts
from onelook.errors import ArtifactError, Bound, NonNegativeInt, PositiveInt, SettingsError, check_value, describe_cause
from onelook.estimators import calibration, label_values, persistence
from onelook.estimators.asking import Transduction
from onelook.estimators.calibration import AccuracyEstimate as AccuracyEstimate
from onelook.estimators.fitting import Examples, Plan, transduce
from onelook.estimators.learning_curve import REPEATS, CurvePoint, learning_curve
from onelook.estimators.model import SupportModel
from onelook.estimators.pool import Pool, blocks_of
from onelook.estimators.rows import is_empty, read_rows
from onelook.estimators.strangers import Strangers
from onelook.events import finish
from onelook.machine import find_device
from onelook.methods.priors import ClassPriors


class FewShotClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Classifies rows by a few labelled examples of each class and the unlabelled rows themselves.

    `fit` answers for the unlabelled rows together (`transduction_`). `predict` answers for new rows, each by itself: by
    class means, ridge regression and class priors that have learned from the unlabelled rows as far as the guard trusts
    them; without unlabelled rows by those of the labelled examples.

    Parameters
    ----------
    class_priors: how frequent the classes are among the unlabelled rows: "unknown", "balanced", a dict with a number
        for each class, or the numbers in the order of `classes_`.
    guard: whether unlabelled rows are trusted only as far as the evidence goes (`methods.guard`).
    unlabeled_marker: labels in y of unlabelled rows: None for every missing label (None, NaN, NA, "", "nan"; see
        `onelook.data.missing`), a value, a tuple of values, or "auto" for -1 and missing ones. A marker never is a
        class. (): there are none.
    features: "network": only the direction of a row carries meaning; "table": its position does, but neither the origin
        nor the unit; "auto": a table below 32 columns.
    device: "cpu", "cuda", "mps" or "auto" (cuda where there is one): where Glance looks at the unlabelled rows. A file
        does not keep it.

    Attributes
    ----------
    classes_, n_features_in_: as everywhere in scikit-learn.
    transduction_, transduction_proba_: labels (Q,) and probabilities (Q, K) of the unlabelled rows: those of X with a
        marker first, then those of `unlabeled`.
    inductive_: labels (Q,) of the same rows by the labelled examples alone.
    guard_: whether the unlabelled rows were used and why, as a sentence.
    verdict_: the numbers behind it; None without unlabelled rows or without a guard.

    Examples
    --------
    >>> X, y = np.array([[1.0, 8.0], [2.0, 9.0], [8.0, 1.0], [9.0, 3.0]]), ["cat", "cat", "dog", "dog"]
    >>> pool = np.array([[1.5, 7.5], [2.5, 8.0], [7.0, 2.0], [8.5, 1.5]])
    >>> classifier = FewShotClassifier().fit(X, y, unlabeled=pool)
    >>> classifier.transduction_.tolist()
    ['cat', 'cat', 'dog', 'dog']
    >>> classifier.predict([[7.5, 2.5]]).tolist()
    ['dog']
    >>> classifier.predict_set([[5.0, 5.0]], alpha=0.3).tolist(), classifier.reject([[5.0, 90.0]], rate=0.3).tolist()
    ([[False, True]], [True])
    >>> print(classifier.estimate_accuracy(), classifier.learning_curve()[0].accuracy, sep="; ")
    100 % (25 to 100); 100 % (100 to 100)
    >>> classifier.add_examples([[9.0, 9.0]], ["emu"]).classes_.tolist()
    ['cat', 'dog', 'emu']
    """

    def __init__(
        self,
        *,
        class_priors: Any = "unknown",
        guard: Any = True,
        unlabeled_marker: Any = None,
        features: Any = "auto",
        device: Any = "cpu",
    ) -> None:  # scikit-learn wants any value accepted here and refused in fit
        self.class_priors = class_priors
        self.guard = guard
        self.unlabeled_marker = unlabeled_marker
        self.features = features
        self.device = device

    @property
    def transduction_proba_(self) -> np.ndarray:
        """Probabilities (Q, K) of the unlabelled rows.

        >>> FewShotClassifier().fit([[0.0, 1.0], [1.0, 0.0]], [0, 1], unlabeled=[[0.1, 1.0]]).transduction_proba_.shape
        (1, 2)
        """
        check_is_fitted(self)
        return self._transduction.posterior.block(slice(None)).numpy()

    def fit(self, X: Any, y: Any, unlabeled: Any = None) -> "FewShotClassifier":
        """Learn from rows X (n, d), their labels y (n) and unlabelled rows (m, d).

        Raises SettingsError, a ValueError, for unusable rows, labels and settings.
        """
        return finish(self.fit_with_events(X, y, unlabeled))

    def fit_with_events(
        self, X: Any, y: Any, unlabeled: Any = None, more_seconds: float = 0.0, more_bytes: int = 0
    ) -> Generator[Any, None, "FewShotClassifier"]:
        """Work that does what `fit` does, and yields its `events.Progress` and, where it is long, a Notice of its cost.

        more_seconds, more_bytes: cost of what the caller does next, for that notice.

        >>> rows = np.random.default_rng(0).random((200, 8))
        >>> work = FewShotClassifier().fit_with_events(rows[:2], ["cat", "dog"], rows)
        >>> finish(work, on_event=lambda event: print(event.stage, event.done, "of", event.total))
        labelling 100 of 200
        labelling 200 of 200
        FewShotClassifier()
        """
        rows, labels, marked = self._read(X, y, reset=True)
        has_some = unlabeled is not None and not is_empty(unlabeled)
        pool = read_rows(self, unlabeled, reset=False, name="unlabeled") if has_some else rows[:0]
        return (yield from self._learn(Examples(rows, labels, marked, pool), costs=(more_seconds, more_bytes)))

    def add_examples(self, X: Any, y: Any) -> "FewShotClassifier":
        """Add labelled examples (or rows with a marker), of known classes or new ones.

        The classifier becomes the one that `fit` would make of all rows so far.
        """
        check_is_fitted(self)
        rows, labels, marked = self._read(X, y, reset=False)
        old = self._examples
        if not label_values.share_kind(old.labels, labels):
            raise SettingsError(
                f"The labels so far are of type {old.labels.dtype}, but the new ones are of type {labels.dtype}; "
                f"give labels of one kind."
            )
        rows, labels = np.concatenate([old.rows, rows]), np.concatenate([old.labels, labels])
        marked = np.concatenate([old.marked, marked]) if len(marked) else old.marked
        return finish(self._learn(Examples(rows, labels, marked, old.pool), before=self._pool))

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> "FewShotClassifier":
        """Call `fit` the first time, then `add_examples`. classes: optional; a label beyond them is refused."""
        is_first = not self.__sklearn_is_fitted__()
        if classes is not None:
            unknown = set(self._read(X, y, reset=is_first)[1].tolist()) - set(np.ravel(np.asarray(classes)).tolist())
            if unknown:
                raise SettingsError(f"y has labels that are not among `classes`: {sorted(map(str, unknown))[:5]}.")
        return self.fit(X, y) if is_first else self.add_examples(X, y)

    def decision_function(self, X: Any) -> np.ndarray:
        """Logits (n, K); for two classes their difference (n,)."""
        logits = self._logits(X).numpy()
        return logits if len(self.classes_) > 2 else logits[:, 1] - logits[:, 0]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Calibrated probabilities (n, K) in the order of `classes_`, each row by itself."""
        return self._logits(X).softmax(1).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """Labels (n,), each row by itself."""
        best = self._logits(X).argmax(1).numpy()
        return np.asarray(self.classes_[best])

    def predict_set(self, X: Any, alpha: float = 0.1) -> np.ndarray:
        """Sets of classes (n, K) that contain the true class with probability 1 - alpha or more.

        Full conformal prediction by leaving out the labelled examples; the most probable class always belongs. With
        fewer than 1 / alpha - 1 of these no class could be ruled out: then the most probable classes until their
        probabilities add up to 1 - alpha, where the promise rests on the calibration, which is taken with caution.
        """
        _require_fraction("alpha", alpha)
        logits = self._logits(X)
        support = self._support
        if support.testable.sum() + 1 < 1 / alpha:
            return calibration.cumulative_sets((logits / calibration.CAUTION).softmax(1), 1 - alpha).numpy()
        known = support.rows, support.labels, len(self.classes_)
        p_values = self._judge(X, lambda x: calibration.conformal_p_values(x, *known))
        best = torch.zeros_like(logits, dtype=torch.bool).scatter(1, logits.argmax(1, keepdim=True), True)
        return ((p_values > alpha) | best).numpy()

    def scale_rows(self, X: Any) -> np.ndarray:
        """Rows (n, d) at length 1 as they are compared with each other; those of a table by the spread of the examples.

        >>> FewShotClassifier(features="network").fit([[0.0, 1.0], [1.0, 0.0]], [0, 1]).scale_rows([[3.0, 4.0]])
        array([[0.6, 0.8]], dtype=float32)
        """
        return self._judge(X, Tensor.float).numpy()

    def unknown_score(self, X: Any) -> np.ndarray:
        """How little each row (n,) is like any of the classes, by distance from their means and by ridge regression.

        The unlabelled rows nearest to it count as much as the row itself: see `onelook.estimators.strangers`.
        """
        return self._judge(X, self._strangers.score).numpy()

    def reject(self, X: Any, rate: float = 0.05) -> np.ndarray:
        """Rows (n,) that belong to none of the classes; about a fraction `rate` of the others at most is rejected too.

        See `Strangers.find`; where too few rows tell, nothing is rejected.
        """
        _require_fraction("rate", rate)
        check_is_fitted(self)
        return self._strangers.find(torch.from_numpy(self.unknown_score(X)), rate).numpy()

    def estimate_accuracy(self, level: float = 0.95) -> AccuracyEstimate:
        """Estimate the accuracy on the unlabelled rows (on new rows, where there are none) by the labelled ones.

        level: coverage of the interval. See `SupportModel.estimate_accuracy`.
        """
        check_is_fitted(self)
        _require_fraction("level", level)
        model, n_rows = self._model, len(self.transduction_)
        return self._support.estimate_accuracy(model.log_priors, model.confidence, model.gain, n_rows, level)

    def left_out_proba(self) -> np.ndarray:
        """Probabilities (n, K) of the labelled rows, each judged as if it had no label; NaN for a class of one row.

        >>> rows = [[0.0, 1.0], [0.1, 1.0], [0.2, 1.0], [1.0, 0.0], [1.0, 0.1], [0.0, 1.1]]
        >>> FewShotClassifier().fit(rows, [*"aaabbb"]).left_out_proba().argmax(1).tolist()
        [0, 0, 0, 1, 1, 0]
        """
        check_is_fitted(self)
        p = self._model.left_out_logits().softmax(1)
        return torch.where(self._support.testable.unsqueeze(1), p, torch.nan).numpy()

    def learning_curve(self, repeats: int = REPEATS, seed: int = 0) -> tuple[CurvePoint, ...]:
        """Measure how accurate fewer of the labelled examples are on the others, without unlabelled rows.

        See `onelook.estimators.learning_curve`.
        """
        check_is_fitted(self)
        check_value("repeats", PositiveInt, repeats)
        check_value("seed", NonNegativeInt, seed)
        x, priors = self._support.rows.float(), self._model.log_priors.exp()
        return learning_curve(x, self._support.labels, len(self.classes_), priors, repeats, seed)

    def save(self, path: str | Path, network: dict[str, str] | None = None) -> None:
        """Write one safetensors file with the rows, labels, settings and answers.

        network: identity of the backbone that made the features, as `ImageFeatures.network_`; `load` restores it.
        Raises StorageError, and SettingsError for labels that are neither strings nor numbers.

        >>> import tempfile
        >>> classifier = FewShotClassifier().fit([[0.0, 1.0], [1.0, 0.0]], ["cat", "dog"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     classifier.save(f"{folder}/pets.safetensors")
        ...     FewShotClassifier.load(f"{folder}/pets.safetensors").predict([[0.1, 0.8]]).tolist()
        ['cat']
        """
        check_is_fitted(self)
        try:
            artifacts.save(persistence.make_artifact(self, network), Path(path))
        except TypeError as error:  # raised by JSON
            raise SettingsError(
                f"A file holds labels and settings that are strings or numbers, but {error}."
            ) from error

    @classmethod
    def load(cls, path: str | Path) -> "FewShotClassifier":
        """Read a file of `save`. Raises ArtifactError."""
        file = artifacts.load(Path(path), "classifier")
        try:
            return persistence.restore(cls, file)  # type: ignore[no-any-return]
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
            raise ArtifactError(
                f"{path} describes no classifier that this Onelook knows ({describe_cause(error)}); update Onelook, or "
                f"make the file again."
            ) from error

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "transduction_")

    def _read(self, X: Any, y: Any, reset: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Labelled rows, their labels, and the rows that are marked as unlabelled."""
        rows = read_rows(self, X, reset)
        labels, is_marked = label_values.read_labels(y, len(rows), self.unlabeled_marker)
        return rows[~is_marked].astype(np.float64), labels, rows[is_marked]

    def _learn(
        self,
        examples: Examples,
        found: Transduction | None = None,
        before: Pool | None = None,
        costs: tuple[float, int] = (0.0, 0),
    ) -> Generator[Any, None, "FewShotClassifier"]:
        """Fit to the labelled rows and adapt to the unlabelled ones.

        found: saved answers, instead of new ones. before: the pool of an earlier fit. costs: seconds and bytes of what
        the caller does next.
        """
        priors = ClassPriors.parse(self.class_priors)
        support = SupportModel.fit(examples.rows, examples.labels, priors, self.features)
        pool = examples.unlabelled(support.scaling, before)
        guard, device = bool(self.guard), find_device(str(self.device))
        work = transduce(support, pool, guard, device, found)
        alone, found = yield from Plan.of(pool, support, guard).show(work, *costs)
        self._examples, self._support, self._transduction, self._pool = examples, support, found, pool
        self._model, self._strangers = support.adapt(pool, found, alone), Strangers(support, pool)
        self.classes_, self.guard_, self.verdict_ = support.classes, found.message, found.verdict
        self.inductive_ = self.classes_[alone.nearest]
        self.transduction_ = self.classes_[found.posterior.best()]
        return self

    def _logits(self, X: Any) -> Float[Tensor, "N K"]:
        return self._judge(X, lambda x: self._model.logits(x))

    def _judge(self, X: Any, judge: Callable[[Float[Tensor, "n D"]], Tensor]) -> Tensor:
        """Judge rows one by one; of a block of them at a time there is a copy, scaled and in double precision."""
        check_is_fitted(self)
        rows = read_rows(self, X, reset=False)
        return torch.cat([judge(self._support.scaling(rows[part].astype(np.float64))) for part in blocks_of(len(rows))])


def _require_fraction(name: str, value: float) -> None:
    check_value(name, Annotated[float, Bound(">", 0), Bound("<", 1)], value)
