"""Ridge regression on all rows of a task, by which each row is judged without its own label.

A labelled example has its class as target, a query the posterior that it has so far, and less weight. Leaving a row out
is in closed form: with A = Z'WZ + ridge I and h_i = w_i z_i' A^-1 z_i, the prediction y_i of all rows becomes
(y_i - h_i t_i) / (1 - h_i) for that of all but row i with target t_i (Ryan M. Rifkin, Ross A. Lippert. Notes on
Regularized Least Squares. MIT-CSAIL-TR-2007-025, section 3). Nothing but the targets changes from step to step, so a
step costs products of matrices.

Axes: T tasks, N rows, D features, K classes.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

RIDGE = 0.5
"""Penalty of the squared weights, for rows whose mean square is 1, where nothing tells a better one."""
QUERY_WEIGHT = 0.3
"""Weight of a query, where a labelled example has 1; 0.1 to 0.6 gave the same within 0.3 points."""
MOST_QUERIES, MOST_OF_CLASS = 150, 3
"""Queries, and queries of a class where these are more, that have full weight: the largest tasks of the training of
Glance. Of more, those that are taken for another class would outweigh many labelled examples (docs/log.md)."""


def weigh_queries(n_query: int, n_way: int) -> tuple[float, float]:
    """Weight of each query in class means and class priors, and in ridge regression.

    More than MOST_QUERIES weigh together as much as these, in ridge regression as the geometric mean of both numbers.

    >>> weigh_queries(75, 5), weigh_queries(600, 5)
    ((1.0, 0.3), (0.25, 0.15))
    """
    share = min(1.0, max(MOST_QUERIES, MOST_OF_CLASS * n_way) / max(n_query, 1))
    return share, QUERY_WEIGHT * share**0.5


@dataclass(frozen=True)
class Linear:
    """Linear classifier of each task, for rows that took no part in it."""

    weights: Float[Tensor, "T D K"]
    offset: Float[Tensor, "T 1 K"]

    def __call__(self, rows: Float[Tensor, "T Q D"]) -> Float[Tensor, "T Q K"]:
        return rows @ self.weights + self.offset

    def to(self, like: Tensor) -> "Linear":
        """A classifier of the type and on the device of another tensor."""
        return Linear(self.weights.to(like), self.offset.to(like))


@dataclass(frozen=True)
class Moments:
    """Sums over rows whose weight is one number, kept while other rows and the targets change."""

    n: int
    centre: Float[Tensor, "T 1 D"]
    product: Float[Tensor, "T D D"]
    """Sum of x x' for the rows x about their centre."""

    @classmethod
    def of(cls, rows: Float[Tensor, "T N D"]) -> "Moments":
        centre = rows.mean(1, keepdim=True)
        away = rows - centre
        return cls(rows.shape[1], centre, away.mT @ away)

    def about(self, mean: Float[Tensor, "T 1 D"], scale: Float[Tensor, "T 1 1"]) -> Float[Tensor, "T E E"]:
        """Sum of z z' for z = ((x - mean) / scale, 1)."""
        away = self.centre - mean
        product = (self.product + self.n * away.mT @ away) / scale.square()
        edge = self.n * away / scale
        corner = torch.full_like(scale, self.n)
        return torch.cat([torch.cat([product, edge], 1), torch.cat([edge, corner], 2).mT], 2)


