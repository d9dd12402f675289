"""TPN: label propagation over a graph of support and queries whose length scales are learned.

Yanbin Liu, Juho Lee, Minseop Park, Saehoon Kim, Eunho Yang, Sung Ju Hwang, Yi Yang. Learning to Propagate Labels:
Transductive Propagation Network for Few-Shot Learning. ICLR 2019, arXiv:1805.10002.

A small network gives each row of a task a length scale sigma_i. Support and queries together become a graph with the
weights W_ij = exp(-d(f_i / sigma_i, f_j / sigma_j) / 2) between nearest neighbours (equation 2), normalised to
S = D^(-1/2) W D^(-1/2), and the labels Y of the support flow along it to their limit F = (I - alpha S)^-1 Y
(equation 4). Meta-training descends the cross-entropy of softmax(F) over support and queries (equations 5 and 6),
so F is the logit.

Departures from the paper, and where it leaves a choice:
* each class's column of F is divided by its mean over the rows, and a learned scale stands before the softmax. With
  alpha near 1, F is little more than the root of the degrees times one number per class, how central its support rows
  happen to be, and the most central class takes most queries, which sigma alone does not correct on finished features.
  `even_classes=False` is the paper's F;
* the network of sigma is fully connected and reads the finished feature, where the paper's is convolutional;
* features are scaled to length 1 for the distances and to length sqrt(D) for that network, because the lengths of a
  cosine-trained network's features mean little;
* sigma lies within a factor e of a quarter, a fit scale for rows of length 1: with much smaller ones a row hears of its
  nearest neighbour only, and no gradient tells it of the others;
* d is the squared Euclidean distance, and an edge stays if either end has the other among its k nearest;
* no row is its own neighbour, as in the label propagation of Zhou et al. (2004) that the paper builds on, where the
  authors' code keeps the diagonal;
* S is computed from logarithms, so that the degree of a row far from all others is not zero in single precision.
"""

import math
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from onelook import ops
from onelook.errors import Bound, PositiveInt
from onelook.methods.base import Method, query_cross_entropy
from onelook.methods.label_spreading import normalise_graph, propagate
from onelook.tasks import Tasks


class TransductivePropagation(Method):
    """Label propagation over a graph with learned widths.

    >>> TransductivePropagation(feature_size=64)(Tasks.random(n_tasks=2, n_way=5)).shape
    torch.Size([2, 15, 5])
    """

    transductive = assumes_balanced_queries = True
    feature_size: PositiveInt
    n_neighbours: PositiveInt = 20
    """k, the edges that each row chooses; a smaller graph is complete."""
    alpha: Annotated[float, Bound(">", 0), Bound("<", 1)] = 0.99
    """Fraction of a row's score that comes from its neighbours and not from its own label."""
    even_classes: bool = True
    """Whether the scores of each class have the same mean over the rows."""
    hidden: PositiveInt = 64
    """Units of the network of sigma."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.even_classes:
            # The columns differ by a few parts in a hundred.
            self.log_factor = nn.Parameter(torch.tensor(math.log(30.0)))
        last = nn.Linear(self.hidden, 1)
        nn.init.zeros_(last.weight)  # all rows begin with the same sigma, which alone is a fair method
        nn.init.zeros_(last.bias)
        self.log_scale = nn.Sequential(nn.Linear(self.feature_size, self.hidden), nn.ReLU(), last, nn.Tanh())

    def forward(self, tasks: Tasks) -> Float[Tensor, "T Q K"]:
        return self.scores(tasks)[:, tasks.support.shape[1] :]

    def loss(self, tasks: Tasks) -> Float[Tensor, ""]:
        """The mean cross-entropy of all rows: an even support keeps its own labels while it gives them away."""
        n_support, n_query = tasks.support.shape[1], tasks.query.shape[1]
        scores = self.scores(tasks)
        of_queries = query_cross_entropy(scores[:, n_support:], tasks)
        of_support = functional.cross_entropy(scores[:, :n_support].flatten(0, 1), tasks.support_labels.flatten())
        return (n_query * of_queries + n_support * of_support) / (n_query + n_support)

    def scores(self, tasks: Tasks) -> Float[Tensor, "T R K"]:
        """Logits of all R = S + Q rows, the support first."""
        limit = self.propagate(tasks)
        return self.log_factor.exp() * limit / limit.mean(1, keepdim=True) if self.even_classes else limit

    def propagate(self, tasks: Tasks) -> Float[Tensor, "T R K"]:
        """F."""
        return propagate(self.similarity(torch.cat([tasks.support, tasks.query], 1)), tasks, self.alpha)

    def similarity(self, rows: Float[Tensor, "T R D"]) -> Float[Tensor, "T R R"]:
        """S, the normalised graph of the rows."""
        unit = ops.normalise(rows)
        sigma = 0.25 * torch.exp(self.log_scale(unit * math.sqrt(rows.shape[-1])))
        scaled = unit / sigma
        return normalise_graph(-0.5 * ops.squared_distance(scaled, scaled), self.n_neighbours)
