"""MetaOptNet: a convex learner as the classifier of a task.

Kwonjoon Lee, Subhransu Maji, Avinash Ravichandran, Stefano Soatto. Meta-Learning with Differentiable Convex
Optimization. CVPR 2019, arXiv:1904.03758.

The weights of a task are those of a multi-class linear support vector machine fitted to its support set (equation 4),
found in its dual, whose size does not depend on the features (equations 9 and 10); or those of ridge regression
(equation 11). The products of weights and queries, times a learned scale, are the logits (equation 12). The features
learn through the solution by its optimality conditions (equation 8), for which `methods.convex` stands. This is an
inductive method.

Departures from the paper:
* the dual is solved by the library's own interior points, all tasks at once, where the paper calls a general solver;
* the ridge head regresses to one-hot labels in closed form, which needs no solver, and leaves to the scale the factor
  2 by which the dual of the authors' code differs from it;
* the scale starts above 1, near where cross-entropy has it for these heads, because Adam at a small step would need
  thousands of steps to get there.
"""

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor, nn

from onelook import ops
from onelook.errors import Bound, PositiveFloat, PositiveInt
from onelook.methods.base import Method
from onelook.methods.convex import crammer_singer_dual
from onelook.tasks import Tasks


class MetaOptNet(Method):
    """A support vector machine, or ridge regression, fitted to each task and differentiated through.

    >>> MetaOptNet(feature_size=64)(Tasks.random(n_tasks=2, n_way=5)).shape
    torch.Size([2, 15, 5])
    """

    feature_size: PositiveInt
    head: Annotated[str, Bound("one of", ("svm", "ridge"))] = "svm"
    """Classifier of a task: the support vector machine of Crammer & Singer, or ridge regression."""
    C: PositiveFloat = 0.1
    """Price of a violated margin of the svm."""
    ridge: PositiveFloat = 50.0
    """lambda of the ridge head."""
    unit_length: bool = False
    """Whether features are first scaled to length 1. The published C and ridge are for long features; for those
    of length 1, C = 10 and ridge = 0.5 are what they are for features of length 10."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # Margins of an svm are near 1, differences of regressed one-hot labels near 1/2.
        self.scale = nn.Parameter(torch.tensor(5.0 if self.head == "svm" else 10.0))

    def forward(self, tasks: Tasks) -> Float[Tensor, "T Q K"]:
        support, query = tasks.support, tasks.query
        if self.unit_length:
            support, query = ops.normalise(support), ops.normalise(query)
        if self.head == "svm":
            dual_TSK = crammer_singer_dual(support, tasks.support_labels, tasks.n_way, self.C)
            weights_TKD = dual_TSK.mT @ support
        else:
            hot_TSK = ops.one_hot(tasks.support_labels, tasks.n_way, support.dtype)
            weights_TKD = ops.ridge_regression(support, hot_TSK, self.ridge)
        return self.scale * (query @ weights_TKD.mT)
