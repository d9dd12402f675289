import torch
from torch import Tensor
from torch.nn import functional

from onelook.backbones.conv4 import Conv4
from onelook.methods import TADAM
from onelook.tasks import Tasks
from reference.common import class_mean, unit


def features(network: Conv4, image: Tensor, modulation: list[tuple[Tensor, Tensor]] | None = None) -> Tensor:
    """Conv-4 for one image, block by block, with a scale and a shift before each ReLU."""
    state = dict(network.named_parameters()) | dict(network.named_buffers())
    x = (image - state["pixel_mean"]) / state["pixel_std"]
    for i in range(4):
        x = functional.conv2d(x[None], state[f"blocks.{i}.0.weight"], padding=1)[0]
        columns = []
        for channel, plane in enumerate(x):
            mean, variance = (state[f"blocks.{i}.1.running_{which}"][channel] for which in ("mean", "var"))
            normed = (plane - mean) / (variance + 1e-5).sqrt()
            normed = normed * state[f"blocks.{i}.1.weight"][channel] + state[f"blocks.{i}.1.bias"][channel]
            pooled = functional.max_pool2d(normed[None], 2)[0]
            if modulation is not None:
                pooled = pooled * modulation[i][0][channel] + modulation[i][1][channel]
            columns.append(pooled.clamp_min(0))
        x = torch.stack(columns)
    return x.flatten()


def task_network(method: TADAM, embedding: Tensor) -> list[tuple[Tensor, Tensor]]:
    """TEN: a residual network for each of scale and shift, times its post-multiplier."""
    parameter = dict(method.task_network.named_parameters())

    def layers(of: str) -> Tensor:
        def linear(x: Tensor, name: str) -> Tensor:
            return parameter[f"{of}.{name}.weight"] @ x + parameter[f"{of}.{name}.bias"]

        x = linear(embedding, "first").clamp_min(0)
        x = x + linear(x, "second").clamp_min(0)
        return x + linear(x, "last")

    return [
        (
            1 + parameter[f"{i}.scale_multiplier"] * layers(f"{i}.scale"),
            parameter[f"{i}.shift_multiplier"] * layers(f"{i}.shift"),
        )
        for i in range(len(method.task_network))
    ]


def modulated(method: TADAM, task: Tasks) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """The plain support, the modulated support and the modulated queries."""
    network = method.backbone
    assert isinstance(network, Conv4)
    plain = [features(network, image) for image in task.support[0]]
    means = [class_mean(torch.stack(plain), task.support_labels[0], label) for label in range(task.n_way)]
    embedding = torch.stack(means).sum(0) / task.n_way
    modulation = task_network(method, unit(embedding) * len(embedding) ** 0.5)
    support = [features(network, image, modulation) for image in task.support[0]]
    return plain, support, [features(network, image, modulation) for image in task.query[0]]


def logits(method: TADAM, task: Tasks) -> Tensor:
    """The scaled Euclidean metric."""
    _, support, queries = modulated(method, task)
    prototypes = [class_mean(torch.stack(support), task.support_labels[0], label) for label in range(task.n_way)]
    return torch.stack([torch.stack([-method.alpha * (q - p).square().sum() for p in prototypes]) for q in queries])


def auxiliary_loss(method: TADAM, task: Tasks) -> Tensor:
    """The cross-entropy, over all training classes, of the plain support and the modulated queries."""
    assert task.classes is not None
    assert task.query_labels is not None
    plain, _, queries = modulated(method, task)
    losses = []
    for row, label in zip([*plain, *queries], [*task.support_labels[0], *task.query_labels[0]], strict=True):
        scores = method.auxiliary.weight @ row + method.auxiliary.bias
        losses.append(torch.logsumexp(scores, 0) - scores[int(task.classes[0, int(label)])])
    return torch.stack(losses).mean()
