"""Classes as Dirichlet densities on the simplex of the labels (EM-Dirichlet).

Ségolène Martin, Yunshi Huang, Fereshteh Shakeri, Jean-Christophe Pesquet, Ismail Ben Ayed. Transductive Zero-Shot and
Few-Shot CLIP. CVPR 2024, arXiv:2405.00175.

A row is described by its probabilities z (K) under a first classifier, and class k by a Dirichlet density of z with
parameters alpha_k. With soft labels u_i of the queries, one minimises the negative log-likelihood of support and
queries, plus sum_ik u_ik log u_ik, minus lambda sum_k pi_k log pi_k, as in PADDLE. u begins at z; each iteration is
    alpha_k = the Dirichlet density nearest to the support of class k and to the queries with weights u_ik,
    u_ik    = softmax_k(log Dirichlet(z_i; alpha_k) + lambda / Q * (log pi_k + 1)),   pi = mean_i u_i.

Departures: The first classifier of the paper compares images with the names of the classes; there is no text here, so z
is the softmax of a temperature times the cosines to the mean support features. That flatters a labelled row, which is
part of a mean, and of a query it tells less than the feature: with the paper's temperature, 30, the method is worse on
validation tasks than the nearest mean, and with the best one, the default, hardly different. Only mean logarithms of z
decide about alpha; from each is taken a little, as rows that are all alike would make a density infinitely narrow.
alpha is found by Newton's method (Minka, Estimating a Dirichlet distribution, 2000) and not by 1000 steps of
majorisation and minimisation: the minimum is the same. lambda is given as a multiple of the number Q of queries, and 1
of it is what the paper has.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from onelook import ops
from onelook.errors import NonNegativeFloat, PositiveFloat, PositiveInt
from onelook.methods.preprocessing import PreprocessedMethod, Transform
from onelook.tasks import Tasks

ALIKE = 1e-3
"""Taken from mean logarithms. The parameters of a class then add up to about (K - 1) / (2 ALIKE) at most."""
LEAST_PRIOR = 1e-15
"""Added to the prior of a class, whose log would be infinite where no query is left to it."""
_NEWTON_STEPS = 30
"""Enough for 13 digits from any density to any other; in a random sample 25 were not."""


class EMDirichlet(PreprocessedMethod):
    """A mixture of Dirichlet densities over class probabilities.

    >>> EMDirichlet(feature_size=64, n_iterations=3)(Tasks.random(n_tasks=2, n_way=5)).shape
    torch.Size([2, 15, 5])
    """

    transductive = True
    temperature: PositiveFloat = 200.0
    """Factor of the cosines."""
    class_weight: NonNegativeFloat = 1.0
    """lambda / Q, the price of classes."""
    n_iterations: PositiveInt = 20
    transform: Transform = "l2n"

    def forward(self, tasks: Tasks) -> Float[Tensor, "T Q K"]:
        tasks = self.preprocess(tasks)
        means = ops.class_means(tasks.support, tasks.support_labels, tasks.n_way)
        # float64: the logarithms of gamma functions are large, and it is their differences that count.
        support, query = (
            (self.temperature * ops.cosine_similarity(rows, means)).log_softmax(-1).double()
            for rows in (tasks.support, tasks.query)
        )
        log_u = query
        alpha_TKK = torch.ones_like(query[:, :1]).expand(-1, tasks.n_way, -1)
        for _ in range(self.n_iterations):
            mean_log_TKK = ops.soft_class_means(support, tasks.support_labels, query, log_u.exp())
            alpha_TKK = fit_dirichlet(alpha_TKK, mean_log_TKK)
            log_priors_T1K = (log_u.exp().mean(1, keepdim=True) + LEAST_PRIOR).log()
            log_u = (log_density(query, alpha_TKK) + self.class_weight * log_priors_T1K).log_softmax(-1)
        return log_u.to(means.dtype)


def log_density(log_z: Float[Tensor, "T R K"], alpha: Float[Tensor, "T J K"]) -> Float[Tensor, "T R J"]:
    """Log density of every row under every Dirichlet density."""
    log_constant_TJ = torch.lgamma(alpha.sum(-1)) - torch.lgamma(alpha).sum(-1)
    return log_z @ (alpha - 1).mT + log_constant_TJ.unsqueeze(1)


def fit_dirichlet(start: Float[Tensor, "T J K"], mean_log: Float[Tensor, "T J K"]) -> Float[Tensor, "T J K"]:
    """The parameters where psi(alpha_d) - psi(sum alpha) = mean_log_d - ALIKE, by Newton's method.

    The Hessian is diag(c) - e 11^T, whose inverse is known. Only the last step is differentiated: at the solution that
    is the derivative of the solution.
    """
    alpha = start
    for _ in range(_NEWTON_STEPS):
        alpha = alpha.detach()
        total = alpha.sum(-1, keepdim=True)
        gradient = torch.digamma(alpha) - torch.digamma(total) - (mean_log - ALIKE)
        inverse, e = 1 / torch.polygamma(1, alpha), torch.polygamma(1, total)
        along = inverse * gradient
        step = along + inverse * e * along.sum(-1, keepdim=True) / (1 - e * inverse.sum(-1, keepdim=True))
        # Never more than nine tenths of the way to a parameter of zero.
        alpha = alpha - step * (0.9 / (step / alpha).amax(-1, keepdim=True).clamp_min(0.9)).detach()
    return alpha
