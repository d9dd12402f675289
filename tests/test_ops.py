import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from torch.nn import functional

from helpers.methods import tasks_of_any_shape
from onelook import ops
from onelook.tasks import Tasks


@given(tasks_of_any_shape())
def test_class_means_are_the_means_of_the_rows_of_each_class(tasks: Tasks) -> None:
    found = ops.class_means(tasks.support, tasks.support_labels, tasks.n_way).numpy()
    support, labels = tasks.support.numpy(), tasks.support_labels.numpy()
    for i in range(len(tasks)):
        for k in range(tasks.n_way):
            np.testing.assert_allclose(found[i, k], support[i][labels[i] == k].mean(axis=0), rtol=1e-12, atol=1e-12)


@given(tasks_of_any_shape())
def test_one_hot_marks_the_class_of_every_row(tasks: Tasks) -> None:
    found = ops.one_hot(tasks.support_labels, tasks.n_way, torch.float64)
    assert found.dtype == torch.float64
    assert torch.equal(found.long(), functional.one_hot(tasks.support_labels, tasks.n_way))


@given(tasks_of_any_shape())
def test_cosine_similarity_is_that_of_torch(tasks: Tasks) -> None:
    expected = functional.cosine_similarity(tasks.query.unsqueeze(2), tasks.support.unsqueeze(1), dim=-1)
    torch.testing.assert_close(ops.cosine_similarity(tasks.query, tasks.support), expected, rtol=1e-12, atol=1e-12)


@given(tasks_of_any_shape(), st.floats(0.01, 100))
def test_cosine_similarity_does_not_depend_on_lengths(tasks: Tasks, factor: float) -> None:
    expected = ops.cosine_similarity(tasks.query, tasks.support)
    torch.testing.assert_close(ops.cosine_similarity(factor * tasks.query, tasks.support / factor), expected)


@given(tasks_of_any_shape())
def test_squared_distance_is_the_square_of_the_distance_of_torch(tasks: Tasks) -> None:
    expected = torch.cdist(tasks.query, tasks.support, compute_mode="donot_use_mm_for_euclid_dist").square()
    torch.testing.assert_close(ops.squared_distance(tasks.query, tasks.support), expected, rtol=1e-9, atol=1e-12)


@given(tasks_of_any_shape(n_query=st.integers(2, 4)), st.sampled_from([1.0, 1e3]))
def test_squared_distance_is_never_negative_even_of_a_row_to_itself(tasks: Tasks, far: float) -> None:
    # Rounding of the three products would leave small negative numbers, and their square root would be NaN.
    x = (tasks.query + far).float()
    assert (ops.squared_distance(x, x) >= 0).all()


@given(tasks_of_any_shape())
def test_normalised_rows_have_length_one_and_the_old_direction(tasks: Tasks) -> None:
    found = ops.normalise(tasks.query)
    torch.testing.assert_close(found, functional.normalize(tasks.query, dim=-1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.square().sum(-1), torch.ones(found.shape[:-1], dtype=torch.float64))


def test_a_zero_row_stays_zero_and_its_gradient_is_finite() -> None:
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    found = ops.normalise(x)
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.0], [0.6, 0.8]]), rtol=1e-6, atol=0)
    found.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_the_cosine_of_a_zero_row_is_zero_and_its_gradient_is_finite() -> None:
    query = torch.zeros(1, 2, 3, requires_grad=True)
    weights = torch.zeros(1, 2, 3, requires_grad=True)
    found = ops.cosine_similarity(query, weights)
    assert not found.any()
    found.sum().backward()
    assert query.grad is not None
    assert query.grad.isfinite().all()
    assert weights.grad is not None
    assert weights.grad.isfinite().all()


@given(tasks_of_any_shape(), st.floats(0.01, 100))
def test_ridge_regression_is_that_of_scikit_learn_without_an_intercept(tasks: Tasks, ridge: float) -> None:
    hot = ops.one_hot(tasks.support_labels, tasks.n_way, torch.float64)
    found = ops.ridge_regression(tasks.support, hot, ridge).numpy()
    for i in range(len(tasks)):
        expected = Ridge(alpha=ridge, fit_intercept=False, solver="svd").fit(tasks.support[i].numpy(), hot[i].numpy())
        np.testing.assert_allclose(found[i], expected.coef_, rtol=1e-9, atol=1e-9)


@given(tasks_of_any_shape(), st.floats(0.01, 100))
def test_the_small_system_of_ridge_regression_solves_the_normal_equations(tasks: Tasks, ridge: float) -> None:
    x, hot = tasks.support, ops.one_hot(tasks.support_labels, tasks.n_way, torch.float64)
    primal = torch.linalg.solve(x.mT @ x + ridge * torch.eye(x.shape[2], dtype=torch.float64), x.mT @ hot)
    torch.testing.assert_close(ops.ridge_regression(x, hot, ridge).mT, primal, rtol=1e-9, atol=1e-9)


