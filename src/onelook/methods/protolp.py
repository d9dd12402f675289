"""protoLP: label propagation between prototypes, over a graph that is refined with them.

Hao Zhu, Piotr Koniusz. Transductive Few-shot Learning with Prototype-based Label Propagation by Iterative Graph
Refinement. CVPR 2023, arXiv:2304.11598.

The roots of the features are scaled to length 1, projected onto the 40 leading singular directions of the task, centred
on its mean and scaled to length 1 again. A prototype w_k begins as the mean of its support. Then, many times:

1. Z, the part that each query has in each prototype, is the transport plan of least distance in which all classes have
   as many queries (or a softmax of the distances, where the classes are not known to be balanced); a support row has
   part in the prototype of its own class.
2. The prototypes become a graph, linked by the rows they share: W = Lambda^(-1/2) Z^T Z Lambda^(-1/2) with Lambda the
   sums of the columns of Z, and Laplacian L = I - W. Labels of the support flow along it to the prototypes,
   A = (Z_s^T Z_s + gamma L)^-1 Z_s^T Y, and from these to the queries as Z A, to which step 1 is done as well.
3. Each prototype moves by alpha towards the mean of all rows, weighted with beta Z A + (1 - beta) Z.

The logit is the logarithm of the last Z.

Departures from the paper and its code, none of which shows where classes are balanced in support and queries:
* W has the root of Lambda on both sides. The code divides by Lambda on one side, which is the same for equal sums, and
  not symmetric for others;
* a transport plan is a fixed number of Sinkhorn steps for every task, where the code goes on until all of a batch are
  near enough;
* the projection is taken as constant in derivatives by the features: that of singular vectors is not bounded.
"""

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from onelook import ops
from onelook.errors import Bound, Fraction, NonNegativeInt, PositiveFloat, PositiveInt
from onelook.methods.preprocessing import PreprocessedMethod, Transform
from onelook.tasks import Tasks

_FLOOR = 1e-12
"""Added before a logarithm is taken: what rounding leaves where prototypes share no row."""


class ProtoLP(PreprocessedMethod):
    """Label propagation between prototypes, over a graph that is refined with them.

    >>> ProtoLP(feature_size=64)(Tasks.random(n_tasks=2, n_way=5)).shape
    torch.Size([2, 15, 5])
    """

    transductive = assumes_balanced_queries = True
    balanced: bool = True
    """Whether all classes are given as many queries."""
    n_steps: NonNegativeInt = 40
    """40 where the published code has 100, because what is left of the way shrinks by 1 - alpha in each."""
    scale: PositiveFloat = 10.0
    """lambda, factor of the distances in a softmax or a transport plan."""
    step_size: Annotated[float, Bound(">", 0), Bound("<=", 1)] = 0.2
    """alpha, fraction of the way to its new place that a prototype moves in a step."""
    smoothness: PositiveFloat = 1.0
    """gamma, how much linked prototypes shall have the same label."""
    propagated_part: Fraction = 0.6
    """beta, weight of the propagated labels in the new prototypes."""
    dimensions: NonNegativeInt = 40
    """Singular directions that are used; 0: all."""
    n_sinkhorn: PositiveInt = 10
    """Scalings of a transport plan."""
    transform: Transform = "root"
    """Transform before the projection and the mean of the task."""

    def forward(self, tasks: Tasks) -> Float[Tensor, "T Q K"]:
        tasks = self.preprocess(tasks)
        rows = torch.cat([tasks.support, tasks.query], 1)
        rows = ops.leading_part(rows, self.dimensions) if self.dimensions else rows
        rows = ops.normalise(rows - rows.mean(1, keepdim=True))
        n_support = tasks.support.shape[1]
        support, query = rows[:, :n_support], rows[:, n_support:]
        labels = tasks.support_labels
        shots_TK = ops.one_hot(labels, tasks.n_way, rows.dtype).sum(1)
        prototypes = ops.normalise(ops.class_means(support, labels, tasks.n_way))
        for _ in range(self.n_steps):
            plan = self.assign(-self.scale * ops.squared_distance(query, prototypes)).exp()
            propagated = self.assign((self.propagate(plan, shots_TK) + _FLOOR).log()).exp()
            mixed = self.propagated_part * propagated + (1 - self.propagated_part) * plan
            estimate = ops.soft_class_means(support, labels, query, mixed)
            prototypes = prototypes + self.step_size * (estimate - prototypes)
        return self.assign(-self.scale * ops.squared_distance(query, prototypes))

    def assign(self, log_kernel: Float[Tensor, "T Q K"]) -> Float[Tensor, "T Q K"]:
        """Step 1: the logarithm of a distribution over the prototypes for each query."""
        if self.balanced:
            return ops.sinkhorn(log_kernel, ops.balanced_mass(log_kernel), self.n_sinkhorn)
        return log_kernel.log_softmax(-1)

    def propagate(self, plan: Float[Tensor, "T Q K"], shots: Float[Tensor, "T K"]) -> Float[Tensor, "T Q K"]:
        """Step 2: Z A, in which each support row is a row of the identity."""
        of_support_TKK = torch.diag_embed(shots)
        root_TK = (shots + plan.sum(1)).sqrt()
        weight_TKK = (of_support_TKK + plan.mT @ plan) / (root_TK.unsqueeze(2) * root_TK.unsqueeze(1))
        identity = torch.eye(shots.shape[1], dtype=plan.dtype, device=plan.device)
        system_TKK = of_support_TKK + self.smoothness * (identity - weight_TKK)
        label_TKK: Tensor = torch.linalg.solve(system_TKK, of_support_TKK)
        return plan @ label_TKK.clamp_min(0)
