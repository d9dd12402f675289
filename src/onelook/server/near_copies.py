"""Labelled images that show nearly the same picture and have different labels.

Images whose features nearly agree are compared as `onelook doctor` compares them; only such pairs are read, and only
while their labels differ. Each call does a bounded part of the work, so that an answer never waits for it.
"""

import threading
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from onelook.data.listing import LARGEST
from onelook.files import read_regular
from onelook.labelling.doctor import Look, look_at, near_groups

SIMILAR = 0.8
"""Cosine of features from which two images are worth a look.

Of 125 images of clothing10, 124 have it with their own JPEG of half the size and quality 60, and 7 with another image
(network "lite")."""
MOST_SIMILAR = 4
"""Images that a new one is paired with at most."""
PRODUCTS = 500_000_000
"""Products of numbers that one call computes at most, a few hundredths of a second."""
READS = 16
"""Images that one call reads at most."""


@dataclass
class NearCopies:
    """Pairs of near copies in a folder, found bit by bit; any thread may call."""

    folder: Path
    names: list[str] | tuple[str, ...]
    _seen: set[int] = field(default_factory=set)
    _pairs: dict[tuple[int, int], bool | None] = field(default_factory=dict)
    """Whether a pair shows the same picture; None until it was looked at."""
    _looks: dict[int, Look | None] = field(default_factory=dict)
    _before: np.ndarray | None = None
    """Labels at the last call: what was labelled since then is compared first."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def find_contradictory(
        self, features: Float[np.ndarray, "N D"], is_ready: Bool[np.ndarray, "N"], given: Int[np.ndarray, "N"]
    ) -> list[tuple[int, int]]:
        """Pairs of rows with different labels (class ids) that are known by now to show the same picture."""
        with self._lock:
            self._compare(features, given, np.flatnonzero((given >= 0) & is_ready))
            differ = [
                (one, two)
                for (one, two), same in self._pairs.items()
                if same is not False and given[one] != given[two] and min(given[one], given[two]) >= 0
            ]
            left = READS
            for pair in differ:
                left -= sum(row not in self._looks for row in pair)
                if left < 0:
                    break
                if self._pairs[pair] is None:
                    self._pairs[pair] = self._shows_the_same(*pair)
            return [pair for pair in differ if self._pairs[pair]]

    def _compare(
        self, features: Float[np.ndarray, "N D"], given: Int[np.ndarray, "N"], labelled: Int[np.ndarray, "S"]
    ) -> None:
        """Pair labelled images that were not compared before with the similar ones among all that are labelled."""
        most = max(1, PRODUCTS // max(1, len(labelled) * features.shape[1]))
        is_old = np.equal(given, given if self._before is None else self._before)
        self._before = given
        new = np.array([row for row in labelled.tolist() if row not in self._seen], np.int64)
        new = new[np.argsort(is_old[new], kind="stable")][:most]
        if not len(new):
            return
        self._seen.update(new.tolist())
        cosine = _unit(features[new]) @ _unit(features[labelled]).T
        cosine[new[:, None] == labelled] = -1
        for i in np.flatnonzero(cosine.max(1) >= SIMILAR).tolist():
            row, similar = int(new[i]), np.flatnonzero(cosine[i] >= SIMILAR)
            for k in similar[np.argsort(-cosine[i, similar], kind="stable")[:MOST_SIMILAR]].tolist():
                other = int(labelled[k])
                self._pairs.setdefault((min(row, other), max(row, other)), None)

    def _shows_the_same(self, one: int, two: int) -> bool:
        looks = [self._look(row) for row in (one, two)]
        found = [look for look in looks if look is not None]
        if len(found) < 2:
            return False
        return bool(near_groups(np.stack([k.bits for k in found]), np.stack([k.thumbnail for k in found])))

    def _look(self, row: int) -> Look | None:
        if row not in self._looks:
            try:
                self._looks[row] = look_at(read_regular(self.folder / self.names[row], LARGEST))
            except Exception:  # a text, a damaged file, one that is gone: what Pillow raises has no common base
                self._looks[row] = None
        return self._looks[row]


def _unit(x: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12), np.float32)
