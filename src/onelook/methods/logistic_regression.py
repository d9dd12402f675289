"""Logistic regression on the support: a good embedding is all you need.

Yonglong Tian, Yue Wang, Dilip Krishnan, Joshua B. Tenenbaum, Phillip Isola. Rethinking Few-Shot Image Classification:
A Good Embedding Is All You Need? ECCV 2020, arXiv:2003.11539. Equal to `sklearn.linear_model.LogisticRegression`.

A linear classifier is fitted to the support rows of each task, scaled to length 1 (equation 4 and section 3.2):

    min over W, b    1/2 |W|^2 + C sum_i cross-entropy(y_i, W x_i + b)

and W q + b are the logits of a query. This is an inductive method.

At the minimum W = A^T X with A = C (Y - P), P the softmax of the scores of the support, and the columns of A sum to 0.
So Newton's method is run on A (S x K) and b, which needs the products of the rows only, however many features there
are. With H the Hessian of the cross-entropy by the scores, its system is (I + C H G) dA + C H db = C (Y - P) - A. As H
is of rank K - 1 in each row, Z = (1 / (C H) + G)^-1 takes K systems of size S and one more (Rasmussen & Williams,
Gaussian Processes for Machine Learning, 2006, algorithm 3.3), and (I + C H G)^-1 = I - Z G.

`tune` chooses C for each task by leave-one-out on its labels, so approximately that it costs nothing: the classifier of
the other rows is that of one Newton step from the classifier of all (Kamiar Rahnama Rad, Arian Maleki. A Scalable
Estimate of the Out-of-Sample Prediction Error via Approximate Leave-One-Out Cross-Validation. JRSS B 2020,
arXiv:1801.10243). That step makes a least-squares problem of it, whose leave-one-out is known: a row's scores lose
(Z_ii^-1 - 1 / (C H_i)) A_i, where the bias is in Z.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from onelook import ops
from onelook.errors import PositiveFloat
from onelook.methods.leave_one_out import choose, list_candidates
from onelook.methods.preprocessing import InductiveTransform, PreprocessedMethod
from onelook.tasks import Tasks

_MOST_STEPS = 60
"""A limit for what is beyond float64. Unit features with C = 1 take 4 to 6, long rows and a large C up to 30."""
_SOLVED = 1e-8
"""The residual, as a part of C, below which a task needs but the last step, which leaves about its square."""
_ROUNDING = 1e-14
"""Tolerance where the scores, up to C times the squared length of a row, are so large that rounding leaves more."""
_SHORTEST = 12
"""The halvings of a step among which the best is taken."""


class LogisticRegression(PreprocessedMethod):
    """Logistic regression on the support rows of each task.

    >>> LogisticRegression(feature_size=64)(Tasks.random(n_tasks=2, n_way=5)).shape
    torch.Size([2, 15, 5])
    """

    C: PositiveFloat = 1.0
    """Weight of the cross-entropy against the penalty, as in scikit-learn; 1 is the value of the authors."""
    tune: bool = False
    """Whether C is chosen for each task, from 0.01 to 100, by leave-one-out on its labels; `C` is then what stands
    where no class has two labelled examples."""
    transform: InductiveTransform = "l2n"

    def forward(self, tasks: Tasks) -> Float[Tensor, "T Q K"]:
        tasks = self.preprocess(tasks)
        weights_TKD, bias_T1K = solve(tasks, list_candidates(self.C, self.tune))
        return tasks.query @ weights_TKD.mT + bias_T1K


class _Point(NamedTuple):
    dual: Float[Tensor, "T S K"]
    bias: Float[Tensor, "T 1 K"]


class _Curvature(NamedTuple):
    """Z in its parts: Z_cd = [c = d] E_c - E_c (sum_c E_c)^-1 E_d, E_c = (1 / (C P_c) + G)^-1."""

    each: Float[Tensor, "T K S S"]
    """E."""
    factor: Float[Tensor, "T S S"]
    """Cholesky factor of the sum of E."""
    by_bias: Float[Tensor, "T K S K"]
    """Z times the derivative of the scores by b."""
    of_bias: Float[Tensor, "T K K"]
    """Sum of `by_bias` over the rows, with an inverse (`_pin`)."""


def solve(tasks: Tasks, prices: tuple[float, ...]) -> tuple[Float[Tensor, "T K D"], Float[Tensor, "T 1 K"]]:
    """W and b, of the features as they stand, by the best of the prices."""
    target_TSK = ops.one_hot(tasks.support_labels, tasks.n_way, torch.float64)
    gram_TSS = tasks.support.double() @ tasks.support.double().mT
    dual, bias = fit(gram_TSS, target_TSK, prices)
    return dual.to(tasks.support.dtype).mT @ tasks.support, bias.to(tasks.support.dtype)


def fit(gram: Float[Tensor, "T S S"], target: Float[Tensor, "T S K"], prices: tuple[float, ...]) -> _Point:
    """A and b of the minimum, in float64 and once differentiable by the products of the rows.

    The derivative is that of the solution: there one more Newton step is taken, whose residual is differentiated and
    whose matrix is not. prices: values of C, of which leave-one-out takes one for each task.
    """
    with torch.no_grad():
        point, price_T11 = _best_solution(gram.detach(), target, prices)
        curvature = _curvature(gram.detach(), point, price_T11)
    step = _step(gram.detach(), curvature, _residual(gram, target, point, price_T11))
    return _Point(point.dual + step.dual, point.bias + step.bias)


def _best_solution(
    gram: Float[Tensor, "T S S"], target: Float[Tensor, "T S K"], prices: tuple[float, ...]
) -> tuple[_Point, Float[Tensor, "T 1 1"]]:
    point = _Point(torch.zeros_like(target), torch.zeros_like(target[:, :1]))
    price_L = torch.tensor(prices, dtype=gram.dtype, device=gram.device)
    price_LT11 = price_L[:, None, None, None].expand(-1, len(gram), 1, 1)
    points, losses = [], []
    for price_T11 in price_LT11:
        point = _solution(gram, target, price_T11, point)
        points.append(point)
        if len(prices) > 1:
            losses.append(-(target * leave_one_out(gram, target, point, price_T11).log_softmax(-1)).sum(-1))
    chosen_T = choose(losses, target) if losses else torch.zeros(len(gram), dtype=torch.int64, device=gram.device)
    each = torch.arange(len(gram), device=gram.device)
    dual, bias = (torch.stack(parts)[chosen_T, each] for parts in zip(*points, strict=True))
    return _Point(dual, bias), price_LT11[chosen_T, each]


def leave_one_out(
    gram: Float[Tensor, "T S S"], target: Float[Tensor, "T S K"], point: _Point, price: Float[Tensor, "T 1 1"]
) -> Float[Tensor, "T S K"]:
    """Scores of each row, but for a constant, by one Newton step towards the solution for all other rows."""
    score_TSK = gram @ point.dual + point.bias
    each, factor, by_bias, of_bias = _curvature(gram, point, price)
    half_TKSS = torch.linalg.solve_triangular(factor.unsqueeze(1), each, upper=False)
    block_TSKK = torch.diag_embed(each.diagonal(dim1=2, dim2=3).mT) - torch.einsum(
        "tcji,tdji->ticd", half_TKSS, half_TKSS
    )
    by_bias_TSKK = by_bias.transpose(1, 2)
    block_TSKK = block_TSKK - by_bias_TSKK @ torch.linalg.solve(of_bias.unsqueeze(1), by_bias_TSKK.mT)
    own_TSK: Tensor = torch.linalg.solve(_pin(block_TSKK), point.dual)
    # A_i / (C H_i) is the row's label over its probability, but for a constant.
    return score_TSK - own_TSK + target / score_TSK.softmax(-1)


def _solution(
    gram: Float[Tensor, "T S S"], target: Float[Tensor, "T S K"], price: Float[Tensor, "T 1 1"], point: _Point
) -> _Point:
    """The minimum, sought from a point where the columns of A and b sum to 0 over the classes."""
    largest_T11 = gram.diagonal(dim1=1, dim2=2).amax(1)[:, None, None]
    tolerance_T11 = price * (_ROUNDING * price * largest_T11).clamp_min(_SOLVED)
    for _ in range(_MOST_STEPS):
        residual = _residual(gram, target, point, price)
        # A task that is solved stands still while others go on, so that a batch gives what its tasks give one by one.
        largest_rest_T11 = torch.cat(residual, 1).abs().amax((1, 2), keepdim=True)
        solved_T11 = largest_rest_T11 < tolerance_T11
        if bool(solved_T11.all()):
            break
        step = _step(gram, _curvature(gram, point, price), residual)
        size_T11 = _best_size(gram, target, point, step, price).masked_fill(solved_T11, 0.0)
        point = _Point(point.dual + size_T11 * step.dual, point.bias + size_T11 * step.bias)
    return point


def _residual(
    gram: Float[Tensor, "T S S"], target: Float[Tensor, "T S K"], point: _Point, price: Float[Tensor, "T 1 1"]
) -> _Point:
    """Residual, zero at the minimum: A - C (Y - P), and the sums of the columns of A."""
    p_TSK = (gram @ point.dual + point.bias).softmax(-1)
    return _Point(point.dual - price * (target - p_TSK), point.dual.sum(1, keepdim=True))


def _curvature(gram: Float[Tensor, "T S S"], point: _Point, price: Float[Tensor, "T 1 1"]) -> _Curvature:
    root_TKS = (price * (gram @ point.dual + point.bias).softmax(-1)).sqrt().mT
    eye_SS = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    outer_TKSS = root_TKS.unsqueeze(-1) * root_TKS.unsqueeze(-2)
    inner_factor, _ = torch.linalg.cholesky_ex(eye_SS + outer_TKSS * gram.unsqueeze(1))
    each_TKSS = outer_TKSS * torch.cholesky_inverse(inner_factor)
    factor_TSS, _ = torch.linalg.cholesky_ex(each_TKSS.sum(1))
    sums_TSK = each_TKSS.sum(-1).mT
    shared_TKSK = each_TKSS @ torch.cholesky_solve(sums_TSK, factor_TSS).unsqueeze(1)
    by_bias_TKSK = torch.diag_embed(sums_TSK).transpose(1, 2) - shared_TKSK
    return _Curvature(each_TKSS, factor_TSS, by_bias_TKSK, _pin(by_bias_TKSK.sum(2)))


def _pin(matrix: Float[Tensor, "*batch K K"]) -> Float[Tensor, "*batch K K"]:
    """The matrix, which takes vectors of equal entries to 0, with an inverse that takes those of sum 0 to such."""
    size = matrix.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(torch.finfo(matrix.dtype).tiny)
    return matrix + size[..., None, None]


def _step(gram: Float[Tensor, "T S S"], curvature: _Curvature, residual: _Point) -> _Point:
    each, factor, by_bias, of_bias = curvature
    pulled_TKS1 = each @ (gram @ residual.dual).mT.unsqueeze(-1)
    shared_TS1 = torch.cholesky_solve(pulled_TKS1.sum(1), factor)
    dual_TSK = residual.dual - (pulled_TKS1 - each @ shared_TS1.unsqueeze(1)).squeeze(-1).mT
    bias_TK1 = torch.linalg.solve(of_bias, (residual.bias - dual_TSK.sum(1, keepdim=True)).mT)
    by_bias_TKS1 = by_bias @ bias_TK1.unsqueeze(1)
    return _Point(-dual_TSK - by_bias_TKS1.squeeze(-1).mT, bias_TK1.mT)


def _best_size(
    gram: Float[Tensor, "T S S"],
    target: Float[Tensor, "T S K"],
    point: _Point,
    step: _Point,
    price: Float[Tensor, "T 1 1"],
) -> Float[Tensor, "T 1 1"]:
    """The one of 1, 1/2, 1/4 … of the step leads to the lowest objective."""
    sizes_L111 = 0.5 ** torch.arange(_SHORTEST, dtype=gram.dtype, device=gram.device)[:, None, None, None]
    dual_LTSK = point.dual + sizes_L111 * step.dual
    score_LTSK = gram @ dual_LTSK + point.bias + sizes_L111 * step.bias
    entropy_LT = -(target * score_LTSK.log_softmax(-1)).sum((2, 3))
    penalty_LT = (dual_LTSK * (gram @ dual_LTSK)).sum((2, 3)) / 2
    best_T = (penalty_LT + price[:, 0, 0] * entropy_LT).argmin(0)
    return sizes_L111[best_T].squeeze(1)
