"""Rows of none of the classes, judged together with their neighbours."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

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


@given(st.integers(0, 12), st.integers(0, 99))
def test_half_of_the_strangeness_is_that_of_the_nearest_rows(n_strangers: int, seed: int) -> None:
    x, y, pool = draw(n_strangers, seed)
    pool = np.vstack([pool, 2 * pool[:3]])  # copies, at another length
    strangers = open_strangers(x, y, pool)
    unit = pool / np.linalg.norm(pool, axis=1, keepdims=True)
    own = strangers.support.strangeness(torch.from_numpy(unit)).numpy()
    expected = own
    for _ in range(2):
        found = []
        for i, row in enumerate(unit):
            others = [j for j in np.argsort(-unit @ row) if unit[j] @ row < 1 - 1e-5][:3]
            found.append((own[i] + expected[others].mean()) / 2)
        expected = np.array(found)
    np.testing.assert_allclose(finish(strangers.score_pool()).numpy(), expected, rtol=1e-9, atol=1e-9)


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
