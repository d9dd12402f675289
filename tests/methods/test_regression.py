"""Ridge regression on support and queries: leaving one out in closed form is leaving one out."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from onelook.methods.regression import Moments, Regression

PENALTY = torch.full((1, 1, 1), 0.5)


@given(st.integers(3, 12), st.integers(1, 20), st.integers(0, 99), st.floats(0.01, 100))
def test_each_row_is_judged_by_ridge_regression_on_the_others(
    n_rows: int, n_features: int, seed: int, penalty: float
) -> None:
    draw = torch.Generator().manual_seed(seed)
    rows = 3 + torch.randn(2, n_rows, n_features, generator=draw, dtype=torch.float64)
    targets = torch.rand(2, n_rows, 3, generator=draw, dtype=torch.float64)
    weight = 0.1 + torch.rand(2, n_rows, generator=draw, dtype=torch.float64)
    regression = Regression.fit(rows, weight, torch.tensor([penalty, 1.0], dtype=torch.float64).view(-1, 1, 1))
    found, of_all = regression.leave_out(targets), regression.solve(targets)(rows)
    for task in range(2):
        about = rows[task] - rows[task].mean(0)
        z = torch.cat([about / about.square().sum(1).mean().sqrt(), torch.ones(n_rows, 1)], 1).numpy()

        def fit(kept: torch.Tensor, t: int = task, z=z) -> Ridge:  # type: ignore[no-untyped-def]
            return Ridge((penalty, 1.0)[t], fit_intercept=False).fit(z[kept], targets[t][kept], weight[t][kept])

        everything = torch.arange(n_rows)
        torch.testing.assert_close(of_all[task].numpy(), fit(everything).predict(z), rtol=1e-6, atol=1e-8)
        for i in range(n_rows):
            expected = fit(everything[everything != i]).predict(z[i : i + 1])[0]
            torch.testing.assert_close(found[task, i].numpy(), expected, rtol=1e-6, atol=1e-8)


@given(st.integers(0, 99), st.permutations(range(9)), st.permutations(range(3)), st.integers(2, 20))
def test_the_order_of_rows_and_classes_and_the_origin_and_unit_mean_nothing(
    seed: int, order: list[int], classes: list[int], n_features: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(1, 9, n_features, generator=draw, dtype=torch.float64)
    targets = torch.randn(1, 9, 3, generator=draw, dtype=torch.float64).softmax(2)
    weight = 0.1 + torch.rand(1, 9, generator=draw, dtype=torch.float64)
    found = Regression.fit(rows, weight, PENALTY).leave_out(targets)
    moved = Regression.fit(5 * rows[:, order] + 3, weight[:, order], PENALTY)
    torch.testing.assert_close(moved.leave_out(targets[:, order][..., classes]), found[:, order][..., classes])


def test_known_moments_of_the_last_rows_change_nothing() -> None:
    draw = torch.Generator().manual_seed(0)
    rows = 5 + torch.randn(2, 40, 6, generator=draw, dtype=torch.float64)
    weight = torch.cat([1 + torch.rand(2, 10, generator=draw), torch.full((2, 30), 0.3)], 1).double()
    targets = torch.rand(2, 40, 3, generator=draw, dtype=torch.float64)
    penalty = torch.tensor([0.5, 8.0]).view(-1, 1, 1)
    plain, known = (Regression.fit(rows, weight, penalty, some) for some in (None, Moments.of(rows[:, 10:])))
    torch.testing.assert_close(known.leave_out(targets), plain.leave_out(targets))
    torch.testing.assert_close(known.solve(targets)(rows), plain.solve(targets)(rows))


def test_it_tells_classes_apart_that_differ_in_a_direction_of_little_variance() -> None:
    draw = torch.Generator().manual_seed(0)
    rows, labels = torch.randn(160, 10, generator=draw), torch.arange(160) % 2
    rows[:, 1:3] *= 4
    rows[:, 0] = 2.0 * labels - 1 + 0.3 * torch.randn(160, generator=draw)
    targets = torch.full((160, 2), 0.5)
    targets[:20] = torch.eye(2)[labels[:20]]
    weight = torch.full((160,), 0.3)
    weight[:20] = 1.0
    found = Regression.fit(rows[None], weight[None], PENALTY).leave_out(targets[None])[0, 20:].argmax(1)
    means = torch.stack([rows[:20][labels[:20] == k].mean(0) for k in (0, 1)])
    by_means = torch.cdist(rows[20:], means).argmin(1)
    assert (found == labels[20:]).float().mean() > 0.75 > 0.65 > (by_means == labels[20:]).float().mean()
