"""SIB: empirical Bayes transductive meta-learning with synthetic gradients.

Shell Xu Hu, Pablo Garcia Moreno, Yang Xiao, Xi Shen, Guillaume Obozinski, Neil D. Lawrence, Andreas Damianou.
Empirical Bayes Transductive Meta-Learning with Synthetic Gradients. ICLR 2020, arXiv:2004.12696.

An initialisation network turns the support set into classifier weights. Then, K times, the weights take a step
along the gradient that the hidden labels of the queries would give: everything in that gradient is known but the
derivative of the loss by the scores, and this a small network estimates from the scores themselves. Both networks
learn through the steps, by the cross-entropy of the queries in meta-training.

Departures from the paper, all of them those of the authors' code but the last two:
* the posterior is a Dirac delta, and the prior over the weights is left out; `prior_weight` restores its term;
* the features are those of a finished network, so nothing is detached from them during the steps;
* the step sums over the queries where the workshop paper averages;
* the step size is a field of its own, where the code borrows the learning rate of the outer optimiser;
* the normalisation inside the gradient network is over the queries of one task also in meta-training, where the
  code pools the tasks of a batch, so that a batch of any size gives what its tasks give one by one.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from onelook import ops
from onelook.errors import NonNegativeFloat, NonNegativeInt, PositiveFloat, TwoOrMore
from onelook.methods.feature_averaging import FeatureAveraging
from onelook.tasks import Tasks


class SIB(FeatureAveraging):
    """Classifier weights refined by synthetic gradients of the queries.

    >>> SIB(feature_size=64, n_steps=3)(Tasks.random(n_tasks=2, n_way=5)).shape
    torch.Size([2, 15, 5])
    """

    transductive = True
    assumes_balanced_queries = True  # not by design: it has met no other queries in training
    n_way: TwoOrMore = 5
    n_steps: NonNegativeInt = 3
    """K, the synthetic gradient steps."""
    step_size: PositiveFloat = 1e-3
    """eta, the length of a step; 1e-3 is the published one."""
    prior_weight: NonNegativeFloat = 0.0
    """gamma, precision of a zero-mean Gaussian prior over the weights. Each step descends gamma/2 |theta|^2 too, and
    the loss includes it for the final weights (the KL term of the paper for a Dirac posterior); 0 as published."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # The bias shifts all scores alike: it says nothing to the softmax, but it does to the gradient network.
        self.bias = nn.Parameter(torch.zeros(()))
        self.gradient_network = GradientNetwork(self.n_way)

    def init(self, tasks: Tasks) -> Float[Tensor, "T K D"]:
        self.require_n_way(tasks)
        return super().init(tasks)

    def score(self, weights: Float[Tensor, "T K D"], query: Float[Tensor, "T Q D"]) -> Float[Tensor, "T Q K"]:
        return self.scale * (self.bias + ops.cosine_similarity(query, weights))

    def step(self, weights: Float[Tensor, "T K D"], tasks: Tasks) -> Float[Tensor, "T K D"]:
        """theta - eta (sum_i xi(z_i) dz_i/dtheta + gamma theta), update (U), with the Jacobian in closed form.

        The scores are z_ij = s (b + <q_i, u_j>), so dz = s d<q_i, u_j>, which `ops.cosine_pullback` gives. No inner
        autograd is needed, and the ordinary backward pass gives the meta-gradient, second order included.
        """

        def xi(cosine_TQK: Tensor) -> Tensor:
            return self.gradient_network(self.scale * (self.bias + cosine_TQK))  # type: ignore[no-any-return]

        gradient = self.scale * ops.cosine_pullback(tasks.query, weights, xi)
        return weights - self.step_size * (gradient + self.prior_weight * weights)

    def loss(self, tasks: Tasks) -> Float[Tensor, ""]:
        return self.loss_with_prior(tasks, self.prior_weight)


class GradientNetwork(nn.Module):
    """xi: from the K scores of a query to the derivative of its loss by them, without its label.

    Linear, ReLU, normalisation (in this order), twice, then Linear; 8K hidden units. The normalisation takes its
    mean and variance from the queries at hand, in training and after it, so the network sees the whole set.
    """

    def __init__(self, n_way: int) -> None:
        super().__init__()
        hidden = 8 * n_way
        blocks = [[nn.Linear(size, hidden), nn.ReLU(), PerTaskNorm(hidden)] for size in (n_way, hidden)]
        self.layers = nn.Sequential(*blocks[0], *blocks[1], nn.Linear(hidden, n_way))

    def forward(self, scores: Float[Tensor, "T Q K"]) -> Float[Tensor, "T Q K"]:
        return self.layers(scores)  # type: ignore[no-any-return]


class PerTaskNorm(nn.Module):
    """Batch normalisation over the queries of each task, without running statistics."""

    def __init__(self, size: int, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, x: Float[Tensor, "T Q H"]) -> Float[Tensor, "T Q H"]:
        # Laid side by side, T tasks of H channels are one set of T × H channels for the library's own kernel, three
        # times as fast as a mean, a variance and a product. (functional.batch_norm would refuse a single query.)
        n_tasks, n_query, size = x.shape
        channels = x.transpose(0, 1).reshape(n_query, n_tasks * size)
        weight, bias = self.weight.repeat(n_tasks), self.bias.repeat(n_tasks)
        normed = torch.batch_norm(
            channels, weight, bias, None, None, training=True, momentum=0.0, eps=self.epsilon, cudnn_enabled=False
        )
        return normed.view(n_query, n_tasks, size).transpose(0, 1)