def test_ridge_regression_stays_finite_where_the_ridge_is_lost_in_rounding() -> None:
    draw = torch.Generator().manual_seed(0)
    x = 100 * torch.randn(2, 10, 20, generator=draw)
    hot = ops.one_hot(torch.arange(10).expand(2, -1) % 5, 5, torch.float32)
    assert ops.ridge_regression(x, hot, 1e-8).isfinite().all()


@given(tasks_of_any_shape(), st.integers(0, 1000))
def test_the_pullback_of_the_cosine_is_the_product_with_its_jacobian(tasks: Tasks, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    shape = (len(tasks), tasks.n_way, tasks.query.shape[-1])
    weights = torch.randn(shape, generator=draw, dtype=torch.float64).requires_grad_()
    cosine = functional.cosine_similarity(tasks.query.unsqueeze(2), weights.unsqueeze(1), dim=-1)
    upstream = torch.randn(cosine.shape, generator=draw, dtype=torch.float64)
    (expected,) = torch.autograd.grad(cosine, weights, upstream * cosine.detach())
    found = ops.cosine_pullback(tasks.query, weights, lambda given: upstream * given)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@given(tasks_of_any_shape(), st.integers(0, 100))
def test_soft_class_means_are_weighted_means_and_those_of_the_support_where_no_query_counts(
    tasks: Tasks, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    share = torch.rand(*tasks.query.shape[:2], tasks.n_way, generator=draw, dtype=torch.float64)
    found = ops.soft_class_means(tasks.support, tasks.support_labels, tasks.query, share).numpy()
    for i in range(len(tasks)):
        for k in range(tasks.n_way):
            rows = np.concatenate([tasks.support[i][tasks.support_labels[i] == k].numpy(), tasks.query[i].numpy()])
            weights = np.concatenate([np.ones(len(rows) - tasks.query.shape[1]), share[i, :, k].numpy()])
            np.testing.assert_allclose(found[i, k], np.average(rows, axis=0, weights=weights), rtol=1e-9, atol=1e-9)
    alone = ops.soft_class_means(tasks.support, tasks.support_labels, tasks.query, torch.zeros_like(share))
    torch.testing.assert_close(alone, ops.class_means(tasks.support, tasks.support_labels, tasks.n_way))


@given(st.integers(1, 3), st.integers(1, 12), st.integers(2, 5), st.integers(0, 1000))
def test_sinkhorn_is_the_plan_nearest_to_the_kernel_that_has_the_marginals(
    n_tasks: int, n_query: int, n_way: int, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    kernel = 3 * torch.randn(n_tasks, n_query, n_way, generator=draw, dtype=torch.float64)
    mass = torch.rand(n_tasks, n_way, generator=draw, dtype=torch.float64) + 0.1
    mass = n_query * mass / mass.sum(1, keepdim=True)
    log_plan = ops.sinkhorn(kernel, mass, 2000)
    torch.testing.assert_close(log_plan.exp().sum(2), torch.ones(n_tasks, n_query, dtype=torch.float64))
    torch.testing.assert_close(log_plan.exp().sum(1), mass, rtol=1e-4, atol=1e-4)
    # Of the form diag(a) kernel diag(b), which is what makes it the optimum: no interaction is left in the ratio.
    ratio = log_plan - kernel
    interaction = ratio - ratio.mean(1, keepdim=True) - ratio.mean(2, keepdim=True) + ratio.mean((1, 2), keepdim=True)
    assert interaction.abs().max() < 1e-9


def test_sinkhorn_survives_kernels_beyond_the_range_of_floats() -> None:
    kernel = torch.tensor([[[0.0, -1e4], [-1e4, 0.0], [-1e4, -2e4]]])
    log_plan = ops.sinkhorn(kernel, ops.balanced_mass(kernel), 30)
    assert not log_plan.isnan().any()
    torch.testing.assert_close(log_plan.exp().sum(2), torch.ones(1, 3))


@given(st.integers(1, 3), st.integers(2, 7), st.integers(1, 6), st.integers(0, 1000))
def test_the_nearest_others_of_a_row_are_the_most_similar_rows_but_itself(
    n_tasks: int, n_rows: int, n: int, seed: int
) -> None:
    similarity = torch.randn(n_tasks, n_rows, n_rows, generator=torch.Generator().manual_seed(seed))
    n = min(n, n_rows - 1)
    found = ops.nearest_others(similarity, n)
    for task in range(n_tasks):
        for i in range(n_rows):
            others = sorted((j for j in range(n_rows) if j != i), key=lambda j: -similarity[task, i, j])
            assert found[task, i].nonzero().flatten().tolist() == sorted(others[:n])


@given(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7), st.integers(1, 8), st.integers(0, 1000))
def test_the_leading_part_is_the_nearest_of_its_rank(
    n_tasks: int, n_rows: int, n_features: int, n: int, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n_tasks, n_rows, n_features, generator=draw, dtype=torch.float64)
    found = ops.leading_part(x, n).numpy()
    for i in range(n_tasks):
        left, values, right = np.linalg.svd(x[i].numpy(), full_matrices=False)
        np.testing.assert_allclose(found[i], left[:, :n] * values[:n] @ right[:n], atol=1e-9)


def test_sinkhorn_of_some_of_the_rows_is_that_of_these_rows_alone() -> None:
    kernel = 3 * torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = torch.tensor([[True, False, True, True, False, True]]).expand(2, -1)
    mass = torch.tensor([[1.0, 1.0, 2.0]], dtype=torch.float64).expand(2, -1)
    alone = ops.sinkhorn(kernel[:, [0, 2, 3, 5]], mass, 7)
    torch.testing.assert_close(ops.sinkhorn(kernel, mass, 7, rows)[:, [0, 2, 3, 5]], alone)
    assert ops.sinkhorn(kernel, mass, 7, torch.zeros_like(rows)).isfinite().all()


@pytest.mark.parametrize(
    ("n_tasks", "n_others", "n_query", "n"),
    [(3, 4, 6, 5), (2, 0, 2, 1), (2, 3, 1, 3), (1, 1, 512, 4), (2, 5, 513, 3), (1, 7, 1030, 6)],
)
def test_the_nearest_rows_are_those_of_a_full_table_on_both_sides_of_every_border(
    n_tasks: int, n_others: int, n_query: int, n: int
) -> None:
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(n_tasks, n_others + n_query, 5, generator=draw, dtype=torch.float64)
    values, indices = (x.numpy() for x in ops.nearest_rows(rows[:, n_others:], rows, n))
    assert values.shape == indices.shape == (n_tasks, n_query, n)
    itself = n_others + np.arange(n_query)
    assert not (indices == itself[:, None]).any()
    for task, row in enumerate(rows.numpy()):
        table = row[n_others:] @ row.T
        table[np.arange(n_query), itself] = -np.inf
        np.testing.assert_array_equal(indices[task], np.argsort(-table, axis=1)[:, :n])
        expected = np.take_along_axis(table, indices[task], axis=1)
        np.testing.assert_allclose(values[task], expected, rtol=1e-12, atol=1e-12)


def test_a_row_that_is_there_twice_is_its_twins_nearest() -> None:
    row = ops.normalise(torch.randn(1, 1500, 8, generator=torch.Generator().manual_seed(0)))
    twice = torch.cat([row, row], 1)
    values, indices = ops.nearest_rows(twice, twice, 1)
    torch.testing.assert_close(values, torch.ones(1, 3000, 1))
    assert torch.equal(indices.flatten(), torch.arange(3000).roll(1500))


def test_the_nearest_of_both_are_those_of_all() -> None:
    draw = torch.Generator().manual_seed(0)
    query, support = torch.randn(2, 30, 5, generator=draw), torch.randn(2, 4, 5, generator=draw)
    found = ops.nearest_of_both(query, support, ops.nearest_rows(query, query, 6), 6)
    expected = ops.nearest_rows(query, torch.cat([support, query], 1), 6)
    torch.testing.assert_close(found, expected)


@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 40), st.integers(0, 1000))
def test_rows_in_few_axes_keep_their_lengths_and_angles(n_tasks: int, n_rows: int, n_features: int, seed: int) -> None:
    """Also where rows are equal, or zero."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n_tasks, n_rows, n_features, generator=draw, dtype=torch.float64)
    x[:, n_rows // 2] = x[:, 0]
    x[0, -1] = 0
    found = ops.in_few_axes(x)
    assert found.shape[2] == (n_rows if 2 * n_rows <= n_features else n_features)
    torch.testing.assert_close(found @ found.mT, x @ x.mT, rtol=1e-7, atol=1e-7)


@given(st.integers(1, 40), st.floats(0.1, 1000), st.integers(0, 1000))
def test_log_softmax_is_that_of_torch(n_way: int, scale: float, seed: int) -> None:
    x = scale * torch.randn(3, 4, n_way, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(ops.log_softmax(x), x.log_softmax(-1))
