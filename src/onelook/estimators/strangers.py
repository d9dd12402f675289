"""Rows of none of the classes, judged together with the unlabelled rows next to them.

Images of a class that nobody has labelled lie together, as those of every class do. So a row is the stranger the more
its neighbours are: half of its strangeness is its own, half the mean of the NEAR unlabelled rows nearest to it, whose
own one was averaged with that of their neighbours in the same way. With ImageNet features this finds 45 % of the
strangers where each by itself finds 25 to 30 % (docs/log.md). Where there are many unlabelled rows, WITNESSES of them
speak for all.
"""

import functools
from collections.abc import Generator
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

NEAR = 3
"""Neighbours; 5 found a little less on validation classes."""
WITNESSES = 2_048
"""Unlabelled rows that are compared with others."""
SAME = 1e-5
"""A witness whose similarity is this near to 1 is the row itself, or a copy, and says nothing more."""
BLOCK = 1_024
"""Rows that are compared at a time."""


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
        return torch.cat([self._judge(rows[part], own[part]) for part in ops.blocks(len(rows), BLOCK)])

    def _judge(self, rows: Float[Tensor, "n D"], own: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        similarity = rows.to(self.rows) @ self.rows.T
        best = similarity.masked_fill(similarity > 1 - SAME, -torch.inf).topk(min(NEAR, len(self.rows)), -1)
        counts = best.values.isfinite()
        near = (counts * self.strangeness[best.indices]).sum(1) / counts.sum(1).clamp_min(1)
        return (own + torch.where(counts.any(1), near.to(own), own)) / 2


@dataclass(frozen=True, eq=False)
class Strangers:
    """Finds rows of none of the classes, among the unlabelled rows and elsewhere."""

    support: SupportModel
    pool: Pool

    @functools.cached_property
    def witnesses(self) -> Witnesses | None:
        """Some of the unlabelled rows; None where there are none."""
        if not len(self.pool):
            return None
        rows = self.pool.take(evenly(len(self.pool), WITNESSES))
        return Witnesses.gather(rows, self.support.strangeness(rows))

    def score(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N"]:
        """How little each row of length 1 is like any of the classes."""
        return _score(self.support, self.witnesses, x)

    def score_pool(self) -> Generator[Any, None, Float[Tensor, "Q"]]:
        """Scores of all unlabelled rows, wherever they are."""
        return torch.cat((yield from self.pool.map(functools.partial(_score_blocks, self.support, self.witnesses))))

    def find(self, scores: Float[Tensor, "N"], rate: float) -> Bool[Tensor, "N"]:
        """Rows of no class by their scores, among them about a fraction `rate` of the rows of the classes at most.

        Two limits hold for rows of the classes, and the smaller is taken: that of the labelled examples, left out, and
        that of the unlabelled rows, of which unknown ones only raise it. Nothing is strange where both are too few.
        That the neighbours of a labelled example lie nearer to its class than those of others, and that its class has
        less weight without it, about outweigh each other (docs/log.md).
        """
        known, unlabelled = self._familiar
        limits = calibration.prediction_limit(known, rate), calibration.conformal_threshold(unlabelled, rate)
        return scores > min(limits)

    @functools.cached_property
    def _familiar(self) -> tuple[Float[Tensor, "n"], Float[Tensor, "W"]]:
        """Scores of the labelled examples, each left out, and of the witnesses; the same whatever is asked."""
        tested = self.support.testable
        known = self.support.left_out_strangeness[tested]
        if self.witnesses is None:
            return known, known[:0]
        return self.witnesses.judge(self.support.rows[tested], known), self.score(self.witnesses.rows)


def _score(support: SupportModel, witnesses: Witnesses | None, x: Float[Tensor, "N D"]) -> Float[Tensor, "N"]:
    own = support.strangeness(x)
    return witnesses.judge(x, own) if witnesses else own


def _score_blocks(
    support: SupportModel, witnesses: Witnesses | None, pool: Pool
) -> Generator[Any, None, Float[Tensor, "Q"]]:
    found = []
    for part, x in pool.blocks():
        found.append(_score(support, witnesses, x))
        yield Progress(JUDGING, part.stop, len(pool))
    return torch.cat(found)
