import torch
from torch import Tensor
from torch.nn import functional

from onelook.methods import SNAIL
from onelook.methods.snail import AttentionBlock, TemporalBlock
from onelook.tasks import Tasks


def attention(block: AttentionBlock, rows: list[Tensor]) -> list[Tensor]:
    """Figure 2b: each row looks at itself and those before it."""
    read = []
    for i, row in enumerate(rows):
        asked = block.to_query.weight @ row + block.to_query.bias
        weights = [(asked @ (block.to_key.weight @ other) / block.key_size**0.5).exp() for other in rows[: i + 1]]
        values = [block.to_value.weight @ other + block.to_value.bias for other in rows[: i + 1]]
        mean = sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)
        read.append(torch.cat([row, mean]))
    return read


def temporal(block: TemporalBlock, rows: list[Tensor]) -> list[Tensor]:
    """Figure 2a, by the convolution of torch over the sequence with zeros before it."""
    sequence = torch.stack(rows, 1).unsqueeze(0)
    for i, layer in enumerate(block.layers):
        kernel = torch.stack(layer.taps.weight.chunk(2, 1), -1)
        padded = functional.pad(sequence, (2**i, 0))
        found, gate = functional.conv1d(padded, kernel, layer.taps.bias, dilation=2**i).chunk(2, 1)
        sequence = torch.cat([sequence, found.tanh() * gate.sigmoid()], 1)
    return list(sequence[0].T)


def sequence_logits(method: SNAIL, rows: list[Tensor]) -> Tensor:
    """All positions of one sequence, (length, K)."""
    first, second, third, fourth, fifth = method.blocks
    rows = attention(first, rows)
    rows = attention(third, temporal(second, rows))
    rows = attention(fifth, temporal(fourth, rows))
    return torch.stack([method.to_logits.weight @ row + method.to_logits.bias for row in rows])


def row_of(feature: Tensor, label: Tensor) -> Tensor:
    centred = (feature - feature.mean()) / ((feature - feature.mean()).square().mean() + 1e-5).sqrt()
    return torch.cat([centred, label.to(feature.dtype)])


def logits(method: SNAIL, task: Tasks) -> Tensor:
    """The whole sequence for each query, of which the last position is the answer."""
    support = [
        row_of(feature, functional.one_hot(label.long(), task.n_way))
        for feature, label in zip(task.support[0], task.support_labels[0], strict=True)
    ]
    unknown = torch.zeros(task.n_way)
    return torch.stack([sequence_logits(method, [*support, row_of(query, unknown)])[-1] for query in task.query[0]])
