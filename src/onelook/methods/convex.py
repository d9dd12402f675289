"""The multi-class support vector machine of Crammer & Singer, solved for a batch of tasks and differentiable.

Koby Crammer, Yoram Singer. On the Algorithmic Implementation of Multiclass Kernel-based Vector Machines. JMLR 2, 2001.
The solver is Mehrotra's predictor and corrector (SIAM Journal on Optimization 2, 1992), the derivative that of the
optimality conditions (Amos & Kolter, OptNet, ICML 2017, arXiv:1703.00443).

With G the products of the S support rows, Y their one-hot labels and C the price of a violated margin, the dual is

    max over A (S x K)   -1/2 sum_k A_k^T G A_k + sum_i A_i,y(i)   where A <= C Y and each row of A sums to 0.

In B = Y - A / C this is a quadratic programme over S probability simplices, with H = C G:

    min over B           1/2 sum_k (Y - B)_k^T H (Y - B)_k + sum_ik Y_ik B_ik   where B >= 0, rows of B sum to 1.

With nu the multipliers of the sums and Z those of B >= 0, it is solved where
    dual residual      Y - H (Y - B) - nu - Z = 0
    complementarity    B Z = mu, for a mu on its way to 0.
Newton's system for these splits into K systems of size S x S, H + diag(Z / B), and one for nu, the sum of their
inverses; an interior point costs K + 1 small factorisations instead of one of size S K.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from onelook import ops

_MOST_ITERATIONS = 40
"""A limit for what is not finite or beyond float64. Usual tasks take 10 to 16, the hardest of random ones 25."""
_LAST_MU = 1e-12
_CENTRED = 0.1
"""A task is solved when no B Z differs from the last mu by more than this part of it."""
_JITTER = 1e-11
_STEP_TO_BOUNDARY = 0.99


class _Point(NamedTuple):
    """An interior point. Classes lie before rows, so that a class is one right-hand side of its own system."""

    b: Float[Tensor, "T K S"]
    nu: Float[Tensor, "T 1 S"]
    z: Float[Tensor, "T K S"]


class _Newton(NamedTuple):
    """Newton's system at a point, factorised."""

    point: _Point
    h: Float[Tensor, "T S S"]
    inverse: Float[Tensor, "T K S S"]
    sum_factor: Float[Tensor, "T S S"]


def crammer_singer_dual(
    x: Float[Tensor, "T S D"], labels: Int[Tensor, "T S"], n_way: int, price: float
) -> Float[Tensor, "T S K"]:
    """The A above, so that the weights of the machine are A^T X; once differentiable by the rows X.

    The derivative is that of the solution: there one more Newton step is taken, whose residual is differentiated and
    whose matrix is not. All work is in float64, the products too: rounded to float32, those of more rows than features
    would have negative eigenvalues, which no interior point survives.
    """
    y_TKS = ops.one_hot(labels, n_way, torch.float64).mT.contiguous()
    eye = torch.eye(x.shape[1], dtype=torch.float64, device=x.device)
    h_TSS = price * (x.double() @ x.double().mT)
    # A relative jitter far above rounding keeps every system positive definite when there are more rows than features.
    h_TSS = h_TSS + _JITTER * h_TSS.detach().diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * eye
    with torch.no_grad():
        point = _solution(h_TSS.detach(), y_TKS)
        newton = _factorise(h_TSS.detach(), point)
    complementarity = _LAST_MU - point.b * point.z
    b_TKS = point.b + _direction(newton, _dual_residual(h_TSS, y_TKS, point), complementarity).b
    return (price * (y_TKS - b_TKS)).mT.to(x.dtype)


def _solution(h: Float[Tensor, "T S S"], y: Float[Tensor, "T K S"]) -> _Point:
    """The point of the central path at the last mu."""
    point = _start(h, y)
    for _ in range(_MOST_ITERATIONS):
        product_TKS = point.b * point.z
        # A task that is solved stands still while others go on, so that a batch gives what its tasks give one by one.
        solved_T11 = ((product_TKS / _LAST_MU - 1).abs() < _CENTRED).all(2, keepdim=True).all(1, keepdim=True)
        if bool(solved_T11.all()):
            break
        newton = _factorise(h, point)
        residual = _dual_residual(h, y, point)
        mu_T11 = product_TKS.mean((1, 2), keepdim=True)
        guess = _direction(newton, residual, -product_TKS)
        guess_mu_T11 = _move(point, guess, 1.0).mean((1, 2), keepdim=True)
        target_T11 = (mu_T11 * (guess_mu_T11 / mu_T11) ** 3).clamp_min(_LAST_MU)
        # What the guess would add to B Z; the step is shorter than the guess by as much of mu as is to remain.
        curved_TKS = (1 - target_T11 / mu_T11).clamp_min(0).square() * guess.b * guess.z
        step = _direction(newton, residual, target_T11 - product_TKS - curved_TKS)
        size_T11 = _step_size(point, step, _STEP_TO_BOUNDARY).masked_fill(solved_T11, 0.0)
        point = _Point(*(value + size_T11 * change for value, change in zip(point, step, strict=True)))
    return point


