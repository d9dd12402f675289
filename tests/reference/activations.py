import numpy as np
import torch
from torch import Tensor

from onelook.methods import ActivationsToParameters
from onelook.tasks import Tasks


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(float(np.sqrt(vector @ vector)), 1e-12)


def phi(method: ActivationsToParameters, statistic: np.ndarray) -> np.ndarray:
    """Qiao et al.: one statistic, one output unit at a time."""
    s = unit(statistic)
    hidden = []
    for j in range(method.hidden):
        weights, bias = method.inner.weight[j].detach().numpy(), method.inner.bias[j].item()
        hidden.append(max(0.0, float(weights @ s) + bias))
    out = []
    for i in range(method.feature_size):
        value = float(method.linear[i].detach().numpy() @ s)
        if method.hidden:
            value += float(method.outer[i].detach().numpy() @ np.array(hidden))
        out.append(value)
    return np.array(out)


def statistic(task: Tasks, label: int) -> np.ndarray:
    rows = [unit(z.numpy()) for z, y in zip(task.support[0], task.support_labels[0], strict=True) if y == label]
    return np.mean(rows, axis=0)


def logits(method: ActivationsToParameters, task: Tasks) -> Tensor:
    parameters = [phi(method, statistic(task, label)) for label in range(task.n_way)]
    scores = [[method.scale.item() * (unit(q.numpy()) @ w) for w in parameters] for q in task.query[0]]
    return torch.tensor(np.array(scores))


def loss(method: ActivationsToParameters, task: Tasks) -> float:
    """The mean over queries of -log of the softmax over all training classes, once with the support mean of its class
    and once with the kept mean, as K to C - K."""
    assert task.classes is not None
    assert task.query_labels is not None
    kept = dict(enumerate(method.means.numpy()))
    few = {name: statistic(task, label) for label, name in enumerate(task.classes[0].tolist())}
    share = task.n_way / method.n_classes
    losses = []
    for query, label in zip(task.query[0], task.query_labels[0].tolist(), strict=True):
        right = int(task.classes[0, label])
        for weight, statistics in ((share, kept | few), (1 - share, kept | few | {right: kept[right]})):
            scores = {c: method.scale.item() * (unit(query.numpy()) @ phi(method, s)) for c, s in statistics.items()}
            losses.append(weight * (np.log(np.sum(np.exp(list(scores.values())))) - scores[right]))
    return float(np.sum(losses)) / len(task.query[0])
