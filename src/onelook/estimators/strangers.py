"""Rows of none of the classes, judged together with the unlabelled rows.

Images of a class that nobody has labelled lie together, as those of every class do. So a row is the stranger the more
its neighbours are: half of its strangeness is its own, half the mean of the NEAR unlabelled rows nearest to it, whose
own one was averaged with that of their neighbours in the same way. How many rows are set aside is decided by that, as
far as the labelled examples and the unlabelled rows allow it.

Which ones they are is learnt from the strangest: they are the examples of one more class, beside the labelled ones, in
the ridge regression of `methods.regression`, in which each row is judged by all others. Its opinions name the strangest
rows of the next round (self-training). A row's own strangeness, that with its neighbours and that lead are added, in
units of their standard deviations among the unlabelled rows: where strangers are of many classes, each alone, the first
tells most, where they are of few the others (docs/log.md). Where there are many unlabelled rows, WITNESSES of them
speak for all.
"""

import functools
import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from onelook import ops
from onelook.estimators import calibration
from onelook.estimators.model import JUDGING, SupportModel
from onelook.estimators.pool import Pool, evenly
from onelook.events import Progress
from onelook.methods.regression import QUERY_WEIGHT, Linear, Regression

NEAR = 3
"""Neighbours; 5 found a little less on validation classes."""
WITNESSES = 2_048
"""Unlabelled rows that are compared with others."""
SAME = 1e-5
"""A witness whose similarity is this near to 1 is the row itself, or a copy, and says nothing more."""
BLOCK = 1_024
"""Rows that are compared at a time."""
ROUNDS = 3
"""Regressions in which the strangest rows are a class of their own; the third finds 1 point more than the first."""
STRANGEST, SURELY, HARDLY = 0.8, 0.92, 0.68
"""Quantiles of the strangeness at which a row belongs to that class by a half, and by 0.8 and 0.2."""
LEAST = 10
"""Unlabelled rows from which on a class of strangers is learnt."""


Judge = Callable[[Float[Tensor, "N D"]], Float[Tensor, "N"]]
"""Judges how strange rows of length 1 are."""


@dataclass(frozen=True, eq=False)
class Witnesses:
    """Unlabelled rows of length 1, and how strange they are."""

    rows: Float[Tensor, "W D"]
    strangeness: Float[Tensor, "W"]
    """Strangeness of each, averaged with its neighbours."""

    @classmethod
    def gather(cls, rows: Float[Tensor, "W D"], own: Float[Tensor, "W"]) -> "Witnesses":
        """own: strangeness of each row by itself."""
        return cls(rows, cls(rows, own).judge(rows, own))

    def judge(self, rows: Float[Tensor, "N D"], own: Float[Tensor, "N"]) -> Float[Tensor, "N"]:
        """Strangeness of rows of length 1 among the witnesses. own: that of each row by itself.

        >>> witnesses = Witnesses(torch.eye(3), torch.tensor([0.0, 1.0, 5.0]))
        >>> witnesses.judge(torch.eye(3)[:1], torch.tensor([0.0]))  # the others are both as near
        tensor([1.5000])
        """
        parts = ops.blocks(len(rows), BLOCK)
        return torch.cat([self.average(own[part], self.compare(rows[part])) for part in parts])

    def compare(self, rows: Float[Tensor, "n D"]) -> Float[Tensor, "n W"]:
        """Similarities of a block of rows to the witnesses."""
        return rows.to(self.rows) @ self.rows.T

    def average(self, own: Float[Tensor, "n"], similarity: Float[Tensor, "n W"]) -> Float[Tensor, "n"]:
        """Strangeness of rows with these similarities: half their own, half that of their neighbours."""
        best = similarity.masked_fill(similarity > 1 - SAME, -torch.inf).topk(min(NEAR, len(self.rows)), -1)
        counts = best.values.isfinite()
        near = (counts * self.strangeness[best.indices]).sum(1) / counts.sum(1).clamp_min(1)
        return (own + torch.where(counts.any(1), near.to(own), own)) / 2


