"""A learning curve of the labelled examples: laws, and a loop that does the same one row at a time."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from onelook.errors import DataError, SettingsError
from onelook.estimators import learning_curve as module
from onelook.estimators.learning_curve import CurvePoint, learning_curve
from onelook.scoring import Estimate


def examples(counts: list[int], seed: int = 0, noise: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows in random order, and their labels."""
    draw = np.random.default_rng(seed)
    labels = draw.permutation(np.repeat(np.arange(len(counts)), counts))
    centres = draw.normal(size=(len(counts), 5))
    rows = centres[labels] + noise * draw.normal(size=(len(labels), 5))
    return torch.from_numpy(rows), torch.from_numpy(labels)


def told(x: np.ndarray, y: np.ndarray, kept: list[int], row: int) -> int:
    means = [x[[i for i in kept if y[i] == k]].mean(0) for k in range(y.max() + 1)]
    return int(np.argmin([np.square(x[row] - mean).sum() for mean in means]))


def by_loop(x: np.ndarray, y: np.ndarray, size: int, share: np.ndarray, repeats: int, seed: int) -> CurvePoint:
    accuracies = []
    for repeat in range(repeats):
        luck = np.random.default_rng([seed, repeat]).random(len(y))
        kept: list[int] = []
        for k in range(y.max() + 1):
            own = sorted(np.flatnonzero(y == k).tolist(), key=lambda i: luck[i])
            kept += own[: max(1, min(size, len(own) - 1))]
        of_class = {}
        for k in range(y.max() + 1):
            out = [i for i in range(len(y)) if y[i] == k and i not in kept]
            if out:
                of_class[k] = np.mean([told(x, y, kept, i) == k for i in out])
        accuracies.append(sum(share[k] * a for k, a in of_class.items()) / sum(share[k] for k in of_class))
    mean = float(np.mean(accuracies))
    low, high = np.quantile(accuracies, [0.025, 0.975])
    return CurvePoint(size, len(kept), Estimate(mean, min(low, mean), max(high, mean)))


counts_of_classes = st.lists(st.integers(1, 7), min_size=2, max_size=4)


@given(counts_of_classes, st.integers(0, 99))
def test_it_is_what_a_loop_over_draws_classes_and_rows_finds(counts: list[int], seed: int) -> None:
    x, y = examples(counts, seed)
    share = torch.arange(1.0, len(counts) + 1, dtype=torch.float64)
    curve = learning_curve(x, y, len(counts), share, repeats=6, seed=seed)
    for point in curve:
        expected = by_loop(x.numpy(), y.numpy(), point.n_shot, share.numpy(), 6, seed)
        assert (point.n_shot, point.n_labels) == (expected.n_shot, expected.n_labels)
        assert vars(point.accuracy) == pytest.approx(vars(expected.accuracy))


@given(counts_of_classes)
def test_no_point_needs_more_labels_than_there_are_and_each_has_more_than_the_one_before(counts: list[int]) -> None:
    curve = learning_curve(*examples(counts), len(counts), repeats=3)
    assert [point.n_shot for point in curve] == [size for size in (1, 2, 3, 5) if size < max(counts)]
    numbers = [point.n_labels for point in curve]
    assert numbers == [sum(max(1, min(p.n_shot, n - 1)) for n in counts) for p in curve]
    assert all(a < b for a, b in itertools.pairwise([*numbers, sum(counts)]))
    assert all(0 <= a.low <= a.value <= a.high <= 1 for a in (p.accuracy for p in curve))


def test_many_draws_come_near_to_all_that_there_could_be() -> None:
    x, y = examples([3, 3], seed=3)
    own = [np.flatnonzero(y.numpy() == k).tolist() for k in range(2)]
    every = [
        np.mean([told(x.numpy(), y.numpy(), list(kept), i) == y[i] for i in range(6) if i not in kept])
        for kept in itertools.product(*own)
    ]
    assert 0.2 < np.mean(every) < 0.95
    assert learning_curve(x, y, 2, repeats=3000)[0].accuracy.value == pytest.approx(np.mean(every), abs=0.02)


def test_a_class_of_one_example_is_not_asked_for_but_may_be_taken_for() -> None:
    x, y = examples([5, 6], noise=0.3)

    def with_one(row: torch.Tensor) -> tuple[CurvePoint, ...]:
        return learning_curve(torch.cat([x, row[None]]), torch.cat([y, torch.tensor([2])]), 3)

    alone, far = learning_curve(x, y, 2), with_one(torch.full((5,), 1e3, dtype=torch.float64))
    assert [p.n_labels + 1 for p in alone] == [p.n_labels for p in far]
    assert [p.accuracy.value for p in alone] == pytest.approx([p.accuracy.value for p in far])
    near = with_one(x[y == 0].mean(0))
    assert all(a.accuracy.value > b.accuracy.value for a, b in zip(alone, near, strict=True))


def test_nothing_is_measured_where_each_class_has_one_example() -> None:
    assert learning_curve(*examples([1, 1, 1]), 3) == ()


def test_classes_that_lie_apart_are_told_by_one_label_each_and_more_labels_help_where_they_do_not() -> None:
    assert [p.accuracy.value for p in learning_curve(*examples([4, 4], noise=1e-3), 2)] == [1, 1, 1]
    curve = learning_curve(*examples([30] * 4, noise=1.5), 4)
    assert all(a.accuracy.value < b.accuracy.value for a, b in itertools.pairwise(curve[:5]))


@pytest.mark.parametrize("seed", range(8))
def test_the_mean_lies_in_its_range_where_few_draws_are_bad(seed: int) -> None:
    y = torch.arange(2).repeat(40)
    x = torch.eye(2)[y].double()
    x[0] = torch.tensor([0.1, 1.1])  # an example of class 0 that looks like class 1: bad where it is drawn
    accuracy = learning_curve(x, y, 2, seed=seed)[0].accuracy
    assert accuracy.low <= accuracy.value <= accuracy.high
    assert accuracy.high == pytest.approx(1 - 0.5 / 39)


def test_the_seed_decides_and_neither_do_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = examples([6, 7, 2])
    curve = learning_curve(x, y, 3, seed=1)
    assert curve == learning_curve(x, y, 3, seed=1) != learning_curve(x, y, 3, seed=2)
    monkeypatch.setattr(module, "LARGEST_CHUNK", 1)
    again = learning_curve(x, y, 3, seed=1)
    assert [vars(p.accuracy) for p in again] == [pytest.approx(vars(p.accuracy)) for p in curve]


def test_where_the_work_is_large_there_are_fewer_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = examples([6, 7, 2])
    ten, all_of_them = learning_curve(x, y, 3, repeats=10), learning_curve(x, y, 3)
    monkeypatch.setattr(module, "LARGEST_WORK", 1.0)
    assert learning_curve(x, y, 3) == ten != all_of_them
    assert learning_curve(x, y, 3, repeats=4) == learning_curve(x, y, 3, repeats=4)


def test_what_cannot_be_drawn_is_refused_in_words() -> None:
    x, y = examples([3, 3])
    with pytest.raises(SettingsError, match="repeats is 0"):
        learning_curve(x, y, 2, repeats=0)
    for n_way in (1, 3):
        with pytest.raises(DataError, match=f"Each of {n_way} classes needs"):
            learning_curve(x, y, n_way)
