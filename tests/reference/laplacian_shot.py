import numpy as np
import torch
from scipy.special import softmax
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from onelook.methods import LaplacianShot
from onelook.tasks import Tasks
from reference.bd_cspn import rectified, shifted
from reference.common import preprocessed


def logits(method: LaplacianShot, task: Tasks) -> Tensor:
    """Ziko et al., algorithm 1, on the graph of scikit-learn."""
    support, queries = (rows.numpy() for rows in preprocessed(method, task))
    labels = task.support_labels[0].numpy()
    prototypes = [support[labels == label].mean(axis=0) for label in range(task.n_way)]
    if method.rectify:
        queries = shifted(support, queries)
        prototypes = rectified(support, labels, queries, task.n_way, scale=10.0)
    distance = np.array([[((query - prototype) ** 2).sum() for prototype in prototypes] for query in queries])
    heard = [[] for _ in queries]
    if len(queries) > 1:
        nearest = NearestNeighbors(n_neighbors=min(method.n_neighbours, len(queries) - 1)).fit(queries)
        heard = nearest.kneighbors(return_distance=False)
    y = softmax(-distance, axis=1)
    for _ in range(method.n_steps):
        y = np.stack(
            [
                softmax(-distance[i] + method.smoothness * sum((y[j] for j in heard[i]), np.zeros(task.n_way)))
                for i in range(len(queries))
            ]
        )
    return torch.from_numpy(np.log(y))
