"""A method of feature vectors and the network that computes them, as one method of images.

Departure from papers that train this way (see `ImageMethod`): the statistics of the network's normalisation are frozen.
"""

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from onelook.methods.base import ImageMethod, Method, full_precision
from onelook.tasks import Tasks

_IMAGES_AT_ONCE = 512


class EndToEnd(ImageMethod):
    """`head` on the features of `backbone`; both learn by the head's loss, and its declarations hold."""

    head: Method

    def __post_init__(self) -> None:
        super().__post_init__()
        declared = ("transductive", "assumes_balanced_queries", "needs_training_classes", "ordered_support", "n_way")
        for name in declared:
            setattr(self, name, getattr(self.head, name))

    def prepare(self, features: Shaped[Tensor, "N C H W"], labels: Int[Tensor, "N"]) -> None:
        """features: the images themselves."""
        with torch.no_grad():
            parts = [self._features(images) for images in torch.split(features, _IMAGES_AT_ONCE)]
        self.head.prepare(torch.cat(parts), labels)

    def forward(self, tasks: Tasks) -> Float[Tensor, "T Q K"]:
        features = tasks.map_items(self._features)
        with full_precision(tasks.support):
            logits: Tensor = self.head(features)
        return logits

    def loss(self, tasks: Tasks) -> Float[Tensor, ""]:
        features = tasks.map_items(self._features)
        with full_precision(tasks.support):
            return self.head.loss(features)

    def _features(self, images: Shaped[Tensor, "N C H W"]) -> Float[Tensor, "N D"]:
        return self.full_digits(self.backbone(images))
