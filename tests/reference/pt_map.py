import numpy as np
import torch
from torch import Tensor

from onelook.methods import PTMAP
from onelook.tasks import Tasks
from reference.common import preprocessed


def logits(method: PTMAP, task: Tasks) -> Tensor:
    """Hu et al., algorithm 1, with the plan by scaling its columns and rows themselves."""
    support, queries = (rows.numpy() for rows in preprocessed(method, task))
    labels = task.support_labels[0].numpy()
    own = [support[labels == label] for label in range(task.n_way)]
    centres = [rows.mean(axis=0) for rows in own]
    plan = transport(method, queries, centres)
    for _ in range(method.n_steps):
        for label in range(task.n_way):
            rows, weights = np.concatenate([own[label], queries]), np.append(np.ones(len(own[label])), plan[:, label])
            found = np.average(rows, axis=0, weights=weights)
            centres[label] = centres[label] + method.step_size * (found - centres[label])
        plan = transport(method, queries, centres)
    return torch.from_numpy(np.log(plan))


def transport(method: PTMAP, queries: np.ndarray, centres: list[np.ndarray]) -> np.ndarray:
    plan = np.array(
        [[np.exp(-method.scale * ((query - centre) ** 2).sum()) for centre in centres] for query in queries]
    )
    plan /= plan.sum(axis=1, keepdims=True)
    for _ in range(method.n_sinkhorn):
        for label in range(plan.shape[1]):
            plan[:, label] *= len(queries) / len(centres) / plan[:, label].sum()
        for row in plan:
            row /= row.sum()
    return plan
