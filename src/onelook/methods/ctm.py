"""Category traversal: what to look at depends on all classes of the task.

Hongyang Li, David Eigen, Samuel Dodge, Matthew Zeiler, Xiaogang Wang. Finding Task-Relevant Features for Few-Shot
Learning by Category Traversal. CVPR 2019, arXiv:1905.11116.

Three small networks stand between the features and a metric (section 3.2). The concentrator finds what the examples
of a class have in common: a block of convolution, then the mean over the shots. The projector sees all classes at
once, stacked in depth, and says by a softmax over channels which features tell them apart: the mask p. The reshaper
is a block that brings support and query maps into the shape of the mask; what it says, times p, is what the metric
compares (the mean of a class with the query). This is an inductive method: nothing passes between queries.

Departures from the paper:
* normalisation is over the map of one row, where the paper's batch normalisation mixes rows and tasks;
* each network is one block that keeps the number of channels and cells, because cached maps are small;
* the mask is multiplied by the number of channels, to be 1 on average, and the metric is a mean over the entries of
  the maps, times a learned scale; the softmax alone would make all distances vanish;
* the loss is the cross-entropy of the metric alone.
"""

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor, nn

from onelook import ops
from onelook.errors import Bound, PositiveInt, TwoOrMore
from onelook.methods.base import Method
from onelook.methods.maps import convolution, map_shape
from onelook.tasks import Tasks


class CategoryTraversal(Method):
    """A mask over features that is made from all classes of a task, before they are compared.

    >>> CategoryTraversal(feature_size=64)(Tasks.random(n_tasks=2, n_way=5)).shape
    torch.Size([2, 15, 5])
    """

    feature_size: PositiveInt
    n_way: TwoOrMore = 5
    channels: int = 0
    """Channels of the feature maps, whose cells are the rest of the features; 0: maps of one cell."""
    metric: Annotated[str, Bound("one of", ("prototypical", "cosine"))] = "prototypical"
    """Comparison of masked maps: "prototypical" is the negative squared distance."""

    def __post_init__(self) -> None:
        super().__post_init__()
        width, side = map_shape(self.feature_size, self.channels)
        self.map = (width, side, side)
        self.concentrator = block(width, side)
        self.projector = convolution(self.n_way * width, width, side)
        self.reshaper = block(width, side)
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, tasks: Tasks) -> Float[Tensor, "T Q K"]:
        self.require_n_way(tasks)
        mask = self.mask(tasks).unsqueeze(1)
        query = mask * self._rowwise(self.reshaper, tasks.query)
        support = mask * self._rowwise(self.reshaper, tasks.support)
        means = ops.class_means(support, tasks.support_labels, tasks.n_way)
        if self.metric == "cosine":
            return self.scale * ops.cosine_similarity(query, means)
        return -self.scale / self.feature_size * ops.squared_distance(query, means)

    def mask(self, tasks: Tasks) -> Float[Tensor, "T D"]:
        """p of section 3.2.2, times the number of channels."""
        concentrated = self._rowwise(self.concentrator, tasks.support)
        classes = ops.class_means(concentrated, tasks.support_labels, tasks.n_way)  # section 3.2.1
        # Laid out K × C × side × side, the classes of a task are stacked in depth by a mere view.
        stacked = classes.view(len(tasks), -1, *self.map[1:])
        return self.map[0] * self.projector(stacked).softmax(1).flatten(1)  # type: ignore[no-any-return]

    def _rowwise(self, network: nn.Module, x: Float[Tensor, "T R D"]) -> Float[Tensor, "T R D"]:
        return network(x.reshape(-1, *self.map)).view(x.shape)  # type: ignore[no-any-return]


def block(width: int, side: int) -> nn.Sequential:
    return nn.Sequential(convolution(width, width, side), nn.GroupNorm(1, width), nn.ReLU())
