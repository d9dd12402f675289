"""Logistic regression whose scores are to be smooth over a graph of support and queries (manifold regularisation).

Mikhail Belkin, Partha Niyogi, Vikas Sindhwani. Manifold Regularization: A Geometric Framework for Learning from Labeled
and Unlabeled Examples. JMLR 7, 2006. (No arXiv number.) There it is worked out for squared and hinge losses; this is
the logistic loss for several classes.

With X all rows, support and queries, and L = I - S the normalised Laplacian of the graph of label spreading:

    min over W, b    1/2 |W|^2 + smoothness / 2 sum_k (X w_k)^T L (X w_k) + C sum_i cross-entropy(y_i, W x_i + b)

The two penalties are one, |W|^2 measured by I + smoothness X^T L X. So it is logistic regression with other products of
rows, (I + smoothness G L)^-1 G in the place of G = X X^T (Sindhwani, Niyogi, Belkin. Beyond the Point Cloud. ICML
2005), which `logistic_regression` solves and tunes: a labelled row that is left out is still in the graph.

Departure: the sums over the graph are not divided by the squared number of rows, so that a smoothness means the same
for any number of them.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from onelook import ops
from onelook.errors import NonNegativeFloat, NonNegativeInt, PositiveFloat
from onelook.methods.label_spreading import normalise_graph
from onelook.methods.leave_one_out import list_candidates
from onelook.methods.logistic_regression import fit
from onelook.methods.preprocessing import PreprocessedMethod, Transform
from onelook.tasks import Tasks


class LaplacianLogistic(PreprocessedMethod):
    """Logistic regression with scores that are smooth over a graph of support and queries.

    >>> LaplacianLogistic(feature_size=64)(Tasks.random(n_tasks=2, n_way=5)).shape
    torch.Size([2, 15, 5])
    """

    transductive = True
    smoothness: NonNegativeFloat = 1.0
    """Weight of the graph against the squared weights; 0 is logistic regression."""
    n_neighbours: NonNegativeInt = 15
    """Edges that each row chooses; 0: the graph is complete."""
    gamma: PositiveFloat = 8.0
    """How fast an edge fades with the squared distance."""
    C: PositiveFloat = 1.0
    """Weight of the cross-entropy where it is not tuned, or no class has two labelled examples."""
    tune: bool = True
    """Whether C is chosen for each task, from 0.01 to 100, by leave-one-out on its labels."""
    transform: Transform = "l2n"

    def forward(self, tasks: Tasks) -> Float[Tensor, "T Q K"]:
        tasks = self.preprocess(tasks)
        n_support = tasks.support.shape[1]
        product_TRR = self.smooth(torch.cat([tasks.support, tasks.query], 1))
        target_TSK = ops.one_hot(tasks.support_labels, tasks.n_way, torch.float64)
        prices = list_candidates(self.C, self.tune)
        dual, bias = fit(product_TRR[:, :n_support, :n_support], target_TSK, prices)
        logits: Tensor = product_TRR[:, n_support:, :n_support] @ dual + bias
        return logits.to(tasks.query.dtype)

    def smooth(self, rows: Float[Tensor, "T R D"]) -> Float[Tensor, "T R R"]:
        """(I + smoothness G L)^-1 G, in float64."""
        rows = rows.double()
        graph_TRR = normalise_graph(-self.gamma * ops.squared_distance(rows, rows), self.n_neighbours)
        gram_TRR, identity = rows @ rows.mT, torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
        product_TRR = torch.linalg.solve(identity + self.smoothness * gram_TRR @ (identity - graph_TRR), gram_TRR)
        symmetric: Tensor = (product_TRR + product_TRR.mT) / 2
        return symmetric
