"""A method of feature vectors and the network that computes them, as one method of images.

Departure from papers that train this way (see `ImageMethod`): the statistics of the network's normalisation are frozen.
"""

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from onelook.methods.base import ImageMethod, Method
from onelook.tasks import Tasks

_IMAGES_AT_ONCE = 512


class EndToEnd(ImageMethod):
    """`head` on the features of `backbone`; both learn by the head's loss, and its declarations hold."""

    head: Method

    def __post_init__(self) -> None:
        super().__post_init__()
        head = self.head
        self.transductive = head.transductive  # type: ignore[misc]  # that of the class is left to each head
        self.assumes_balanced_queries = head.assumes_balanced_queries  # type: ignore[misc]
        self.needs_training_classes = head.needs_training_classes
        self.ordered_support = head.ordered_support
        self.n_way = head.n_way

    def prepare(self, features: Shaped[Tensor, "N C H W"], labels: Int[Tensor, "N"]) -> None:
        """features: the images themselves."""
        with torch.no_grad():
            parts = [self._features(images) for images in torch.split(features, _IMAGES_AT_ONCE)]
        self.head.prepare(torch.cat(parts), labels)

    def forward(self, tasks: Tasks) -> Float[Tensor, "T Q K"]:
        features = tasks.map_items(self._features)
        with self._full_precision(tasks):
            logits: Tensor = self.head(features)
        return logits

    def loss(self, tasks: Tasks) -> Float[Tensor, ""]:
        features = tasks.map_items(self._features)
        with self._full_precision(tasks):
            return self.head.loss(features)

    def _features(self, images: Shaped[Tensor, "N C H W"]) -> Float[Tensor, "N D"]:
        features: Tensor = self.backbone(images)
        return features.to(self.backbone.pixel_mean.dtype)

    @staticmethod
    def _full_precision(tasks: Tasks) -> torch.autocast:
        """Full precision for the head: under autocast only the network may compute in few digits."""
        return torch.autocast(tasks.support.device.type, enabled=False)
