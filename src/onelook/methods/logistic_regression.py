"""Logistic regression on the support: a good embedding is all you need.

Yonglong Tian, Yue Wang, Dilip Krishnan, Joshua B. Tenenbaum, Phillip Isola. Rethinking Few-Shot Image Classification:
A Good Embedding Is All You Need? ECCV 2020, arXiv:2003.11539. Equal to `sklearn.linear_model.LogisticRegression`.

A linear classifier is fitted to the support rows of each task, scaled to length 1 (equation 4 and section 3.2):

    min over W, b    1/2 |W|^2 + C sum_i cross-entropy(y_i, W x_i + b)

and W q + b are the logits of a query. This is an inductive method.

At the minimum W = A^T X with A = C (Y - P), P the softmax of the scores of the support, and the columns of A sum to 0.
So Newton's method is run on A (S x K) and b, which needs the products of the rows only, however many features there
are. Its system is (I + C H G) dA + C H db = C (Y - P) - A, H the Hessian of the cross-entropy by the scores.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from onelook import ops
from onelook.errors import PositiveFloat
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
    transform: InductiveTransform = "l2n"

    def forward(self, tasks: Tasks) -> Float[Tensor, "T Q K"]:
        tasks = self.preprocess(tasks)
        weights_TKD, bias_T1K = self.solve(tasks)
        return tasks.query @ weights_TKD.mT + bias_T1K

    def solve(self, tasks: Tasks) -> tuple[Float[Tensor, "T K D"], Float[Tensor, "T 1 K"]]:
        """W and b, of the features as they stand."""
        target_TSK = ops.one_hot(tasks.support_labels, tasks.n_way, torch.float64)
        gram_TSS = tasks.support.double() @ tasks.support.double().mT
        dual, bias = fit(gram_TSS, target_TSK, self.C)
        return dual.to(tasks.support.dtype).mT @ tasks.support, bias.to(tasks.support.dtype)


class _Point(NamedTuple):
    dual: Float[Tensor, "T S K"]
    bias: Float[Tensor, "T 1 K"]


def fit(gram: Float[Tensor, "T S S"], target: Float[Tensor, "T S K"], price: float) -> _Point:
    """A and b of the minimum, in float64 and once differentiable by the products of the rows.

    The derivative is that of the solution: there one more Newton step is taken, whose residual is differentiated and
    whose matrix is not.
    """
    with torch.no_grad():
        point = _solution(gram.detach(), target, price)
        system = _system(gram.detach(), point, price)
    step = _step(system, _residual(gram, target, point, price))
    return _Point(point.dual + step.dual, point.bias + step.bias)


def _solution(gram: Float[Tensor, "T S S"], target: Float[Tensor, "T S K"], price: float) -> _Point:
    point = _Point(torch.zeros_like(target), torch.zeros_like(target[:, :1]))
    largest_T11 = gram.diagonal(dim1=1, dim2=2).amax(1)[:, None, None]
    tolerance_T11 = price * (_ROUNDING * price * largest_T11).clamp_min(_SOLVED)
    for _ in range(_MOST_STEPS):
        residual = _residual(gram, target, point, price)
        # A task that is solved stands still while others go on, so that a batch gives what its tasks give one by one.
        solved_T11 = residual.dual.abs().amax((1, 2), keepdim=True) < tolerance_T11
        if bool(solved_T11.all()):
            break
        step = _step(_system(gram, point, price), residual)
        size_T11 = _best_size(gram, target, point, step, price).masked_fill(solved_T11, 0.0)
        point = _Point(point.dual + size_T11 * step.dual, point.bias + size_T11 * step.bias)
    return point


def _residual(gram: Float[Tensor, "T S S"], target: Float[Tensor, "T S K"], point: _Point, price: float) -> _Point:
    """Residual, zero at the minimum: A - C (Y - P), and the sums of the columns of A, plus the sum of b."""
    p_TSK = (gram @ point.dual + point.bias).softmax(-1)
    sums_T1K = point.dual.sum(1, keepdim=True) + point.bias.sum(-1, keepdim=True)
    return _Point(point.dual - price * (target - p_TSK), sums_T1K)


def _system(gram: Float[Tensor, "T S S"], point: _Point, price: float) -> Float[Tensor, "T N N"]:
    """The derivative of the residual by A and b, laid out in N = S K + K rows and columns."""
    n_tasks, n_rows, n_way = point.dual.shape
    p_TSK = (gram @ point.dual + point.bias).softmax(-1)
    hessian_TSKK = price * (torch.diag_embed(p_TSK) - p_TSK.unsqueeze(-1) * p_TSK.unsqueeze(-2))
    n = n_rows * n_way
    by_dual = (hessian_TSKK.unsqueeze(3) * gram[:, :, None, :, None]).reshape(n_tasks, n, n)
    eye_NN = torch.eye(n, dtype=gram.dtype, device=gram.device)
    eye_KN = torch.eye(n_way, dtype=gram.dtype, device=gram.device).repeat(1, n_rows)
    above = torch.cat([by_dual + eye_NN, hessian_TSKK.reshape(n_tasks, n, n_way)], 2)
    below = torch.cat([eye_KN, torch.ones_like(eye_KN[:, :n_way])], 1).expand(n_tasks, -1, -1)
    return torch.cat([above, below], 1)


def _step(system: Float[Tensor, "T N N"], residual: _Point) -> _Point:
    flat_TN = torch.cat([residual.dual.flatten(1), residual.bias.flatten(1)], 1)
    step_TN = -torch.linalg.solve(system, flat_TN)
    n = residual.dual[0].numel()
    return _Point(step_TN[:, :n].view_as(residual.dual), step_TN[:, n:].unsqueeze(1))


def _best_size(
    gram: Float[Tensor, "T S S"], target: Float[Tensor, "T S K"], point: _Point, step: _Point, price: float
) -> Float[Tensor, "T 1 1"]:
    """The one of 1, 1/2, 1/4 … of the step leads to the lowest objective."""
    sizes_L111 = 0.5 ** torch.arange(_SHORTEST, dtype=gram.dtype, device=gram.device)[:, None, None, None]
    dual_LTSK = point.dual + sizes_L111 * step.dual
    score_LTSK = gram @ dual_LTSK + point.bias + sizes_L111 * step.bias
    entropy_LT = -(target * score_LTSK.log_softmax(-1)).sum((2, 3))
    penalty_LT = (dual_LTSK * (gram @ dual_LTSK)).sum((2, 3)) / 2
    best_T = (penalty_LT + price * entropy_LT).argmin(0)
    return sizes_L111[best_T].squeeze(1)
