import torch
from torch import Tensor

from onelook.methods import UNEM
from onelook.tasks import Tasks
from reference.common import class_mean, unit


def logits(method: UNEM, task: Tasks) -> Tensor:
    """Zhou et al., the layers one by one, a query and a class at a time, the features themselves scaled."""

    def softplus(x: Tensor) -> Tensor:
        return (1 + x.exp()).log()

    scale = softplus(method.raw_scale)
    support, queries = (torch.stack([scale * unit(x) for x in part[0]]) for part in (task.support, task.query))
    labels, classes = task.support_labels[0], range(task.n_way)
    centres = [class_mean(support, labels, k) for k in classes]
    priors = [torch.tensor(1.0) for _ in classes]
    u = torch.zeros(len(queries), task.n_way)
    for layer in range(len(method.raw_temperature)):
        price = softplus(method.raw_class_weight[layer])
        temperature = 1 + softplus(method.raw_temperature[layer])
        scores = [
            [(-(x - centres[k]).square().sum() / 2 + price * priors[k].log()) / temperature for k in classes]
            for x in queries
        ]
        u = torch.stack([torch.stack(row).softmax(0) for row in scores])
        priors = [u[:, k].sum() / len(queries) + 1e-6 for k in classes]
        for k in classes:
            members = support[labels == k]
            total = members.sum(0) + sum(u[i, k] * x for i, x in enumerate(queries))
            centres[k] = total / (len(members) + u[:, k].sum())
    return u.log()
