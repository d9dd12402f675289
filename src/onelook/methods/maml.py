"""MAML: model-agnostic meta-learning; its first-order form; and ANIL, which adapts the head alone.

Chelsea Finn, Pieter Abbeel, Sergey Levine. Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks.
ICML 2017, arXiv:1703.03400.
Aniruddh Raghu, Maithra Raghu, Samy Bengio, Oriol Vinyals. Rapid Learning or Feature Reuse? Towards Understanding the
Effectiveness of MAML. ICLR 2020, arXiv:1909.09157.

What is learned is the start: for each task, network and linear head take a few gradient steps on the cross-entropy of
its support set, and the queries' cross-entropy after the last step teaches the start through all of them (algorithm 2
and equation 1 of MAML). The first-order form takes the steps for constants. ANIL steps with the head only.
This is an inductive method.

Departures from the paper:
* the normalisation statistics are frozen (see `ImageMethod`), where the paper's are those of each batch, the queries
  included, which makes its tasks transductive;
* gradients are not clipped here, as in the authors' code, because that is the affair of the optimiser;
* as many steps are taken in use as in training (`n_steps`), where the paper takes five in training and ten in use.
"""

from typing import Annotated

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from onelook import ops
from onelook.errors import Bound, NonNegativeInt, PositiveFloat, TwoOrMore
from onelook.methods.base import ImageMethod, full_precision
from onelook.tasks import Tasks

Weights = dict[str, Tensor]
"""Weights of T networks, or of T heads: every tensor has a first axis T."""


class MAML(ImageMethod):
    """A start of network and head from which a few gradient steps solve a task.

    >>> from onelook.backbones import create
    >>> images = Tasks.random(n_tasks=2, feature_size=768).map_items(lambda x: x.unflatten(-1, (3, 16, 16)))
    >>> MAML(create("conv4-64", image_size=16), n_steps=1)(images).shape
    torch.Size([2, 15, 5])
    """

    n_way: TwoOrMore = 5
    """Outputs of the head, whose start need not be the same for all of them."""
    n_steps: NonNegativeInt = 5
    step_size: PositiveFloat = 0.01
    """alpha, the size of every step of every weight."""
    order: Annotated[int, Bound("one of", (1, 2))] = 2
    """1 is the first-order form, which needs less time and far less memory in training."""
    adapt: Annotated[str, Bound("one of", ("all", "head"))] = "all"
    """Weights that take the steps; "head" is ANIL."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.classifier = nn.Linear(self.backbone.feature_size, self.n_way)

    def forward(self, tasks: Tasks) -> Float[Tensor, "T Q K"]:
        self.require_n_way(tasks)
        if self.adapt == "head":
            features = tasks.map_items(lambda images: self.full_digits(self.backbone(images)))
            return _scores(features.query, self.adapt_head(features))
        return self._logits(tasks.query, self.adapt_all(tasks))

    def adapt_all(self, tasks: Tasks) -> Weights:
        """The weights of each task's network and head after the last step."""
        learning = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            support = tasks.support.clone()  # one made in inference mode may take no part in a graph
            labels = tasks.support_labels.clone()
            weights = self._start(len(tasks))
            for _ in range(self.n_steps):
                if not learning:
                    weights = {name: value.detach().requires_grad_() for name, value in weights.items()}
                # The sum over tasks of each one's mean: no task's weights have a part in another's.
                loss = functional.cross_entropy(self._logits(support, weights).flatten(0, 1), labels.flatten())
                loss = loss * len(tasks)
                graph = learning and self.order == 2
                gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=graph)
                steps = zip(weights.items(), gradients, strict=True)
                weights = {name: value - self.step_size * gradient for (name, value), gradient in steps}
        return weights if learning else {name: value.detach() for name, value in weights.items()}

    def adapt_head(self, features: Tasks) -> Weights:
        """Weights of the adapted head, by gradients in closed form: softmax less indicator, times feature."""
        head = self._heads(len(features))
        hot_TSK = ops.one_hot(features.support_labels, features.n_way, features.support.dtype)
        for _ in range(self.n_steps):
            error_TSK = (_scores(features.support, head).softmax(-1) - hot_TSK) / hot_TSK.shape[1]
            gradient = {"weight": error_TSK.mT @ features.support, "bias": error_TSK.sum(1)}
            if self.order == 1:
                gradient = {name: value.detach() for name, value in gradient.items()}
            head = {name: value - self.step_size * gradient[name] for name, value in head.items()}
        return head

    def _start(self, n_tasks: int) -> Weights:
        network = {name: value.expand(n_tasks, *value.shape) for name, value in self.backbone.named_parameters()}
        return network | {f"head {name}": value for name, value in self._heads(n_tasks).items()}

    def _heads(self, n_tasks: int) -> Weights:
        return {name: value.expand(n_tasks, *value.shape) for name, value in self.classifier.named_parameters()}

    def _logits(self, images: Shaped[Tensor, "T N C H W"], weights: Weights) -> Float[Tensor, "T N K"]:
        own = {name: value for name, value in weights.items() if not name.startswith("head ")}
        head = {name.removeprefix("head "): value for name, value in weights.items() if name not in own}
        return _scores(self.full_digits(self.backbone.compute_for_tasks(self.backbone.preprocess(images), own)), head)


def _scores(features: Float[Tensor, "T N D"], head: Weights) -> Float[Tensor, "T N K"]:
    with full_precision(features):
        return torch.baddbmm(head["bias"].unsqueeze(1), features, head["weight"].mT)
