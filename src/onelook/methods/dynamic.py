"""Dynamic few-shot learning: classifier weights from the mean of a class and from attention over the base classes.

Spyros Gidaris, Nikos Komodakis. Dynamic Few-Shot Visual Learning without Forgetting. CVPR 2018, arXiv:1804.09458.

The weight of a class is the mean of its unit support features times a learned diagonal, plus, times another, the
weights of the training ("base") classes that its support features resemble: each support feature asks by a linear
query, each base class answers by a learned key, and a softmax over their scaled cosines says how much of each base
weight to take (the paper's "few-shot classification weight generator"). Queries are compared by a cosine with a
learned scale. This is an inductive method.

In training the classes of a task are base classes themselves; they play novel ones, so their own base weights and
keys are masked out of the attention of their task.

Departures from the paper:
* the loss is over the classes of the task and not over all base classes with them, since tasks hold queries of their
  own classes only; the base weights learn through the attention;
* the diagonal of the attended part begins at zero, so that training starts from feature averaging;
* base weights and keys begin as the means of the unit features of their classes, of a network that is finished, where
  the paper trains the base weights with the network and draws the keys.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from onelook import ops
from onelook.errors import PositiveFloat, PositiveInt, SettingsError
from onelook.methods.base import query_cross_entropy
from onelook.methods.feature_averaging import FeatureAveraging
from onelook.tasks import Tasks


class DynamicFewShot(FeatureAveraging):
    """Classifier weights from the support and, by attention, from the training classes.

    >>> DynamicFewShot(feature_size=64, n_classes=20)(Tasks.random(n_tasks=2, n_way=5)).shape
    torch.Size([2, 15, 5])
    """

    needs_training_classes = True
    n_classes: PositiveInt
    """Classes of the training set, each with a base weight and a key."""
    attention_scale: PositiveFloat = 10.0
    """gamma, first factor of the cosines of the attention; it is learned."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.attended_diagonal = nn.Parameter(torch.zeros(self.feature_size))
        self.gamma = nn.Parameter(torch.tensor(float(self.attention_scale)))
        self.base_weights = nn.Parameter(torch.randn(self.n_classes, self.feature_size))
        self.keys = nn.Parameter(torch.randn(self.n_classes, self.feature_size))
        self.attention_query = nn.Linear(self.feature_size, self.feature_size)
        with torch.no_grad():
            noise = 0.01 * torch.randn(self.feature_size, self.feature_size)
            self.attention_query.weight.copy_(torch.eye(self.feature_size) + noise)
            self.attention_query.bias.zero_()

    def prepare(self, features: Float[Tensor, "N D"], labels: Int[Tensor, "N"]) -> None:
        means = ops.means_by_label(ops.normalise(features), labels, self.n_classes)
        with torch.no_grad():
            self.base_weights.copy_(means)
            self.keys.copy_(means)

    def init(self, tasks: Tasks) -> Float[Tensor, "T K D"]:
        return self._weights(tasks, None)

    def loss(self, tasks: Tasks) -> Float[Tensor, ""]:
        if tasks.query_labels is None or tasks.classes is None:
            raise ValueError("training needs tasks with query labels and the classes they are of")
        if tasks.n_way >= self.n_classes:
            raise SettingsError(
                f"The attention needs more training classes than a task has, but there are "
                f"{self.n_classes} and tasks of {tasks.n_way}; choose fewer ways."
            )
        weights = self._weights(tasks, tasks.classes)
        return query_cross_entropy(self.score(weights, tasks.query), tasks)

    def _weights(self, tasks: Tasks, masked: Int[Tensor, "T K"] | None) -> Float[Tensor, "T K D"]:
        """phi_avg * mean of z + phi_att * mean over z of sum_b attention(z, b) w_b."""
        unit_TSD = ops.normalise(tasks.support)
        asked_TSD = ops.normalise(self.attention_query(unit_TSD))
        score_TSB = self.gamma * (asked_TSD @ ops.normalise(self.keys).T)
        if masked is not None:
            own_TB = torch.zeros(len(tasks), self.n_classes, dtype=torch.bool, device=masked.device)
            own_TB = own_TB.scatter(1, masked, True)
            score_TSB = score_TSB.masked_fill(own_TB.unsqueeze(1), -torch.inf)
        # The mean over the rows comes before the product with the base weights: K rows of it instead of S.
        attention_TKB = ops.class_means(score_TSB.softmax(-1), tasks.support_labels, tasks.n_way)
        means_TKD = ops.class_means(unit_TSD, tasks.support_labels, tasks.n_way)
        return self.diagonal * means_TKD + self.attended_diagonal * (attention_TKB @ ops.normalise(self.base_weights))
