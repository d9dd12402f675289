"""Transductive information maximisation (TIM).

Malik Boudiaf, Imtiaz Masud Ziko, Jérôme Rony, José Dolz, Pablo Piantanida, Ismail Ben Ayed. Transductive Information
Maximization for Few-Shot Learning. NeurIPS 2020, arXiv:2008.11297.

A linear classifier of each task begins at the class means w_k; with `start`, which is no part of the paper, at those of
support and queries by the posteriors of logistic regression. With unit features x and the temperature tau its
posterior is p_ik = softmax_k(-tau/2 |x_i - w_k|^2), and w is what minimises

    support_weight * cross-entropy of the support
    - [marginal_weight * H(mean_i p_i) - conditional_weight * mean_i H(p_i)]

where the bracket, over the queries, is their mutual information with the labels: all classes are to occur equally
often, and each answer is to be sure. There are two solvers:
  "adm"  alternates two closed forms (the proposition of the paper): the soft labels q of the queries,
             q_ik ~ p_ik^(1 + conditional) / (sum_i p_ik^(1 + conditional))^(marginal / (1 + marginal)),
         and then one step of w towards the least cross-entropy with the labels of the support and with q;
  "gd"   is Adam on w.

Departure: the derivative of "gd" by the features holds the steps of Adam fixed, because a graph through 1000 of them
would fill the memory, and nothing in TIM is learned.
"""

import math
from typing import Annotated, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from onelook import ops
from onelook.errors import Bound, NonNegativeFloat, NonNegativeInt, PositiveFloat
from onelook.methods.leave_one_out import list_candidates
from onelook.methods.logistic_regression import solve
from onelook.methods.preprocessing import PreprocessedMethod, Transform
from onelook.tasks import Tasks

_ITERATIONS = {"adm": 150, "gd": 1000}
_BETAS = (0.9, 0.999)
_EPSILON = 1e-8
Start = Annotated[str, Bound("one of", ("means", "logistic"))]
"""Where the classifier begins: at the means of the labelled examples; or at those of labelled examples and queries, a
query counting for a class by its posterior under logistic regression, whose C is chosen by leave-one-out."""


class LossWeights(NamedTuple):
    support: float
    marginal: float
    conditional: float


class TIM(PreprocessedMethod):
    """A classifier that maximises the mutual information of queries and labels.

    >>> TIM(feature_size=64, n_iterations=10)(Tasks.random(n_tasks=2, n_way=5)).shape
    torch.Size([2, 15, 5])
    """

    transductive = assumes_balanced_queries = True
    solver: Annotated[str, Bound("one of", ("adm", "gd"))] = "adm"
    n_iterations: NonNegativeInt = 0
    """0: those of the paper, 150 for "adm" and 1000 for "gd"."""
    support_weight: PositiveFloat = 0.1
    marginal_weight: NonNegativeFloat = 1.0
    conditional_weight: NonNegativeFloat = 0.1
    temperature: PositiveFloat = 15.0
    learning_rate: PositiveFloat = 1e-4
    """Step size of Adam for "gd"."""
    transform: Transform = "l2n"
    start: Start = "means"

    def forward(self, tasks: Tasks) -> Float[Tensor, "T Q K"]:
        tasks = self.preprocess(tasks)
        loss = LossWeights(self.support_weight, self.marginal_weight, self.conditional_weight)
        n_iterations = self.n_iterations or _ITERATIONS[self.solver]
        weights = first_weights(tasks, self.start)
        if self.solver == "gd":
            weights = descend(weights, tasks, loss, 1.0, self.temperature, self.learning_rate, n_iterations)
        else:
            weights = _alternate(weights, tasks, loss, self.temperature, n_iterations)
        return scores(tasks.query, weights, self.temperature)


def first_weights(tasks: Tasks, start: Start) -> Float[Tensor, "T K D"]:
    if start == "means":
        return ops.class_means(tasks.support, tasks.support_labels, tasks.n_way)
    logistic_TKD, bias_T1K = solve(tasks, list_candidates(1.0))
    posterior_TQK = (tasks.query @ logistic_TKD.mT + bias_T1K).softmax(-1)
    return ops.soft_class_means(tasks.support, tasks.support_labels, tasks.query, posterior_TQK)


def scores(rows: Float[Tensor, "T R D"], weights: Float[Tensor, "T K D"], temperature: float) -> Float[Tensor, "T R K"]:
    return -temperature / 2 * ops.squared_distance(rows, weights)


def _log_posterior(
    weights: Float[Tensor, "T K D"], rows: Float[Tensor, "T R D"], temperature: float
) -> Float[Tensor, "T K R"]:
    """The softmax of the scores forgets the lengths of the rows, and it is much faster over the middle axis."""
    logits = weights @ rows.mT - weights.square().sum(-1, keepdim=True) / 2
    return (temperature * logits).log_softmax(1)


