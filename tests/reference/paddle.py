import math

import numpy as np
import torch
from scipy.special import log_softmax
from torch import Tensor

from onelook.methods import PADDLE
from onelook.tasks import Tasks
from reference.common import preprocessed


def logits(method: PADDLE, task: Tasks) -> Tensor:
    """Martin et al., the three updates of their algorithm, a query, a class and a feature at a time."""
    support, queries = (part.detach().numpy().copy() for part in preprocessed(method, task))
    labels = task.support_labels[0].numpy()
    if method.min_max:
        for feature in range(method.feature_size):
            spread = max(queries[:, feature]) - min(queries[:, feature])
            if spread != 0:
                support[:, feature] /= spread
                queries[:, feature] /= spread
    n_query, classes = len(queries), range(task.n_way)
    centres = [np.mean([x for x, label in zip(support, labels, strict=True) if label == k], axis=0) for k in classes]
    price = method.class_weight * n_query  # lambda
    dual = [0.0 for _ in classes]
    for _ in range(method.n_iterations):
        log_u = []
        for x in queries:
            fit = [-method.temperature / 2 * math.fsum((x - w) ** 2) for w in centres]
            log_u.append(log_softmax([fit[k] + price / n_query * dual[k] for k in classes]))
        u = np.exp(log_u)
        dual = [math.log(math.fsum(u[:, k]) / n_query + 1e-6) + 1 for k in classes]
        for k in classes:
            members = [x for x, label in zip(support, labels, strict=True) if label == k]
            total = sum(members) + sum(u[i, k] * queries[i] for i in range(n_query))
            centres[k] = total / (len(members) + math.fsum(u[:, k]))
    return torch.tensor(np.array(log_u))
