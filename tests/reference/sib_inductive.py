import torch
from torch import Tensor

from onelook.methods import InductiveSIB
from onelook.tasks import Tasks
from reference.feature_averaging import averaged_weights, cosine_logits


def support_loss(method: InductiveSIB, theta: Tensor, task: Tasks) -> Tensor:
    """The mean cross-entropy of the labelled examples, row by row."""
    scores = cosine_logits(theta, task.support[0], method.scale, 0.0)
    rows = zip(scores, task.support_labels[0], strict=True)
    return torch.stack([torch.logsumexp(row, 0) - row[label] for row, label in rows]).sum() / len(scores)


def weights(method: InductiveSIB, task: Tasks) -> Tensor:
    """SIB's initialisation, then gradient descent by automatic differentiation."""
    eta = torch.exp(method.log_step) if method.learn_step else method.step_size
    with torch.enable_grad():
        theta = averaged_weights(method, task)
        for _ in range(method.n_steps):
            energy = support_loss(method, theta, task) + method.prior_weight / 2 * theta.square().sum()
            (gradient,) = torch.autograd.grad(energy, theta, create_graph=True)
            theta = theta - eta * gradient
    return theta


def logits(method: InductiveSIB, task: Tasks) -> Tensor:
    return cosine_logits(weights(method, task), task.query[0], method.scale, 0.0)


def loss(method: InductiveSIB, task: Tasks) -> Tensor:
    assert task.query_labels is not None
    theta = weights(method, task)
    scores = cosine_logits(theta, task.query[0], method.scale, 0.0)
    losses = [torch.logsumexp(row, 0) - row[label] for row, label in zip(scores, task.query_labels[0], strict=True)]
    return torch.stack(losses).mean() + method.prior_weight / 2 * theta.square().sum()
