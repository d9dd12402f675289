"""Pure batched tensor maths. Every statistic belongs to one task; no function looks across T."""

import math
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Bool, Float, Int
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


def cosine_pullback(
    query: Float[Tensor, "T Q D"], weights: Float[Tensor, "T K D"], upstream: Callable[[Tensor], Tensor]
) -> Float[Tensor, "T K D"]:
    """The derivative by the weights of whatever has the derivative g = upstream(cosines) (T, Q, K) by the cosines.

    With q_i the unit query, u_j = theta_j / |theta_j| and G_j = sum_i g_ij q_i:
        sum_i g_ij d<q_i, u_j> / dtheta_j = (G_j - <G_j, u_j> u_j) / |theta_j|
    The cosines are handed to `upstream` so that the queries are read only twice.
    """
    length_TK1 = norms(weights)
    unit_TKD = weights / length_TK1
    query_length_TQ1 = norms(query)
    cosine_TQK = query @ unit_TKD.mT / query_length_TQ1
    g_TQK = upstream(cosine_TQK)
    along_TKD = (g_TQK / query_length_TQ1).mT @ query
    # <G_j, u_j> = sum_i g_ij cos_ij: two small tensors, instead of one more pass over D.
    radial_TK1 = (g_TQK * cosine_TQK).sum(1).unsqueeze(-1)
    return (along_TKD - radial_TK1 * unit_TKD) / length_TK1


def means_by_label(x: Float[Tensor, "N D"], labels: Int[Tensor, "N"], n_classes: int) -> Float[Tensor, "C D"]:
    """Mean of the rows of each class of a whole data set; zero for a class without rows. Labels below 0 are left out.

    By adding up and not by a product with indicators: N × C of them would not fit the memory for large sets.
    """
    x, labels = x[labels >= 0], labels[labels >= 0]
    total = x.new_zeros(n_classes, x.shape[1]).index_add_(0, labels, x)
    return total / labels.bincount(minlength=n_classes).clamp_min(1).unsqueeze(-1)


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


def soft_class_means(
    support: Float[Tensor, "T S D"],
    labels: Int[Tensor, "T S"],
    query: Float[Tensor, "T Q D"],
    weights: Float[Tensor, "T Q K"],
) -> Float[Tensor, "T K D"]:
    """Mean of the rows of each class, a query counting for class k with weight w_ik >= 0."""
    hot_TSK = one_hot(labels, weights.shape[-1], support.dtype)
    total_TKD = hot_TSK.mT @ support + weights.mT @ query
    return total_TKD / (hot_TSK.sum(1) + weights.sum(1)).unsqueeze(-1)


def sinkhorn(
    log_kernel: Float[Tensor, "T Q K"],
    mass: Float[Tensor, "T K"],
    n_iterations: int,
    rows: Bool[Tensor, "T Q"] | None = None,
) -> Float[Tensor, "T Q K"]:
    """Entropic optimal transport: the log of the plan diag(a) exp(log_kernel) diag(b) whose columns have the `mass`
    (which adds up to Q) and whose rows have 1. Rows are scaled last, so that each is a distribution.
    rows: which ones there are, where some do not count; what is returned for the others means nothing.

    Marco Cuturi. Sinkhorn Distances. NeurIPS 2013, arXiv:1306.0895. By factors of rows and columns, which is a third of
    the work of logarithms; an entry that would make the kernel, or a square of its factors in a derivative, underflow
    beside the largest of its row (at e^-35 in float32) counts as the smallest that does not.
    """
    smallest = torch.finfo(log_kernel.dtype).tiny
    log_kernel = log_kernel - log_kernel.amax(-1, keepdim=True)
    kernel, mass_T1K = log_kernel.clamp_min(0.4 * math.log(smallest)).exp(), mass.unsqueeze(1)
    counted = kernel if rows is None else kernel * rows.unsqueeze(-1)
    of_row, of_class = 1 / kernel.sum(-1, keepdim=True), torch.ones_like(mass_T1K)
    for _ in range(n_iterations):
        of_class = mass_T1K / (of_row.mT @ counted).clamp_min(smallest**0.5)
        of_row = 1 / (kernel @ of_class.mT)
    return log_kernel + of_row.log() + of_class.log()


def relaxed_sinkhorn(
    log_kernel: Float[Tensor, "T Q K"], mass: Float[Tensor, "T K"], n_iterations: int, stiffness: float
) -> Float[Tensor, "T Q K"]:
    """A `sinkhorn` whose columns may differ from their `mass`: stiffness 0 leaves the kernel, 1 keeps to the mass.

    Lénaïc Chizat et al. Scaling Algorithms for Unbalanced Optimal Transport Problems. Math. Comp. 2018,
    arXiv:1607.05816: a divergence of weight w in the place of the constraint raises the scaling of the columns to the
    power w / (w + 1), the stiffness, for a kernel whose entropy has the weight 1.
    """
    potential_T1K = torch.zeros_like(mass).unsqueeze(1)
    log_mass_T1K = mass.log().unsqueeze(1)
    for _ in range(n_iterations):
        log_plan = (log_kernel + potential_T1K).log_softmax(-1)
        missing = log_mass_T1K - log_plan.logsumexp(1, keepdim=True)
        potential_T1K = stiffness * (potential_T1K + missing)
    return (log_kernel + potential_T1K).log_softmax(-1)


