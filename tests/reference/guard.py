"""The guard, one task, one query and one labelled example at a time."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from onelook.tasks import Tasks

Answer = Callable[[Tasks], np.ndarray]
"""The logits (Q, K) of one task."""


@dataclass
class Judged:
    logits: np.ndarray
    trust: float
    stability: float
    agreement: float
    recognition: float


def judged(transductive: Answer, inductive: Answer, task: Tasks) -> Judged:
    alone = inductive(task)
    if len(alone) == 1:
        return Judged(alone, 0, 1, 1, math.nan)
    together = transductive(task)
    p, q = ([softmax(row) for row in logits] for logits in (together, alone))
    stability = float(np.mean([overlap(p[i], b) for i, b in seen_by_half(transductive, task).items()]))
    pairs = zip(together, alone, strict=True)
    agreement = float(np.mean([int(np.argmax(a)) == int(np.argmax(b)) for a, b in pairs]))
    n, before, after = *recognised(task, [0 * row for row in q]), recognised(task, p)[1]
    # A count of n coins varies by n / 4, the difference of two such counts by n / 2.
    led_astray = before - after > 2 * math.sqrt(n / 2)
    trust = 0.0 if led_astray else min(max((stability - 0.4) / 0.2, 0.0), 1.0)
    trust = round(trust) if min(trust, 1 - trust) < 1e-6 else trust
    recognition = (after - before) / n if n else math.nan
    if trust in (0, 1):
        return Judged(together if trust else alone, trust, stability, agreement, recognition)
    mixed = [trust * a + (1 - trust) * b for a, b in zip(p, q, strict=True)]
    return Judged(np.log(np.maximum(mixed, np.finfo(float).tiny)), trust, stability, agreement, recognition)


def seen_by_half(transductive: Answer, task: Tasks) -> dict[int, np.ndarray]:
    """The posteriors of the queries of even rank among themselves."""
    means = class_means(task, [np.zeros(task.n_way)] * task.query.shape[1])
    centre = sum(means) / len(means)
    similarity = [float(unit_length(row) @ centre) for row in task.query[0].numpy()]
    half = sorted(range(len(similarity)), key=similarity.__getitem__)[::2]
    found = transductive(replace(task.without_query_labels(), query=task.query[:, half]))
    return dict(zip(half, map(softmax, found), strict=True))


def recognised(task: Tasks, share: list[np.ndarray]) -> tuple[int, int]:
    """How many labelled examples have others of their class, and how many of these are nearest to their own class
    when they are left out."""
    labels = task.support_labels[0].tolist()
    means = class_means(task, share)
    n = right = 0
    for i, label in enumerate(labels):
        if labels.count(label) > 1:
            centres = [*means[:label], class_means(task, share, without=i)[label], *means[label + 1 :]]
            row = unit_length(task.support[0, i].numpy())
            distance = [math.dist(row, centre) for centre in centres]
            n += 1
            right += distance.index(min(distance)) == label
    return n, right


def class_means(task: Tasks, share: list[np.ndarray], without: int = -1) -> list[np.ndarray]:
    """Of the labelled examples but one, and of the queries by their shares (Q, K)."""
    means = []
    for k in range(task.n_way):
        total, count = np.zeros(task.query.shape[-1]), 0.0
        for i, label in enumerate(task.support_labels[0].tolist()):
            if label == k and i != without:
                total, count = total + unit_length(task.support[0, i].numpy()), count + 1
        for row, part in zip(task.query[0].numpy(), share, strict=True):
            total, count = total + part[k] * unit_length(row), count + part[k]
        means.append(total / count if count else total)
    return means


def overlap(p: np.ndarray, q: np.ndarray) -> float:
    return math.fsum(min(a, b) for a, b in zip(p, q, strict=True))


def softmax(row: np.ndarray) -> np.ndarray:
    e = np.exp(row - max(row))
    return e / math.fsum(e)


def unit_length(row: np.ndarray) -> np.ndarray:
    return row / max(math.sqrt(math.fsum(row * row)), 1e-12)
