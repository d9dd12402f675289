"""Pools of any size: what a classifier says of a large one, and that it reads it a block at a time."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from onelook.data import forecast
from onelook.estimators import asking, pool
from onelook.estimators.classifier import FewShotClassifier
from onelook.estimators.fitting import Examples
from onelook.estimators.model import Scaling
from onelook.estimators.pool import Pool
from onelook.events import Forecast, Progress, finish
from onelook.methods import glance_pool
from onelook.methods.guard import MOST_CLASSES, Verdict


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool of 200 rows is large."""
    monkeypatch.setattr(pool, "LARGEST_WHOLE", 100)
    monkeypatch.setattr(pool, "BLOCK", 64)
    monkeypatch.setattr(asking, "ANCHORS", 120)


def draw_rows(n: int, n_way: int, seed: int = 0, noise: float = 1.2) -> tuple[np.ndarray, np.ndarray]:
    draw, centres = np.random.default_rng(seed), np.random.default_rng(99).normal(size=(n_way, 40))
    labels = np.concatenate([np.arange(n_way), draw.integers(n_way, size=n - n_way)])
    return (centres[labels] + noise * draw.normal(size=(n, 40))).astype(np.float32), labels


def assert_alike(one: FewShotClassifier, other: FewShotClassifier, atol: float = 1e-5, n_way: int = 4) -> None:
    np.testing.assert_array_equal(one.transduction_, other.transduction_)
    np.testing.assert_array_equal(one.inductive_, other.inductive_)
    np.testing.assert_allclose(one.transduction_proba_, other.transduction_proba_, atol=atol)
    new, _ = draw_rows(50 + n_way, n_way, seed=5)
    np.testing.assert_allclose(one.predict_proba(new), other.predict_proba(new), atol=atol)
    assert str(one.estimate_accuracy()) == str(other.estimate_accuracy())


@pytest.mark.usefixtures("small_limits")
def test_a_file_mapped_into_memory_and_parts_are_as_good_as_an_array(tmp_path: Path) -> None:
    x, y = draw_rows(12, 4)
    rows, _ = draw_rows(300, 4, seed=1)
    np.save(tmp_path / "rows.npy", rows)
    whole = FewShotClassifier().fit(x, y, rows)
    assert_alike(whole, FewShotClassifier().fit(x, y, np.load(tmp_path / "rows.npy", mmap_mode="r")))
    marked = FewShotClassifier(unlabeled_marker=-1)
    marked.fit(np.concatenate([x, rows[:70]]), np.concatenate([y, np.full(70, -1)]), rows[70:])
    assert_alike(whole, marked)


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize(("n_way", "n_anchors"), [pytest.param(4, 120, marks=pytest.mark.slow), (4, 400), (40, 120)])
def test_a_class_and_an_example_added_to_a_large_pool_give_what_a_fit_of_all_gives(
    n_way: int, n_anchors: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "ANCHORS", n_anchors)
    x, y = draw_rows(4 * n_way, n_way)
    rows, _ = draw_rows(300, n_way, seed=1)
    is_first, is_new = (y < n_way - 1) & (np.arange(len(y)) > 0), y == n_way - 1
    grown = FewShotClassifier().fit(x[is_first], y[is_first], rows).add_examples(x[is_new], y[is_new])
    grown.add_examples(x[:1], y[:1])
    order = np.concatenate([np.flatnonzero(is_first), np.flatnonzero(is_new), [0]])
    whole = FewShotClassifier().fit(x[order], y[order], rows)
    np.testing.assert_array_equal(grown.transduction_proba_, whole.transduction_proba_)
    whole.save(tmp_path / "large.safetensors")
    assert_alike(whole, FewShotClassifier.load(tmp_path / "large.safetensors"))


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("n_way", [pytest.param(4, marks=pytest.mark.slow), 40])
def test_the_answers_of_a_large_pool_turn_with_the_order_of_its_rows(n_way: int) -> None:
    x, y = draw_rows(3 * n_way, n_way)
    rows, _ = draw_rows(300, n_way, seed=1)
    order = np.random.default_rng(0).permutation(300)
    straight, turned = FewShotClassifier().fit(x, y, rows), FewShotClassifier().fit(x, y, rows[order])
    np.testing.assert_allclose(straight.transduction_proba_[order], turned.transduction_proba_, atol=1e-3)
    np.testing.assert_allclose(straight.transduction_proba_.sum(1), 1, atol=1e-5)


