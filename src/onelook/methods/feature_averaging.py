"""Feature averaging with a cosine classifier: SIB before its first step ("K = 0").

Spyros Gidaris, Nikos Komodakis. Dynamic Few-Shot Visual Learning without Forgetting. CVPR 2018, arXiv:1804.09458.

The weight of a class is the mean of its unit-length support features times a learned diagonal; queries are
compared with it by a cosine with a learned scale. This is an inductive method: queries are judged one by one.
The attention over base classes of the paper is not used, as in SIB.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from onelook import ops
from onelook.errors import PositiveInt
from onelook.methods.base import IterativeMethod, query_cross_entropy
from onelook.tasks import Tasks


class FeatureAveraging(IterativeMethod):
    """A cosine classifier whose weights are class means times a learned diagonal.

    >>> FeatureAveraging(feature_size=64)(Tasks.random(n_tasks=2, n_way=5)).shape
    torch.Size([2, 15, 5])
    """

    feature_size: PositiveInt

    def __post_init__(self) -> None:
        super().__post_init__()
        self.diagonal = nn.Parameter(torch.ones(self.feature_size))
        self.scale = nn.Parameter(torch.tensor(10.0))

    def init(self, tasks: Tasks) -> Float[Tensor, "T K D"]:
        means = ops.class_means(ops.normalise(tasks.support), tasks.support_labels, tasks.n_way)
        return self.diagonal * means

    def step(self, weights: Float[Tensor, "T K D"], tasks: Tasks) -> Float[Tensor, "T K D"]:
        del tasks
        return weights

    def score(self, weights: Float[Tensor, "T K D"], query: Float[Tensor, "T Q D"]) -> Float[Tensor, "T Q K"]:
        return self.scale * ops.cosine_similarity(query, weights)

    def loss_with_prior(self, tasks: Tasks, prior_weight: float) -> Float[Tensor, ""]:
        """Cross-entropy of the queries, plus that of a zero-mean Gaussian prior over the final weights."""
        weights = self.adapt(tasks)
        prior = 0.5 * prior_weight * weights.square().sum((1, 2)).mean()
        return query_cross_entropy(self.score(weights, tasks.query), tasks) + prior