def _start(h: Float[Tensor, "T S S"], y: Float[Tensor, "T K S"]) -> _Point:
    """The middle of the simplices, with multipliers that leave no residual: every later point leaves none either."""
    b_TKS = torch.full_like(y, 1 / y.shape[1])
    slope_TKS = y - (y - b_TKS) @ h
    spread_T11 = (slope_TKS.amax(1) - slope_TKS.amin(1)).amax(1)[:, None, None]
    nu_T1S = slope_TKS.amin(1, keepdim=True) - spread_T11
    return _Point(b_TKS, nu_T1S, slope_TKS - nu_T1S)


def _dual_residual(h: Float[Tensor, "T S S"], y: Float[Tensor, "T K S"], point: _Point) -> Float[Tensor, "T K S"]:
    return y - (y - point.b) @ h - point.nu - point.z


def _factorise(h: Float[Tensor, "T S S"], point: _Point) -> _Newton:
    factor_TKSS, _ = torch.linalg.cholesky_ex(h.unsqueeze(1) + torch.diag_embed(point.z / point.b))
    inverse_TKSS = torch.cholesky_inverse(factor_TKSS)
    sum_factor_TSS, _ = torch.linalg.cholesky_ex(inverse_TKSS.sum(1))
    return _Newton(point, h, inverse_TKSS, sum_factor_TSS)


def _direction(newton: _Newton, residual: Float[Tensor, "T K S"], complementarity: Float[Tensor, "T K S"]) -> _Point:
    """The change of the point that, to first order, removes the residual and moves B Z by `complementarity`."""
    b, _, z = newton.point
    wanted_TKS, gap_T1S = complementarity / b - residual, 1 - b.sum(1, keepdim=True)
    db_TKS, nu_T1S = _solve(newton, wanted_TKS, gap_T1S)
    # One round of refinement: with fewer features than rows the inverses are large, and so is what rounding leaves.
    left_TKS = wanted_TKS - db_TKS @ newton.h - z / b * db_TKS + nu_T1S
    more_TKS, more_T1S = _solve(newton, left_TKS, gap_T1S - db_TKS.sum(1, keepdim=True))
    db_TKS, nu_T1S = db_TKS + more_TKS, nu_T1S + more_T1S
    return _Point(db_TKS, nu_T1S, (complementarity - z * db_TKS) / b)


def _solve(
    newton: _Newton, wanted: Float[Tensor, "T K S"], gap: Float[Tensor, "T 1 S"]
) -> tuple[Float[Tensor, "T K S"], Float[Tensor, "T 1 S"]]:
    """db and dnu with (H + diag(Z / B)) db - dnu = wanted in every class, and db summing to the gap over classes."""
    uncoupled_TKS = (newton.inverse @ wanted.unsqueeze(-1)).squeeze(-1)
    nu_T1S = torch.cholesky_solve((gap - uncoupled_TKS.sum(1, keepdim=True)).mT, newton.sum_factor).mT
    return uncoupled_TKS + (newton.inverse @ nu_T1S.unsqueeze(-1)).squeeze(-1), nu_T1S


def _step_size(point: _Point, step: _Point, fraction: float) -> Float[Tensor, "T 1 1"]:
    """The longest step, at most 1, that goes no more than `fraction` of the way to the boundary."""
    shrink = torch.cat([-step.b / point.b, -step.z / point.z], 1).amax((1, 2), keepdim=True)
    return fraction / shrink.clamp_min(fraction)


def _move(point: _Point, step: _Point, fraction: float) -> Float[Tensor, "T K S"]:
    """B Z after the step."""
    size = _step_size(point, step, fraction)
    return (point.b + size * step.b) * (point.z + size * step.z)
