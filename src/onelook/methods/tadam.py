"""TADAM: a metric that depends on the task, through a network that is modulated by it.

Boris Oreshkin, Pau Rodríguez López, Alexandre Lacoste. TADAM: Task dependent adaptive metric for improved few-shot
learning. NeurIPS 2018, arXiv:1805.10123.

The support set is seen twice. First by the plain network: the mean of its class prototypes is the embedding of the
task, from which a small network (TEN) makes a scale and a shift for the channels of each block. Then, as
the queries, by the network so modulated, and a query's logit is its negative squared distance to the prototype, times
a learned scale alpha. In training an ordinary classifier of all training classes helps (auxiliary co-training).
This is an inductive method.

Departures from the paper:
* the normalisation statistics are frozen (see `ImageMethod`);
* blocks are modulated, at their end before the last activation, where the paper modulates every convolution;
* the embedding of the task is scaled to a mean square of 1, so that the TEN does not depend on the scale of features;
* the auxiliary classifier learns from the images of the same tasks, the support as the plain network sees it and the
  queries modulated, where the paper draws a separate batch, with a probability that falls in the course of training;
  so no image is computed for it alone.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from onelook import ops
from onelook.errors import NonNegativeFloat, PositiveFloat, PositiveInt, SettingsError
from onelook.methods.base import ImageMethod, full_precision, query_cross_entropy
from onelook.tasks import Tasks

Modulation = list[tuple[Tensor, Tensor]]
"""Scale and shift of the channels of each block, both (T, C)."""


class TADAM(ImageMethod):
    """A metric in features that the task itself modulates.

    >>> from onelook.backbones import create
    >>> images = Tasks.random(n_tasks=2, feature_size=768).map_items(lambda x: x.unflatten(-1, (3, 16, 16)))
    >>> TADAM(create("conv4-64", image_size=16), n_classes=20)(images).shape
    torch.Size([2, 15, 5])
    """

    n_classes: PositiveInt
    """Classes of the training set, for the auxiliary classifier."""
    metric_scale: PositiveFloat = 0.1
    """First value of alpha; 0.1 suits features of length about 10."""
    auxiliary_weight: NonNegativeFloat = 1.0
    """Weight of the auxiliary classifier's loss beside that of the queries."""
    penalty: NonNegativeFloat = 0.01
    """Weight of the squared post-multipliers, so that there is no modulation without need."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.backbone.film_sizes:
            raise SettingsError(
                f"TADAM modulates blocks of its feature network, and {self.backbone.name or 'this one'} "
                f"has none that can be; take conv4-64 or resnet12."
            )
        self.alpha = nn.Parameter(torch.tensor(float(self.metric_scale)))
        size = self.backbone.feature_size
        self.task_network = nn.ModuleList(BlockModulation(size, channels) for channels in self.backbone.film_sizes)
        self.auxiliary = nn.Linear(size, self.n_classes)

    def forward(self, tasks: Tasks) -> Float[Tensor, "T Q K"]:
        plain_TSD = self.plain_support(tasks)
        return self._logits(self.modulate(tasks, self.modulation(plain_TSD, tasks)))

    def loss(self, tasks: Tasks) -> Float[Tensor, ""]:
        """The queries' cross-entropy, the penalty, and the auxiliary loss where it is known what classes these are."""
        plain_TSD = self.plain_support(tasks)
        features = self.modulate(tasks, self.modulation(plain_TSD, tasks))
        multipliers = torch.stack([value for name, value in self.named_parameters() if name.endswith("multiplier")])
        loss = query_cross_entropy(self._logits(features), tasks) + self.penalty * multipliers.square().sum()
        if tasks.classes is None or tasks.query_labels is None or self.auxiliary_weight == 0:
            return loss
        true_labels = tasks.classes.gather(1, torch.cat([tasks.support_labels, tasks.query_labels], 1))
        with full_precision(tasks.support):
            scores: Tensor = self.auxiliary(torch.cat([plain_TSD, features.query], 1))
        return loss + self.auxiliary_weight * functional.cross_entropy(scores.flatten(0, 1), true_labels.flatten())

    def plain_support(self, tasks: Tasks) -> Float[Tensor, "T S D"]:
        """The support features of the network as it is without a task."""
        n_tasks, n_support = tasks.support.shape[:2]
        return self.full_digits(self.backbone(tasks.support.flatten(0, 1))).view(n_tasks, n_support, -1)

    def modulation(self, plain_TSD: Float[Tensor, "T S D"], tasks: Tasks) -> Modulation:
        with full_precision(tasks.support):
            embedding_TD = ops.class_means(plain_TSD, tasks.support_labels, tasks.n_way).mean(1)
            embedding_TD = ops.normalise(embedding_TD) * embedding_TD.shape[1] ** 0.5
            return [block(embedding_TD) for block in self.task_network]

    def modulate(self, tasks: Tasks, modulation: Modulation) -> Tasks:
        """All items as features of the network modulated for their task."""
        owner = torch.arange(len(tasks), device=tasks.support.device)
        rows = torch.cat([owner.repeat_interleave(n) for n in (tasks.support.shape[1], tasks.query.shape[1])])
        film = [(scale[rows], shift[rows]) for scale, shift in modulation]
        return tasks.map_items(lambda images: self.full_digits(self.backbone(images, film)))

    def _logits(self, features: Tasks) -> Float[Tensor, "T Q K"]:
        with full_precision(features.support):
            prototypes = ops.class_means(features.support, features.support_labels, features.n_way)
            return -self.alpha * ops.squared_distance(features.query, prototypes)


class BlockModulation(nn.Module):
    """A map from the embedding of a task to a scale and a shift for the channels of one block.

    Each of the two comes from a residual network of three linear layers, and from a post-multiplier that starts at 0:
    the network starts unmodulated, and stays so for as long as a block has no use for the task.
    """

    def __init__(self, feature_size: int, channels: int) -> None:
        super().__init__()
        self.scale = ResidualLayers(feature_size, channels)
        self.shift = ResidualLayers(feature_size, channels)
        self.scale_multiplier = nn.Parameter(torch.zeros(()))
        self.shift_multiplier = nn.Parameter(torch.zeros(()))

    def forward(self, embedding: Float[Tensor, "T D"]) -> tuple[Float[Tensor, "T C"], Float[Tensor, "T C"]]:
        return 1 + self.scale_multiplier * self.scale(embedding), self.shift_multiplier * self.shift(embedding)


class ResidualLayers(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, outputs)
        self.second = nn.Linear(outputs, outputs)
        self.last = nn.Linear(outputs, outputs)

    def forward(self, x: Float[Tensor, "T D"]) -> Float[Tensor, "T C"]:
        x = functional.relu(self.first(x))
        x = x + functional.relu(self.second(x))
        return x + self.last(x)  # type: ignore[no-any-return]
