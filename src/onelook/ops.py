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


def cosine_pullback(
    query: Float[Tensor, "T Q D"], weights: Float[Tensor, "T K D"], cotangent: Float[Tensor, "T Q K"]
) -> Float[Tensor, "T K D"]:
    """sum_i g_ij d cos_ij / d w_j: how the weights feel a derivative g by their cosines.

    For unit u_j = w_j / |w_j| and unit q_i it is (G_j - <G_j, u_j> u_j) / |w_j|, with G_j = sum_i g_ij q_i.
    """
    length_TK1 = norms(weights)
    unit_TKD = weights / length_TK1
    along_TKD = cotangent.mT @ normalise(query)
    radial_TK1 = (along_TKD * unit_TKD).sum(-1, keepdim=True)
    return (along_TKD - radial_TK1 * unit_TKD) / length_TK1
