"""R2-D2: ridge regression as the classifier of a task.

Luca Bertinetto, João F. Henriques, Philip H. S. Torr, Andrea Vedaldi. Meta-learning with Differentiable Closed-Form
Solvers. ICLR 2019, arXiv:1805.08136.

The weights of a task are those of ridge regression from its support features to their one-hot labels (equation 4), in
Woodbury's form, whose system is as small as the support set (equation 5). The predictions, scaled, are the logits
(equation 6). The ridge and the scale learn through the closed form. This is an inductive method.

Departures from the paper:
* the learned bias of the predictions is left out: it shifts the logits of all classes alike, which the softmax does
  not see, so that it would never learn;
* the regression has no constant feature and adds up the squared errors of the rows, because so do the equations, where
  the authors' code appends a constant to the features and takes the mean of the errors;
* features are first scaled to length 1 (`unit_length`), because the lengths of features of a network trained with a
  cosine classifier say little, and so the first ridge fits networks of any scale.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from onelook import ops
from onelook.errors import PositiveFloat, PositiveInt
from onelook.methods.base import Method
from onelook.tasks import Tasks


class RidgeRegression(Method):
    """Ridge regression from the support features to their labels.

    >>> RidgeRegression(feature_size=64)(Tasks.random(n_tasks=2, n_way=5)).shape
    torch.Size([2, 15, 5])
    """

    feature_size: PositiveInt
    initial_ridge: PositiveFloat = 1.0
    """lambda before it learns; its logarithm is the parameter, so lambda stays positive."""
    unit_length: bool = True
    """Whether features are scaled to length 1; False is the paper's form."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.log_ridge = nn.Parameter(torch.tensor(math.log(self.initial_ridge)))
        # Predictions lie near 0 and 1, as cosines do, and cosine classifiers start from this scale too.
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, tasks: Tasks) -> Float[Tensor, "T Q K"]:
        support, query = tasks.support, tasks.query
        if self.unit_length:
            support, query = ops.normalise(support), ops.normalise(query)
        hot_TSK = ops.one_hot(tasks.support_labels, tasks.n_way, support.dtype)
        weights_TKD = ops.ridge_regression(support, hot_TSK, self.log_ridge.exp())
        return self.scale * (query @ weights_TKD.mT)
