import torch
from torch import Tensor

from onelook.methods import FeatureAveraging
from onelook.tasks import Tasks
from reference.common import class_mean, unit


def averaged_weights(method: FeatureAveraging, task: Tasks) -> Tensor:
    """sib.md 2.3: theta_j = a * (mean of the unit support features of class j)."""
    support = torch.stack([unit(row) for row in task.support[0]])
    means = [class_mean(support, task.support_labels[0], label) for label in range(task.n_way)]
    return torch.stack([method.diagonal * mean for mean in means])


def cosine_logits(theta: Tensor, query: Tensor, scale: Tensor, bias: Tensor | float) -> Tensor:
    """sib.md 2.2: z_ij = s (b + <norm(f_i), norm(theta_j)>)."""
    return torch.stack([torch.stack([scale * (bias + (unit(f) * unit(t)).sum()) for t in theta]) for f in query])


def logits(method: FeatureAveraging, task: Tasks) -> Tensor:
    return cosine_logits(averaged_weights(method, task), task.query[0], method.scale, 0.0)
