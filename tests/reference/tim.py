import math

import torch
from torch import Tensor

from onelook.methods import TIM, AlphaTIM, LogisticRegression
from onelook.methods.preprocessing import PreprocessedMethod
from onelook.tasks import Tasks
from reference import logistic_regression
from reference.common import class_mean, preprocessed


def logits(method: TIM, task: Tasks) -> Tensor:
    """Boudiaf et al., their loss by autograd and Adam of torch, or the updates of their proposition, one by one."""
    support, queries = (part.detach() for part in preprocessed(method, task))
    labels = task.support_labels[0]
    means = first_weights(method, support, labels, queries)
    if method.solver == "gd":

        def loss(weights: Tensor) -> Tensor:
            p = torch.stack([posterior(weights, query, method.temperature) for query in queries])
            information = method.marginal_weight * shannon(p.mean(0)) - method.conditional_weight * sum(
                (shannon(row) for row in p), torch.tensor(0.0)
            ) / len(p)
            return method.support_weight * cross_entropy(weights, support, labels, method.temperature) - information

        weights = by_adam(means, loss, method.learning_rate, method.n_iterations or 1000)
    else:
        weights = means
        for _ in range(method.n_iterations or 150):
            weights = alternated(method, weights, support, labels, queries)
    return by_distance(method, weights, queries)


def first_weights(method: TIM | AlphaTIM, support: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
    n_way = int(labels.max()) + 1
    if method.start == "means":
        return torch.stack([class_mean(support, labels, k) for k in range(n_way)])
    regression = LogisticRegression(method.feature_size, tune=True, transform="none")
    task = Tasks(support[None], labels[None], queries[None], n_way)
    share = torch.stack([row.softmax(0) for row in logistic_regression.logits(regression, task)])
    total = [(labels == k).double() @ support + share[:, k] @ queries for k in range(n_way)]
    return torch.stack([total[k] / ((labels == k).sum() + share[:, k].sum()) for k in range(n_way)])


def by_distance(method: PreprocessedMethod, weights: Tensor, queries: Tensor) -> Tensor:
    temperature = method.temperature
    return torch.stack([torch.stack([-temperature / 2 * (x - w).square().sum() for w in weights]) for x in queries])


def posterior(weights: Tensor, row: Tensor, temperature: float) -> Tensor:
    return torch.stack([-temperature / 2 * (row - w).square().sum() for w in weights]).softmax(0)


def shannon(p: Tensor) -> Tensor:
    return -sum((x * x.log() for x in p), torch.tensor(0.0))


def cross_entropy(weights: Tensor, support: Tensor, labels: Tensor, temperature: float) -> Tensor:
    terms = [-posterior(weights, row, temperature)[k].log() for row, k in zip(support, labels, strict=True)]
    return torch.stack(terms).mean()


def by_adam(start: Tensor, loss, learning_rate: float, n_iterations: int) -> Tensor:  # type: ignore[no-untyped-def]
    with torch.inference_mode(False), torch.enable_grad():
        weights = start.clone().requires_grad_()
        optimiser = torch.optim.Adam([weights], lr=learning_rate)
        for _ in range(n_iterations):
            optimiser.zero_grad()
            loss(weights).backward()
            optimiser.step()
    return weights.detach()


def alternated(method: TIM, weights: Tensor, support: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
    a, b = 1 + method.conditional_weight, method.marginal_weight / (1 + method.marginal_weight)
    p_support = [posterior(weights, row, method.temperature) for row in support]
    p_query = [posterior(weights, row, method.temperature) for row in queries]
    n_way = len(weights)
    mass = [math.fsum(float(p[k]) ** a for p in p_query) for k in range(n_way)]
    assigned = []
    for p in p_query:
        row = torch.stack([p[k] ** a / mass[k] ** b for k in range(n_way)])
        assigned.append(row / row.sum())
    c, r = method.support_weight / a, len(support) / len(queries)
    new = []
    for k in range(n_way):
        top, bottom = torch.zeros_like(weights[k]), weights.new_zeros(())
        for x, p, label in zip(support, p_support, labels, strict=True):
            top = top + c * ((1.0 if int(label) == k else 0.0) * x + p[k] * (weights[k] - x))
            bottom = bottom + c * (1.0 if int(label) == k else 0.0)
        for x, p, q in zip(queries, p_query, assigned, strict=True):
            top = top + r * (q[k] * x + p[k] * (weights[k] - x))
            bottom = bottom + r * q[k]
        new.append(top / bottom)
    return torch.stack(new)
