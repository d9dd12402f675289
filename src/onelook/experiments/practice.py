"""What a person gets who has a few labelled examples and a pool to label: `FewShotClassifier` beside scikit-learn's.

A simulated user draws some classes of a set, labels a few examples of each, and has the others, in Dirichlet(2)
proportions, to label. All classifiers meet the same users on the same features of unit length. Beside the accuracy it
is asked whether what the classifier says of itself is true: its probabilities, the accuracy that it expects, its
prediction sets, and what it sets aside as of no known class, for which there are users with strangers in their pool.
"""

import importlib
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from onelook.artifacts import load_backbone
from onelook.backbones import Backbone
from onelook.data.embed import EmbedConfig, embed
from onelook.data.images import ImageSet
from onelook.data.protocols import UNKNOWN
from onelook.data.sampler import TaskSampler, TaskSpec
from onelook.estimator import FewShotClassifier
from onelook.events import Progress
from onelook.files import digest
from onelook.ops import normalise
from onelook.provenance import commit, machine
from onelook.scoring import interval, paired
from onelook.tasks import Embeddings
from onelook.workflows import Place, features

OWN = "onelook"
ALPHA = 0.1
"""Prediction sets may miss the truth so often."""
RATE = 0.05
"""Images of known classes may be set aside so often."""
N_BINS = 15
"""Of the calibration error."""

Answer = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""From labelled rows, their labels and the pool to the labels of the pool."""


@dataclass(frozen=True)
class PracticeConfig:
    backbone: Path
    sets: tuple[str, ...]
    """NAME, PATH or NAME:SPLIT; `digits` are those of scikit-learn. A path is taken whole."""
    shots: tuple[int, ...] = (1, 3, 5)
    n_way: int = 5
    n_query: int = 15
    protocol: str = "dirichlet:2"
    n_users: int = 200
    seed: int = 0


def practice(config: PracticeConfig, place: Place) -> Generator[Any, None, list[dict[str, Any]]]:
    """A record for each classifier, set and number of labels; ours first in each, with what it said of itself."""
    backbone, named = load_backbone(config.backbone)
    records = []
    for text in config.sets:
        data = yield from _features(text, backbone, place)
        about = {
            "dataset": Path(text).stem.split(":")[0],
            "source": data.source.split("/")[-1],
            "backbone": f"{named['name']}@{backbone.digest().hex()[:12]}",
            "precision": place.precision,
        }
        for shot in config.shots:
            spec = TaskSpec(config.n_way, shot, config.n_query, config.protocol, config.seed)
            records += yield from _compared(about, data, spec, config.n_users)
    return records


def _features(text: str, backbone: Backbone, place: Place) -> Generator[Any, None, Embeddings]:
    if text == "digits":
        return (yield from embed(digits(backbone.image_size, backbone.channels), backbone,
                                 EmbedConfig(precision=place.precision), place.cache))  # fmt: skip
    name, _, split = text.partition(":")
    known = split or ("all" if Path(name).exists() else "test")
    return (yield from features(name, known, backbone, place))


def digits(size: int, channels: int) -> ImageSet:
    """The 1,797 handwritten digits that come with scikit-learn (8 × 8), enlarged."""
    bunch = importlib.import_module("sklearn.datasets").load_digits()
    small = torch.from_numpy(bunch.images).float().unsqueeze(1) * (255 / 16)
    large = torch.nn.functional.interpolate(small, size=(size, size), mode="bilinear", align_corners=False)
    pixels = large.round().clamp(0, 255).to(torch.uint8).expand(-1, channels, -1, -1).contiguous()
    names = tuple(f"digit {i}" for i in range(len(pixels)))
    digests = tuple(digest(image.numpy().tobytes()) for image in pixels)
    return ImageSet(pixels.unsqueeze(0), torch.from_numpy(bunch.target).long(), tuple(map(str, range(10))), names,
                    digests, "scikit-learn's digits")  # fmt: skip


def rivals() -> dict[str, Answer]:
    """scikit-learn's classifiers as a person would take them."""
    names = {
        "nearest centroid": ("sklearn.neighbors", "NearestCentroid", {}),
        "logistic regression": ("sklearn.linear_model", "LogisticRegression", {"max_iter": 1000}),
        "random forest": ("sklearn.ensemble", "RandomForestClassifier", {"n_estimators": 100, "random_state": 0}),
        "SVM": ("sklearn.svm", "SVC", {}),
    }

    def fitted(module: str, name: str, settings: dict[str, Any]) -> Answer:
        kind = getattr(importlib.import_module(module), name)
        return lambda x, y, pool: kind(**settings).fit(x, y).predict(pool)

    answers = {label: fitted(*words) for label, words in names.items()}
    semi = importlib.import_module("sklearn.semi_supervised")
    logistic = importlib.import_module("sklearn.linear_model").LogisticRegression

    def transductive(make: Callable[[], Any]) -> Answer:
        def answer(x: np.ndarray, y: np.ndarray, pool: np.ndarray) -> np.ndarray:
            model = make().fit(np.concatenate([x, pool]), np.concatenate([y, np.full(len(pool), -1)]))
            return np.asarray(model.transduction_[len(x) :])

        return answer

    return answers | {
        "label spreading": transductive(lambda: semi.LabelSpreading(kernel="knn", n_neighbors=7)),
        "self-training": transductive(lambda: semi.SelfTrainingClassifier(logistic(max_iter=1000), threshold=0.6)),
    }


