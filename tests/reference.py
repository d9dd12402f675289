"""The methods once more, slowly: one task, one class, one query at a time, from the papers' equations.

Nothing here imports the maths of onelook. Each function takes a method for its parameters and settings only, and one
task (T = 1), and returns the logits (Q, K).
"""

import torch
from torch import Tensor
from torch.nn import functional

from onelook.methods import SIB, FeatureAveraging, Method, PrototypicalNetworks
from onelook.tasks import Tasks


def unit(vector: Tensor) -> Tensor:
    length = vector.square().sum().sqrt()
    return vector / length if length > 1e-12 else vector / 1e-12


def class_mean(rows: Tensor, labels: Tensor, label: int) -> Tensor:
    members = [row for row, row_label in zip(rows, labels, strict=True) if int(row_label) == label]
    return torch.stack(members).sum(0) / len(members)


def prototypical(method: PrototypicalNetworks, task: Tasks) -> Tensor:
    """Snell et al., equations 1 and 2; Wang et al., section 2 (L2N, CL2N); a cosine as in Gidaris & Komodakis."""

    def transformed(row: Tensor) -> Tensor:
        match method.transform:
            case "l2n":
                return unit(row)
            case "cl2n":
                return unit(row - method.centre)
        return row

    support = torch.stack([transformed(row) for row in task.support[0]])
    logits = []
    for row in task.query[0]:
        query = transformed(row)
        for label in range(task.n_way):
            prototype = class_mean(support, task.support_labels[0], label)
            if method.metric == "cosine":
                logits.append(method.scale * (unit(query) * unit(prototype)).sum())
            else:
                logits.append(-(query - prototype).square().sum())
    return torch.stack(logits).reshape(-1, task.n_way)


def averaged_weights(method: FeatureAveraging, task: Tasks) -> Tensor:
    """sib.md 2.3: theta_j = a * (mean of the unit support features of class j)."""
    support = torch.stack([unit(row) for row in task.support[0]])
    means = [class_mean(support, task.support_labels[0], label) for label in range(task.n_way)]
    return torch.stack([method.diagonal * mean for mean in means])


def cosine_logits(theta: Tensor, query: Tensor, scale: Tensor, bias: Tensor | float) -> Tensor:
    """sib.md 2.2: z_ij = s (b + <norm(f_i), norm(theta_j)>)."""
    return torch.stack([torch.stack([scale * (bias + (unit(f) * unit(t)).sum()) for t in theta]) for f in query])


def feature_averaging(method: FeatureAveraging, task: Tasks) -> Tensor:
    return cosine_logits(averaged_weights(method, task), task.query[0], method.scale, 0.0)


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


def sib_weights(method: SIB, task: Tasks) -> Tensor:
    """sib.md 2.5: theta <- theta - eta (J^T xi(z) + gamma theta), with J^T xi(z) by automatic differentiation."""
    with torch.enable_grad():
        theta = averaged_weights(method, task)
        for _ in range(method.n_steps):
            z = cosine_logits(theta, task.query[0], method.scale, method.bias)
            g = gradient_network(method, z)
            (gradient,) = torch.autograd.grad(outputs=z, inputs=theta, grad_outputs=g, create_graph=True)
            theta = theta - method.step_size * (gradient + method.prior_weight * theta)
    return theta


def sib(method: SIB, task: Tasks) -> Tensor:
    return cosine_logits(sib_weights(method, task), task.query[0], method.scale, method.bias)


def sib_loss(method: SIB, task: Tasks) -> Tensor:
    """sib.md 2.6 and 1.6: the mean cross-entropy of the queries, and gamma/2 |theta^K|^2."""
    assert task.query_labels is not None
    theta = sib_weights(method, task)
    logits = cosine_logits(theta, task.query[0], method.scale, method.bias)
    losses = [torch.logsumexp(row, 0) - row[label] for row, label in zip(logits, task.query_labels[0], strict=True)]
    return torch.stack(losses).mean() + method.prior_weight / 2 * theta.square().sum()


def logits(method: Method, task: Tasks) -> Tensor:
    match method:
        case SIB():
            return sib(method, task)
        case FeatureAveraging():
            return feature_averaging(method, task)
        case PrototypicalNetworks():
            return prototypical(method, task)
    raise NotImplementedError(
        f"tests/reference.py lacks a slow loop for {type(method).__name__}; write it from its paper."
    )
