"""All classifiers on the same simulated users: `FewShotClassifier`, and scikit-learn's as a person would take them."""

import importlib
import time
import warnings
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import torch

from onelook.data.sampler import TaskSampler, TaskSpec
from onelook.estimators.classifier import FewShotClassifier
from onelook.events import Progress
from onelook.experiments.practice_report import Report, User, draw_user, make_classifier, measure_unknown
from onelook.machine import provenance
from onelook.ops import in_few_axes
from onelook.scoring import Estimate, paired
from onelook.tasks import Embeddings, Tasks
from onelook.train.recipes import build, parse_request

OWN = "onelook"
LABELLED_ONLY = "onelook, labelled only"
"""Our classifier without the pool: its difference to OWN is what unlabelled images are worth."""

Answer = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Function from labelled rows, their labels and the pool to the labels of the pool."""


def rivals() -> dict[str, Answer]:
    """scikit-learn's classifiers with their usual settings, of which two look at the pool, and two that are tuned."""

    def make(module: str, name: str, settings: dict[str, Any]) -> Any:
        return getattr(importlib.import_module(f"sklearn.{module}"), name)(**settings)

    def fitted(module: str, name: str, **settings: Any) -> Answer:
        return lambda x, y, pool: np.asarray(make(module, name, settings).fit(x, y).predict(pool))

    def fit_with_pool(name: str, settings: dict[str, Any], x: np.ndarray, y: np.ndarray, pool: np.ndarray) -> Any:
        model = make("semi_supervised", name, settings)
        return model.fit(np.concatenate([x, pool]), np.concatenate([y, np.full(len(pool), -1)]))

    def spread(x: np.ndarray, y: np.ndarray, pool: np.ndarray) -> np.ndarray:
        model = fit_with_pool(
            "LabelSpreading", {"kernel": "knn", "n_neighbors": min(7, len(x) + len(pool))}, x, y, pool
        )
        return np.asarray(model.transduction_[len(x) :])

    def self_trained(x: np.ndarray, y: np.ndarray, pool: np.ndarray) -> np.ndarray:
        inner = make("linear_model", "LogisticRegression", {"max_iter": 1000})
        model = fit_with_pool("SelfTrainingClassifier", {"estimator": inner, "threshold": 0.6}, x, y, pool)
        return np.asarray(model.predict(pool))  # its transduction_ is without an answer where it was never sure

    answers = {
        "nearest centroid": fitted("neighbors", "NearestCentroid"),
        "logistic regression": _in_few_axes(fitted("linear_model", "LogisticRegression", max_iter=1000)),
        "logistic regression, tuned": _in_few_axes(_ask("logistic-regression:tune=true")),
        "ridge regression, tuned": _in_few_axes(_ask("ridge")),
        "random forest": fitted("ensemble", "RandomForestClassifier", n_estimators=100, random_state=0),
        "SVM": fitted("svm", "SVC"),
        "label spreading": spread,
        "self-training": _in_few_axes(self_trained),
    }
    return {label: _quiet(answer) for label, answer in answers.items()}


def _ask(text: str) -> Answer:
    """One of our methods, given as to `onelook benchmark`."""
    method = build(parse_request(text), TaskSpec())

    def answer(x: np.ndarray, y: np.ndarray, pool: np.ndarray) -> np.ndarray:
        support, labels, query = (torch.from_numpy(one)[None] for one in (x, y, pool))
        logits = method(Tasks(support, labels, query, int(y.max()) + 1))[0]
        return np.asarray(logits.argmax(1))

    return answer


def _in_few_axes(answer: Answer) -> Answer:
    """A classifier to which only lengths and angles matter, in a twentieth of the time where features are many."""

    def turned(x: np.ndarray, y: np.ndarray, pool: np.ndarray) -> np.ndarray:
        rows = in_few_axes(torch.from_numpy(np.concatenate([x, pool]))[None])[0].numpy()
        return answer(rows[: len(x)], y, rows[len(x) :])

    return turned


def _quiet(answer: Answer) -> Answer:
    """Silence the warnings of an answer (no convergence, nothing added), which counts all the same."""

    def quiet(x: np.ndarray, y: np.ndarray, pool: np.ndarray) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return answer(x, y, pool)

    return quiet


def compare_classifiers(
    data: Embeddings, spec: TaskSpec, n_users: int, stage: str
) -> Generator[Progress, None, list[dict[str, Any]]]:
    """Measure every classifier; ours first, with its report. stage: the name of the cell."""
    sampler = TaskSampler(data, spec)
    own: list[FewShotClassifier] = []

    def ours(x: np.ndarray, y: np.ndarray, pool: np.ndarray) -> np.ndarray:
        own[:] = [make_classifier().fit(x, y, unlabeled=pool)]
        return np.asarray(own[0].transduction_)

    def labelled_only(x: np.ndarray, y: np.ndarray, pool: np.ndarray) -> np.ndarray:
        return make_classifier().fit(x, y).predict(pool)

    answers = {OWN: ours, LABELLED_ONLY: labelled_only, **rivals()}
    right: dict[str, list[float]] = {label: [] for label in answers}
    seconds = dict.fromkeys(answers, 0.0)
    report = Report()
    for number in range(n_users):
        user = draw_user(sampler, number)
        for label, answer in answers.items():
            started = time.process_time()
            found = answer(user.x, user.y, user.pool)
            seconds[label] += time.process_time() - started
            right[label].append(fraction_right(found, user))
        report.note(own[0], user)
        yield Progress(stage, number + 1, n_users)
    about = report.summary(spec.seed) | (yield from measure_unknown(data, spec, n_users, stage))
    records, made = [], provenance()
    for label, values in right.items():
        cost = {"milliseconds": round(1000 * seconds[label] / n_users, 2), **made}
        reported = {"report": about} if label == OWN else {}
        records.append({"method": label, **_figures(values, right[OWN]), **cost, **reported})
    return records


def fraction_right(answers: np.ndarray, user: User) -> float:
    return float((answers == user.truth).mean())


def _figures(values: list[float], own: list[float]) -> dict[str, Any]:
    found, reference = torch.tensor(values), torch.tensor(own)
    versus = {"method": OWN, **paired(found, reference).record("difference")}
    return {**Estimate.from_values(found).record("accuracy"), "versus": versus}
