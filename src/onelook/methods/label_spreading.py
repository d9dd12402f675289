"""Label spreading: learning with local and global consistency.

Dengyong Zhou, Olivier Bousquet, Thomas Navin Lal, Jason Weston, Bernhard Schölkopf. Learning with Local and Global
Consistency. NeurIPS 2003. (No arXiv number.) Equal to `sklearn.semi_supervised.LabelSpreading` at its limit.

Support and queries are the nodes of a graph with weights W_ij = exp(-gamma |x_i - x_j|^2), gamma = 1 / (2 sigma^2),
without loops (step 1 of the paper's algorithm), normalised to S = D^(-1/2) W D^(-1/2) (step 2). Every row passes its
label on, F <- alpha S F + (1 - alpha) Y (step 3), to the limit F = (1 - alpha) (I - alpha S)^-1 Y (equation 3), and a
query goes to the greatest entry of its row of F (step 4). The logit is the logarithm of F with rows of sum 1.

Departures from the paper:
* the graph keeps the edges to nearest neighbours only, as in most of its uses for few shots: an edge stays if either
  end has the other among its k nearest. `n_neighbours=0` is the complete graph of the paper;
* alpha is not the paper's 0.99 but was chosen on validation classes with the other settings: near 1, F is little more
  than the root of the degrees times one number per class, and the most central class takes most queries;
* features are scaled to length 1, because the lengths of a cosine-trained network's features mean little;
* S is computed from logarithms, so that the degree of a row far from all others is not zero in single precision.
"""

import math
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from onelook import ops
from onelook.errors import Bound, NonNegativeInt, PositiveFloat
from onelook.methods.preprocessing import PreprocessedMethod, Transform
from onelook.tasks import Tasks

_FLOOR = 1e-6
"""Added to every score: no label reaches a part of the graph without support, and a logarithm needs something."""


class LabelSpreading(PreprocessedMethod):
    """Labels spread over a graph of support and queries.

    >>> LabelSpreading(feature_size=64)(Tasks.random(n_tasks=2, n_way=5)).shape
    torch.Size([2, 15, 5])
    """

    transductive = True
    n_neighbours: NonNegativeInt = 15
    """Edges that each row chooses; 0: the graph is complete."""
    alpha: Annotated[float, Bound(">", 0), Bound("<", 1)] = 0.8
    """Fraction of a row's score that comes from its neighbours and not from its own label."""
    gamma: PositiveFloat = 8.0
    """1 / (2 sigma^2), how fast an edge fades with the squared distance."""
    transform: Transform = "l2n"

    def forward(self, tasks: Tasks) -> Float[Tensor, "T Q K"]:
        spread_TRK = self.spread(tasks)
        return (spread_TRK[:, tasks.support.shape[1] :] + _FLOOR).log().log_softmax(-1)

    def spread(self, tasks: Tasks) -> Float[Tensor, "T R K"]:
        """(I - alpha S)^-1 Y of all R = S + Q rows, the support first."""
        transformed = self.preprocess(tasks)
        rows = torch.cat([transformed.support, transformed.query], 1)
        graph_TRR = normalise_graph(-self.gamma * ops.squared_distance(rows, rows), self.n_neighbours)
        return propagate(graph_TRR, tasks, self.alpha).clamp_min(0)


def normalise_graph(log_weight: Float[Tensor, "T R R"], n_neighbours: int) -> Float[Tensor, "T R R"]:
    """S, from log W of nearest neighbours: S_ij = exp(log W_ij - log(D_i)/2 - log(D_j)/2); 0: a complete graph."""
    n_others = log_weight.shape[1] - 1
    chosen_TRR = ops.nearest_others(log_weight, min(n_neighbours or n_others, n_others))
    log_weight = log_weight.masked_fill(~(chosen_TRR | chosen_TRR.mT), -math.inf)
    half_degree_TR1 = 0.5 * log_weight.logsumexp(-1, keepdim=True)
    return torch.exp(log_weight - half_degree_TR1 - half_degree_TR1.mT)


def propagate(graph: Float[Tensor, "T R R"], tasks: Tasks, alpha: float) -> Float[Tensor, "T R K"]:
    """(I - alpha S)^-1 Y, the labels of the support at the end of their way along the graph."""
    label_TSK = ops.one_hot(tasks.support_labels, tasks.n_way, graph.dtype)
    label_TRK = functional.pad(label_TSK, (0, 0, 0, tasks.query.shape[1]))
    identity = torch.eye(graph.shape[-1], dtype=graph.dtype, device=graph.device)
    limit: Tensor = torch.linalg.solve(identity - alpha * graph, label_TRK)
    return limit
