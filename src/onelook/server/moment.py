"""State of a review at one moment: labels, features, what is learned from them, and what is told."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, UInt8

from onelook.events import Progress
from onelook.labelling.answers import CLEARED, KINDS
from onelook.labelling.suggest import Suggestion
from onelook.server.pools import Origin
from onelook.server.relearning import Learned, Pool, least_sure


@dataclass(frozen=True)
class Moment:
    """State of a review of N images. A change makes another, so that whoever reads one sees nothing half changed."""

    labels: Int[np.ndarray, "N"]
    """Class ids, CLEARED or NONE_OF_THESE."""
    kinds: UInt8[np.ndarray, "N"]
    """Ways to the labels, as numbers in KINDS."""
    names: dict[int, str]
    """Names of the classes by their id."""
    can: dict[str, bool]
    """Whether there is something to undo, and to redo."""
    learned: Learned
    upcoming: tuple[Suggestion, ...] = ()
    """Images to label next; an index is a row of the N images."""
    pool: Pool | None = None
    version: int = 1
    """Grows with every change that is told."""
    revision: int = 1
    """Grows with all that can be learned from."""
    learned_revision: int = 0
    """Revision that `learned` is from."""
    chosen_revision: int = 0
    """Revision that `upcoming` was chosen after."""
    arrays: int = 1
    """Grows with the labels and answers."""
    moved: int = 0
    """Images with another answer than before."""
    origin: Origin | None = None
    progress: Progress | None = None
    notices: tuple[str, ...] = ()
    n_rejected: int = 0
    problem: str = ""

    @property
    def n_ready(self) -> int:
        """Images whose features are computed."""
        return 0 if self.pool is None else int(self.pool.is_ready.sum())

    @property
    def is_checked(self) -> Bool[np.ndarray, "N"]:
        """Labels that a person let stand."""
        return np.asarray(self.kinds == KINDS.index("checked"))

    def queue(self, kind: str, n: int) -> list[int]:
        """Rows to look at: "next" to label, or the "unsure" ones."""
        rows = [each.index for each in self.upcoming if self.labels[each.index] == CLEARED]
        return (rows if kind == "next" else least_sure(self.labels, self.learned).tolist())[:n]
