import torch
from torch import Tensor

from onelook.methods import PrototypicalNetworks
from onelook.tasks import Tasks
from reference.common import class_mean, preprocessed, unit


def logits(method: PrototypicalNetworks, task: Tasks) -> Tensor:
    """Snell et al., equations 1 and 2; Wang et al., section 2 (L2N, CL2N); a cosine as in Gidaris & Komodakis."""
    support, queries = preprocessed(method, task)
    scores = []
    for query in queries:
        for label in range(task.n_way):
            prototype = class_mean(support, task.support_labels[0], label)
            if method.metric == "cosine":
                scores.append(method.scale * (unit(query) * unit(prototype)).sum())
            else:
                scores.append(-(query - prototype).square().sum())
    return torch.stack(scores).reshape(-1, task.n_way)