@dataclass(frozen=True)
class _User:
    """A task as arrays; rows of unit length."""

    x: np.ndarray
    y: np.ndarray
    pool: np.ndarray
    truth: np.ndarray


def _user(sampler: TaskSampler, number: int) -> _User:
    tasks = sampler.sample([number])
    assert tasks.query_labels is not None
    return _User(normalise(tasks.support[0]).numpy(), tasks.support_labels[0].numpy(),
                 normalise(tasks.query[0]).numpy(), tasks.query_labels[0].numpy())  # fmt: skip


def _compared(
    about: dict[str, Any], data: Embeddings, spec: TaskSpec, n_users: int
) -> Generator[Any, None, list[dict[str, Any]]]:
    sampler = TaskSampler(data, spec)
    stage = f"{about['dataset']}, {spec.n_shot} labels a class"
    others = rivals()
    right: dict[str, list[float]] = {label: [] for label in (OWN, *others)}
    seconds = dict.fromkeys(right, 0.0)
    said = _Said()
    for number in range(n_users):
        user = _user(sampler, number)
        started = time.perf_counter()
        own = FewShotClassifier().fit(user.x, user.y, unlabeled=user.pool)
        answers = own.transduction_
        seconds[OWN] += time.perf_counter() - started
        right[OWN].append(100 * float((answers == user.truth).mean()))
        said.note(own, user)
        for label, answer in others.items():
            started = time.perf_counter()
            found = answer(user.x, user.y, user.pool)
            seconds[label] += time.perf_counter() - started
            right[label].append(100 * float((found == user.truth).mean()))
        yield Progress(stage, number + 1, n_users)
    strange = yield from _strangers(data, spec, n_users)
    facts = {
        **about, "n_way": spec.n_way, "n_shot": spec.n_shot, "n_query": spec.n_query, "protocol": spec.protocol,
        "n_total": spec.total, "n_tasks": n_users, "seed": spec.seed, "tasks": sampler.digest(n_users),
    }  # fmt: skip
    records = []
    for label, values in right.items():
        one, to = interval(torch.tensor(values)), paired(torch.tensor(values), torch.tensor(right[OWN]))
        record = {
            **facts, "method": label, "accuracy": round(one.mean, 3), "ci95": round(one.ci95, 3),
            "versus": {"method": OWN, "difference": round(to.mean, 3), "ci95": round(to.ci95, 3)},
            "milliseconds": round(1000 * seconds[label] / n_users, 2), "commit": commit(), "machine": machine(),
        }  # fmt: skip
        records.append(record | ({"said": said.summary() | strange} if label == OWN else {}))
    return records


