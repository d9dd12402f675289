"""The penalty of ridge regression, judged by examples that are left out."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.methods import random_tasks
from onelook.methods import penalty
from onelook.methods.penalty import judge_penalty
from onelook.methods.regression import RIDGE
from onelook.ops import one_hot
from onelook.tasks import Tasks
from reference import penalty as reference

SHOTS = st.lists(st.integers(1, 4), min_size=2, max_size=4).map(tuple)


def judge(tasks: Tasks, weight: torch.Tensor | None = None) -> torch.Tensor:
    hot = one_hot(tasks.support_labels, tasks.n_way, torch.float64)
    return judge_penalty(tasks.support.double(), hot.new_ones(hot.shape[:2]) if weight is None else weight, hot)


@given(SHOTS, st.integers(1, 20), st.integers(0, 99))
def test_it_is_the_mean_of_the_grid_by_the_evidence_of_regressions_fitted_again(
    shots: tuple[int, ...], n_features: int, seed: int
) -> None:
    tasks = random_tasks(n_tasks=1, shots=shots, feature_size=n_features, seed=seed)
    weight = 0.1 + torch.rand(1, sum(shots), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = reference.suited(tasks.support[0].numpy(), weight[0].numpy(), tasks.support_labels[0].numpy())
    assert judge(tasks, weight).item() == pytest.approx(expected, rel=1e-5)


@given(SHOTS, st.integers(0, 99), st.randoms())
def test_the_order_of_rows_their_unit_and_the_other_tasks_mean_nothing(
    shots: tuple[int, ...], seed: int, draw: random.Random
) -> None:
    tasks = random_tasks(n_tasks=3, shots=shots, feature_size=5, seed=seed)
    order = draw.sample(range(sum(shots)), sum(shots))
    found = judge(tasks)
    for i in range(3):
        support, labels = (part[[i]][:, order] for part in (tasks.support, tasks.support_labels))
        alone = judge(Tasks(3 * support, labels, tasks.query[[i]], len(shots)))
        torch.testing.assert_close(alone, found[[i]])


def test_noise_in_all_directions_asks_for_a_large_penalty_and_fine_differences_for_a_small_one() -> None:
    draw, labels = torch.Generator().manual_seed(0), torch.arange(200) % 3
    noise = torch.randn(1, 200, 80, generator=draw)
    clouds = 1.5 * torch.eye(80)[labels] + noise
    fine = 0.2 * torch.eye(80)[labels] + 0.02 * noise + 3 * torch.eye(80)[3] * noise
    small, large = (judge(Tasks(x, labels[None], x, 3)).item() for x in (fine, clouds))
    assert small < RIDGE / 2 < 1.4 * RIDGE < large


def test_many_examples_are_judged_in_single_precision() -> None:
    tasks = random_tasks(n_tasks=1, shots=(40, 60), feature_size=12, noise=2.0)
    expected = judge(tasks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(penalty, "LARGE", 100)
        torch.testing.assert_close(judge(tasks), expected, rtol=1e-4, atol=0)
