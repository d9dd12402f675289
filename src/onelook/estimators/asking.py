"""Glance is asked about unlabelled rows: all together, or through anchors where they are many."""

import functools
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from onelook.artifacts import SHIPPED_METHODS, load_method
from onelook.estimators.pool import Answers, Pool, evenly
from onelook.events import finish
from onelook.methods import Method
from onelook.methods.glance import Glance
from onelook.methods.glance_pool import Near, answer_pool
from onelook.methods.glance_support import Labelled, Voices
from onelook.methods.guard import Verdict, settle, weigh
from onelook.tasks import Tasks

ANCHORS = 16_384
"""Rows of a large pool with which all others are compared, at most: a smaller pool is compared as a whole."""
FEWEST_ANCHORS = 4_096
"""Anchors of a pool of any size."""
COMPARED = 2**30
"""Pairs of a row and an anchor, up to which there may be more anchors than the fewest."""
LARGEST_TABLE = 2**21
"""Numbers in a table of anchors and classes: with more than 128 classes there are fewer anchors."""
JUDGED, JUDGED_OF_CLASS, MOST_JUDGED = 2_048, 32, 8_192
"""Rows by which the guard judges a large pool: so many, or more for each class, up to the most."""


@dataclass(frozen=True, eq=False)
class Transduction:
    """Posteriors of the unlabelled rows and how they came about."""

    posterior: Answers
    trust: float
    """Fraction of the transductive posterior, 0 to 1."""
    confidence: float
    """Usual accuracy of answers that are as confident as these."""
    message: str
    """Whether the unlabelled rows were used and why, for a person."""
    verdict: Verdict | None


Asked = Generator[Any, None, tuple[Answers | None, Verdict | None]]
"""Work that ends in transductive logits (None where there is no trust in them), and the verdict of the guard."""


def ask_glance(
    rows: Float[Tensor, "S D"],
    labels: Int[Tensor, "S"],
    pool: Pool,
    class_priors: Float[Tensor, "K"],
    guard: bool,
    device: str = "cpu",
) -> Asked:
    """Ask Glance, on a device, about a pool that has rows."""
    ask = _ask_many if pool.is_large else _ask_all
    if guard and (settled := settle_pool(rows, labels, len(pool), len(class_priors))) is not None:
        return None, settled
    glance, priors = _find_glance(device), class_priors.float()[None].to(device)
    x, y = rows.float()[None].to(device), labels[None].to(device)
    logits, verdict = yield from ask(glance, x, y, pool, priors, guard)
    return logits, verdict and verdict.to("cpu")


def settle_pool(rows: Float[Tensor, "S D"], labels: Int[Tensor, "S"], n_rows: int, n_way: int) -> Verdict | None:
    """The verdict of the guard where it needs no unlabelled row; None where it does."""
    x = rows.float()[None]
    hopeless, alone = settle(Tasks(x, labels[None], x[:, :1], n_way), n_rows, _find_glance("cpu").recognise)
    return alone if hopeless else None


def count_anchors(n_rows: int, n_way: int) -> int:
    """Anchors of a large pool, at most.

    >>> [count_anchors(n, 20) for n in (10_000, 100_000, 1_000_000)], count_anchors(10_000, 1_000)
    ([16384, 10737, 4096], 2097)
    """
    return max(min(ANCHORS, max(FEWEST_ANCHORS, COMPARED // n_rows), LARGEST_TABLE // n_way), 2)


def count_judged(n_rows: int, n_way: int) -> int:
    """Rows of a large pool by which the guard judges.

    >>> count_judged(100_000, 20), count_judged(100_000, 100), count_judged(100_000, 1_000)
    (2048, 3200, 8192)
    """
    return min(max(JUDGED, JUDGED_OF_CLASS * n_way), MOST_JUDGED, n_rows)


def listen(labelled: Labelled) -> Voices:
    """How loud class means and ridge regression are for the labelled examples of one task."""
    return _find_glance("cpu").listen(labelled)


def _ask_all(glance: Glance, rows: Tensor, labels: Tensor, pool: Pool, priors: Tensor, guard: bool) -> Asked:
    yield from ()
    _, query = next(pool.blocks())
    tasks, verdict = Tasks(rows, labels, query.float()[None].to(rows.device), priors.shape[1]), None
    if guard:
        logits, verdict = glance.answer(tasks, priors)
        if not verdict.trust:
            return None, verdict
    if verdict is None or verdict.trust < 1:  # the guarded logits are those of a mixture
        logits = glance.trajectory(tasks, priors)[-1]
    return Answers(logits[0].cpu().double(), None, tasks.n_way), verdict


def _ask_many(glance: Glance, rows: Tensor, labels: Tensor, pool: Pool, priors: Tensor, guard: bool) -> Asked:
    n_way, device = priors.shape[1], rows.device
    n_anchors = count_anchors(len(pool), n_way)

    def ask(tasks: Tasks) -> Float[Tensor, "1 Q K"]:
        """Answers to queries that need not all be anchors."""
        n = tasks.query.shape[1]
        chosen = torch.zeros(n, dtype=torch.bool)
        chosen[torch.from_numpy(evenly(n, n_anchors))] = True
        chosen = chosen.to(device)
        first, others = tasks.query[:, chosen], tasks.query[0, ~chosen]
        anchors = Tasks(tasks.support, tasks.support_labels, first, n_way)
        numbers = torch.arange(len(others), device=device)

        def take(some: Int[Tensor, "N"]) -> Float[Tensor, "N D"]:
            return others[some]

        near = None
        if n == n_judged and not len(others):  # all of them, whereas halves depend on what is labelled
            near = pool.recall(("judged", n, device), lambda: finish(Near.find(glance, first, numbers, take)))
        of_anchors, rest = finish(answer_pool(glance, anchors, numbers, take, priors, near))
        out = of_anchors.new_full((n, n_way), -1e4)
        out[chosen] = of_anchors
        found = out[~chosen]
        out[~chosen] = rest.logits if rest.candidates is None else found.scatter(1, rest.candidates.long(), rest.logits)
        return out[None]

    verdict, n_judged = None, count_judged(len(pool), n_way)
    if guard:
        judged, _ = pool.spread_out(n_judged)
        tasks = Tasks(rows, labels, pool.take(judged)[None].to(device), n_way)
        verdict = weigh(ask, glance.inductive, tasks)[1]  # `settle_pool` did not settle it
        if not verdict.trust:
            return None, verdict
    chosen, rest = pool.spread_out(n_anchors)
    anchors = Tasks(rows, labels, pool.take(chosen)[None].to(device), n_way)
    return (yield from pool.follow(glance, anchors, chosen, rest, priors)), verdict


def _find_glance(device: str) -> Glance:
    path = SHIPPED_METHODS["glance"]
    return _load_glance(path, path.stat().st_mtime_ns, device)


@functools.lru_cache(maxsize=2)
def _load_glance(path: Path, _modified: int, device: str) -> Glance:
    """Glance as `path` holds it, read once for each version of the file; nobody else gets this module to change it."""
    method: Method = load_method(path)[0]
    assert isinstance(method, Glance)
    return method.requires_grad_(False).to(device)
