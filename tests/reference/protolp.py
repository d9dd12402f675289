import numpy as np
import torch
from torch import Tensor

from onelook.methods import ProtoLP
from onelook.tasks import Tasks
from reference.common import preprocessed


def prepared(method: ProtoLP, task: Tasks) -> np.ndarray:
    rows = torch.cat(preprocessed(method, task)).numpy()
    if method.dimensions:
        directions = np.linalg.svd(rows, full_matrices=False)[2][: method.dimensions]
        rows = rows @ directions.T
    rows = rows - rows.mean(0)
    return np.stack([row / np.linalg.norm(row) for row in rows])


def assigned(method: ProtoLP, kernel: np.ndarray) -> np.ndarray:
    """Step 1."""
    plan = np.stack([row / row.sum() for row in kernel])
    for _ in range(method.n_sinkhorn if method.balanced else 0):
        plan = np.stack([column * len(plan) / plan.shape[1] / column.sum() for column in plan.T], 1)
        plan = np.stack([row / row.sum() for row in plan])
    return plan


def logits(method: ProtoLP, task: Tasks) -> Tensor:
    rows = prepared(method, task)
    n_support = task.support.shape[1]
    of_support = np.eye(task.n_way)[task.support_labels[0].numpy()]
    means = [rows[:n_support][of_support[:, k] == 1].mean(0) for k in range(task.n_way)]
    prototypes = np.stack([mean / np.linalg.norm(mean) for mean in means])

    def nearness() -> np.ndarray:
        return np.array(
            [[np.exp(-method.scale * np.square(q - w).sum()) for w in prototypes] for q in rows[n_support:]]
        )

    for _ in range(method.n_steps):
        z = np.concatenate([of_support, assigned(method, nearness())])
        inverse_root = np.diag(1 / np.sqrt(z.sum(0)))
        laplacian = np.eye(task.n_way) - inverse_root @ z.T @ z @ inverse_root
        inverse = np.linalg.inv(of_support.T @ of_support + method.smoothness * laplacian)
        labels = inverse @ of_support.T @ of_support
        propagated = assigned(method, z[n_support:] @ labels + 1e-12)
        mixed = method.propagated_part * propagated + (1 - method.propagated_part) * z[n_support:]
        weight = np.concatenate([of_support, mixed])
        for k in range(task.n_way):
            estimate = np.average(rows, axis=0, weights=weight[:, k])
            prototypes[k] += method.step_size * (estimate - prototypes[k])
    return torch.from_numpy(np.log(assigned(method, nearness())))
