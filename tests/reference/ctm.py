import torch
from torch import Tensor, nn
from torch.nn import functional

from onelook.methods import CategoryTraversal
from onelook.tasks import Tasks
from reference.common import normed_map, unit


def logits(method: CategoryTraversal, task: Tasks) -> Tensor:
    """Li et al., section 3.2, one map at a time."""
    channels = method.channels or method.feature_size
    side = round((method.feature_size // channels) ** 0.5)

    def block(network: nn.Sequential, row: Tensor) -> Tensor:
        parameter = dict(network.named_parameters())
        x = functional.conv2d(
            row.reshape(channels, side, side), parameter["0.weight"], parameter["0.bias"], padding="same"
        )
        return functional.relu(normed_map(x, parameter["1.weight"], parameter["1.bias"]))

    def mean_of_class(network: nn.Sequential, label: int) -> Tensor:
        rows = zip(task.support[0], task.support_labels[0], strict=True)
        return torch.stack([block(network, row) for row, of in rows if int(of) == label]).mean(0)

    classes = torch.cat([mean_of_class(method.concentrator, label) for label in range(task.n_way)])
    importance = functional.conv2d(classes, method.projector.weight, method.projector.bias, padding="same").exp()
    mask = channels * importance / importance.sum(0)

    scores = []
    for row in task.query[0]:
        query = (mask * block(method.reshaper, row)).flatten()
        for label in range(task.n_way):
            centre = (mask * mean_of_class(method.reshaper, label)).flatten()
            if method.metric == "cosine":
                scores.append(method.scale * (unit(query) * unit(centre)).sum())
            else:
                scores.append(-method.scale * (query - centre).square().mean())
    return torch.stack(scores).reshape(-1, task.n_way)
