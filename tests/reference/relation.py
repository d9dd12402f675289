import torch
from torch import Tensor
from torch.nn import functional

from onelook.methods import RelationNetworks
from onelook.tasks import Tasks
from reference.common import class_mean, normed_map


def logits(method: RelationNetworks, task: Tasks) -> Tensor:
    """Sung et al., section 3.2 and figure 2: the relation module on each class and query, laid on one another."""
    parameter = dict(method.rest.named_parameters())
    channels = method.channels or method.feature_size
    side = round((method.feature_size // channels) ** 0.5)

    def normed(row: Tensor) -> Tensor:
        return normed_map(row.reshape(channels, side, side), method.norm.weight, method.norm.bias)

    support = torch.stack([normed(row) for row in task.support[0]])
    scores = []
    for row in task.query[0]:
        for label in range(task.n_way):
            pair = torch.cat([class_mean(support, task.support_labels[0], label), normed(row)])
            x = functional.conv2d(pair, method.first.weight, method.first.bias, padding="same")
            x = functional.relu(normed_map(x, parameter["0.weight"], parameter["0.bias"]))
            x = functional.conv2d(x, parameter["2.weight"], parameter["2.bias"], padding="same")
            x = functional.relu(normed_map(x, parameter["3.weight"], parameter["3.bias"]))
            x = functional.relu(parameter["6.weight"] @ x.flatten() + parameter["6.bias"])
            score = parameter["8.weight"] @ x
            scores.append(score + parameter["8.bias"] if method.loss_kind == "mse" else score)
    return torch.stack(scores).reshape(-1, task.n_way)
