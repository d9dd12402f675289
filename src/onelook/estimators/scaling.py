"""Where rows lie: all over the unit sphere, as features of a network do, or, of a table, on a small part of it."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from onelook import ops
from onelook.errors import SettingsError

FEW_DIMENSIONS = 32
"""Rows shorter than this are a table, in which lengths and the origin mean something else than in features."""


@dataclass(frozen=True)
class Sphere:
    centre: np.ndarray
    spread: float
    is_table: bool

    def __call__(self, rows: np.ndarray) -> Float[Tensor, "N D"]:
        """Rows of length 1. Those of a table are laid on a sphere that is wide enough to be nearly flat there."""
        if self.is_table:
            rows = np.hstack([(rows - self.centre) / self.spread, np.full((len(rows), 1), 2.0)])
        return ops.normalise(torch.tensor(rows))


def sphere_of(labelled: np.ndarray, features: Any) -> Sphere:
    """What a table is measured from and by, by its labelled rows alone, so that it does not change with others."""
    if features not in ("auto", "network", "table"):
        raise SettingsError(f"features is auto, network or table, but got {features!r}.")
    is_table = features == "table" or (features == "auto" and labelled.shape[1] < FEW_DIMENSIONS)
    centre = labelled.mean(0)
    return Sphere(centre, math.sqrt(np.square(labelled - centre).sum(1).mean()) or 1.0, is_table)
