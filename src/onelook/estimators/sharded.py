"""A pool whose rows lie in shards, in other processes or on other machines, and the answers to it.

What goes to the shards: the labelled rows, the anchors (`methods.glance_pool`) and, in each step, what Glance knows of
these. What comes back: in each step the sums over the rows of each class, K × D; once, the sampled rows (anchors, those
of the guard and of the calibration) and three numbers of each row. The answers stay in the shards. They are those of
one large pool, but for the rounding of sums in another order.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from onelook.estimators.asking import Transduction
from onelook.estimators.fitting import transduce
from onelook.estimators.model import Alone, SupportModel
from onelook.estimators.pool import SAMPLE, Answers, Judge, Map, Pool, evenly, identity, join, sum_of
from onelook.events import Progress, finish
from onelook.methods.glance import Glance
from onelook.methods.glance_pool import Followers, PoolAnswer, lead, name_step
from onelook.methods.glance_scene import Moment, Scene, Votes
from onelook.tasks import Tasks

Result = TypeVar("Result")


class ShardPool(Pool):
    """Rows of one shard, treated as part of a large pool whatever their number."""

    @property
    def is_large(self) -> bool:
        return True


@dataclass(eq=False)
class Shard:
    """Rows of a shard, and what is known of them; it lives where they are."""

    rows: Float[np.ndarray, "N D"]
    pool: Pool = field(init=False)
    followers: Followers = field(init=False)
    answers: dict[str, Answers] = field(default_factory=dict)
    """Answers by the name of who gave them."""


class Shards(ABC):
    """Shards within reach."""

    @abstractmethod
    def ask(self, what: Callable[..., Result], *told: Any, each: Sequence[Any] | None = None) -> list[Result]:
        """Results of what(shard, *told) for each shard. each: a last argument for every one."""

    @cached_property
    def sizes(self) -> list[int]:
        """Number of rows of each shard."""
        return self.ask(_count)


class LocalShards(Shards):
    """Shards in this process."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self.shards = shards

    def ask(self, what: Callable[..., Result], *told: Any, each: Sequence[Any] | None = None) -> list[Result]:
        last: list[tuple[Any, ...]] = [()] * len(self.shards) if each is None else [(one,) for one in each]
        return [what(shard, *told, *more) for shard, more in zip(self.shards, last, strict=True)]


@dataclass(frozen=True, eq=False)
class ShardedPool(Pool):
    """Rows in shards. parts: none of them are here."""

    shards: Shards = field(kw_only=True)

    @classmethod
    def open(cls, shards: Shards, scale: Callable[[np.ndarray], Float[Tensor, "N D"]]) -> "ShardedPool":
        """Tell the shards how rows are scaled."""
        shards.ask(_open, scale)
        return cls((), scale, shards=shards)

    @property
    def starts(self) -> np.ndarray:
        return np.cumsum([0, *self.shards.sizes])

    @property
    def is_remembered(self) -> bool:
        return False

    def split(self, numbers: np.ndarray) -> list[np.ndarray]:
        """Ascending numbers as those of each shard."""
        ends = np.searchsorted(numbers, self.starts)
        spans = zip(ends, ends[1:], self.starts, strict=False)
        return [numbers[low:high] - start for low, high, start in spans]

    def raw(self, numbers: np.ndarray) -> np.ndarray:
        return np.concatenate(self.shards.ask(_take_raw, each=self.split(numbers)))

    def take(self, numbers: np.ndarray) -> Float[Tensor, "N D"]:
        return torch.cat(self.shards.ask(_take, each=self.split(numbers)))

    def map(self, do: Callable[[Pool], Generator[Any, None, Result]]) -> Generator[Any, None, list[Result]]:
        yield from ()
        return self.shards.ask(_do, do)

    def follow(
        self, glance: Glance, anchors: Tasks, chosen: np.ndarray, rest: np.ndarray, priors: Float[Tensor, "1 K"]
    ) -> Generator[Any, None, Answers]:
        scene = glance.scene(anchors, priors, n_others=len(rest))
        self.shards.ask(_begin, glance, scene, each=self.split(rest))

        def vote(step: int, moment: Moment) -> Generator[Any, None, Votes]:
            yield Progress(name_step(step), 0, len(self))
            mass, sums = zip(*self.shards.ask(_vote, step, moment), strict=True)
            return sum_of(iter(mass)), sum_of(iter(sums))

        own, of_anchors = self.split(chosen), (yield from lead(glance, scene, vote))
        logits = torch.split(of_anchors, [len(some) for some in own])
        self.shards.ask(_end, each=list(zip(own, logits, strict=True)))
        return ShardedAnswers(self, "glance", anchors.n_way)

    def keep(self, answers: Answers) -> "ShardedAnswers":
        """Hand answers that were found here to the shards."""
        assert answers.candidates is None, "a pool that is not large has none"
        values = torch.split(answers.values, self.shards.sizes)
        self.shards.ask(_keep, "glance", each=[Answers(one, None, answers.n_way) for one in values])
        return ShardedAnswers(self, "glance", answers.n_way)

    def answer(self, judge: Judge, beside: Answers | None = None) -> Generator[Any, None, Answers]:
        yield from ()
        assert beside is None or isinstance(beside, ShardedAnswers)
        n_way = max(self.shards.ask(_answer, judge, beside and beside.name))
        return ShardedAnswers(self, "alone", n_way)