def test_a_large_pool_is_answered_nearly_as_if_it_were_small(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = draw_rows(24, 6, noise=1.5)
    rows, labels = draw_rows(1_500, 6, seed=1, noise=1.5)
    whole = FewShotClassifier().fit(x, y, rows)
    monkeypatch.setattr(pool, "LARGEST_WHOLE", 1_000)
    monkeypatch.setattr(asking, "ANCHORS", 500)
    large = FewShotClassifier().fit(x, y, rows)
    assert abs((whole.transduction_ == labels).mean() - (large.transduction_ == labels).mean()) < 0.01
    assert (whole.transduction_ == large.transduction_).mean() > 0.98
    assert abs(whole.estimate_accuracy().accuracy.value - large.estimate_accuracy().accuracy.value) < 0.02


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("trust", [0.0, 0.4])
def test_a_large_pool_is_used_as_far_as_it_is_trusted(trust: float, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = draw_rows(80, 40)
    rows, _ = draw_rows(200, 40, seed=1)
    verdict = Verdict(*(torch.tensor([number]) for number in (trust, 0.5, 0.5, 0.0)))
    monkeypatch.setattr(asking, "weigh", lambda _, inductive, tasks: (inductive(tasks), verdict))
    found = FewShotClassifier().fit(x, y, rows)
    np.testing.assert_allclose(found.transduction_proba_.sum(1), 1, atol=1e-5)
    if not trust:
        np.testing.assert_array_equal(found.transduction_, found.inductive_)
        np.testing.assert_array_equal(found.transduction_, found.predict(rows))


@pytest.mark.usefixtures("small_limits")
def test_many_classes_of_one_example_are_answered_by_the_examples_alone_before_rows_are_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(Pool, "spread_out")
    rows, _ = draw_rows(150, MOST_CLASSES + 1, seed=1)
    found = FewShotClassifier().fit(*draw_rows(MOST_CLASSES + 1, MOST_CLASSES + 1), rows)
    assert "more than 100 classes" in found.guard_
    np.testing.assert_array_equal(found.transduction_, found.predict(rows))


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize(
    ("n_way", "n_shot", "remembered"), [(4, 3, pool.REMEMBERED), (4, 3, 0), (MOST_CLASSES + 1, 1, 0)]
)
def test_a_fit_says_how_far_it_is_and_what_it_costs(
    n_way: int, n_shot: int, remembered: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "REMEMBERED", remembered)
    monkeypatch.setattr(forecast, "MEASURED", 0)
    (x, y), (rows, _) = draw_rows(n_shot * n_way, n_way), draw_rows(300, n_way, seed=1)
    heard, modes = list[Any](), set[bool]()

    def hear(event: Any) -> None:
        heard.append(event)
        modes.add(torch.is_grad_enabled())

    made = finish(FewShotClassifier().fit_with_events(x, y, rows, more_seconds=600.0, more_bytes=1 << 40), hear)
    assert_alike(made, FewShotClassifier().fit(x, y, rows), n_way=n_way)
    said = [one for one in heard if isinstance(one, Forecast)]
    done = [one.done for one in heard if isinstance(one, Progress)]
    assert done == sorted(done)
    assert done[0] < 150 < done[-1] == 300
    assert len(set(done)) >= 7
    assert [one.seconds > 60 and 1 << 40 < one.n_bytes < 1.1 * 2**40 for one in said] == [True]
    assert modes == {True}


@pytest.mark.usefixtures("small_limits")
def test_a_fit_that_is_given_up_reads_no_further_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "REMEMBERED", 0)
    monkeypatch.setattr(glance_pool, "BLOCK", 8)
    read, take = list[int](), Pool.take
    monkeypatch.setattr(Pool, "take", lambda self, numbers: read.append(len(numbers)) or take(self, numbers))
    rows, _ = draw_rows(920, 4, seed=1)
    work = FewShotClassifier(guard=False).fit_with_events(*draw_rows(12, 4), rows)
    next(event for event in work if len(read) > 920 / 64 + 1)  # the first of 100 blocks that Glance is asked about
    work.close()
    assert len(read) < 920 / 64 + 50


def test_new_rows_are_judged_alike_in_one_block_and_in_many(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier, (rows, _) = FewShotClassifier().fit(*draw_rows(40, 4)), draw_rows(50, 4, seed=1)
    whole = [judge(rows) for judge in (classifier.predict_proba, classifier.predict_set, classifier.unknown_score)]
    monkeypatch.setattr(pool, "BLOCK", 7)
    parts = [judge(rows) for judge in (classifier.predict_proba, classifier.predict_set, classifier.unknown_score)]
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)


def test_rows_are_chosen_by_what_they_are_and_not_by_their_order() -> None:
    rows, _ = draw_rows(300, 4)
    order = np.random.default_rng(0).permutation(300)
    straight, turned = (Pool((some,), lambda x: x).spread_out(50) for some in (rows, rows[order]))  # type: ignore[arg-type, return-value]
    assert set(order[turned[0]]) == set(straight[0])
    assert sorted([*straight[0], *straight[1]]) == list(range(300))


@pytest.mark.usefixtures("small_limits")
def test_what_depends_on_the_pool_alone_is_computed_once_and_changes_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = draw_rows(16, 4)
    rows, _ = draw_rows(300, 4, seed=1)
    grown = FewShotClassifier().fit(x[:12], y[:12], rows)
    with monkeypatch.context() as patch:
        for kind, name in ((Pool, "_scale_all"), (Pool, "_spread_out"), (asking.Near, "find")):
            patch.setattr(kind, name, pytest.fail)
        grown.add_examples(x[12:], y[12:])
    monkeypatch.setattr(pool, "REMEMBERED", 0)
    assert_alike(grown, FewShotClassifier().fit(x, y, rows))


def test_other_rows_or_another_scale_are_another_pool() -> None:
    rows, labels = draw_rows(8, 4)
    before = Examples(rows, labels, rows[:0], rows)
    network, table, moved = (
        Scaling.fit(some, kind) for some, kind in ((rows, "network"), (rows, "table"), (rows + 1, "table"))
    )
    pool = before.unlabelled(network)
    assert before.unlabelled(Scaling.fit(rows + 1, "network"), pool) is pool
    assert before.unlabelled(table, pool) is not pool
    assert before.unlabelled(moved, before.unlabelled(table)).scale is moved
    assert Examples(rows, labels, rows, rows).unlabelled(network, pool) is not pool
