import torch
from torch import Tensor
from torch.nn import functional

from onelook.methods import SIB
from onelook.tasks import Tasks
from reference.feature_averaging import averaged_weights, cosine_logits


def gradient_network(method: SIB, z: Tensor) -> Tensor:
    """sib.md 2.4: Linear, ReLU, batch normalisation in training mode, twice, then Linear."""
    parameter = dict(method.gradient_network.layers.named_parameters())

    def linear(x: Tensor, layer: int) -> Tensor:
        return functional.linear(x, parameter[f"{layer}.weight"], parameter[f"{layer}.bias"])

    def batch_norm(x: Tensor, layer: int) -> Tensor:
        weight, bias = parameter[f"{layer}.weight"], parameter[f"{layer}.bias"]
        if len(x) == 1:  # torch refuses a single row; it equals its own mean, so only the bias is left
            return bias.expand_as(x)
        return functional.batch_norm(x, None, None, weight, bias, training=True, eps=1e-5)

    hidden = batch_norm(functional.relu(linear(z, 0)), 2)
    hidden = batch_norm(functional.relu(linear(hidden, 3)), 5)
    return linear(hidden, 6)


def weights(method: SIB, task: Tasks) -> Tensor:
    """sib.md 2.5: theta <- theta - eta (J^T xi(z) + gamma theta), with J^T xi(z) by automatic differentiation."""
    with torch.enable_grad():
        theta = averaged_weights(method, task)
        for _ in range(method.n_steps):
            z = cosine_logits(theta, task.query[0], method.scale, method.bias)
            g = gradient_network(method, z)
            (gradient,) = torch.autograd.grad(outputs=z, inputs=theta, grad_outputs=g, create_graph=True)
            theta = theta - method.step_size * (gradient + method.prior_weight * theta)
    return theta


def logits(method: SIB, task: Tasks) -> Tensor:
    return cosine_logits(weights(method, task), task.query[0], method.scale, method.bias)


def loss(method: SIB, task: Tasks) -> Tensor:
    """sib.md 2.6 and 1.6: the mean cross-entropy of the queries, and gamma/2 |theta^K|^2."""
    assert task.query_labels is not None
    theta = weights(method, task)
    scores = cosine_logits(theta, task.query[0], method.scale, method.bias)
    losses = [torch.logsumexp(row, 0) - row[label] for row, label in zip(scores, task.query_labels[0], strict=True)]
    return torch.stack(losses).mean() + method.prior_weight / 2 * theta.square().sum()
