import numpy as np
import torch
from torch import Tensor

from onelook.methods import RidgeRegression
from onelook.tasks import Tasks
from reference.common import unit


def logits(method: RidgeRegression, task: Tasks) -> Tensor:
    """Bertinetto et al., equation 4: the normal equations of the features, one class at a time, and equation 6."""

    def item(row: Tensor) -> np.ndarray:
        return (unit(row) if method.unit_length else row).numpy()

    x = np.stack([item(row) for row in task.support[0]])
    ridge, scale = method.log_ridge.exp().item(), method.scale.item()
    scores = np.zeros((task.query.shape[1], task.n_way))
    for label in range(task.n_way):
        y = np.array([float(int(row_label) == label) for row_label in task.support_labels[0]])
        weight = np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ y)
        for i, row in enumerate(task.query[0]):
            scores[i, label] = scale * (item(row) @ weight)
    return torch.from_numpy(scores)
