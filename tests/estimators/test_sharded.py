"""A pool in shards: the answers of the same rows in one place, and what leaves a shard."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from onelook.estimators import asking, pool
from onelook.estimators.asking import Transduction
from onelook.estimators.fitting import transduce
from onelook.estimators.model import SupportModel
from onelook.estimators.pool import Pool
from onelook.estimators.sharded import LocalShards, Shard, ShardedPool
from onelook.estimators.strangers import Strangers
from onelook.events import finish
from onelook.methods.guard import Verdict
from onelook.methods.priors import ClassPriors


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool of 200 rows is large."""
    monkeypatch.setattr(pool, "LARGEST_WHOLE", 100)
    monkeypatch.setattr(pool, "BLOCK", 64)
    monkeypatch.setattr(asking, "ANCHORS", 120)


class Watched(LocalShards):
    """Shards whose answers are measured."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        super().__init__(shards)
        self.sent = dict[str, list[list[int]]]()

    def ask(self, what: Callable[..., Any], *told: Any, each: Sequence[Any] | None = None) -> list[Any]:
        found = super().ask(what, *told, each=each)
        self.sent.setdefault(what.__name__, []).append([count(one) for one in found])
        return found


def count(one: Any) -> int:
    """Numbers in a result."""
    if isinstance(one, tuple | list):
        return sum(map(count, one))
    return one.numel() if isinstance(one, torch.Tensor) else getattr(one, "size", 1)


def draw(n_way: int, noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labelled rows, their labels and a pool."""
    rng = np.random.default_rng(n_way)
    centres, labels = rng.normal(size=(n_way, 40)), np.tile(np.arange(n_way), 3)
    known = centres[labels] + noise * rng.normal(size=(len(labels), 40))
    rows = centres[rng.integers(n_way, size=300)] + noise * rng.normal(size=(300, 40))
    return known, labels, rows.astype(np.float32)


def answer(support: SupportModel, rows: Pool) -> tuple[Transduction, np.ndarray, torch.Tensor]:
    alone, found = finish(transduce(support, rows, guard=True))
    return found, alone.nearest, finish(Strangers(support, rows).score_pool())


@pytest.mark.parametrize(
    ("n_way", "trust", "cuts", "n_anchors"),
    [
        (40, 0.5, [1, 150, 150, 280], 120),
        (40, 0.5, [1, 150, 150, 280], 400),
        pytest.param(40, 0.0, [100], 120, marks=pytest.mark.slow),
        pytest.param(40, 1.0, [], 120, marks=pytest.mark.slow),
        pytest.param(4, None, [30, 200], 120, marks=pytest.mark.slow),
    ],
)
def test_shards_in_any_number_answer_as_one_pool(
    n_way: int, trust: float | None, cuts: list[int], n_anchors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "ANCHORS", n_anchors)
    if trust is not None:
        verdict = Verdict(*(torch.tensor([number]) for number in (trust, 0.5, 0.5, 0.0)))
        monkeypatch.setattr(asking, "weigh", lambda _, inductive, tasks: (inductive(tasks), verdict))
    known, labels, rows = draw(n_way, noise=1.2)
    support = SupportModel.fit(known, labels, ClassPriors.parse("unknown"), "network")
    expected, nearest, strangeness = answer(support, Pool((rows,), support.scaling))
    shards = Watched([Shard(part) for part in np.split(rows, cuts)])
    found, own, strange = answer(support, ShardedPool.open(shards, support.scaling))
    np.testing.assert_array_equal(own, nearest)
    torch.testing.assert_close(strange, strangeness, rtol=0, atol=1e-5)
    assert (found.message, found.trust) == (expected.message, expected.trust)
    assert found.confidence == pytest.approx(expected.confidence, abs=1e-5)
    one, other = (x.posterior.block(slice(None)) for x in (found, expected))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(one.argmax(1), other.argmax(1))
    if expected.trust:  # sums alone leave a shard in each step
        assert {size for step in shards.sent["_vote"] for size in step} == {n_way + n_way * 40}
