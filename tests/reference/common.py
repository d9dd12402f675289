"""What several loops need."""

import torch
from torch import Tensor

from onelook.methods.preprocessing import PreprocessedMethod
from onelook.tasks import Tasks


def unit(vector: Tensor) -> Tensor:
    length = vector.square().sum().sqrt()
    return vector / length if length > 1e-12 else vector / 1e-12


def class_mean(rows: Tensor, labels: Tensor, label: int) -> Tensor:
    members = [row for row, row_label in zip(rows, labels, strict=True) if int(row_label) == label]
    return torch.stack(members).sum(0) / len(members)


def normed_map(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A map (C, side, side) less its mean, over its deviation, with a factor and an offset for each channel."""
    deviation = ((x - x.mean()).square().mean() + 1e-5).sqrt()
    return (x - x.mean()) / deviation * weight.reshape(-1, 1, 1) + bias.reshape(-1, 1, 1)


def preprocessed(method: PreprocessedMethod, task: Tasks) -> tuple[Tensor, Tensor]:
    """The support (S, D) and the queries (Q, D) of one task, row by row, as its `transform` says."""

    def root(row: Tensor) -> Tensor:
        return unit(torch.stack([x.sign() * (x.abs() + 1e-6) ** 0.5 for x in row]))

    def each(row: Tensor) -> Tensor:
        match method.transform:
            case "l2n":
                return unit(row)
            case "cl2n":
                return unit(row - method.centre)
            case "root" | "root-task":
                return root(row)
            case "root-centred":
                return unit(root(row) - method.centre)
        return row

    parts = [torch.stack([each(row) for row in rows]) for rows in (task.support[0], task.query[0])]
    if method.transform == "root-task":
        means = [rows.sum(0) / len(rows) for rows in parts]
        for rows, mean in zip(parts, means, strict=True):
            if len(rows) > 1:
                rows.copy_(torch.stack([unit(row - mean) for row in rows]))
    return parts[0], parts[1]
