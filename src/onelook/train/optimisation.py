"""Optimiser, schedule of the learning rate, clipping and averaging of a training."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import nn

from onelook.errors import Bound, Checked, Fraction, NonNegativeFloat, PositiveFloat


@dataclass(frozen=True)
class Optimisation(Checked):
    optimiser: Literal["sgd", "adam"] = "sgd"
    """Optimiser; SGD has Nesterov momentum 0.9."""
    learning_rate: PositiveFloat = 0.1
    """Highest learning rate."""
    weight_decay: NonNegativeFloat = 5e-4
    """Weight decay."""
    schedule: Literal["constant", "one-cycle"] = "one-cycle"
    """One-cycle: linear warm-up over the first `warmup` of the steps, then half a cosine down to 0."""
    warmup: Fraction = 0.15
    """Fraction of the steps in which the learning rate rises."""
    clip_norm: PositiveFloat | None = None
    """Length that gradients are clipped to. Default: not clipped."""
    average_from: Annotated[float, Bound(">=", 0), Bound("<", 1)] | None = None
    """Fraction of the steps after which the weights are averaged. Default: never. From then on the mean over all steps
    since, and not the last weights, is validated and saved (Polyak & Juditsky, SIAM J. Control Optim. 1992)."""

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        if self.optimiser == "adam":
            return torch.optim.Adam(parameters, self.learning_rate, weight_decay=self.weight_decay)
        return torch.optim.SGD(
            parameters, self.learning_rate, momentum=0.9, nesterov=True, weight_decay=self.weight_decay
        )

    def n_averaged(self, steps_done: int, n_steps: int) -> int:
        """Number of the steps done over which the weights are averaged."""
        if self.average_from is None:
            return 0
        return max(0, steps_done - min(n_steps - 1, round(self.average_from * n_steps)))

    def learning_rate_at(self, step: int, n_steps: int) -> float:
        if self.schedule == "constant":
            return self.learning_rate
        warm = max(1, round(self.warmup * n_steps))
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, n_steps - warm)))
