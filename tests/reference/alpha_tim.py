import torch
from torch import Tensor

from onelook.methods import AlphaTIM
from onelook.tasks import Tasks
from reference.common import preprocessed
from reference.tim import by_adam, by_distance, cross_entropy, first_weights, posterior, shannon


def logits(method: AlphaTIM, task: Tasks) -> Tensor:
    """Veilleux et al., their loss by autograd and Adam of torch."""
    support, queries = (part.detach() for part in preprocessed(method, task))
    labels = task.support_labels[0]
    shots = len(support) / task.n_way
    alpha = method.alpha or (7.0 if shots >= 5 else 2.0 + (shots - 1.0) * 1.25)

    def entropy(p: Tensor) -> Tensor:
        return shannon(p) if alpha == 1 else (1 - torch.stack([x**alpha for x in p]).sum()) / (alpha - 1)

    def loss(weights: Tensor) -> Tensor:
        p = torch.stack([posterior(weights, query, method.temperature) for query in queries])
        marginal, conditional = entropy(p.mean(0)), torch.stack([entropy(row) for row in p]).mean()
        information = method.marginal_weight * marginal - method.conditional_weight * conditional
        return method.support_weight * cross_entropy(weights, support, labels, method.temperature) - information

    means = first_weights(method, support, labels, queries)
    return by_distance(method, by_adam(means, loss, method.learning_rate, method.n_iterations), queries)
