import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.svm import LinearSVC
from torch import Tensor

from helpers.methods import random_tasks, tasks_of_any_shape
from onelook import ops
from onelook.methods import convex
from onelook.methods.convex import crammer_singer_dual
from onelook.tasks import Tasks

prices = st.sampled_from([0.1, 2.0, 30.0])


def dual_of(tasks: Tasks, price: float) -> Tensor:
    return crammer_singer_dual(tasks.support, tasks.support_labels, tasks.n_way, price)


def weights_of(tasks: Tasks, price: float) -> Tensor:
    return dual_of(tasks, price).mT @ tasks.support


def objectives(tasks: Tasks, price: float) -> tuple[Tensor, Tensor]:
    """The primal objective, 1/2 |w|^2 + C sum of violated margins, and the dual one, of each task."""
    alpha, weights = dual_of(tasks, price), weights_of(tasks, price)
    hot = ops.one_hot(tasks.support_labels, tasks.n_way, torch.float64)
    scores = tasks.support @ weights.mT
    slack = (scores + 1 - hot).amax(-1) - (scores * hot).sum(-1)
    half = 0.5 * weights.square().sum((1, 2))
    return half + price * slack.sum(1), (alpha * hot).sum((1, 2)) - half


@given(tasks_of_any_shape(), prices)
def test_the_weights_are_those_of_the_crammer_singer_machine_of_scikit_learn(tasks: Tasks, price: float) -> None:
    weights = weights_of(tasks, price).numpy()
    machine = LinearSVC(C=price, multi_class="crammer_singer", fit_intercept=False, tol=1e-12, max_iter=10**6)
    for i in range(len(tasks)):
        found = machine.fit(tasks.support[i].numpy(), tasks.support_labels[i].numpy()).coef_
        # Of two classes scikit-learn keeps the difference of the weights, which sum to zero.
        expected = found if tasks.n_way > 2 else np.concatenate([-found / 2, found / 2])
        np.testing.assert_allclose(weights[i], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("shots", "feature_size"), [((25,) * 5, 256), ((25,) * 5, 8), ((1, 2, 10, 20), 30), ((3,) * 20, 64)]
)
@pytest.mark.parametrize("length", [1.0, 10.0])
def test_primal_and_dual_objectives_meet_which_proves_the_solution(
    shots: tuple[int, ...], feature_size: int, length: float
) -> None:
    tasks = random_tasks(n_tasks=2, shots=shots, feature_size=feature_size)
    tasks = Tasks(length * tasks.support, tasks.support_labels, tasks.query, tasks.n_way)
    primal, dual = objectives(tasks, 0.1)
    assert ((primal - dual).abs() < 1e-8 * primal).all()
    alpha = dual_of(tasks, 0.1)
    assert (alpha.sum(-1).abs() < 1e-12).all()
    assert (alpha <= 0.1 * ops.one_hot(tasks.support_labels, tasks.n_way, torch.float64) + 1e-12).all()


@given(tasks_of_any_shape(), st.floats(-2, 1), st.floats(-2, 1))
def test_every_task_reaches_the_central_path_at_the_last_mu(tasks: Tasks, log_price: float, log_length: float) -> None:
    h = 10 ** (log_price + 2 * log_length) * tasks.support @ tasks.support.mT
    y = ops.one_hot(tasks.support_labels, tasks.n_way, torch.float64).mT.contiguous()
    h = h + 1e-11 * h.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * torch.eye(h.shape[1], dtype=torch.float64)
    point = convex._solution(h, y)
    assert ((point.b * point.z / 1e-12 - 1).abs() < 0.1).all()
    assert ((point.b.sum(1) - 1).abs() < 1e-9).all()
    assert ((y - (y - point.b) @ h - point.nu - point.z).abs() < 1e-7).all()


def test_a_batch_of_easy_and_hard_tasks_is_what_each_is_alone() -> None:
    tasks = random_tasks(n_tasks=4, shots=(5, 5, 5), feature_size=8)
    lengths = torch.tensor([0.0, 0.1, 1.0, 100.0], dtype=torch.float64)[:, None, None]
    tasks = Tasks(lengths * tasks.support, tasks.support_labels, tasks.query, tasks.n_way)
    alone = torch.cat([weights_of(tasks[i : i + 1], 0.1) for i in range(4)])
    torch.testing.assert_close(weights_of(tasks, 0.1), alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("price", [0.1, 2.0, 30.0])
@pytest.mark.parametrize("feature_size", [4, 8])  # fewer and more features than support rows
def test_gradients_are_those_of_finite_differences(feature_size: int, price: float) -> None:
    tasks = random_tasks(n_tasks=2, shots=(1, 2, 3), feature_size=feature_size)

    def weights(support: Tensor) -> Tensor:
        return weights_of(Tasks(support, tasks.support_labels, tasks.query, tasks.n_way), price)

    support = tasks.support.requires_grad_()
    assert torch.autograd.gradcheck(weights, support, atol=1e-6, rtol=1e-5, fast_mode=True)


@pytest.mark.parametrize("length", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize("feature_size", [2, 40])  # fewer than rows, where rounded products are not semidefinite; more
def test_float32_is_float64_to_its_own_precision(feature_size: int, length: float) -> None:
    tasks = random_tasks(shots=(1, 5, 5, 5), feature_size=feature_size)
    rows = length * tasks.support
    exact, rounded = (
        weights_of(Tasks(x, tasks.support_labels, tasks.query, tasks.n_way), 0.1) for x in (rows, rows.float())
    )
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded.double(), exact, rtol=1e-3, atol=1e-5 * float(exact.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("length", [0.0, 1e-6, 1.0, 1e3])
def test_doubled_rows_of_different_classes_and_any_length_give_finite_weights_and_gradients(
    length: float, dtype: torch.dtype
) -> None:
    rows = length * torch.randn(3, 8, 5, generator=torch.Generator().manual_seed(0), dtype=dtype)
    rows[:, 4:] = rows[:, :4]  # every row once in each half, mostly under two labels
    rows[2] = rows[2, :1]
    rows.requires_grad_()
    labels = torch.tensor([0, 1, 2, 0, 1, 1, 0, 2]).expand(3, -1)
    weights = weights_of(Tasks(rows, labels, rows.detach(), 3), 0.1)
    assert weights.isfinite().all()
    weights.square().sum().backward()
    assert rows.grad is not None
    assert rows.grad.isfinite().all()
