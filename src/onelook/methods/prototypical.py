"""Prototypical networks, and SimpleShot.

Jake Snell, Kevin Swersky, Richard Zemel. Prototypical Networks for Few-shot Learning. NeurIPS 2017, arXiv:1703.05175.
Yan Wang, Wei-Lun Chao, Kilian Weinberger, Laurens van der Maaten. SimpleShot: Revisiting Nearest-Neighbor
Classification for Few-Shot Learning. 2019, arXiv:1911.04623.

A class is the mean of its support features (equation 1) and a query goes to the nearest mean (equation 2). SimpleShot
is the same rule on features that are first centred on the mean of the training classes and scaled to length 1.
This is an inductive method.
"""

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor, nn

from onelook import ops
from onelook.errors import Bound
from onelook.methods.preprocessing import InductiveTransform, PreprocessedMethod
from onelook.tasks import Tasks


class PrototypicalNetworks(PreprocessedMethod):
    """The nearest class mean.

    >>> PrototypicalNetworks(feature_size=64, transform="l2n")(Tasks.random(n_tasks=2, n_way=5)).shape
    torch.Size([2, 15, 5])
    """

    metric: Annotated[str, Bound("one of", ("euclidean", "cosine"))] = "euclidean"
    """"euclidean": the negative squared distance is the logit; "cosine": the cosine times a learned scale."""
    transform: InductiveTransform = "none"
    """"cl2n" is SimpleShot."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.metric == "cosine":
            self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, tasks: Tasks) -> Float[Tensor, "T Q K"]:
        tasks = self.preprocess(tasks)
        means = ops.class_means(tasks.support, tasks.support_labels, tasks.n_way)
        if self.metric == "cosine":
            return self.scale * ops.cosine_similarity(tasks.query, means)
        return -ops.squared_distance(tasks.query, means)
