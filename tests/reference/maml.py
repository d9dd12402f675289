import torch
from torch import Tensor
from torch.func import functional_call

from onelook.methods import MAML
from onelook.tasks import Tasks


def cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    losses = [torch.logsumexp(row, 0) - row[label] for row, label in zip(scores, labels, strict=True)]
    return torch.stack(losses).sum() / len(losses)


def logits(method: MAML, task: Tasks) -> Tensor:
    """Finn et al., algorithm 2, steps 5 to 8, for one task, each image through the whole module by itself."""
    weights = {f"backbone.{name}": value for name, value in method.backbone.named_parameters()}
    weights |= {f"classifier.{name}": value for name, value in method.classifier.named_parameters()}

    def scores(images: Tensor) -> Tensor:
        network = {k.removeprefix("backbone."): v for k, v in weights.items() if k.startswith("backbone.")}
        features = torch.cat([functional_call(method.backbone, network, (image[None],)) for image in images])
        products = [[(weight * row).sum() for weight in weights["classifier.weight"]] for row in features]
        return torch.stack([torch.stack(row) for row in products]) + weights["classifier.bias"]

    with torch.enable_grad():
        for _ in range(method.n_steps):
            loss = cross_entropy(scores(task.support[0]), task.support_labels[0])
            moved = [name for name in weights if method.adapt == "all" or name.startswith("classifier.")]
            gradients = torch.autograd.grad(loss, [weights[name] for name in moved], create_graph=True)
            for name, gradient in zip(moved, gradients, strict=True):
                step = gradient if method.order == 2 else gradient.detach()
                weights[name] = weights[name] - method.step_size * step
        return scores(task.query[0])
