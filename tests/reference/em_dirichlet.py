import math

import numpy as np
import torch
from scipy.optimize import root
from scipy.special import digamma, gammaln, log_softmax, polygamma
from torch import Tensor

from onelook.methods import EMDirichlet
from onelook.tasks import Tasks
from reference.common import class_mean, preprocessed, unit


def logits(method: EMDirichlet, task: Tasks) -> Tensor:
    """Martin et al., the updates of their algorithm; the densities by a solver of scipy for the equations of alpha."""
    support, queries = (part.detach() for part in preprocessed(method, task))
    labels, classes = task.support_labels[0], range(task.n_way)
    means = [class_mean(support, labels, k) for k in classes]

    def log_z(row: Tensor) -> np.ndarray:
        cosines = [float((unit(row) * unit(mean)).sum()) for mean in means]
        return np.asarray(log_softmax(method.temperature * np.array(cosines)))

    of_support, of_queries = [log_z(row) for row in support], [log_z(row) for row in queries]
    u = np.exp(of_queries)
    for _ in range(method.n_iterations):
        alpha = []
        for k in classes:
            rows = [z for z, label in zip(of_support, labels, strict=True) if int(label) == k]
            total = sum(rows) + sum(u[i, k] * z for i, z in enumerate(of_queries))
            alpha.append(dirichlet(total / (len(rows) + math.fsum(u[:, k]))))
        dual = [math.log(math.fsum(u[:, k]) / len(queries) + 1e-15) + 1 for k in classes]
        log_u = np.array(
            [
                log_softmax([log_density(z, alpha[k]) + method.class_weight * dual[k] for k in classes])
                for z in of_queries
            ]
        )
        u = np.exp(log_u)
    return torch.tensor(log_u)


def log_density(log_z: np.ndarray, alpha: np.ndarray) -> float:
    return float(gammaln(math.fsum(alpha)) - math.fsum(gammaln(alpha)) + math.fsum((alpha - 1) * log_z))


def dirichlet(mean_log: np.ndarray) -> np.ndarray:
    """The parameters where psi(alpha_d) - psi(sum alpha) is the mean of log z_d, less what keeps them finite."""
    wanted = mean_log - 1e-3

    def equations(theta: np.ndarray) -> np.ndarray:
        alpha = np.exp(theta)
        return np.asarray(digamma(alpha) - digamma(alpha.sum()) - wanted)

    def jacobian(theta: np.ndarray) -> np.ndarray:
        alpha = np.exp(theta)
        return np.asarray((np.diag(polygamma(1, alpha)) - polygamma(1, alpha.sum())) * alpha)

    for scale in (1.0, 10.0, 100.0, 1000.0):
        found = root(equations, np.log(scale * np.exp(mean_log) + 1e-3), jac=jacobian, method="lm", tol=1e-15)
        if np.abs(found.fun).max() < 1e-10:
            return np.exp(found.x)
    raise ArithmeticError(f"no density found for {mean_log}")
