"""Answers for all images of a folder from the labels so far, quickly enough to be made again after every label.

The classifier sees a part of the unlabelled images, which are the same ones from answer to answer, and judges all
others one by one (`FewShotClassifier.predict`). A first part is small enough for an answer within half a second; once
the person pauses, a larger one makes the answers better.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from onelook.estimators.classifier import FewShotClassifier
from onelook.labelling.answers import CLEARED
from onelook.labelling.suggest import Suggestion, suggest
from onelook.scoring import Estimate

QUICK_ENTRIES, FEWEST, MOST = 6_000, 200, 1_000
"""Unlabelled images that the first answer uses: so many divided by the number of classes, within these bounds."""
THOROUGH = 2_000
"""Unlabelled images that the second answer uses."""
PART = 2_048
"""Images that are judged at once: so few that their features stay in the cache of the processor."""
CANDIDATES = 1_500
"""Images among which the next ones to label are chosen."""
N_NEXT = 30
LARGE, DIMENSIONS = 2_000, 256
"""Number of images from which features are projected onto their leading directions, and the number of these."""
UNLIKELY = 0.05
"""Probability of its own label, by the others, up to which an image is shown as a contradiction.

Of 20 wrong labels among 500 of clothing10 it shows 16 with 8 right ones (three draws); those of another class with a
probability of 0.85 or more were 6 with 2 right ones."""
MOST_CONTRADICTIONS = 50
"""Labels that are told to the page, the least plausible first, whether or not they are unlikely."""


@dataclass(frozen=True)
class Contradiction:
    """A label to look at again: the others speak against it, a near copy contradicts it, or it is the next in line."""

    row: int
    label: int
    says: int
    """Most probable class but for the label, by the others."""
    probability: float
    own: float
    """Probability of the label by the others."""
    other: int | None = None
    """Row of a near copy with the label `says`; None where it is all the other labels that speak against this one."""


@dataclass(frozen=True)
class Learned:
    """Answers for N images. Class ids are CLEARED where there is no answer."""

    predicted: Int[np.ndarray, "N"]
    probability: Float[np.ndarray, "N"]
    runner_up: Int[np.ndarray, "N"]
    runner_up_probability: Float[np.ndarray, "N"]
    estimate: Estimate | None = None
    per_class: dict[int, float] = field(default_factory=dict)
    """Expected accuracy on the images of each class."""
    guard: str = ""
    contradictions: tuple[Contradiction, ...] = ()
    is_thorough: bool = False
    classifier: FewShotClassifier | None = None

    @classmethod
    def nothing(cls, n: int) -> "Learned":
        none, zero = np.full(n, CLEARED, np.int16), np.zeros(n, np.float32)
        return cls(none, zero, none.copy(), zero.copy(), is_thorough=True)


@dataclass(frozen=True)
class Pool:
    """Features of N images, as far as they are computed, and the order in which unlabelled ones are taken."""

    features: Float[np.ndarray, "N d"]
    """Features to learn from: of many images their projection."""
    whole: Float[np.ndarray, "N D"]
    """Features as the network made them."""
    is_ready: Bool[np.ndarray, "N"]
    order: Int[np.ndarray, "N"]

    @classmethod
    def of(cls, features: Float[np.ndarray, "N D"], is_ready: Bool[np.ndarray, "N"], seed: int = 0) -> "Pool":
        order = np.random.default_rng(seed).permutation(len(features))
        is_large = len(features) > LARGE and int(is_ready.sum()) > LARGE
        return cls(_project(features) if is_large else features, features, is_ready, order)

    def waiting(self, given: Int[np.ndarray, "N"]) -> Int[np.ndarray, "M"]:
        """Rows to label that have features, in the order in which they are taken."""
        return np.asarray(self.order[(given[self.order] == CLEARED) & self.is_ready[self.order]])


def learn(
    pool: Pool, given: Int[np.ndarray, "N"], thorough: bool = False, is_checked: Bool[np.ndarray, "N"] | None = None
) -> Learned:
    """Answers from the labels so far (class ids, CLEARED or NONE_OF_THESE); no class is predicted from fewer than two.

    thorough: use more of the unlabelled images. is_checked: labels that a person let stand, which are doubted no more.
    """
    labelled = np.flatnonzero((given >= 0) & pool.is_ready)
    waiting = pool.waiting(given)
    classes = np.unique(given[labelled])
    if len(classes) < 2:
        return Learned.nothing(len(given))
    n_used = min(max(QUICK_ENTRIES // len(classes), FEWEST), MOST)
    n_used = THOROUGH if thorough else n_used
    used, rest = waiting[:n_used], waiting[n_used:]
    classifier = FewShotClassifier(features="network")
    classifier.fit(pool.features[labelled], given[labelled], unlabeled=pool.features[used])
    p = np.zeros((len(given), len(classes)), np.float32)
    p[used] = classifier.transduction_proba_
    p[labelled] = given[labelled, None] == classes
    for start in range(0, len(rest), PART):
        some = rest[start : start + PART]
        p[some] = classifier.predict_proba(pool.features[some])
    answered = np.concatenate([used, rest, labelled])
    estimate = classifier.estimate_accuracy()
    return Learned(
        *_two_best(p, classes, answered),
        estimate.accuracy,
        {int(k): value for k, value in estimate.per_class.items()},
        classifier.guard_,
        _contradictions(classifier, labelled, given, is_checked),
        is_thorough=thorough or not len(rest),
        classifier=classifier,
    )


def fit_to_keep(pool: Pool, given: Int[np.ndarray, "N"], names: dict[int, str]) -> FewShotClassifier:
    """The classifier for a file: on the features as the network made them, with the names of the classes.

    Raises SettingsError where fewer than two classes have a label.
    """
    labelled, waiting = np.flatnonzero((given >= 0) & pool.is_ready), pool.waiting(given)[:THOROUGH]
    y = np.array([names[int(k)] for k in given[labelled]], dtype=object)
    return FewShotClassifier(features="network").fit(pool.whole[labelled], y, unlabeled=pool.whole[waiting])


def choose_next(
    pool: Pool, given: Int[np.ndarray, "N"], learned: Learned, names: dict[int, str], n: int = N_NEXT
) -> tuple[Suggestion, ...]:
    """Images to label next: before two classes are known the most typical ones, then as `suggest` chooses."""
    waiting = pool.waiting(given)[:CANDIDATES]
    if not len(waiting):
        return ()
    # An image of none of the classes covers its neighbours as a labelled one does: they need no look either.
    seen = np.flatnonzero((given != CLEARED) & pool.is_ready)
    known = torch.from_numpy(np.ascontiguousarray(pool.features[seen])) if len(seen) else None
    x = torch.from_numpy(np.ascontiguousarray(pool.features[waiting]))
    if learned.classifier is None:
        posterior = torch.full((len(waiting), 2), 0.5)
        found = suggest(x, posterior, min(n, len(waiting)), known)
        return tuple(Suggestion(int(waiting[one.index]), one.why.partition("; ")[2]) for one in found)
    classes = learned.classifier.classes_
    posterior = torch.zeros(len(waiting), len(classes))
    rows = torch.arange(len(waiting))
    for which, value in ((learned.runner_up, learned.runner_up_probability), (learned.predicted, learned.probability)):
        posterior[rows, torch.from_numpy(np.searchsorted(classes, which[waiting]).clip(0, len(classes) - 1))] = (
            torch.from_numpy(value[waiting])
        )
    found = suggest(x, posterior, min(n, len(waiting)), known, [names.get(int(k), str(k)) for k in classes])
    return tuple(Suggestion(int(waiting[one.index]), one.why) for one in found)


def least_sure(given: Int[np.ndarray, "N"], learned: Learned) -> Int[np.ndarray, "M"]:
    """Rows of the images without a label, those with the smallest lead over the runner-up first."""
    rows = np.flatnonzero((given == CLEARED) & (learned.predicted != CLEARED))
    lead = learned.probability[rows] - learned.runner_up_probability[rows]
    return np.asarray(rows[np.argsort(lead, kind="stable")])


def _two_best(
    p: Float[np.ndarray, "N K"], classes: Int[np.ndarray, "K"], answered: Int[np.ndarray, "M"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    n = len(p)
    best = np.argpartition(-p, 1, axis=1)[:, :2]
    values = np.take_along_axis(p, best, 1)
    order = np.argsort(-values, axis=1, kind="stable")
    best, values = np.take_along_axis(best, order, 1), np.take_along_axis(values, order, 1)
    result = Learned.nothing(n)
    result.predicted[answered], result.runner_up[answered] = classes[best[answered]].T
    result.probability[answered], result.runner_up_probability[answered] = values[answered].T
    return result.predicted, result.probability, result.runner_up, result.runner_up_probability


def add_copies(
    learned: Learned,
    given: Int[np.ndarray, "N"],
    pairs: Sequence[tuple[int, int]],
    is_checked: Bool[np.ndarray, "N"] | None = None,
) -> Learned:
    """Answers with pairs of near copies that differ in their labels before all other contradictions."""
    checked = set() if is_checked is None else set(np.flatnonzero(is_checked).tolist())
    both = [each for pair in pairs if not checked >= set(pair) for each in (pair, pair[::-1])]
    copies = [Contradiction(row, int(given[row]), int(given[other]), 1.0, 0.0, other) for row, other in both]
    known = {each.row for each in copies}
    others = [each for each in learned.contradictions if each.row not in known]
    return replace(learned, contradictions=tuple([*copies, *others][:MOST_CONTRADICTIONS]))


def _contradictions(
    classifier: FewShotClassifier,
    labelled: Int[np.ndarray, "S"],
    given: Int[np.ndarray, "N"],
    is_checked: Bool[np.ndarray, "N"] | None,
) -> tuple[Contradiction, ...]:
    """Labels by what the others say with each left out in turn: the least probable first."""
    p = np.nan_to_num(classifier.left_out_proba())
    rows, columns = np.arange(len(p)), np.searchsorted(classifier.classes_, given[labelled])
    own = p[rows, columns]
    p[rows, columns] = -1
    best = p.argmax(1)
    says, probability = classifier.classes_[best], p[rows, best]
    is_open = own + probability > 0  # nothing can be said of the only example of a class
    if is_checked is not None:
        is_open &= ~is_checked[labelled]
    found = np.flatnonzero(is_open)
    ordered: Sequence[int] = found[np.argsort(own[found], kind="stable")][:MOST_CONTRADICTIONS].tolist()
    return tuple(
        Contradiction(int(labelled[i]), int(given[labelled[i]]), int(says[i]), float(probability[i]), float(own[i]))
        for i in ordered
    )


def _project(features: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N d"]:
    """Features on the leading directions of a part of them, which keep nearly all of their squared length."""
    if features.shape[1] <= DIMENSIONS:
        return features
    some = torch.from_numpy(features[:: max(1, len(features) // 4_000)]).double()
    directions = torch.linalg.eigh(some.T @ some).eigenvectors[:, -DIMENSIONS:]
    return np.asarray((torch.from_numpy(features) @ directions.float()).numpy())