class ShardedAnswers(Answers):
    """Answers that stay in the shards, by the name of who gave them."""

    def __init__(self, pool: ShardedPool, name: str, n_way: int) -> None:
        for key, value in {"pool": pool, "name": name, "n_way": n_way}.items():
            object.__setattr__(self, key, value)

    pool: ShardedPool
    name: str

    def __len__(self) -> int:
        return len(self.pool)

    @property
    def values(self) -> Float[Tensor, "Q C"]:
        """Values of all rows, brought here."""
        return torch.cat([one.values for one in self._ask(_find)])

    @property
    def candidates(self) -> Int[Tensor, "Q C"] | None:
        """Candidates of all rows, brought here."""
        found = [one.candidates for one in self._ask(_find)]
        return None if found[0] is None else torch.cat([one for one in found if one is not None])

    def mass(self, of: Map = identity) -> Float[Tensor, "K"]:
        return sum_of(iter(self._ask(_weigh, of)))

    def sample(self) -> Float[Tensor, "n C"]:
        numbers = evenly(len(self), SAMPLE)
        return torch.cat(self._ask(_sample, each=self.pool.split(numbers))).double()

    def change(self, how: Map) -> Answers:
        self._ask(_change, how)
        return self

    def mix(self, trust: float, other: Answers) -> Answers:
        assert isinstance(other, ShardedAnswers)
        self._ask(_mix, trust, other.name)
        return self

    def _ask(self, what: Callable[..., Result], *told: Any, each: Sequence[Any] | None = None) -> list[Result]:
        return self.pool.shards.ask(what, self.name, *told, each=each)


def transduce_shards(
    support: SupportModel, shards: Shards, guard: bool = True
) -> Generator[Any, None, tuple[Alone, Transduction, ShardedPool]]:
    """Ask Glance about the rows of all shards together, as `transduce` does about those of a pool."""
    pool = ShardedPool.open(shards, support.scaling)
    if pool.is_large:
        return *(yield from transduce(support, pool, guard)), pool
    here = Pool((pool.raw(np.arange(len(pool))),), support.scaling)
    alone, found = yield from transduce(support, here, guard)
    return alone, replace(found, posterior=pool.keep(found.posterior)), pool


# What is done in a shard.


def _count(shard: Shard) -> int:
    return len(shard.rows)


def _open(shard: Shard, scale: Callable[[np.ndarray], Float[Tensor, "N D"]]) -> None:
    shard.pool, shard.answers = ShardPool((shard.rows,), scale), {}


def _take_raw(shard: Shard, numbers: np.ndarray) -> np.ndarray:
    return shard.pool.raw(numbers)


def _take(shard: Shard, numbers: np.ndarray) -> Float[Tensor, "N D"]:
    return shard.pool.take(numbers)


def _do(shard: Shard, do: Callable[[Pool], Generator[Any, None, Result]]) -> Result:
    return finish(do(shard.pool))


def _begin(shard: Shard, glance: Glance, scene: Scene, rest: np.ndarray) -> None:
    def take(some: Int[Tensor, "N"]) -> Float[Tensor, "N D"]:
        return shard.pool.take(some.numpy())

    shard.followers = Followers(glance, scene, torch.from_numpy(rest), take)


def _vote(shard: Shard, step: int, moment: Moment) -> Votes:
    return finish(shard.followers.vote(step, moment))


def _end(shard: Shard, of_anchors: tuple[np.ndarray, Float[Tensor, "V K"]]) -> None:
    chosen, logits = of_anchors
    others = shard.followers
    found = PoolAnswer(others.added, others.candidates)
    shard.answers["glance"] = join(len(shard.rows), torch.from_numpy(chosen), others.numbers, logits, found)
    del shard.followers


def _answer(shard: Shard, judge: Judge, beside: str | None) -> int:
    shard.answers["alone"] = finish(judge(shard.pool, None if beside is None else shard.answers[beside].candidates))
    return shard.answers["alone"].n_way


def _keep(shard: Shard, name: str, answers: Answers) -> None:
    shard.answers[name] = answers


def _find(shard: Shard, name: str) -> Answers:
    return shard.answers[name]


def _weigh(shard: Shard, name: str, of: Map) -> Float[Tensor, "K"]:
    return shard.answers[name].mass(of)


def _sample(shard: Shard, name: str, numbers: np.ndarray) -> Float[Tensor, "n C"]:
    return shard.answers[name].values[numbers]


def _change(shard: Shard, name: str, how: Map) -> None:
    shard.answers[name] = shard.answers[name].change(how)


def _mix(shard: Shard, name: str, trust: float, other: str) -> None:
    shard.answers[name] = shard.answers[name].mix(trust, shard.answers[other])