def _pull_back(
    upstream: Float[Tensor, "T K R"], rows: Float[Tensor, "T R D"], weights: Float[Tensor, "T K D"]
) -> Float[Tensor, "T K D"]:
    """The derivative by the weights, over the temperature, of what has the derivative `upstream` by the scores."""
    return upstream @ rows - upstream.sum(2, keepdim=True) * weights


def _alternate(
    weights: Float[Tensor, "T K D"], tasks: Tasks, loss: LossWeights, temperature: float, n_iterations: int
) -> Float[Tensor, "T K D"]:
    hot_TKS = ops.one_hot(tasks.support_labels, tasks.n_way, tasks.support.dtype).mT
    n_support, n_query = tasks.support.shape[1], tasks.query.shape[1]
    rows = torch.cat([tasks.support, tasks.query], 1)
    # How much a row counts. The rows of the support are not averaged, so those of the queries weigh S / Q.
    count_R = torch.cat(
        [
            rows.new_full((n_support,), loss.support / (1 + loss.conditional)),
            rows.new_full((n_query,), n_support / n_query),
        ]
    )
    for _ in range(n_iterations):
        log_p_TKR = _log_posterior(weights, rows, temperature)
        sharp_TKQ = (1 + loss.conditional) * log_p_TKR[:, :, n_support:]
        mass_TK1 = sharp_TKQ.logsumexp(2, keepdim=True)
        q_TKQ = (sharp_TKQ - loss.marginal / (1 + loss.marginal) * mass_TK1).softmax(1)
        target_TKR = torch.cat([hot_TKS, q_TKQ], 2)
        gradient = _pull_back(count_R * (log_p_TKR.exp() - target_TKR), rows, weights)
        weights = weights - gradient / (count_R * target_TKR).sum(2, keepdim=True)
    return weights


def descend(
    start: Float[Tensor, "T K D"],
    tasks: Tasks,
    loss: LossWeights,
    alpha: float,
    temperature: float,
    learning_rate: float,
    n_iterations: int,
) -> Float[Tensor, "T K D"]:
    """The weights `start` after Adam's steps down the loss above, with Tsallis entropies of order alpha (1: Shannon's).

    The steps themselves are constants to autograd.
    """
    with torch.no_grad():
        hot_TKS = ops.one_hot(tasks.support_labels, tasks.n_way, start.dtype).mT
        n_support = tasks.support.shape[1]
        rows = torch.cat([tasks.support, tasks.query], 1)
        moved, mean, square = (torch.zeros_like(start) for _ in range(3))
        for t in range(1, n_iterations + 1):
            weights = start + moved
            log_p_TKR = _log_posterior(weights, rows, temperature)
            upstream_TKR = torch.cat(
                [
                    loss.support / n_support * (log_p_TKR[:, :, :n_support].exp() - hot_TKS),
                    _slope_information(log_p_TKR[:, :, n_support:], loss, alpha),
                ],
                2,
            )
            gradient = temperature * _pull_back(upstream_TKR, rows, weights)
            mean = torch.lerp(gradient, mean, _BETAS[0])
            square = torch.lerp(gradient.square(), square, _BETAS[1])
            root = (square / (1 - _BETAS[1] ** t)).sqrt() + _EPSILON
            moved = moved - learning_rate / (1 - _BETAS[0] ** t) * mean / root
    return start + moved


def _slope_information(log_p: Float[Tensor, "T K Q"], loss: LossWeights, alpha: float) -> Float[Tensor, "T K Q"]:
    """The derivative of -[marginal * H(mean_i p_i) - conditional * mean_i H(p_i)] by the scores of the queries."""
    p_TKQ, n_query = log_p.exp(), log_p.shape[2]
    log_mean_TK1 = log_p.logsumexp(2, keepdim=True) - math.log(n_query)
    by_p_TKQ = loss.conditional * _slope_entropy(log_p, alpha) - loss.marginal * _slope_entropy(log_mean_TK1, alpha)
    return p_TKQ / n_query * (by_p_TKQ - (p_TKQ * by_p_TKQ).sum(1, keepdim=True))


def _slope_entropy(log_p: Float[Tensor, "T K rows"], alpha: float) -> Float[Tensor, "T K rows"]:
    """H'(p) but for a constant, which the softmax forgets; H = (1 - sum_k p_k^alpha) / (alpha - 1)."""
    return -log_p if alpha == 1 else -alpha / (alpha - 1) * ((alpha - 1) * log_p).exp()
