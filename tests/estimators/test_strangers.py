"""Rows of none of the classes, judged together with their neighbours."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from onelook.estimators.calibration import conformal_threshold, prediction_limit
from onelook.estimators.classifier import FewShotClassifier
from onelook.estimators.model import SupportModel
from onelook.estimators.pool import Pool
from onelook.estimators.strangers import Strangers
from onelook.events import finish
from onelook.methods.priors import ClassPriors


def draw(n_strangers: int, seed: int, per_class: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labelled rows of four classes, their labels, and a pool: 20 of each class, then those of another one."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(5, 24))

    def around(labels: np.ndarray) -> np.ndarray:
        return centres[labels] + 1.6 * rng.normal(size=(len(labels), 24))

    labels = np.tile(np.arange(4), per_class)
    pool = np.concatenate([np.repeat(np.arange(4), 20), np.full(n_strangers, 4)])
    return around(labels), labels, around(pool)


def open_strangers(x: np.ndarray, y: np.ndarray, pool: np.ndarray) -> Strangers:
    support = SupportModel.fit(x, y, ClassPriors.parse("unknown"), "network")
    return Strangers(support, Pool((pool,), support.scaling))


def averaged(own: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Half of each row's own, half the mean of the three nearest others, which were averaged in the same way."""
    expected = own
    for _ in range(2):
        found = []
        for i, row in enumerate(unit):
            others = [j for j in np.argsort(-unit @ row) if unit[j] @ row < 1 - 1e-5][:3]
            found.append((own[i] + expected[others].mean()) / 2)
        expected = np.array(found)
    return expected


def slow_scores(support: SupportModel, unit: np.ndarray) -> Any:
    """Three rounds of ridge regression by scikit-learn, fitted anew without each unlabelled row."""
    own = support.strangeness(torch.from_numpy(unit)).numpy()
    together = averaged(own, unit)
    strangeness = together.copy()
    known = support.logits(torch.from_numpy(unit)).softmax(1).numpy()
    n, n_way = len(support.rows), known.shape[1]
    rows = np.vstack([support.rows.numpy(), unit])
    away = rows - rows.mean(0)
    z = np.column_stack([away / np.sqrt((away**2).sum(1).mean()), np.ones(len(rows))])
    weight = np.repeat([1, 0.3], [n, len(unit)])
    for _ in range(3):
        low, middle, high = np.quantile(strangeness, [0.68, 0.8, 0.92])
        strange = 1 / (1 + 16 ** (-(strangeness - middle) / (high - low)))
        targets = np.zeros((len(rows), n_way + 1))
        targets[np.arange(n), support.labels] = 1
        targets[n:] = np.column_stack([known * (1 - strange[:, None]), strange])
        for i in range(len(unit)):
            kept = np.arange(len(rows)) != n + i
            model = Ridge(support.penalty.item(), fit_intercept=False, solver="cholesky")
            opinion = model.fit(z[kept], targets[kept], weight[kept]).predict(z[n + i : n + i + 1])[0]
            strangeness[i] = opinion[-1] - opinion[:-1].max()
    return sum((one - one.mean()) / one.std(ddof=1) for one in (own, together, strangeness))


@settings(max_examples=5)
@given(st.integers(0, 12), st.integers(0, 99), st.integers(1, 5))
def test_the_strangest_rows_are_a_class_in_a_regression_that_leaves_each_row_out(
    n_strangers: int, seed: int, per_class: int
) -> None:
    x, y, pool = draw(n_strangers, seed, per_class)
    pool = np.vstack([pool, 2 * pool[:3]])  # copies, at another length
    strangers = open_strangers(x, y, pool)
    unit = pool / np.linalg.norm(pool, axis=1, keepdims=True)
    expected = slow_scores(strangers.support, unit)
    np.testing.assert_allclose(finish(strangers.score_pool()).numpy(), expected, rtol=1e-6, atol=1e-6)


@settings(max_examples=20)
@given(st.integers(1, 12), st.integers(0, 99), st.sampled_from([0.05, 0.2]))
def test_as_many_unlabelled_rows_are_set_aside_as_without_a_class_of_strangers(
    n_strangers: int, seed: int, rate: float
) -> None:
    x, y, pool = draw(n_strangers, seed)
    strangers = open_strangers(x, y, pool)
    unit = pool / np.linalg.norm(pool, axis=1, keepdims=True)
    support = strangers.support
    first = averaged(support.strangeness(torch.from_numpy(unit)).numpy(), unit)
    known, witnesses = support.left_out_strangeness, strangers.witnesses
    assert witnesses is not None
    limits = (
        prediction_limit(witnesses.judge(support.rows, known), rate),
        conformal_threshold(torch.from_numpy(first), rate),
    )
    found = strangers.find(finish(strangers.score_pool()), rate)
    assert found.sum() == (first > min(limits)).sum()


def test_images_of_one_unknown_class_give_each_other_away() -> None:
    together, apart, aside = [], [], []
    for seed in range(30):
        x, y, pool = draw(12, seed)
        one = FewShotClassifier().fit(x, y, unlabeled=pool).reject(pool, 0.05)
        together.append(one[80:].mean())
        aside.append(one[:80].mean())
        by_one = [FewShotClassifier().fit(x, y, unlabeled=np.vstack([pool[:80], row])) for row in pool[80::4]]
        apart.append(np.mean([made.reject(row[None], 0.05) for made, row in zip(by_one, pool[80::4], strict=True)]))
    assert np.mean(together) > np.mean(apart) + 0.1
    assert np.mean(aside) < 0.08


def test_a_row_is_judged_alike_among_the_unlabelled_ones_and_as_a_new_one() -> None:
    x, y, pool = draw(8, 0)
    made = FewShotClassifier().fit(x, y, unlabeled=pool)
    order = np.random.default_rng(0).permutation(len(pool))
    moved = FewShotClassifier().fit(x, y, unlabeled=pool[order])
    np.testing.assert_allclose(made.unknown_score(pool[order]), moved.unknown_score(pool[order]), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(made.unknown_score(pool[5:6])[0], made.unknown_score(pool)[5], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("n_pool", [0, 1])
def test_without_others_a_row_is_judged_by_itself(n_pool: int) -> None:
    x, y, pool = draw(0, 0)
    strangers = open_strangers(x, y, pool[:n_pool])
    row = strangers.support.scaling(pool[:1])
    torch.testing.assert_close(strangers.score(row), strangers.support.strangeness(row))
    assert strangers.find(torch.tensor([9.0, -9.0]), 0.05).tolist() == [True, False]
