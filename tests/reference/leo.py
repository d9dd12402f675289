import math
from collections.abc import Iterator

import torch
from torch import Tensor

from onelook.methods import LEO
from onelook.tasks import Tasks
from reference.common import class_mean, unit


def codes(method: LEO, task: Tasks) -> tuple[Tensor, Tensor]:
    """Rusu et al., equation 3: the mean over all pairs of a row of the class and a row of the task."""
    layers = method.relations
    encoded = [method.encoder(unit(row) * math.sqrt(len(row))) for row in task.support[0]]
    related = []
    for own in encoded:
        pairs = [torch.cat([own, other]) for other in encoded]
        outputs = [layers.last(layers.middle(layers.first(pair).relu()).relu()) for pair in pairs]
        related.append(torch.stack(outputs).sum(0) / len(outputs))
    means = [class_mean(torch.stack(related), task.support_labels[0], label) for label in range(task.n_way)]
    mean, spread = torch.stack(means).split(method.latent_size, dim=1)
    return mean, std(spread)


def std(spread: Tensor) -> Tensor:
    """A softplus that is 0.1 at 0."""
    return 0.1 * (1 + spread.exp()).log() / math.log(2)


def decoded(method: LEO, code: Tensor, noise: Tensor | None) -> Tensor:
    """Equation 4."""
    mean, spread = method.decoder(code).split(method.feature_size, dim=1)
    return mean if noise is None else mean + std(spread) * noise


def item(method: LEO, row: Tensor) -> Tensor:
    return method.scale * unit(row)


def cross_entropy(method: LEO, weights: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
    """Of a linear softmax classifier: the mean over the rows."""
    losses = []
    for row, label in zip(rows, labels, strict=True):
        scores = torch.stack([(item(method, row) * weight).sum() for weight in weights])
        losses.append(scores.logsumexp(0) - scores[label])
    return torch.stack(losses).mean()


def adapted(method: LEO, task: Tasks, code: Tensor, noises: Iterator[Tensor | None]) -> tuple[Tensor, Tensor]:
    """Equation 5 and the fine-tuning, with gradients by automatic differentiation."""
    support, labels = task.support[0], task.support_labels[0]
    for _ in range(method.latent_steps):
        loss = cross_entropy(method, decoded(method, code, next(noises)), support, labels)
        (gradient,) = torch.autograd.grad(loss, code, create_graph=True)
        code = code - method.log_latent_step_size.exp() * gradient
    weights = decoded(method, code, next(noises))
    for _ in range(method.tuning_steps):
        loss = cross_entropy(method, weights, support, labels)
        (gradient,) = torch.autograd.grad(loss, weights, create_graph=True)
        weights = weights - method.log_tuning_step_size.exp() * gradient
    return weights, code


def logits(method: LEO, task: Tasks) -> Tensor:
    no_noise = iter([None] * (method.latent_steps + 1))
    weights, _ = adapted(method, task, codes(method, task)[0], no_noise)
    scores = [[(item(method, row) * weight).sum() for weight in weights] for row in task.query[0]]
    return torch.stack([torch.stack(row) for row in scores])


def loss(method: LEO, task: Tasks, noises: Iterator[Tensor | None]) -> Tensor:
    """Equations 6 and 7, with the draws given: first that of the codes, then one for each decoding."""
    assert task.query_labels is not None
    mean, width = codes(method, task)
    noise = next(noises)
    assert noise is not None
    code = mean + width * noise
    weights, moved = adapted(method, task, code, noises)
    own, standard = torch.distributions.Normal(mean, width), torch.distributions.Normal(0.0, 1.0)
    divergence = torch.distributions.kl_divergence(own, standard).sum() / task.n_way
    distance = (moved.detach() - code).square().sum() / task.n_way
    rows = [unit(row) for row in method.decoder.weight.T]
    differences = [((a * b).sum() - float(i == j)) ** 2 for i, a in enumerate(rows) for j, b in enumerate(rows)]
    return (
        cross_entropy(method, weights, task.query[0], task.query_labels[0])
        + method.kl_weight * divergence
        + method.distance_weight * distance
        + method.orthogonality_weight * torch.stack(differences).mean()
    )
