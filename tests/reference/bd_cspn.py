import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor

from onelook.methods import BDCSPN
from onelook.tasks import Tasks
from reference.common import preprocessed


def logits(method: BDCSPN, task: Tasks) -> Tensor:
    """Liu et al., section 3."""
    support, queries = (rows.numpy() for rows in preprocessed(method, task))
    labels = task.support_labels[0].numpy()
    queries = shifted(support, queries)
    prototypes = rectified(support, labels, queries, task.n_way, method.scale)
    scores = [[method.scale * cosine(query, prototype) for prototype in prototypes] for query in queries]
    return torch.tensor(np.array(scores))


def shifted(support: np.ndarray, queries: np.ndarray) -> np.ndarray:
    return queries if len(queries) == 1 else queries + support.mean(axis=0) - queries.mean(axis=0)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.sqrt(a @ a) / np.sqrt(b @ b))


def rectified(
    support: np.ndarray, labels: np.ndarray, queries: np.ndarray, n_way: int, scale: float
) -> list[np.ndarray]:
    means = [support[labels == label].mean(axis=0) for label in range(n_way)]

    def share(row: np.ndarray) -> np.ndarray:
        return np.asarray(softmax([scale * cosine(row, mean) for mean in means]))

    prototypes = []
    for label in range(n_way):
        weighted = [share(row)[label] * row for row in support[labels == label]]
        weighted += [share(query)[label] * query for query in queries if share(query).argmax() == label]
        prototypes.append(np.mean(weighted, axis=0))
    return prototypes
