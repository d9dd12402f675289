import numpy as np
import torch
from torch import Tensor

from onelook.methods import TransductivePropagation
from onelook.tasks import Tasks
from reference.common import unit


def sigma(method: TransductivePropagation, row: Tensor) -> Tensor:
    first, _, last, _ = method.log_scale
    hidden = (first.weight @ (unit(row) * len(row) ** 0.5) + first.bias).clamp_min(0)
    return (last.weight @ hidden + last.bias).tanh().exp() / 4


def weights(method: TransductivePropagation, task: Tasks) -> np.ndarray:
    """Equation 2 and the choice of neighbours."""
    rows = [*task.support[0], *task.query[0]]
    scaled = [(unit(row) / sigma(method, row)).detach().numpy() for row in rows]
    full = np.array([[np.exp(-np.square(a - b).sum() / 2) for b in scaled] for a in scaled])
    kept = np.zeros_like(full)
    for i in range(len(rows)):
        others = sorted((j for j in range(len(rows)) if j != i), key=lambda j: -full[i, j])
        for j in others[: method.n_neighbours]:
            kept[i, j] = kept[j, i] = full[i, j]
    return kept


def scores(method: TransductivePropagation, task: Tasks) -> np.ndarray:
    """Equation 4 for support and queries, then each class by its mean."""
    kept = weights(method, task)
    degree = np.diag(1 / np.sqrt(kept.sum(1)))
    label = np.zeros((len(kept), task.n_way))
    for i, k in enumerate(task.support_labels[0]):
        label[i, int(k)] = 1
    system = np.eye(len(kept)) - method.alpha * (degree @ kept @ degree)
    limit = np.linalg.inv(system) @ label
    if not method.even_classes:
        return limit
    factor = np.exp(method.log_factor.item())
    return np.stack([factor * column / (sum(column) / len(column)) for column in limit.T], 1)


def logits(method: TransductivePropagation, task: Tasks) -> Tensor:
    return torch.from_numpy(scores(method, task)[task.support.shape[1] :])
