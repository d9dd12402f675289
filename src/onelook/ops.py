"""Pure batched tensor maths. Every statistic belongs to one task; no function looks across T."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

_EPSILON = 1e-12  # the floor of a norm, as in torch.nn.functional.normalize


def one_hot(labels: Int[Tensor, "T S"], n_way: int, dtype: torch.dtype) -> Float[Tensor, "T S K"]:
    """Indicator of the class of every row."""
    return (labels.unsqueeze(-1) == torch.arange(n_way, device=labels.device)).to(dtype)


def normalise(x: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows D"]:
    """Rows scaled to length 1; a zero row stays zero."""
    return x / norms(x)


def norms(x: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows 1"]:
    """Lengths of the rows, never below the floor that keeps a division finite."""
    length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return length.clamp_min(_EPSILON)


def class_means(x: Float[Tensor, "T S D"], labels: Int[Tensor, "T S"], n_way: int) -> Float[Tensor, "T K D"]:
    """Mean of the rows of each class; classes may have different numbers of rows."""
    hot_TSK = one_hot(labels, n_way, x.dtype)
    return hot_TSK.mT @ x / hot_TSK.sum(1).unsqueeze(-1)


def cosine_similarity(query: Float[Tensor, "T Q D"], weights: Float[Tensor, "T K D"]) -> Float[Tensor, "T Q K"]:
    """Cosine of the angle between every query and every class weight.

    The length of a query divides the K products rather than its D entries: the same number, D/K times less work.
    """
    return query @ normalise(weights).mT / norms(query)


def squared_distance(query: Float[Tensor, "T Q D"], centres: Float[Tensor, "T K D"]) -> Float[Tensor, "T Q K"]:
    """Squared Euclidean distance, by the three products and not by a T Q K D difference."""
    cross = query @ centres.mT
    square_TQ = query.square().sum(-1, keepdim=True)
    square_TK = centres.square().sum(-1).unsqueeze(1)
    return (square_TQ - 2 * cross + square_TK).clamp_min(0)


def ridge_regression(
    x: Float[Tensor, "T S D"], targets: Float[Tensor, "T S K"], ridge: Float[Tensor, ""] | float
) -> Float[Tensor, "T K D"]:
    """The rows w_k that minimise, for each task, sum_i (<w_k, x_i> - y_ik)^2 + ridge |w_k|^2, with ridge > 0.

    In Woodbury's form the system is S x S and not D x D: X^T (X X^T + ridge I)^-1 Y.
    """
    # LU and not Cholesky: a ridge that learning has made small may be lost in the rounding of large features, and
    # Cholesky would then refuse the matrix.
    gram_TSS = x @ x.mT + ridge * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    dual_TSK: Tensor = torch.linalg.solve(gram_TSS, targets)
    return dual_TSK.mT @ x