class _Said:
    """What our classifier said of itself, and whether it was so."""

    def __init__(self) -> None:
        self.confidence: list[np.ndarray] = []
        self.right: list[np.ndarray] = []
        self.in_set: list[np.ndarray] = []
        self.set_size: list[np.ndarray] = []
        self.covered: list[bool] = []
        self.width: list[float] = []

    def note(self, own: FewShotClassifier, user: _User) -> None:
        self.confidence.append(own.transduction_proba_.max(1))
        self.right.append(own.transduction_ == user.truth)
        sets = own.predict_set(user.pool, alpha=ALPHA)
        self.in_set.append(sets[np.arange(len(sets)), user.truth])
        self.set_size.append(sets.sum(1))
        expected = own.estimate_accuracy()
        self.covered.append(expected.low <= self.right[-1].mean() <= expected.high)
        self.width.append(expected.high - expected.low)

    def summary(self) -> dict[str, float]:
        confidence, right = np.concatenate(self.confidence), np.concatenate(self.right)
        return {
            "calibration_error": round(calibration_error(confidence, right), 4),
            "set_coverage": round(float(np.concatenate(self.in_set).mean()), 4),
            "set_size": round(float(np.concatenate(self.set_size).mean()), 3),
            "estimate_covers": round(float(np.mean(self.covered)), 4),
            "estimate_width": round(float(np.mean(self.width)), 4),
        }


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error over bins of equal width (Guo et al., ICML 2017, arXiv:1706.04599)."""
    bins = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
    gaps = [abs((confidence[bins == b] - right[bins == b]).sum()) for b in np.unique(bins)]
    return float(sum(gaps) / len(confidence))


def _strangers(data: Embeddings, spec: TaskSpec, n_users: int) -> Generator[Any, None, dict[str, float]]:
    """Users a fifth of whose pool is of no class that they have labelled."""
    sampler = TaskSampler(data, replace(spec, protocol=f"{spec.protocol}+unknown:0.2"))
    false: list[float] = []
    found: list[float] = []
    curves: dict[str, list[float]] = {"auroc": [], "auroc_energy": [], "auroc_distance": []}
    for number in range(n_users):
        user = _user(sampler, number)
        own = FewShotClassifier().fit(user.x, user.y, unlabeled=user.pool)
        strange = user.truth == UNKNOWN
        aside = own.reject(user.pool, rate=RATE)
        false.append(float(aside[~strange].mean()))
        found.append(float(aside[strange].mean()))
        nearest = 1 - (user.pool @ user.x.T).max(1)
        energy = -torch.from_numpy(10 * user.pool @ _means(user).T).logsumexp(1).numpy()
        for name, score in zip(curves, (own.unknown_score(user.pool), energy, nearest), strict=True):
            curves[name].append(area(score, strange))
        yield Progress("with strangers", number + 1, n_users)
    rate = interval(100 * torch.tensor(false))
    return {"false_rejections": round(rate.mean / 100, 4), "false_rejections_ci95": round(rate.ci95 / 100, 4),
            "strangers_found": round(float(np.mean(found)), 4),
            **{name: round(float(np.mean(values)), 4) for name, values in curves.items()}}  # fmt: skip


def _means(user: _User) -> np.ndarray:
    means = np.stack([user.x[user.y == k].mean(0) for k in np.unique(user.y)])
    return np.asarray(means / np.linalg.norm(means, axis=1, keepdims=True))


def area(score: np.ndarray, positive: np.ndarray) -> float:
    """Under the ROC curve: how often a positive has the larger score; half where equal."""
    difference = score[positive][:, None] - score[~positive][None]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())