def balanced_mass(like: Float[Tensor, "T Q K"]) -> Float[Tensor, "T K"]:
    """Q / K for every class."""
    return like.new_full((like.shape[0], like.shape[2]), like.shape[1] / like.shape[2])


def log_softmax(x: Float[Tensor, "*rows K"]) -> Float[Tensor, "*rows K"]:
    """torch's, at a third of the time where K is small."""
    x = x - x.amax(-1, keepdim=True)
    return x - x.exp().sum(-1, keepdim=True).log()


def nearest_others(similarity: Float[Tensor, "T R R"], n: int) -> Bool[Tensor, "T R R"]:
    """Whether column j is one of the n rows most similar to row i, which is not its own neighbour."""
    itself = torch.eye(similarity.shape[-1], dtype=torch.bool, device=similarity.device)
    nearest_TRn = similarity.masked_fill(itself, -torch.inf).topk(n, dim=-1).indices
    return torch.zeros_like(similarity, dtype=torch.bool).scatter(-1, nearest_TRn, True)


def blocks(n: int, size: int) -> Iterator[slice]:
    """The blocks of n rows, each of `size` at most; always at least one.

    >>> list(blocks(10, 8)), list(blocks(0, 8))
    ([slice(0, 8, None), slice(8, 10, None)], [slice(0, 0, None)])
    """
    return (slice(start, min(start + size, n)) for start in range(0, max(n, 1), size))


def nearest_rows(
    query: Float[Tensor, "T Q D"], rows: Float[Tensor, "T R D"], n: int
) -> tuple[Float[Tensor, "T Q n"], Int[Tensor, "T Q n"]]:
    """The n rows with the largest inner products with each query, largest first: the products and the row numbers.

    The queries are the last Q of the rows, and none is its own neighbour. Memory is linear in Q.
    """
    n_others = rows.shape[1] - query.shape[1]
    # Made beforehand: what is left between two large tables keeps the memory of the first from the second.
    values = query.new_empty(*query.shape[:2], n)
    indices = values.new_empty(values.shape, dtype=torch.long)
    for part in blocks(query.shape[1], 512):
        product = query[:, part] @ rows.mT
        product[..., n_others + part.start :].diagonal(dim1=1, dim2=2).fill_(-torch.inf)
        values[:, part], indices[:, part] = product.topk(n, dim=-1)
        del product
    return values, indices


def nearest_of_both(
    query: Float[Tensor, "T Q D"], support: Float[Tensor, "T S D"], near: tuple[Tensor, Tensor], n: int
) -> tuple[Float[Tensor, "T Q n"], Int[Tensor, "T Q n"]]:
    """The n `nearest_rows` among support and further rows, numbered on. near: those among the latter, m >= n or all."""
    first = torch.arange(support.shape[1], device=query.device).expand(*query.shape[:2], -1)
    products = torch.cat([query @ support.mT, near[0]], -1)
    best = products.topk(n, dim=-1)
    return best.values, torch.cat([first, near[1] + support.shape[1]], -1).gather(-1, best.indices)


def in_few_axes(x: Float[Tensor, "T R D"]) -> Float[Tensor, "T R r"]:
    """The rows in as many axes as there are rows, r = R, where these are fewer: lengths and angles stay.

    The axes are those of the Cholesky factor of the Gram matrix, which is made regular by less than single precision
    can show, so its derivative means nothing: rows that are to have one are left as they are.
    """
    if 2 * x.shape[1] > x.shape[2] or x.requires_grad:
        return x
    gram = x.double() @ x.mT.double()
    extent = gram.diagonal(dim1=1, dim2=2).amax(-1).clamp_min(_EPSILON)[:, None, None]
    identity = torch.eye(x.shape[1], dtype=gram.dtype, device=x.device)
    factor: Tensor = torch.linalg.cholesky(gram + 1e-10 * extent * identity)
    return factor.to(x)


def leading_part(x: Float[Tensor, "T R D"], n: int) -> Float[Tensor, "T R D"]:
    """The rows projected onto the n leading right singular vectors of each task.

    By the left ones, U U^T X, so that nothing is divided by a small singular value. The derivative takes U as constant.
    """
    if n >= min(x.shape[1:]):
        return x
    with torch.no_grad():
        left_TRn = torch.linalg.eigh(x @ x.mT).eigenvectors[..., -n:]
    part: Tensor = left_TRn @ (left_TRn.mT @ x)
    return part
