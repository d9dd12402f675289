"""The fit of a classifier: its examples, the answers to the unlabelled rows, and what is said meanwhile."""

import itertools
import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from onelook.data.forecast import announce
from onelook.estimators import calibration
from onelook.estimators.asking import Transduction, ask_glance, count_anchors, count_judged, settle_pool
from onelook.estimators.model import ANSWERING, JUDGING, Alone, Scaling, SupportModel
from onelook.estimators.pool import Pool, Result, softmax
from onelook.events import Progress, relay
from onelook.methods.glance_pool import CANDIDATES, COMPARING, name_step

LABELLING = "labelling"
"""Stage of the work as a whole."""
PREPARING = "preparing"
"""Stage without events of its own."""
STEPS = tuple(map(name_step, range(5)))
"""Passes of Glance: its steps and the last answer."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Rows as they were given to `fit`, in any scale."""

    rows: np.ndarray
    labels: np.ndarray
    marked: np.ndarray
    """Rows of X whose label is a marker for none."""
    pool: np.ndarray
    """Rows of `unlabeled`."""

    def unlabelled(self, scale: Scaling, before: Pool | None = None) -> Pool:
        """All rows without a label. before: a pool that is returned, with what is known of it, if it is the same."""
        parts = tuple(part for part in (self.marked, self.pool) if len(part)) or (self.pool,)
        if before is None or list(map(id, parts)) != list(map(id, before.parts)):
            return Pool(parts, scale)
        is_same = isinstance(before.scale, Scaling) and scale.is_as(before.scale)
        return before if is_same else Pool(parts, scale)


@dataclass(frozen=True)
class Plan:
    """Passes over a pool, and what they cost as it was measured (benchmarks/scale.py): proportions are what counts."""

    n_rows: int
    passes: dict[str, float]
    """Microseconds of a processor core for each row, in the order of the stages."""
    n_bytes: int
    """Memory of the answers, and of what is known of each row meanwhile."""

    @classmethod
    def of(cls, pool: Pool, support: SupportModel, guard: bool) -> "Plan":
        n, size, n_way = len(pool), support.rows.shape[1], len(support.classes)
        n_likely = min(CANDIDATES, n_way)
        alone = 0.5 + 0.006 * size + n_way * (0.02 + 4e-5 * size)
        n_numbers = n_likely if n_likely == n_way else 2 * n_likely
        if not pool.is_large or (guard and settle_pool(support.rows, support.labels, n, n_way)):
            return cls(n, {JUDGING: alone, ANSWERING: alone}, 4 * n * n_numbers)
        n_anchors = count_anchors(n, n_way)
        comparing = n_anchors * (0.0057 + 1.6e-5 * size)
        step = 4 + 0.57 * n_likely + (0.12 * n_way if n_likely < n_way else 0) + 0.002 * size
        steps = dict.fromkeys(STEPS, step) | {STEPS[-1]: alone}
        if not pool.is_remembered:
            steps[STEPS[0]] += comparing
        n_judged = count_judged(n, n_way) if guard else 0
        guarding = 1.5 * n_judged * (5 * step + n_judged / n_anchors * comparing)
        preparing = 0.3 + 0.004 * size + (n_anchors * comparing + guarding) / n
        passes = {JUDGING: alone, PREPARING: preparing, COMPARING: comparing if pool.is_remembered else 0.0}
        passes |= steps | {ANSWERING: alone}
        of_row = 8 * n_numbers + (192 if pool.is_remembered else 96)
        return cls(n, passes, n * of_row + min(n_anchors, n) * (480 * n_way + 12 * size))

    def show(self, work: Generator[Any, None, Result], seconds: float, n_bytes: int) -> Generator[Any, None, Result]:
        """Run work and yield its progress as a whole, and a forecast of long work.

        seconds, n_bytes: those of what follows it, on the machine where the passes were measured.
        """
        total = sum(self.passes.values())
        before = dict(zip(self.passes, itertools.accumulate(self.passes.values(), initial=0.0), strict=False))

        def change(event: Any) -> Any:
            share = before[event.stage] + self.passes[event.stage] * event.done / max(event.total, 1)
            return Progress(LABELLING, round(self.n_rows * share / total), self.n_rows)

        n_more = 1e6 * seconds * torch.get_num_threads() / total
        watched = relay(work, change)
        result = yield from announce(watched, LABELLING, n_more, self.n_bytes + n_bytes, resumes=False)
        yield Progress(LABELLING, self.n_rows, self.n_rows)
        return result


def transduce(
    support: SupportModel, pool: Pool, guard: bool, device: str = "cpu", found: Transduction | None = None
) -> Generator[Any, None, tuple[Alone, Transduction]]:
    """Answers of the labelled rows alone, and those of Glance, on a device, to all unlabelled rows together.

    found: those of Glance where they are known.
    """
    alone = yield from support.judge(pool)
    return alone, (yield from _ask(support, pool, alone.confidence, guard, device)) if found is None else found


def _ask(
    support: SupportModel, pool: Pool, confidence: float, guard: bool, device: str
) -> Generator[Any, None, Transduction]:
    """Answers to all unlabelled rows; confidence: that of the labelled rows alone."""
    if not len(pool):
        message = "There are no unlabelled images: the labelled examples alone decide."
        return Transduction((yield from pool.answer(support.answer)), 0.0, confidence, message, None)
    logits, verdict = yield from ask_glance(support.rows, support.labels, pool, support.class_priors, guard, device)
    trust, message = 1.0, "The guard is off: the unlabelled images were used."
    if verdict is not None:
        trust, message = verdict.trust.item(), verdict.messages()[0]
    if logits is None:
        return Transduction((yield from pool.answer(support.answer)), trust, confidence, message, verdict)
    sample = logits.sample()
    usual = calibration.prior_accuracy(sample, support.shots)
    log_priors = support.estimate_log_priors(logits.mass(softmax), len(pool), trust)
    # As confident as the answers are right, by what is usual and by the labelled rows left out.
    expected = support.estimate_accuracy(log_priors, usual, usual - confidence, len(pool)).accuracy.value
    factor = math.exp(calibration.match_log_scale(0.0, sample, expected))
    posterior = logits.change(lambda z: softmax(z * factor))
    if trust < 1:
        posterior = posterior.mix(trust, (yield from pool.answer(support.answer, beside=logits)))
    return Transduction(posterior, trust, trust * usual + (1 - trust) * confidence, message, verdict)
