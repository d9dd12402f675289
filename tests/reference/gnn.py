import torch
from torch import Tensor
from torch.nn import functional

from onelook.methods import GraphNetwork
from onelook.tasks import Tasks


def centred(row: Tensor) -> Tensor:
    """Layer normalisation."""
    return (row - row.mean()) / ((row - row.mean()).square().mean() + 1e-5).sqrt()


def normed(norm: torch.nn.Module, row: Tensor) -> Tensor:
    return functional.leaky_relu(centred(row) * norm.weight + norm.bias, 0.01)


def edge(method: GraphNetwork, layer: int, a: Tensor, b: Tensor) -> Tensor:
    """Equation 4: phi(|x_i - x_j|)."""
    network = method.edges[layer]
    _, linear_2, _, linear_3 = network.rest
    hidden = functional.leaky_relu(network.first.weight @ (a - b).abs() + network.first.bias, 0.01)
    hidden = functional.leaky_relu(linear_2.weight @ hidden + linear_2.bias, 0.01)
    return (linear_3.weight @ hidden).squeeze()


def adjacency_row(method: GraphNetwork, layer: int, nodes: list[Tensor], i: int) -> list[Tensor]:
    """A row of equation 3: a softmax over all nodes but i itself."""
    weights = [edge(method, layer, nodes[i], other).exp() for other in nodes]
    total = sum(weight for j, weight in enumerate(weights) if j != i)
    return [weight / total if j != i else torch.zeros_like(weight) for j, weight in enumerate(weights)]


def query_logits(method: GraphNetwork, task: Tasks, query: Tensor) -> Tensor:
    """The graph of one query, which is its last node."""
    nodes = []
    for row, label in zip(task.support[0], task.support_labels[0], strict=True):
        hot = functional.one_hot(label.long(), task.n_way).to(row.dtype)
        nodes.append(torch.cat([method.projection.weight @ centred(row) + method.projection.bias, hot]))
    uniform = torch.full((task.n_way,), 1 / task.n_way, dtype=query.dtype)
    nodes.append(torch.cat([method.projection.weight @ centred(query) + method.projection.bias, uniform]))
    for layer in range(method.n_layers):
        heard = []
        for i in range(len(nodes)):
            row = adjacency_row(method, layer, nodes, i)
            heard.append(sum((weight * node for weight, node in zip(row, nodes, strict=True)), torch.zeros(())))
        if layer == method.n_layers - 1:
            return method.to_logits.weight @ torch.cat([nodes[-1], heard[-1]]) + method.to_logits.bias
        of_itself, of_others = method.of_itself[layer], method.of_others[layer]
        nodes = [
            torch.cat(
                [x, normed(method.norms[layer], of_itself.weight @ x + of_itself.bias + of_others.weight @ other)]
            )
            for x, other in zip(nodes, heard, strict=True)
        ]
    raise AssertionError("there is a last layer")


def logits(method: GraphNetwork, task: Tasks) -> Tensor:
    return torch.stack([query_logits(method, task, query) for query in task.query[0]])
