import numpy as np
import torch
from scipy.stats import dirichlet, multivariate_normal
from torch import Tensor

from onelook.methods import MAPProportions
from onelook.tasks import Tasks
from reference.common import preprocessed


def logits(method: MAPProportions, task: Tasks) -> Tensor:
    """Expectation and maximisation of a mixture with known variance, by the densities of scipy."""
    support, queries = (rows.numpy() for rows in preprocessed(method, task))
    labels = task.support_labels[0].numpy()
    own = [support[labels == label] for label in range(task.n_way)]
    means = [rows.mean(axis=0) for rows in own]
    proportions = np.full(task.n_way, 1 / task.n_way)
    for _ in range(method.n_steps):
        share = np.exp(posterior(method, queries, means, proportions))
        for label in range(task.n_way):
            rows, weights = np.concatenate([own[label], queries]), np.append(np.ones(len(own[label])), share[:, label])
            found = np.average(rows, axis=0, weights=weights)
            means[label] = (1 - method.step_size) * means[label] + method.step_size * found
        proportions = dirichlet(share.sum(axis=0) + method.prior).mean()
    return torch.from_numpy(posterior(method, queries, means, proportions))


def posterior(
    method: MAPProportions, queries: np.ndarray, means: list[np.ndarray], proportions: np.ndarray
) -> np.ndarray:
    """Logarithms (Q, K)."""
    table = []
    for query in queries:
        joint = []
        for mean, proportion in zip(means, proportions, strict=True):
            density = multivariate_normal(mean, 1 / (2 * method.scale))
            joint.append(density.logpdf(query) + np.log(proportion))
        table.append(np.array(joint) - np.logaddexp.reduce(joint))
    return np.stack(table)
