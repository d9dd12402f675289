"""A second opinion about each query: ridge regression on all other rows, with the answers so far as their labels.

Glance compares rows with class means. Where classes differ by little in a few directions, the means are the wrong
geometry, and three labelled examples a class or more say so: a linear classifier is then 2 to 10 points better
(docs/log.md). Here it learns from the labelled examples and, with less weight, from the queries with the posteriors
that they have; a query is judged by the classifier of all other rows, so that it does not hear itself. Its class
frequencies are those of the posteriors, which its intercept learns.

Leaving one out is in closed form: with A = X'WX + ridge I and h_i = w_i x_i' A^-1 x_i, the prediction y_i of the
classifier of all rows becomes (y_i - h_i t_i) / (1 - h_i) for that of all but row i with target t_i (Ryan M. Rifkin,
Ross A. Lippert. Notes on Regularized Least Squares. MIT-CSAIL-TR-2007-025, section 3).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from onelook import ops

RIDGE = 0.5
"""Penalty of the squared weights, for rows whose mean square is 1; 0.3 to 1 gave the same within 0.5 points."""
QUERY_WEIGHT = 0.3
"""Weight of a query, where a labelled example has 1; 0.1 to 0.6 gave the same within 0.3 points."""


def second_opinion(
    support: Float[Tensor, "S D"],
    labels: Int[Tensor, "S"],
    query: Float[Tensor, "Q D"],
    posterior: Float[Tensor, "Q K"],
) -> Float[Tensor, "Q K"]:
    """Predicted one-hot labels of the queries. posterior: the answers so far.

    >>> support, query = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([[0.1, 0.9], [0.8, 0.1]])
    >>> second_opinion(support, torch.tensor([0, 1]), query, torch.full((2, 2), 0.5)).argmax(1)
    tensor([0, 1])
    """
    hot = ops.one_hot(labels[None], posterior.shape[1], posterior.dtype)[0]
    rows, targets = torch.cat([support, query]), torch.cat([hot, posterior])
    weight = targets.new_full((len(rows),), QUERY_WEIGHT)
    weight[: len(support)] = 1.0
    rows = rows - rows.mean(0)
    # The intercept is a constant feature as large as the others together, penalised as they are.
    rows = rows / rows.square().sum(1).mean().sqrt().clamp_min(1e-6)
    rows = torch.cat([rows, rows.new_ones(len(rows), 1)], 1)
    return leave_one_out(rows, targets, weight, RIDGE)[len(support) :]


Read = Callable[[], Iterator[tuple[slice, Float[Tensor, "N D"], Float[Tensor, "N K"]]]]
"""Reads all queries with their posteriors, a block at a time."""


@dataclass(frozen=True)
class Ridge:
    """Opinions about more queries than are held in memory, which are read three times."""

    mean: Float[Tensor, "D"]
    scale: float
    factor: Float[Tensor, "E E"]
    """Cholesky factor of the weighted squares of the rows with their intercept."""
    solution: Float[Tensor, "E K"]

    @classmethod
    def fit(cls, support: Float[Tensor, "S D"], labels: Int[Tensor, "S"], n_way: int, read: Read) -> "Ridge":
        hot = ops.one_hot(labels[None], n_way, support.dtype)[0]
        n, total, squares = len(support), support.double().sum(0), float(support.double().square().sum())
        for _, x, _ in read():
            n, total, squares = n + len(x), total + x.sum(0), squares + float(x.square().sum())
        mean = total / n
        scale = max(math.sqrt(max(squares / n - float(mean.square().sum()), 0.0)), 1e-6)
        empty = support.new_empty(0, 0)
        start = cls(mean.to(support), scale, empty, empty)
        z = start.rows(support)
        gram, right = (z.T @ z).double(), (z.T @ hot).double()
        for _, x, p in read():
            z = start.rows(x)
            gram += QUERY_WEIGHT * (z.T @ z)
            right += QUERY_WEIGHT * (z.T @ p)
        factor = torch.linalg.cholesky(gram + RIDGE * torch.eye(len(gram), dtype=gram.dtype))
        return cls(start.mean, scale, factor.float(), torch.cholesky_solve(right, factor).float())

    def rows(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N E"]:
        return torch.cat([(x - self.mean) / self.scale, x.new_ones(len(x), 1)], 1)

    def judge(self, read: Read) -> Iterator[tuple[slice, Float[Tensor, "N K"]]]:
        """Predictions for each query by all other rows, as of `second_opinion`."""
        for part, x, p in read():
            yield part, _leave_out(self.rows(x), p, QUERY_WEIGHT, self.factor, self.solution)


def leave_one_out(
    rows: Float[Tensor, "N D"], targets: Float[Tensor, "N K"], weight: Float[Tensor, "N"], ridge: float
) -> Float[Tensor, "N K"]:
    """Predictions for each row by weighted ridge regression on all others, in min(N, D)^3 and N D min(N, D) steps."""
    if len(rows) <= rows.shape[1]:
        inverse = torch.linalg.inv(rows @ rows.T + ridge * torch.diag(1 / weight))
        errors: Tensor = (inverse @ targets) / inverse.diagonal().unsqueeze(1)
        return targets - errors
    weighted = weight.unsqueeze(1) * rows
    identity = torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
    factor = torch.linalg.cholesky(rows.T @ weighted + ridge * identity)
    return _leave_out(rows, targets, weight, factor, torch.cholesky_solve(weighted.T @ targets, factor))


def _leave_out(
    rows: Float[Tensor, "N D"],
    targets: Float[Tensor, "N K"],
    weight: Float[Tensor, "N"] | float,
    factor: Float[Tensor, "D D"],
    solution: Float[Tensor, "D K"],
) -> Float[Tensor, "N K"]:
    """Predictions of the solution of all rows, corrected for the part that each row has in its own."""
    leverage = weight * torch.linalg.solve_triangular(factor, rows.T, upper=False).square().sum(0)
    h: Tensor = leverage.unsqueeze(1)
    return (rows @ solution - h * targets) / (1 - h)