@dataclass(frozen=True)
class Regression:
    """Everything that does not depend on the targets."""

    rows: Float[Tensor, "T N E"]
    """Rows about their mean, whose mean square is 1, with a last column of ones: the intercept is penalised as the
    features are (E = D + 1)."""
    weight: Float[Tensor, "T N 1"]
    mean: Float[Tensor, "T 1 D"]
    scale: Float[Tensor, "T 1 1"]
    solver: Float[Tensor, "T M M"]
    """Inverse of ZZ' + ridge / W for at most as many rows as columns (M = N), else (M = E) the Cholesky factor of A."""
    own: Float[Tensor, "T N 1"]
    """The diagonal of that inverse; else the leverages h."""

    @classmethod
    def fit(
        cls,
        rows: Float[Tensor, "T N D"],
        weight: Float[Tensor, "T N"],
        penalty: Float[Tensor, "T 1 1"],
        moments: Moments | None = None,
    ) -> "Regression":
        """Prepare regressions on rows (T, N, D) of any origin and unit, with positive weights.

        penalty: of the squared weights, for rows whose mean square is 1; moments: of the last rows, whose weights are
        equal.

        >>> x, y = torch.tensor([[[0.0, 1.0], [0.2, 1.0], [1.0, 0.0], [1.0, 0.1]]]), torch.eye(2)[[0, 0, 1, 1]]
        >>> Regression.fit(x, torch.ones(1, 4), torch.full((1, 1, 1), RIDGE)).leave_out(y[None]).argmax(2)
        tensor([[0, 0, 1, 1]])
        """
        z, mean, scale = standardise(rows)
        weight = weight.unsqueeze(-1)
        if z.shape[1] <= z.shape[2]:
            inverse = torch.linalg.inv(z @ z.mT + torch.diag_embed((penalty / weight).squeeze(-1)))
            return cls(z, weight, mean, scale, inverse, inverse.diagonal(dim1=1, dim2=2).unsqueeze(-1))
        identity = torch.eye(z.shape[2], dtype=z.dtype, device=z.device)
        first = z if moments is None else z[:, : -moments.n]
        gram = first.mT @ (weight[:, : first.shape[1]] * first)
        if moments is not None:
            gram = gram + weight[:, -1:] * moments.about(mean, scale)
        factor = torch.linalg.cholesky(gram + penalty * identity)
        leverage = weight.mT * torch.linalg.solve_triangular(factor, z.mT, upper=False).square().sum(1, keepdim=True)
        return cls(z, weight, mean, scale, factor, leverage.mT)

    @property
    def _is_dual(self) -> bool:
        return self.rows.shape[1] <= self.rows.shape[2]

    def leave_out(self, targets: Float[Tensor, "T N K"]) -> Float[Tensor, "T N K"]:
        """Predictions for each row by the regression on all others."""
        if self._is_dual:
            errors: Tensor = (self.solver @ targets) / self.own
            return targets - errors
        return (self.rows @ self._solve(targets) - self.own * targets) / (1 - self.own)

    def solve(self, targets: Float[Tensor, "T N K"]) -> Linear:
        """Regression on all rows, for others."""
        solution = self._solve(targets)
        weights = solution[:, :-1] / self.scale
        return Linear(weights, solution[:, -1:] - self.mean @ weights)

    def _solve(self, targets: Float[Tensor, "T N K"]) -> Float[Tensor, "T E K"]:
        if self._is_dual:
            solution: Tensor = self.rows.mT @ (self.solver @ targets)
            return solution
        return torch.cholesky_solve(self.rows.mT @ (self.weight * targets), self.solver)


def standardise(rows: Float[Tensor, "T N D"]) -> tuple[Float[Tensor, "T N E"], Tensor, Tensor]:
    """Rows about their mean, whose mean square is 1, with a last column of ones; the mean and the scale."""
    mean = rows.mean(1, keepdim=True)
    away = rows - mean
    scale = (away.square().sum((1, 2)) / rows.shape[1]).sqrt().clamp_min(1e-6).view(-1, 1, 1)
    return torch.cat([away / scale, rows.new_ones(*rows.shape[:2], 1)], 2), mean, scale


def equalise(
    opinion: Float[Tensor, "*T S K"], hot: Float[Tensor, "*T S K"], mass: Float[Tensor, "*M K"]
) -> Float[Tensor, "*T S K"]:
    """Opinions of ridge regression about rows that were left out, as if their class had lost none of its weight.

    The other rows of the class count for the lost one too, which multiplies the opinion about that class; else rows
    that say nothing would be recognised less often than by chance.
    """
    return torch.where(hot > 0, opinion * mass / (mass - 1).clamp_min(0.5), opinion)


def margin(answer: Float[Tensor, "T N K"], hot: Float[Tensor, "T N K"]) -> Float[Tensor, "T N"]:
    """Value of the right class less that of the best other one, at most 1 either way."""
    right, others = (answer * hot).sum(-1), answer.masked_fill(hot > 0, -torch.inf).amax(-1)
    return (right - others).clamp(-1, 1)
