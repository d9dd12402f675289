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
    """With the mixed statistics, the mean over queries of -log of the softmax over all training classes."""
    assert task.classes is not None
    assert task.query_labels is not None
    statistics = dict(enumerate(method.means.numpy()))
    for label, name in enumerate(task.classes[0].tolist()):
        statistics[name] = statistic(task, label)
    parameters = {name: phi(method, s) for name, s in statistics.items()}
    losses = []
    for query, label in zip(task.query[0], task.query_labels[0].tolist(), strict=True):
        scores = {name: method.scale.item() * (unit(query.numpy()) @ w) for name, w in parameters.items()}
        total = np.log(np.sum(np.exp(list(scores.values()))))
        losses.append(total - scores[int(task.classes[0, label])])
    return float(np.mean(losses))
