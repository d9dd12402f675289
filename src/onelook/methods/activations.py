"""Predicting parameters from activations.

Siyuan Qiao, Chenxi Liu, Wei Shen, Alan Yuille. Few-Shot Image Recognition by Predicting Parameters from Activations.
CVPR 2018, arXiv:1706.03466.

A map phi, the same for all classes, turns a statistic of the activations of a class, here their mean, into the
parameters of its classifier; the logit of a query is the product of these with its activation. phi is learned in a
classification among all training classes. This is an inductive method.

In training the paper draws for each class its mean or, seldom, a single activation as statistic, so that phi learns
from both. Here a task's support means are the seldom statistic of its classes, and the means of all training examples,
which `prepare` saves, that of all other classes. Queries are of the classes of the task only, so the right class
alone would always be known by few examples, and phi would learn this instead of what the class is. So each query
counts twice: once with the support mean of its own class and once with the saved one, weighted as K to C - K, the
numbers of classes in the task and outside of it. Then the kind of a statistic says nothing, as in the paper. In use
the queries are classified among the classes of the task.

Departures from the paper:
* activations have length 1, as there, and their mean is brought to it again, because the mean of many is shorter than
  a single one, which would favour classes with few examples;
* a learned scale stands before the softmax, because products of unit vectors are small;
* phi begins as the identity, from where it is trained in minutes; its second layer is added to the linear map, and
  begins at zero;
* trained together with a network, the saved means stay those of the features it began with;
* phi has no bias at its end, which would move the logits of all classes alike.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from onelook import ops
from onelook.errors import NonNegativeInt, PositiveInt
from onelook.methods.base import Method
from onelook.tasks import Tasks


class ActivationsToParameters(Method):
    """Classifier weights predicted from the mean activation of each class, with a map learned on all training classes.

    >>> ActivationsToParameters(feature_size=64, n_classes=20)(Tasks.random(n_tasks=2, n_way=5)).shape
    torch.Size([2, 15, 5])
    """

    feature_size: PositiveInt
    n_classes: PositiveInt
    """Classes of the training set, each with a mean that `prepare` saves."""
    hidden: NonNegativeInt = 0
    """Units of the second, non-linear part of phi; 0: phi is linear."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.scale = nn.Parameter(torch.tensor(10.0))
        self.linear = nn.Parameter(torch.eye(self.feature_size))
        if self.hidden:
            self.inner = nn.Linear(self.feature_size, self.hidden)
            self.outer = nn.Parameter(torch.zeros(self.feature_size, self.hidden))
        self.means: Tensor
        self.register_buffer("means", torch.zeros(self.n_classes, self.feature_size))

    def prepare(self, features: Float[Tensor, "N D"], labels: Int[Tensor, "N"]) -> None:
        self.means.copy_(ops.means_by_label(ops.normalise(features), labels, self.n_classes))

    def phi(self, statistic: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows D"]:
        """The parameters of a classifier from the statistic of its class."""
        unit = ops.normalise(statistic)
        parameters = unit @ self.linear.T
        return parameters + functional.relu(self.inner(unit)) @ self.outer.T if self.hidden else parameters

    def forward(self, tasks: Tasks) -> Float[Tensor, "T Q K"]:
        return self._logits(tasks, self._classifiers(tasks))

    def loss(self, tasks: Tasks) -> Float[Tensor, ""]:
        """The cross-entropy of the queries among all training classes."""
        if tasks.query_labels is None or tasks.classes is None:
            raise ValueError("training needs tasks with query labels and the classes they are of")
        own_TKD, kept_CD = self._classifiers(tasks), self.phi(self.means)
        place_TKD = tasks.classes.unsqueeze(-1).expand_as(own_TKD)
        all_TCD = kept_CD.expand(len(tasks), -1, -1).scatter(1, place_TKD, own_TKD)
        labels_TQ = tasks.classes.gather(1, tasks.query_labels)
        few_TQC = self._logits(tasks, all_TCD)
        # The same but for the right class: one product for each query instead of C.
        kept_TQ1 = self.scale * (ops.normalise(tasks.query) * kept_CD[labels_TQ]).sum(-1, keepdim=True)
        many_TQC = few_TQC.scatter(2, labels_TQ.unsqueeze(-1), kept_TQ1)
        few, many = (functional.cross_entropy(x.flatten(0, 1), labels_TQ.flatten()) for x in (few_TQC, many_TQC))
        weight = tasks.n_way / self.n_classes
        return weight * few + (1 - weight) * many

    def _classifiers(self, tasks: Tasks) -> Float[Tensor, "T K D"]:
        return self.phi(ops.class_means(ops.normalise(tasks.support), tasks.support_labels, tasks.n_way))

    def _logits(self, tasks: Tasks, parameters: Float[Tensor, "T C D"]) -> Float[Tensor, "T Q C"]:
        return self.scale * (ops.normalise(tasks.query) @ parameters.mT)
