import numpy as np
import torch
from torch import Tensor

from onelook.methods import BMS
from onelook.tasks import Tasks
from reference.common import preprocessed, unit


def logits(method: BMS, task: Tasks) -> Tensor:
    """Hu et al., boosted min-size Sinkhorn, scaling the plan itself."""
    support, queries = (rows.numpy() for rows in preprocessed(method, task))
    labels = task.support_labels[0].numpy()
    own = [support[labels == label] for label in range(task.n_way)]
    shots = np.array([len(rows) for rows in own])
    directions = [unit(torch.from_numpy(rows.mean(axis=0))).numpy() for rows in own]
    plan = transport(method, queries, directions, shots.min())
    for _ in range(method.n_steps):
        for label in range(task.n_way):
            total = own[label].sum(axis=0) + plan[:, label] @ queries
            directions[label] = unit(torch.from_numpy(total)).numpy()
        sizes = np.bincount(plan.argmax(axis=1), minlength=task.n_way)
        plan = transport(method, queries, directions, sizes.min())
    return torch.from_numpy(np.log(plan))


def transport(method: BMS, queries: np.ndarray, directions: list[np.ndarray], least: float) -> np.ndarray:
    plan = np.array([[np.exp(method.scale * query @ direction) for direction in directions] for query in queries])
    if method.balanced:
        plan /= plan.sum(axis=1, keepdims=True)
        for _ in range(method.n_sinkhorn):
            plan *= len(queries) / len(directions) / plan.sum(axis=0)
            plan /= plan.sum(axis=1, keepdims=True)
        return plan
    least = min(least, len(queries) / len(directions))
    for _ in range(method.n_sinkhorn):
        plan /= plan.sum(axis=1, keepdims=True)
        for label, size in enumerate(plan.sum(axis=0)):
            if size < least:
                plan[:, label] *= least / size
    return plan
