"""The second opinion: leaving one out in closed form is leaving one out."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from onelook.methods.second_opinion import leave_one_out, second_opinion


@given(st.integers(3, 12), st.integers(1, 20), st.integers(0, 99))
def test_each_row_is_judged_by_ridge_regression_on_the_others(n_rows: int, n_features: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(n_rows, n_features, generator=draw, dtype=torch.float64)
    targets = torch.rand(n_rows, 3, generator=draw, dtype=torch.float64)
    weight = 0.1 + torch.rand(n_rows, generator=draw, dtype=torch.float64)
    found = leave_one_out(rows, targets, weight, 0.5)
    for i in range(n_rows):
        rest = torch.arange(n_rows) != i
        x, y, w = rows[rest], targets[rest], weight[rest].unsqueeze(1)
        normal = x.T @ (w * x) + 0.5 * torch.eye(n_features, dtype=torch.float64)
        expected = rows[i] @ torch.linalg.solve(normal, x.T @ (w * y))
        torch.testing.assert_close(found[i], expected)


@given(st.integers(0, 99), st.permutations(range(6)), st.permutations(range(3)))
def test_the_order_of_queries_and_classes_and_the_origin_mean_nothing(
    seed: int, queries: list[int], classes: list[int]
) -> None:
    draw = torch.Generator().manual_seed(seed)
    support, query = (torch.randn(n, 8, generator=draw, dtype=torch.float64) for n in (6, 6))
    labels, posterior = torch.arange(6) % 3, torch.randn(6, 3, generator=draw, dtype=torch.float64).softmax(1)
    found = second_opinion(support, labels, query, posterior)
    renamed = torch.tensor([classes.index(k) for k in labels])
    other = second_opinion(support + 3, renamed, query[queries] + 3, posterior[queries][:, classes])
    torch.testing.assert_close(other, found[queries][:, classes])


def test_it_tells_classes_apart_that_differ_in_a_direction_of_little_variance() -> None:
    draw = torch.Generator().manual_seed(0)
    rows, labels = torch.randn(160, 10, generator=draw), torch.arange(160) % 2
    rows[:, 1:3] *= 4
    rows[:, 0] = 2.0 * labels - 1 + 0.3 * torch.randn(160, generator=draw)
    found = second_opinion(rows[:20], labels[:20], rows[20:], torch.full((140, 2), 0.5)).argmax(1)
    means = torch.stack([rows[:20][labels[:20] == k].mean(0) for k in (0, 1)])
    by_means = torch.cdist(rows[20:], means).argmin(1)
    assert (found == labels[20:]).float().mean() > 0.75 > 0.65 > (by_means == labels[20:]).float().mean()
