"""What several loops need."""

import torch
from torch import Tensor


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
