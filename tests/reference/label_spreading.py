import numpy as np
import torch
from torch import Tensor

from onelook.methods import LabelSpreading
from onelook.tasks import Tasks
from reference.common import preprocessed


def weights(method: LabelSpreading, rows: np.ndarray) -> np.ndarray:
    """Step 1 of the algorithm, and the choice of neighbours."""
    full = np.array([[np.exp(-method.gamma * np.square(a - b).sum()) for b in rows] for a in rows])
    np.fill_diagonal(full, 0)
    kept = np.zeros_like(full)
    for i in range(len(rows)):
        others = sorted((j for j in range(len(rows)) if j != i), key=lambda j: -full[i, j])
        for j in others[: method.n_neighbours or len(rows)]:
            kept[i, j] = kept[j, i] = full[i, j]
    return kept


def logits(method: LabelSpreading, task: Tasks) -> Tensor:
    """Steps 2 to 4, the labels passed on until nothing changes."""
    rows = torch.cat(preprocessed(method, task)).numpy()
    kept = weights(method, rows)
    given = np.zeros((len(rows), task.n_way))
    for i, k in enumerate(task.support_labels[0]):
        given[i, int(k)] = 1
    scores = given
    degree = kept.sum(1)
    for _ in range(300):
        received = [(kept[i] / np.sqrt(degree[i] * degree)) @ scores for i in range(len(rows))]
        scores = method.alpha * np.stack(received) + given
    scores = scores[task.support.shape[1] :] + 1e-6
    return torch.from_numpy(np.log(scores / scores.sum(1, keepdims=True)))
