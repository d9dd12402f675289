"""Transforms of finished features before a method compares them.

Yan Wang, Wei-Lun Chao, Kilian Weinberger, Laurens van der Maaten. SimpleShot: Revisiting Nearest-Neighbor
Classification for Few-Shot Learning. 2019, arXiv:1911.04623 (`l2n`, `cl2n`).
Yuqing Hu, Vincent Gripon, Stéphane Pateux. Leveraging the Feature Distribution in Transfer-based Few-Shot Learning.
ICANN 2021, arXiv:2006.03806 (the root, and the means of the task).
"""

from dataclasses import replace
from typing import Annotated

import torch
from jaxtyping import Float, Int
from torch import Tensor

from onelook import ops
from onelook.errors import Bound, PositiveInt
from onelook.methods.base import Method
from onelook.tasks import Tasks

TRANSFORMS = ("none", "l2n", "cl2n", "root", "root-centred", "root-task")
Transform = Annotated[str, Bound("one of", TRANSFORMS)]
InductiveTransform = Annotated[str, Bound("one of", TRANSFORMS[:-1])]
"""A transform that looks at no other queries."""


class PreprocessedMethod(Method):
    """A method whose features are transformed first. Its own file says which transform its paper has."""

    feature_size: PositiveInt
    transform: Transform
    """Transform of the features: "none"; "l2n", unit length; "cl2n", centred on the mean of the training classes, then
    unit length; "root", the root of each entry, then unit length; "root-centred", that, centred on the mean of the
    training classes, then unit length; "root-task", the same, but support and queries each centred on their own mean
    (which is off where the classes are not equally frequent among the queries, and makes any method transductive)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.needs_training_classes = self.transform in ("cl2n", "root-centred")
        self.centre: Tensor
        self.register_buffer("centre", torch.zeros(self.feature_size))

    def prepare(self, features: Float[Tensor, "N D"], labels: Int[Tensor, "N"]) -> None:
        del labels
        self.centre.copy_((_root(features) if self.transform.startswith("root") else features).mean(0))

    def preprocess(self, tasks: Tasks) -> Tasks:
        """Tasks with transformed features."""
        match self.transform:
            case "none":
                return tasks
            case "l2n":
                return tasks.map_items(ops.normalise)
            case "cl2n":
                return tasks.map_items(lambda x: ops.normalise(x - self.centre))
            case "root":
                return tasks.map_items(_root)
            case "root-centred":
                return tasks.map_items(lambda x: ops.normalise(_root(x) - self.centre))
        support, query = _root(tasks.support), _root(tasks.query)
        return replace(
            tasks,
            support=_centre(support, support.mean(1, keepdim=True)),
            query=_centre(query, query.mean(1, keepdim=True)),
        )


def _root(x: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows D"]:
    """The signed root of each entry, so that large ones weigh less; then unit length."""
    return ops.normalise(x.sign() * (x.abs() + 1e-6).sqrt())


def _centre(x: Float[Tensor, "T R D"], mean: Float[Tensor, "T 1 D"]) -> Float[Tensor, "T R D"]:
    """A single row is its own mean: it is left where it is, because nothing of it would remain."""
    return x if x.shape[1] == 1 else ops.normalise(x - mean)
