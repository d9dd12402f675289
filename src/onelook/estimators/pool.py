"""Unlabelled rows and the answers to them, read a block at a time: memory grows by little with their number."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from onelook import ops
from onelook.events import finish
from onelook.methods.glance import Glance
from onelook.methods.glance_pool import Near, PoolAnswer, answer_pool
from onelook.tasks import Tasks

LARGEST_WHOLE = 5_000
"""Rows of the largest pool that is answered as a whole, in double precision."""
BLOCK = 8_192
"""Rows of a block."""
SQUARABLE = 1e15
"""Number whose square, summed over columns, is finite in single precision."""
SAMPLE = 8_192
"""Rows of a larger pool by which the confidence in its answers is calibrated."""


REMEMBERED = 2**24
"""Numbers in the largest pool whose scaled rows are held in memory, with what depends on them alone."""


Result = TypeVar("Result")
Map = Callable[[Float[Tensor, "N C"]], Float[Tensor, "N C"]]
Judge = Callable[["Pool", Int[Tensor, "Q C"] | None], Generator[Any, None, "Answers"]]
"""Judges the rows of a pool one by one, for candidates or for all classes that count."""


def identity(x: Float[Tensor, "N C"]) -> Float[Tensor, "N C"]:
    return x


def softmax(x: Float[Tensor, "N C"]) -> Float[Tensor, "N C"]:
    return x.softmax(1)


@dataclass(frozen=True, eq=False)
class Pool:
    """Rows in one or more arrays, which may be files that are mapped into memory."""

    parts: tuple[np.ndarray, ...]
    scale: Callable[[np.ndarray], Float[Tensor, "N D"]]
    """Brings rows to the scale of the classifier."""
    _memory: dict[object, object] = field(default_factory=dict, repr=False)

    @cached_property
    def starts(self) -> np.ndarray:
        return np.cumsum([0, *(len(part) for part in self.parts)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def is_large(self) -> bool:
        return len(self) > LARGEST_WHOLE

    @property
    def is_remembered(self) -> bool:
        """Whether the rows, and what depends on them alone, are held in memory once they are known."""
        return self.is_large and len(self) * self.parts[0].shape[1] <= REMEMBERED

    def recall(self, what: object, make: Callable[[], Result]) -> Result:
        """Result of `make`, which depends on the rows and on `what` it is; nobody may change it."""
        if not self.is_remembered:
            return make()
        if what not in self._memory:
            self._memory[what] = make()
        return self._memory[what]  # type: ignore[return-value]

    def raw(self, numbers: np.ndarray) -> np.ndarray:
        """Rows by their ascending numbers, as they were given."""
        ends = np.searchsorted(numbers, self.starts[1:])
        spans = zip(self.parts, self.starts, [0, *ends], ends, strict=False)
        return np.concatenate([part[numbers[low:high] - start] for part, start, low, high in spans])

    def take(self, numbers: np.ndarray) -> Float[Tensor, "N D"]:
        """Scaled rows; those of a large pool in single precision."""
        return self.recall("rows", self._scale_all)[numbers] if self.is_remembered else self._scale(self.raw(numbers))

    def _scale_all(self) -> Float[Tensor, "N D"]:
        parts = blocks_of(len(self))
        return torch.cat([self._scale(self.raw(np.arange(part.start, part.stop))) for part in parts])

    def _scale(self, rows: np.ndarray) -> Float[Tensor, "N D"]:
        if self.is_large and rows.dtype == np.float32 and np.abs(rows).max(initial=0) < SQUARABLE:
            return self.scale(rows)
        scaled = self.scale(rows.astype(np.float64))
        return scaled.float() if self.is_large else scaled

    def blocks(self) -> Iterator[tuple[slice, Float[Tensor, "N D"]]]:
        """All rows; always at least one block."""
        rows = self.recall("rows", self._scale_all) if self.is_remembered else None
        for part in blocks_of(len(self)):
            yield part, self.take(np.arange(part.start, part.stop)) if rows is None else rows[part]

    def spread_out(self, n: int) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "M"]]:
        """Numbers of n rows and of the others, ascending: evenly spaced along a random direction.

        The choice depends on the rows alone and not on their order, nor on the labelled ones.
        """
        return self.recall(("spread out", n), lambda: self._spread_out(n))

    def _spread_out(self, n: int) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "M"]]:
        if not len(self):
            return np.arange(0), np.arange(0)
        chosen = np.zeros(len(self), dtype=bool)
        chosen[self._along_a_direction[evenly(len(self), n)]] = True
        return np.flatnonzero(chosen), np.flatnonzero(~chosen)

    @cached_property
    def _along_a_direction(self) -> Int[np.ndarray, "N"]:
        """Numbers of all rows, in their order along a random direction."""
        return np.concatenate(finish(self.map(_project))).argsort(kind="stable")

    def map(self, do: Callable[["Pool"], Generator[Any, None, Result]]) -> Generator[Any, None, list[Result]]:
        """Results for the parts of a pool, each where its rows are: here for the pool as a whole."""
        return [(yield from do(self))]

    def follow(
        self, glance: Glance, anchors: Tasks, chosen: np.ndarray, rest: np.ndarray, priors: Float[Tensor, "1 K"]
    ) -> Generator[Any, None, "Answers"]:
        """Answers of Glance to all rows. chosen, rest: numbers of the anchors and of the others."""
        numbers, device = torch.from_numpy(rest), anchors.query.device

        def take(some: Int[Tensor, "N"]) -> Float[Tensor, "N D"]:
            return self.take(some.numpy()).to(device)

        near, key = None, ("near", len(chosen), device)
        if self.is_remembered:
            known = self._memory.get(key)
            near = known if isinstance(known, Near) else (yield from Near.find(glance, anchors.query, numbers, take))
            self._memory[key] = near
        found = yield from answer_pool(glance, anchors, numbers, take, priors, near)
        return join(len(self), torch.from_numpy(chosen), numbers, *found)

    def answer(self, judge: Judge, beside: "Answers | None" = None) -> Generator[Any, None, "Answers"]:
        """Answers of a judge of single rows. beside: others, for whose candidates they are to be."""
        return (yield from judge(self, None if beside is None else beside.candidates))


def _project(pool: Pool) -> Generator[Any, None, Float[np.ndarray, "N"]]:
    """Places of rows along a random direction; that of a row does not depend on its block."""
    yield from ()
    direction = np.random.default_rng(0).standard_normal(pool.parts[0].shape[1])
    numbers = (np.arange(part.start, part.stop) for part in blocks_of(len(pool)))
    return np.concatenate([np.einsum("nd,d->n", pool.raw(some).astype(np.float64), direction) for some in numbers])


@dataclass(frozen=True, eq=False)
class Answers:
    """Probabilities or logits of Q rows for C of the K classes each; the others are out of the question."""

    values: Float[Tensor, "Q C"]
    candidates: Int[Tensor, "Q C"] | None
    """Classes of the values; None: all in their order."""
    n_way: int

    def __len__(self) -> int:
        return len(self.values)

    def best(self) -> Int[np.ndarray, "Q"]:
        found = self.values.argmax(1)
        if self.candidates is not None:
            found = self.candidates.gather(1, found.unsqueeze(1)).squeeze(1).long()
        return found.numpy()

    def block(self, part: "slice | np.ndarray", of: Map = identity) -> Float[Tensor, "N K"]:
        """Some rows, changed by `of`, with a column for each class: 0 for all but the candidates."""
        values = of(self.values[part])
        if self.candidates is None:
            return values
        return values.new_zeros(len(values), self.n_way).scatter_(1, self.candidates[part].long(), values)

    def blocks(self, of: Map = identity) -> Iterator[tuple[slice, Float[Tensor, "N K"]]]:
        for part in blocks_of(len(self)):
            yield part, self.block(part, of)

    def mass(self, of: Map = identity) -> Float[Tensor, "K"]:
        """Sum of each class over all rows, of what `of` makes of the values."""
        return sum_of(one.sum(0) for _, one in self.blocks(of))

    def top(self) -> float:
        """Mean of the largest value of a row."""
        return self.values.amax(1).mean(dtype=torch.float64).item()

    def sample(self) -> Float[Tensor, "n C"]:
        """Values of all rows, or of SAMPLE evenly spaced ones."""
        return self.values[evenly(len(self), SAMPLE)].double() if len(self) > SAMPLE else self.values

    def mix(self, trust: float, other: "Answers") -> "Answers":
        """Mixture with answers for the same candidates, of weight 1 - trust."""
        return Answers(trust * self.values + (1 - trust) * other.values, self.candidates, self.n_way)

    def change(self, how: Map) -> "Answers":
        """Answers whose values are changed, a block at a time and in place where there are many."""
        if len(self) <= BLOCK:
            return Answers(how(self.values), self.candidates, self.n_way)
        for part in blocks_of(len(self)):
            self.values[part] = how(self.values[part])
        return self


def join(n: int, chosen: Tensor, rest: Tensor, of_anchors: Float[Tensor, "V K"], others: PoolAnswer) -> Answers:
    """Answers to anchors and others in the order of the pool."""
    n_way, of_anchors = of_anchors.shape[1], of_anchors.cpu()
    values = torch.empty(n, others.logits.shape[1])
    values[rest] = others.logits.cpu()
    if others.candidates is None:
        values[chosen] = of_anchors
        return Answers(values, None, n_way)
    candidates = torch.empty(values.shape, dtype=torch.int32)
    best = of_anchors.topk(values.shape[1], 1)
    values[chosen], candidates[chosen], candidates[rest] = best.values, best.indices.int(), others.candidates.cpu()
    return Answers(values, candidates, n_way)


def blocks_of(n: int) -> Iterator[slice]:
    """The blocks of n rows; always at least one.

    >>> list(blocks_of(10_000))
    [slice(0, 8192, None), slice(8192, 10000, None)]
    """
    return ops.blocks(n, BLOCK)


def evenly(n: int, n_wanted: int) -> Int[np.ndarray, "n"]:
    """Numbers below n, evenly spaced.

    >>> evenly(10, 4).tolist()
    [1, 3, 6, 8]
    """
    n_wanted = min(n, n_wanted)
    return ((2 * np.arange(n_wanted) + 1) * n) // (2 * n_wanted)


def sum_of(parts: Iterator[Tensor]) -> Tensor:
    """Sum of tensors of one shape, in double precision where there are several."""
    total = next(parts)
    for one in parts:
        total = total.double() + one
    return total
