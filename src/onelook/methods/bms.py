"""BMS: class directions and a transport of the queries in which no class gets too few.

Yuqing Hu, Stéphane Pateux, Vincent Gripon. Squeezing Backbone Feature Distributions to the Max for Efficient Few-Shot
Learning. Algorithms 2022, arXiv:2110.09446.

The features are brought near to Gaussians by the root of each entry, unit length and centring (`transform`). A query
has the scores scale <q_i, w_k> for the unit directions w_k of the classes. Sinkhorn's scalings turn their softmax into
the plan ("boosted min-size Sinkhorn"): rows to 1, then those columns that fall below a least size up to it. The least
size begins at the number of shots and then is the size of the smallest class that the last plan makes of the queries.
Each w_k becomes the direction of the mean of its support and of the queries weighted by the plan, and so on; the answer
is the last plan. With `balanced`, every class gets the same number of queries instead, as in PT-MAP (BMS*). This is a
transductive method; neither form is at its best where the classes are not equally frequent among the queries.

Departures from the paper and the authors' code:
* support and queries are centred each on their own mean, as in PT-MAP, and not on that of both;
* the directions are not refined by gradient descent, which is optional in the authors' code too;
* the size of a class is the number of its queries, where the code adds its shots, so that with five of them the least
  size would be more than there are queries for;
* with unequal shots the least size begins at the smallest number of them, and is never more than queries a class.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from onelook import ops
from onelook.errors import NonNegativeInt, PositiveFloat, PositiveInt
from onelook.methods.preprocessing import PreprocessedMethod, Transform
from onelook.tasks import Tasks


class BMS(PreprocessedMethod):
    """Class directions and a transport of the queries in which no class gets too few.

    >>> BMS(feature_size=64)(Tasks.random(n_tasks=2, n_way=5)).shape
    torch.Size([2, 15, 5])
    """

    transductive = assumes_balanced_queries = True
    balanced: bool = True
    """Whether the queries are known to be balanced (BMS*), or a least size is estimated (BMS)."""
    scale: PositiveFloat = 8.5
    """lambda, weight of the scores against the entropy of the plan."""
    n_steps: NonNegativeInt = 20
    """0 leaves the directions of the support means."""
    n_sinkhorn: PositiveInt = 50
    """Scalings of rows and columns for each plan."""
    transform: Transform = "root-task"

    def forward(self, tasks: Tasks) -> Float[Tensor, "T Q K"]:
        """The logarithm of the plan."""
        tasks = self.preprocess(tasks)
        shots_TK = ops.one_hot(tasks.support_labels, tasks.n_way, tasks.query.dtype).sum(1)
        directions = ops.normalise(ops.class_means(tasks.support, tasks.support_labels, tasks.n_way))
        log_plan = self.log_plan(tasks, directions, shots_TK.amin(1))
        for _ in range(self.n_steps):
            means = ops.soft_class_means(tasks.support, tasks.support_labels, tasks.query, log_plan.exp())
            claimed_TQK = ops.one_hot(log_plan.argmax(-1), tasks.n_way, shots_TK.dtype)
            log_plan = self.log_plan(tasks, ops.normalise(means), claimed_TQK.sum(1).amin(1))
        return log_plan

    def log_plan(
        self, tasks: Tasks, directions: Float[Tensor, "T K D"], least: Float[Tensor, "T"]
    ) -> Float[Tensor, "T Q K"]:
        kernel = self.scale * tasks.query @ directions.mT
        if self.balanced:
            return ops.sinkhorn(kernel, ops.balanced_mass(kernel), self.n_sinkhorn)
        n_query, n_way = kernel.shape[1:]
        return min_size_sinkhorn(kernel, least.clamp_max(n_query / n_way), self.n_sinkhorn)


def min_size_sinkhorn(
    log_kernel: Float[Tensor, "T Q K"], least: Float[Tensor, "T"], n_iterations: int
) -> Float[Tensor, "T Q K"]:
    """The log of exp(log_kernel) with rows scaled to 1, then columns below `least` up to it, again and again.

    Columns are scaled last, so that rows may hold more than 1.
    """
    log_least = least.log().view(-1, 1, 1)
    log_plan = log_kernel
    for _ in range(n_iterations):
        log_plan = log_plan.log_softmax(-1)
        log_plan = log_plan + (log_least - torch.logsumexp(log_plan, 1, keepdim=True)).clamp_min(0)
    return log_plan
