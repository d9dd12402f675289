"""Prototypical networks, and SimpleShot.

Jake Snell, Kevin Swersky, Richard Zemel. Prototypical Networks for Few-shot Learning. NeurIPS 2017, arXiv:1703.05175.
Yan Wang, Wei-Lun Chao, Kilian Weinberger, Laurens van der Maaten. SimpleShot: Revisiting Nearest-Neighbor
Classification for Few-Shot Learning. 2019, arXiv:1911.04623.

A class is the mean of its support features (equation 1) and a query goes to the nearest mean (equation 2). SimpleShot
is the same rule on features that are first centred on the mean of the training classes and scaled to length 1.
This is an inductive method.
"""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from onelook import ops
from onelook.errors import SettingsError
from onelook.methods.base import Method
from onelook.tasks import Tasks

Transform = Literal["none", "l2n", "cl2n"]


class PrototypicalNetworks(Method):
    transductive: ClassVar[bool] = False
    assumes_balanced_queries: ClassVar[bool] = False

    def __init__(self, feature_size: int, metric: str = "euclidean", transform: str = "none") -> None:
        """
        metric: "euclidean" (the negative squared distance is the logit) or "cosine" (times a learned scale).
        transform: of the features, in SimpleShot's names: "none", "l2n" (unit length) or "cl2n" (centred on
            `centre`, the mean of the training classes' features, then unit length).
        """
        super().__init__()
        if metric not in ("euclidean", "cosine") or transform not in ("none", "l2n", "cl2n"):
            raise SettingsError(
                f"Prototypical networks know the metrics euclidean and cosine and the transforms none, l2n and cl2n, "
                f"but got metric={metric!r}, transform={transform!r}."
            )
        self.feature_size = feature_size
        self.metric = metric
        self.transform = transform
        self.needs_training_classes = transform == "cl2n"
        self.centre: Tensor
        self.register_buffer("centre", torch.zeros(feature_size))
        if metric == "cosine":
            self.scale = nn.Parameter(torch.tensor(10.0))

    def prepare(self, features: Float[Tensor, "N D"], labels: Int[Tensor, "N"]) -> None:
        del labels
        self.centre.copy_(features.mean(0))

    def forward(self, tasks: Tasks) -> Float[Tensor, "T Q K"]:
        query = self._transformed(tasks.query)
        means = ops.class_means(self._transformed(tasks.support), tasks.support_labels, tasks.n_way)
        if self.metric == "cosine":
            return self.scale * ops.cosine_similarity(query, means)
        return -ops.squared_distance(query, means)

    def _transformed(self, x: Float[Tensor, "T R D"]) -> Float[Tensor, "T R D"]:
        if self.transform == "none":
            return x
        return ops.normalise(x - self.centre if self.transform == "cl2n" else x)
