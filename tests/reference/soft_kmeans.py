import torch
from torch import Tensor

from onelook.methods import SoftKMeans
from onelook.tasks import Tasks
from reference.common import class_mean, preprocessed


def logits(method: SoftKMeans, task: Tasks) -> Tensor:
    """The soft k-means of Ren et al., `n_steps` times."""
    support, queries = preprocessed(method, task)
    labels = task.support_labels[0]
    means = [class_mean(support, labels, label) for label in range(task.n_way)]

    def score(query: Tensor) -> Tensor:
        return torch.stack([-method.scale * (query - mean).square().sum() for mean in means])

    for _ in range(method.n_steps):
        shares = [score(query).exp() / score(query).exp().sum() for query in queries]
        total = [
            sum((row for row, own in zip(support, labels, strict=True) if own == label), torch.zeros_like(support[0]))
            for label in range(task.n_way)
        ]
        count = [(labels == label).to(support.dtype).sum() for label in range(task.n_way)]
        for label in range(task.n_way):
            for query, share in zip(queries, shares, strict=True):
                total[label] = total[label] + share[label] * query
                count[label] = count[label] + share[label]
        means = [whole / number for whole, number in zip(total, count, strict=True)]
    return torch.stack([score(query) for query in queries])
