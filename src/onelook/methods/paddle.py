"""Clusters of the queries, and as few of them as will do (PADDLE).

Ségolène Martin, Malik Boudiaf, Emilie Chouzenoux, Jean-Christophe Pesquet, Ismail Ben Ayed. Towards Practical Few-shot
Query Sets: Transductive Minimum Description Length Inference. NeurIPS 2022, arXiv:2210.14545.

With soft labels u_i of the queries, pi = mean_i u_i the class priors, and centres w_k, one minimises

    1/2 sum_ik u_ik |x_i - w_k|^2 + the same of the support + sum_ik u_ik log u_ik - lambda sum_k pi_k log pi_k

The last term, the length of a code for the classes, is least where few classes have queries: nothing is known of how
many do. It is concave, so a line above it is minimised instead, and each of the iterations is
    u_ik = softmax_k(-1/2 |x_i - w_k|^2 + lambda / Q * (log pi_k + 1)),
    w_k  = mean of the support of class k and of the queries, with weights u_ik.
In the first there are no priors yet, and the centres are the class means. lambda is the number Q of queries.

Departures: lambda is given as a multiple of Q, so that it means the same for any number of queries. The published code
divides each feature by the range that it has among the queries of the task, and takes distances as they then are. With
256 features of a small network those are too short beside the price of classes, and one class takes nearly all queries
(27 % right on validation tasks of one shot). So by default features have length 1 and distances a temperature, chosen
on validation tasks with lambda left at Q. `min_max=True`, `temperature=1` and `transform=none` are as published.
"""

import itertools
from collections.abc import Iterable
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from onelook import ops
from onelook.errors import NonNegativeFloat, PositiveFloat, PositiveInt
from onelook.methods.preprocessing import PreprocessedMethod, Transform
from onelook.tasks import Tasks

LEAST_PRIOR = 1e-6
"""Added to the prior of a class, whose log would be infinite where no query is left to it."""


class PADDLE(PreprocessedMethod):
    """Soft clustering with a price for every class that has queries.

    >>> PADDLE(feature_size=64, n_iterations=10)(Tasks.random(n_tasks=2, n_way=5)).shape
    torch.Size([2, 15, 5])
    """

    transductive = True
    class_weight: NonNegativeFloat = 1.0
    """lambda / Q, the price of classes."""
    n_iterations: PositiveInt = 100
    min_max: bool = False
    """Whether each feature is divided by its range among the queries of its task."""
    temperature: PositiveFloat = 60.0
    """Factor of the squared distances."""
    transform: Transform = "l2n"
    """Transform before the ranges are taken."""

    def forward(self, tasks: Tasks) -> Float[Tensor, "T Q K"]:
        tasks = self.preprocess(tasks)
        if self.min_max:
            support, query = tasks.support, tasks.query
            range_T1D = query.amax(1, keepdim=True) - query.amin(1, keepdim=True)
            range_T1D = range_T1D.masked_fill(range_T1D == 0, 1.0)
            tasks = replace(tasks, support=support / range_T1D, query=query / range_T1D)
        return cluster(tasks, itertools.repeat((self.temperature, self.class_weight), self.n_iterations))


def cluster(
    tasks: Tasks, iterations: Iterable[tuple[float | Float[Tensor, ""], float | Float[Tensor, ""]]]
) -> Float[Tensor, "T Q K"]:
    """log u after iterations, each with its own factor of the squared distances and price of classes."""
    support, query = tasks.support, tasks.query
    centres = ops.class_means(support, tasks.support_labels, tasks.n_way)
    log_priors = centres.new_zeros(len(tasks), 1, tasks.n_way)
    log_u = centres.new_zeros(len(tasks), query.shape[1], tasks.n_way)
    for temperature, class_weight in iterations:
        fit_TQK = -temperature / 2 * ops.squared_distance(query, centres)
        log_u = (fit_TQK + class_weight * log_priors).log_softmax(-1)
        log_priors = (log_u.exp().mean(1, keepdim=True) + LEAST_PRIOR).log()
        centres = ops.soft_class_means(support, tasks.support_labels, query, log_u.exp())
    return log_u
