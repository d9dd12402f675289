import torch
from torch import Tensor

from onelook.methods import PrototypicalNetworks
from onelook.tasks import Tasks
from reference.common import class_mean, unit


def logits(method: PrototypicalNetworks, task: Tasks) -> Tensor:
    """Snell et al., equations 1 and 2; Wang et al., section 2 (L2N, CL2N); a cosine as in Gidaris & Komodakis."""

    def transformed(row: Tensor) -> Tensor:
        match method.transform:
            case "l2n":
                return unit(row)
            case "cl2n":
                return unit(row - method.centre)
        return row

    support = torch.stack([transformed(row) for row in task.support[0]])
    scores = []
    for row in task.query[0]:
        query = transformed(row)
        for label in range(task.n_way):
            prototype = class_mean(support, task.support_labels[0], label)
            if method.metric == "cosine":
                scores.append(method.scale * (unit(query) * unit(prototype)).sum())
            else:
                scores.append(-(query - prototype).square().sum())
    return torch.stack(scores).reshape(-1, task.n_way)
