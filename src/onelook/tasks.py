"""Tasks: batches of few-shot problems; and Embeddings: the features that tasks are drawn from.

Axes: T tasks, S support rows, Q query rows, K classes, D feature, N rows of a data set, V views.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from onelook.errors import DataError


@dataclass(frozen=True)
class Tasks:
    """A batch of T tasks of equal size. One task is T = 1.

    Labels say which row belongs to which class, so shots may differ between the classes of a task and rows
    may stand in any order. An item is a feature vector or an image.

    >>> tasks = Tasks(torch.randn(1, 2, 8), torch.tensor([[0, 1]]), torch.randn(1, 3, 8), n_way=2)
    >>> len(tasks), tasks.query.shape
    (1, torch.Size([1, 3, 8]))
    """

    support: Shaped[Tensor, "T S *item"]
    support_labels: Int[Tensor, "T S"]
    query: Shaped[Tensor, "T Q *item"]
    n_way: int
    """K, the number of classes; labels are 0 … K-1."""
    query_labels: Int[Tensor, "T Q"] | None = None
    """Known in training and for scoring only; a method never reads them outside `loss`."""
    classes: Int[Tensor, "T K"] | None = None
    """Class of the data set that each label stands for. As with the query labels, only `loss` may read it."""

    def __post_init__(self) -> None:
        # Without this check a label out of range, or a class without a support row, becomes a NaN prototype.
        count_TK = torch.stack([(self.support_labels == k).sum(-1) for k in range(self.n_way)], -1)
        if bool((count_TK.sum(-1) != self.support_labels.shape[-1]).any()):
            found = (int(self.support_labels.min()), int(self.support_labels.max()))
            raise DataError(
                f"Support labels must be 0 to {self.n_way - 1}, but found {found[0]} to {found[1]}; relabel them."
            )
        if bool((count_TK == 0).any()):
            missing = int((count_TK == 0).nonzero()[0, 1])
            raise DataError(f"Class {missing} has no labelled example in a task; every class needs at least one.")

    @classmethod
    def random(
        cls, n_tasks: int = 1, n_way: int = 5, n_shot: int = 1, n_query: int = 15, feature_size: int = 64, seed: int = 0
    ) -> "Tasks":
        """Tasks of Gaussian features around random class centres, with balanced queries, to try a method on."""
        draw = torch.Generator().manual_seed(seed)
        centres = torch.randn(n_tasks, n_way, feature_size, generator=draw)
        labels = [torch.arange(n).remainder(n_way).expand(n_tasks, -1) for n in (n_way * n_shot, n_query)]
        rows = [centres[:, own[0]] for own in labels]
        support, query = (x + torch.randn(x.shape, generator=draw) for x in rows)
        return cls(support, labels[0], query, n_way, query_labels=labels[1])

    def __len__(self) -> int:
        return self.support.shape[0]

    def __getitem__(self, tasks: slice) -> "Tasks":
        labels = None if self.query_labels is None else self.query_labels[tasks]
        classes = None if self.classes is None else self.classes[tasks]
        return Tasks(self.support[tasks], self.support_labels[tasks], self.query[tasks], self.n_way, labels, classes)

    def to(self, device: torch.device | str) -> "Tasks":
        """The tasks on another device.

        >>> Tasks.random().to("cpu").query.device.type
        'cpu'
        """
        known, classes = (x if x is None else x.to(device) for x in (self.query_labels, self.classes))
        support, own, query = (x.to(device) for x in (self.support, self.support_labels, self.query))
        return Tasks(support, own, query, self.n_way, known, classes)

    def without_query_labels(self) -> "Tasks":
        """Tasks as they are met in use, less all that only training and scoring may know."""
        return replace(self, query_labels=None, classes=None)

    def map_items(self, function: Callable[[Tensor], Tensor]) -> "Tasks":
        """Tasks with `function` (rows, *item -> rows, *new_item) applied to all items at once."""
        n_support = self.support.shape[0] * self.support.shape[1]
        rows = torch.cat([self.support.flatten(0, 1), self.query.flatten(0, 1)])
        new = function(rows)
        return replace(
            self,
            support=new[:n_support].reshape(*self.support.shape[:2], *new.shape[1:]),
            query=new[n_support:].reshape(*self.query.shape[:2], *new.shape[1:]),
        )

    def map_tasks(self, function: Callable[[Float[Tensor, "T R D"]], Float[Tensor, "T R d"]]) -> "Tasks":
        """Tasks with `function` applied to the rows of each, support and query together."""
        n_support = self.support.shape[1]
        rows = function(torch.cat([self.support, self.query], 1))
        return replace(self, support=rows[:, :n_support], query=rows[:, n_support:])


@dataclass(frozen=True)
class Embeddings:
    """Features of a data set, in V views of every item (V = 1 where nothing is augmented).

    >>> Embeddings(torch.randn(1, 6, 8), torch.arange(6) % 2, ("cat", "dog")).feature_size
    8
    """

    views: Float[Tensor, "V N D"]
    labels: Int[Tensor, "N"]
    """-1 = unlabelled."""
    class_names: tuple[str, ...]
    items: tuple[str, ...] = ()
    """The names of the N items, usually paths."""
    source: str = ""
    """Where the features come from, in words."""
    environments: bool = False
    """Kind of the views: random augmentations, drawn for every item apart (False), or environments,
    of which a task sees one (True; see data/glyphs.py)."""

    @property
    def features(self) -> Float[Tensor, "N D"]:
        return self.views[0]

    @property
    def feature_size(self) -> int:
        return self.views.shape[-1]
