"""The one interface of all methods."""

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from onelook.backbones import Backbone
from onelook.tasks import Tasks


class Method(nn.Module):
    """A pure map from a batch of tasks to logits: it writes nothing, not even to itself.

    The arguments of a method's constructor are kept as attributes under their own names, so that they can be
    written beside its weights (`methods.settings_of`).
    """

    transductive: ClassVar[bool]
    """Whether the answer for one query may depend on the other queries."""
    assumes_balanced_queries: ClassVar[bool]
    """Whether accuracy suffers when the classes are not equally frequent among the queries."""
    version: ClassVar[int] = 1
    """Number to raise when answers change, so that stored results of earlier versions are not used."""
    needs_training_classes: bool = False
    """Whether `prepare` must have seen features of training classes, beside what meta-training does."""
    ordered_support: bool = False
    """Whether the answer depends on the order of the support rows, as of a method that reads them as a sequence."""
    n_way: int | None = None
    """The one number of classes the method was built for; None: any."""

    def forward(self, tasks: Tasks) -> Float[Tensor, "T Q K"]:
        """Logits of every query for every class. Query labels are never read."""
        raise NotImplementedError

    def prepare(self, features: Float[Tensor, "N D"], labels: Int[Tensor, "N"]) -> None:
        """Take from the features of the training classes what the first task needs; most methods need nothing."""

    def loss(self, tasks: Tasks) -> Float[Tensor, ""]:
        """What meta-training minimises: the mean cross-entropy of the queries under their true labels."""
        return query_cross_entropy(self(tasks), tasks)


class IterativeMethod(Method):
    """A method that ends in classifier weights for each task, refined in `n_steps` steps."""

    n_steps: int

    def init(self, tasks: Tasks) -> Float[Tensor, "T K D"]:
        """The weights before the first step."""
        raise NotImplementedError

    def step(self, weights: Float[Tensor, "T K D"], tasks: Tasks) -> Float[Tensor, "T K D"]:
        """The weights after one more step."""
        raise NotImplementedError

    def score(self, weights: Float[Tensor, "T K D"], query: Float[Tensor, "T Q D"]) -> Float[Tensor, "T Q K"]:
        """Logits, row by row: rows that no step has seen are welcome."""
        raise NotImplementedError

    def adapt(self, tasks: Tasks) -> Float[Tensor, "T K D"]:
        """The weights after the last step."""
        weights = self.init(tasks)
        for _ in range(self.n_steps):
            weights = self.step(weights, tasks)
        return weights

    def forward(self, tasks: Tasks) -> Float[Tensor, "T Q K"]:
        return self.score(self.adapt(tasks), tasks.query)

    def trajectory(self, tasks: Tasks) -> Float[Tensor, "steps T Q K"]:
        """Logits after 0, 1, … n_steps steps."""
        weights = self.init(tasks)
        logits = [self.score(weights, tasks.query)]
        for _ in range(self.n_steps):
            weights = self.step(weights, tasks)
            logits.append(self.score(weights, tasks.query))
        return torch.stack(logits)


class ImageMethod(Method):
    """A method whose items are images (pixels from 0 to 255) and that owns the network of their features.

    The statistics of the network's normalisation layers are frozen, in training too: its weights, gains and shifts
    learn, but no layer ever takes a mean over the batch. So a task does not see its neighbours, nor a query the other
    queries, and nothing is written in `forward`. It is a departure from papers that train with the statistics of each
    batch; a network that was pretrained has good statistics, and a new one those it starts with.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone.eval()

    def train(self, mode: bool = True) -> "ImageMethod":
        super().train(mode)
        self.backbone.eval()
        return self


def query_cross_entropy(logits: Float[Tensor, "T Q K"], tasks: Tasks) -> Float[Tensor, ""]:
    """Mean over all queries of all tasks but those of no class of their task, which are labelled -1."""
    if tasks.query_labels is None:
        raise ValueError("training needs tasks with query labels")
    return functional.cross_entropy(logits.flatten(0, 1), tasks.query_labels.flatten(), ignore_index=-1)
