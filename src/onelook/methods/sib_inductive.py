"""Inductive SIB: the steps follow the true gradient of the support set instead of the synthetic one of the queries.

Shell Xu Hu, Pablo Garcia Moreno, Yang Xiao, Xi Shen, Guillaume Obozinski, Neil D. Lawrence, Andreas Damianou.
Empirical Bayes Transductive Meta-Learning with Synthetic Gradients. ICLR 2020, arXiv:2004.12696 (the ablation of its
appendix).

The initialisation network and the cosine head are those of SIB. Then, K times, the weights descend the cross-entropy
of the labelled examples, of which nothing has to be estimated: the derivative by the scores is softmax minus one-hot.
So what SIB gains over this method is what the queries are worth. This is an inductive method.

Departures from the paper:
* the step size is learned (`learn_step`), because the one of SIB suits the scale that its gradient network learns,
  and there is no such network here to make up for a wrong one;
* the gradient is the mean over the support rows, so that a step size serves one shot and many;
* the bias of the scores is left out: it moves all scores of a row alike, which the true gradient does not see;
* the prior over the weights is left out, as in the authors' code; `prior_weight` restores its term.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from onelook import ops
from onelook.errors import NonNegativeFloat, NonNegativeInt, PositiveFloat
from onelook.methods.feature_averaging import FeatureAveraging
from onelook.tasks import Tasks


class InductiveSIB(FeatureAveraging):
    """Gradient steps on the labelled support, in the place of synthetic gradients of the queries.

    >>> InductiveSIB(feature_size=64)(Tasks.random(n_tasks=2, n_way=5)).shape
    torch.Size([2, 15, 5])
    """

    n_steps: NonNegativeInt = 3
    """K, the gradient steps; 0 is feature averaging."""
    step_size: PositiveFloat = 0.01
    """eta, the length of a step, or what it is learned from."""
    prior_weight: NonNegativeFloat = 0.0
    """gamma, as in SIB: each step descends gamma/2 |theta|^2 too, and the loss includes it."""
    learn_step: bool = True
    """Whether eta is learned, as the exponential of a parameter, so that it stays positive."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.learn_step:
            self.log_step = nn.Parameter(torch.tensor(math.log(self.step_size)))

    def step(self, weights: Float[Tensor, "T K D"], tasks: Tasks) -> Float[Tensor, "T K D"]:
        """theta - eta (1/S sum_i xi_i dz_i/dtheta + gamma theta), with xi_i = softmax(z_i) - one-hot(y_i), in closed
        form; the ordinary backward pass gives the meta-gradient, second order included."""
        hot_TSK = ops.one_hot(tasks.support_labels, tasks.n_way, weights.dtype)
        gradient = self.scale * ops.cosine_pullback(
            tasks.support, weights, lambda cosine: ((self.scale * cosine).softmax(-1) - hot_TSK) / cosine.shape[1]
        )
        length = self.log_step.exp() if self.learn_step else self.step_size
        return weights - length * (gradient + self.prior_weight * weights)

    def loss(self, tasks: Tasks) -> Float[Tensor, ""]:
        return self.loss_with_prior(tasks, self.prior_weight)
