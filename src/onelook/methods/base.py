"""The one interface of all methods."""

import itertools
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, dataclass_transform

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from onelook.backbones import Backbone
from onelook.errors import SettingsError, check_fields
from onelook.tasks import Tasks


@dataclass_transform(eq_default=False, field_specifiers=(field,))
class Method(nn.Module):
    """A pure map from a batch of tasks to logits: it writes nothing, not even to itself.

    A subclass is a dataclass of its settings: the annotated names in its body are the arguments of its constructor,
    checked against their bounds, never changed afterwards, and saved beside its weights. Its parameters and buffers are
    made in `__post_init__`.

    >>> from typing import Annotated
    >>> from onelook.errors import Bound
    >>> class NearestMean(Method):
    ...     scale: Annotated[float, Bound(">", 0)] = 1.0
    ...
    ...     def forward(self, tasks):
    ...         means = tasks.support.unflatten(1, (tasks.n_way, -1)).mean(2)
    ...         return -self.scale * torch.cdist(tasks.query, means)
    >>> NearestMean(scale=2.0)(Tasks.random(n_tasks=2, n_way=5)).shape
    torch.Size([2, 15, 5])
    >>> NearestMean(scale=-1.0)
    Traceback (most recent call last):
    onelook.errors.SettingsError: scale of NearestMean must be a number > 0, but is -1.0.
    """

    transductive: ClassVar[bool] = False
    """Whether the answer for one query may depend on the other queries."""
    assumes_balanced_queries: ClassVar[bool] = False
    """Whether accuracy suffers when the classes are not equally frequent among the queries."""
    version: ClassVar[int] = 1
    """Number to raise when answers change, so that stored results of earlier versions are not used."""
    needs_training_classes: bool = False
    """Whether `prepare` must have seen features of training classes, beside what meta-training does."""
    begins_trained: ClassVar[bool] = False
    """Whether its weights are of use before any training, so that it can go without training classes."""
    ordered_support: bool = False
    """Whether the answer depends on the order of the support rows, as of a method that reads them as a sequence."""
    n_way: int | None = None
    """The one number of classes the method was built for; None: any."""

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        dataclass(eq=False, repr=False)(cls)

    def __new__(cls, *args: Any, **settings: Any) -> "Method":  # noqa: ARG004
        method = super().__new__(cls)
        nn.Module.__init__(method)  # before the first setting, which may be a network, is set
        method.register_buffer("_where", torch.empty(0), persistent=False)  # many methods have no other tensor
        return method

    def __post_init__(self) -> None:
        check_fields(self)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__ and name in getattr(self, "__dataclass_fields__", ()):
            raise AttributeError(f"{name} is a setting, which its weights were made for; make another method.")
        super().__setattr__(name, value)

    @property
    def device(self) -> torch.device:
        """Device that `to` has moved the method to; its tasks have to be there."""
        # One with a constructor of its own may have no tensor at all.
        where = next(itertools.chain(self.buffers(), self.parameters()), None)
        return torch.device("cpu") if where is None else where.device

    def settings(self) -> dict[str, Any]:
        """Arguments with which the constructor makes the method again, without its weights and the networks it owns."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}  # type: ignore[arg-type]
        return {name: value for name, value in values.items() if not isinstance(value, nn.Module)}

    def require_n_way(self, tasks: Tasks) -> None:
        """Raise SettingsError for tasks of another number of classes than the method was made for."""
        if self.n_way not in (None, tasks.n_way):
            raise SettingsError(
                f"This {type(self).__name__} was made for {self.n_way} classes, but the tasks have {tasks.n_way}; "
                f"train one for {tasks.n_way}, or draw other tasks."
            )

    def forward(self, tasks: Tasks) -> Float[Tensor, "T Q K"]:
        """Logits of every query for every class. Query labels are never read."""
        raise NotImplementedError

    def prepare(self, features: Float[Tensor, "N D"], labels: Int[Tensor, "N"]) -> None:
        """Take from the features of the training classes what the first task needs; most methods need nothing."""

    def loss(self, tasks: Tasks) -> Float[Tensor, ""]:
        """Loss that meta-training minimises: the mean cross-entropy of the queries under their true labels."""
        return query_cross_entropy(self(tasks), tasks)


class IterativeMethod(Method):
    """A method that ends in classifier weights for each task, refined in `n_steps` steps."""

    @property
    def n_steps(self) -> int:
        """Steps from the initial weights to the last; a setting of most methods."""
        return 0

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

    backbone: Backbone

    def __post_init__(self) -> None:
        super().__post_init__()
        self.backbone.eval()

    def train(self, mode: bool = True) -> "ImageMethod":
        super().train(mode)
        self.backbone.eval()
        return self

    def full_digits(self, features: Tensor) -> Tensor:
        """Features in all digits, where autocast had the network compute in few."""
        return features.to(self.backbone.pixel_mean.dtype)


def full_precision(rows: Tensor) -> torch.autocast:
    """The context of what follows the network: under autocast only the network may compute in few digits."""
    return torch.autocast(rows.device.type, enabled=False)


def query_cross_entropy(logits: Float[Tensor, "T Q K"], tasks: Tasks) -> Float[Tensor, ""]:
    """Mean over all queries of all tasks but those of no class of their task, which are labelled -1."""
    if tasks.query_labels is None:
        raise ValueError("training needs tasks with query labels")
    return functional.cross_entropy(logits.flatten(0, 1), tasks.query_labels.flatten(), ignore_index=-1)
