"""Relation networks: a learned comparison.

Flood Sung, Yongxin Yang, Li Zhang, Tao Xiang, Philip H. S. Torr, Timothy M. Hospedales. Learning to Compare: Relation
Network for Few-Shot Learning. CVPR 2018, arXiv:1711.06025.

The map of a class and the map of a query are laid on one another in depth, and a small network, the relation module,
says from 0 to 1 how much they belong together (equation 1): two blocks of convolution, normalisation and ReLU, then
two fully connected layers. It learns by regressing that score to 1 for the pairs that match and to 0 for all others
(equation 2). This is an inductive method: each pair of a class and a query is judged alone.

Departures from the paper:
* the map of a class is the mean of its support maps, where the paper adds them up, so that classes of different
  shots are of one size;
* normalisation is over the map of one pair, where the paper's batch normalisation mixes pairs, queries and tasks;
* the maps are normalised before they are compared too, because the lengths of cached features mean little;
* the blocks do not pool, because cached maps have but a few cells, and have as many channels as the maps;
* the squared error is averaged over the pairs, where the paper adds them up.
"""

from typing import Annotated

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from onelook import ops
from onelook.errors import Bound, PositiveInt
from onelook.methods.base import Method, query_cross_entropy
from onelook.methods.maps import convolution, map_shape
from onelook.tasks import Tasks


class RelationNetworks(Method):
    """A learned comparison of each class with each query.

    >>> RelationNetworks(feature_size=64)(Tasks.random(n_tasks=2, n_way=5)).shape
    torch.Size([2, 15, 5])
    """

    feature_size: PositiveInt
    channels: int = 0
    """Channels of the feature maps, whose cells are the rest of the features; 0: maps of one cell."""
    hidden: PositiveInt = 8
    """Width of the first fully connected layer; 8 is the published one."""
    loss_kind: Annotated[str, Bound("one of", ("mse", "cross-entropy"))] = "mse"
    """"mse" is the squared error of the sigmoid of each score, as published; "cross-entropy" reads all scores."""

    def __post_init__(self) -> None:
        super().__post_init__()
        width, self.side = map_shape(self.feature_size, self.channels)
        self.norm = nn.GroupNorm(1, width)
        self.first = convolution(2 * width, width, self.side)
        self.rest = nn.Sequential(
            nn.GroupNorm(1, width),
            nn.ReLU(),
            convolution(width, width, self.side),
            nn.GroupNorm(1, width),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(self.feature_size, self.hidden),
            nn.ReLU(),
            # A bias moves the scores of all classes alike: to the sigmoid that says something, to the softmax nothing.
            nn.Linear(self.hidden, 1, bias=self.loss_kind == "mse"),
        )

    def forward(self, tasks: Tasks) -> Float[Tensor, "T Q K"]:
        """The scores before their sigmoid."""
        means = ops.class_means(self._norm_maps(tasks.support), tasks.support_labels, tasks.n_way)
        class_weight, query_weight = self.first.weight.chunk(2, 1)
        # A convolution of two stacked maps is the sum of a convolution of each: T (K + Q) of them instead of T K Q.
        of_class = self._convolve(means, class_weight).unsqueeze(1)
        of_query = self._convolve(self._norm_maps(tasks.query), query_weight, self.first.bias).unsqueeze(2)
        pairs: Tensor = of_query + of_class
        return self.rest(pairs.flatten(0, 2)).view(pairs.shape[:3])  # type: ignore[no-any-return]

    def loss(self, tasks: Tasks) -> Float[Tensor, ""]:
        if self.loss_kind == "cross-entropy":
            return query_cross_entropy(self(tasks), tasks)
        if tasks.query_labels is None:
            raise ValueError("training needs tasks with query labels")
        logits = self(tasks)
        return functional.mse_loss(logits.sigmoid(), ops.one_hot(tasks.query_labels, tasks.n_way, logits.dtype))

    def _maps(self, x: Float[Tensor, "T R D"]) -> Float[Tensor, "T*R C side side"]:
        return x.reshape(-1, self.norm.num_channels, self.side, self.side)

    def _norm_maps(self, x: Float[Tensor, "T R D"]) -> Float[Tensor, "T R D"]:
        return self.norm(self._maps(x)).view(x.shape)  # type: ignore[no-any-return]

    def _convolve(
        self, x: Float[Tensor, "T R D"], weight: Tensor, bias: Tensor | None = None
    ) -> Float[Tensor, "T R C side side"]:
        maps = self._maps(x)
        convolved = functional.conv2d(maps, weight, bias, padding=weight.shape[-1] // 2)
        return convolved.view(*x.shape[:2], *maps.shape[1:])
