import numpy as np
import torch
from torch import Tensor

from onelook.methods import LabelSpreading, LaplacianLogistic
from onelook.tasks import Tasks
from reference import label_spreading
from reference.common import preprocessed
from reference.logistic_regression import fit, tuned


def logits(method: LaplacianLogistic, task: Tasks) -> Tensor:
    """scikit-learn's logistic regression on features in which both penalties are the length of the weights."""
    support, query = (part.detach().numpy() for part in preprocessed(method, task))
    rows, labels = np.concatenate([support, query]), task.support_labels[0].numpy()
    spreading = LabelSpreading(method.feature_size, n_neighbours=method.n_neighbours, gamma=method.gamma)
    edges = label_spreading.weights(spreading, rows)
    degree = edges.sum(1)
    penalty = np.eye(rows.shape[1])
    for i in range(len(rows)):
        for j in range(len(rows)):
            # Half of a sum over both orders of each pair.
            change = rows[i] / np.sqrt(degree[i]) - rows[j] / np.sqrt(degree[j])
            penalty += method.smoothness / 2 * edges[i, j] * np.outer(change, change)
    values, vectors = np.linalg.eigh(penalty)
    rows = rows @ vectors / np.sqrt(values)
    support, query = rows[: len(support)], rows[len(support) :]
    weights, bias = fit(support, labels, tuned(support, labels, method.C) if method.tune else method.C)
    return torch.from_numpy(query @ weights.T + bias)