@dataclass(frozen=True, eq=False)
class StrangerClass:
    """One more class, of which the strangest unlabelled rows are examples."""

    support: SupportModel
    witnesses: Witnesses
    """Witnesses, as they are strange without this class."""
    linear: Linear
    """Regression whose last class it is, for rows that are no witnesses."""
    scores: Float[Tensor, "3 W"]
    """Strangeness of the witnesses, each by itself and together, and the lead of this class in the regression on all
    other rows."""

    @classmethod
    def learn(cls, support: SupportModel, witnesses: Witnesses) -> "StrangerClass":
        """witnesses: LEAST or more."""
        rows, n = witnesses.rows, len(support.rows)
        own, known = support.strangeness(rows), support.logits(rows).softmax(1).to(rows)
        together = witnesses.judge(rows, own)
        hot = ops.one_hot(support.labels[None], known.shape[1] + 1, rows.dtype)
        weight = torch.cat([rows.new_ones(n), rows.new_full((len(rows),), QUERY_WEIGHT)])
        every = torch.cat([support.rows.to(rows), rows])[None]
        regression = Regression.fit(every, weight[None], support.penalty.to(rows))
        lead, targets = together, hot
        for _ in range(ROUNDS):
            strange = belong(lead).to(rows).unsqueeze(1)
            targets = torch.cat([hot, torch.cat([known * (1 - strange), strange], 1)[None]], 1)
            lead = _lead_of_last(regression.leave_out(targets)[0, n:])
        scores = torch.stack([own.to(lead), together.to(lead), lead])
        return cls(support, witnesses, regression.solve(targets), scores)

    def judge(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N"]:
        """Strangeness of rows of length 1. Witnesses are judged by the others."""
        return torch.cat([self._judge(x[part]) for part in ops.blocks(len(x), BLOCK)])

    def _judge(self, x: Float[Tensor, "n D"]) -> Float[Tensor, "n"]:
        own, similarity = self.support.strangeness(x), self.witnesses.compare(x)
        same, which = similarity.max(-1)
        lead = _lead_of_last(self.linear(x.to(self.witnesses.rows)[None])[0])
        lead = torch.where(same > 1 - SAME, self.scores[2, which], lead)
        return self.add(torch.stack([own.to(lead), self.witnesses.average(own, similarity).to(lead), lead]))

    def add(self, scores: Float[Tensor, "3 N"]) -> Float[Tensor, "N"]:
        """Sum of the three scores of each row, in units of their standard deviations among the witnesses."""
        mean, spread = self.scores.mean(1, keepdim=True), self.scores.std(1, keepdim=True).clamp_min(1e-9)
        return ((scores - mean) / spread).sum(0)


def belong(strangeness: Float[Tensor, "W"]) -> Float[Tensor, "W"]:
    """Membership of each row in the class of the strangest, between 0 and 1.

    >>> belong(torch.arange(101.0))[[50, 68, 80, 92]].round(decimals=2)
    tensor([0.0300, 0.2000, 0.5000, 0.8000])
    """
    low, middle, high = (strangeness.quantile(q) for q in (HARDLY, STRANGEST, SURELY))
    return torch.sigmoid(2 * math.log(4) * (strangeness - middle) / (high - low).clamp_min(1e-9))


def _lead_of_last(opinion: Float[Tensor, "N K"]) -> Float[Tensor, "N"]:
    return opinion[:, -1] - opinion[:, :-1].amax(1)


@dataclass(frozen=True, eq=False)
class Strangers:
    """Finds rows of none of the classes, among the unlabelled rows and elsewhere."""

    support: SupportModel
    pool: Pool

    @functools.cached_property
    def witnesses(self) -> Witnesses | None:
        """Some of the unlabelled rows, without a class of strangers; None where there are none."""
        if not len(self.pool):
            return None
        rows = self.pool.take(evenly(len(self.pool), WITNESSES))
        return Witnesses.gather(rows, self.support.strangeness(rows))

    @functools.cached_property
    def stranger_class(self) -> StrangerClass | None:
        """One more class of the strangest; None where too few rows tell."""
        if self.witnesses is None or len(self.witnesses.rows) < LEAST:
            return None
        return StrangerClass.learn(self.support, self.witnesses)

    @property
    def judge(self) -> Judge:
        """Judges how little rows of length 1 are like any of the classes; it can be sent to where the rows are."""
        if self.stranger_class is not None:
            return self.stranger_class.judge
        return functools.partial(_judge_together, self.support, self.witnesses)

    def score(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N"]:
        """How little each row of length 1 is like any of the classes."""
        return self.judge(x)

    def score_pool(self) -> Generator[Any, None, Float[Tensor, "Q"]]:
        """Scores of all unlabelled rows, wherever they are."""
        return torch.cat((yield from self.pool.map(functools.partial(_judge_blocks, self.judge))))

    def find(self, scores: Float[Tensor, "N"], rate: float) -> Bool[Tensor, "N"]:
        """Rows of no class by their scores, among them about a fraction `rate` of the rows of the classes at most.

        As many unlabelled rows are set aside as lie beyond a limit without a class of strangers, whose scores of the
        labelled examples cannot be compared with those of others: these were never taken for strangers. Two limits hold
        for rows of the classes, and the smaller is taken: that of the labelled examples, left out, and that of the
        unlabelled rows, of which unknown ones only raise it. Nothing is strange where both are too few. That the
        neighbours of a labelled example lie nearer to its class than those of others, and that its class has less
        weight without it, about outweigh each other (docs/log.md).
        """
        known, first = self._familiar
        limit = min(calibration.prediction_limit(known, rate), calibration.conformal_threshold(first, rate))
        if self.stranger_class is not None and math.isfinite(limit):
            ordered = self.stranger_class.add(self.stranger_class.scores).sort(descending=True).values
            n_strange = int((first > limit).sum())
            limit = ordered[n_strange].item() if n_strange < len(ordered) else -math.inf
        return scores > limit

    @functools.cached_property
    def _familiar(self) -> tuple[Float[Tensor, "n"], Float[Tensor, "W"]]:
        """Scores without a class of strangers, of the labelled examples, each left out, and of the witnesses; the same
        whatever is asked."""
        tested = self.support.testable
        known = self.support.left_out_strangeness[tested]
        if self.witnesses is None:
            return known, known[:0]
        of_witnesses = self.judge(self.witnesses.rows) if self.stranger_class is None else self.stranger_class.scores[1]
        return self.witnesses.judge(self.support.rows[tested], known), of_witnesses


def _judge_together(support: SupportModel, witnesses: Witnesses | None, x: Float[Tensor, "N D"]) -> Float[Tensor, "N"]:
    own = support.strangeness(x)
    return witnesses.judge(x, own) if witnesses else own


def _judge_blocks(judge: Judge, pool: Pool) -> Generator[Any, None, Float[Tensor, "Q"]]:
    found = []
    for part, x in pool.blocks():
        found.append(judge(x))
        yield Progress(JUDGING, part.stop, len(pool))
    return torch.cat(found)
