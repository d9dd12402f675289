"""Tasks drawn from a labelled data set. Task i is a pure function of (seed, i)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from onelook.errors import DataError, SettingsError
from onelook.tasks import Tasks


@runtime_checkable
class Views(Protocol):
    """What tasks are drawn from: Embeddings, or an ImageSet."""

    @property
    def views(self) -> Shaped[Tensor, "V N *item"]: ...
    @property
    def labels(self) -> Int[Tensor, "N"]: ...
    @property
    def class_names(self) -> tuple[str, ...]: ...
    @property
    def environments(self) -> bool: ...
    @property
    def source(self) -> str: ...


@dataclass(frozen=True)
class TaskSpec:
    n_way: int = 5
    """K, the classes of a task."""
    n_shot: int = 1
    """Labelled examples a class."""
    n_query: int = 15
    """Queries a class, on average: a task has n_way × n_query of them."""
    protocol: str = "balanced"
    """How the queries are spread over the classes: "balanced", or "dirichlet:A" with proportions drawn from a
    symmetric Dirichlet distribution of parameter A for each task (Veilleux et al., NeurIPS 2021; they use A = 2)."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_way < 2 or self.n_shot < 1 or self.n_query < 1 or self.seed < 0:
            raise SettingsError(
                f"A task needs at least 2 classes, 1 shot and 1 query a class and a seed of at least 0, but got "
                f"way {self.n_way}, shot {self.n_shot}, query {self.n_query}, seed {self.seed}."
            )
        self.concentration()

    def concentration(self) -> float | None:
        """The Dirichlet parameter; None where the queries are balanced."""
        if self.protocol == "balanced":
            return None
        found = re.fullmatch(r"dirichlet:(\d+(?:\.\d+)?)", self.protocol)
        if not found or not float(found[1]) > 0:
            raise SettingsError(
                f"There is no protocol {self.protocol!r}; known: balanced, dirichlet:A (such as dirichlet:2)."
            )
        return float(found[1])


@dataclass(frozen=True)
class TaskRows:
    """One task as row numbers of the data set; S support rows and Q query rows, each in random order."""

    classes: np.ndarray  # K, the class of the data set that each label stands for
    support: np.ndarray  # S
    support_labels: np.ndarray  # S
    query: np.ndarray  # Q
    query_labels: np.ndarray  # Q


class TaskSampler:
    """All tasks of one specification over one data set; nothing is stored but the rows of each class."""

    def __init__(self, data: Views, spec: TaskSpec) -> None:
        self.spec = spec
        self.data = data
        labels = data.labels.numpy()
        needed = spec.n_shot + (spec.n_query if spec.concentration() is None else 1)
        rows = [np.flatnonzero(labels == k) for k in range(len(data.class_names))]
        self.classes = np.array([k for k, r in enumerate(rows) if len(r) >= needed], dtype=int)
        """The classes with enough images."""
        self.rows_of_class = rows
        if len(self.classes) < spec.n_way:
            sizes = sorted((len(r), name) for r, name in zip(rows, data.class_names, strict=True))
            smallest = f"; {sizes[0][1]!r} has {sizes[0][0]}" if sizes else ""
            raise DataError(
                f"{spec.n_way}-way {spec.n_shot}-shot tasks with {spec.n_query} queries need {spec.n_way} classes of "
                f"{needed} images or more, but only {len(self.classes)} of the {len(rows)} classes of "
                f"{data.source or 'the data'} are so large{smallest}. "
                f"Add images, or ask for fewer ways, shots or queries."
            )

    def rows(self, task: int) -> TaskRows:
        """Task number `task`. No row is both support and query."""
        return self._draw(np.random.default_rng([self.spec.seed, task]))[0]

    def sample(self, tasks: Sequence[int]) -> Tasks:
        """The tasks of these numbers, stacked."""
        drawn = [self._draw(np.random.default_rng([self.spec.seed, i])) for i in tasks]
        items = self.data.views.flatten(0, 1)

        def gather(part: str) -> Tensor:
            index = torch.from_numpy(np.stack([getattr(rows, part) + offset[part] for rows, offset in drawn]))
            return items.index_select(0, index.flatten()).view(*index.shape, *items.shape[1:])

        def labels(part: str) -> Tensor:
            return torch.from_numpy(np.stack([getattr(rows, part) for rows, _ in drawn]))

        return Tasks(
            gather("support"), labels("support_labels"), gather("query"), self.spec.n_way, labels("query_labels"),
            labels("classes"),
        )  # fmt: skip

    def _draw(self, rng: np.random.Generator) -> tuple[TaskRows, dict[str, np.ndarray | int]]:
        """The rows, and what to add to them to reach the view that each is seen in."""
        spec = self.spec
        classes = rng.choice(self.classes, spec.n_way, replace=False)
        counts = self._query_counts(rng, classes)
        chosen = [
            self.rows_of_class[c][rng.choice(len(self.rows_of_class[c]), spec.n_shot + q, replace=False)]
            for c, q in zip(classes, counts, strict=True)
        ]
        support_order = rng.permutation(spec.n_way * spec.n_shot)
        query_order = rng.permutation(spec.n_way * spec.n_query)
        rows = TaskRows(
            classes,
            np.concatenate([c[: spec.n_shot] for c in chosen])[support_order],
            np.repeat(np.arange(spec.n_way), spec.n_shot)[support_order],
            np.concatenate([c[spec.n_shot :] for c in chosen])[query_order],
            np.repeat(np.arange(spec.n_way), counts)[query_order],
        )
        return rows, self._view_offsets(rng)

    def _view_offsets(self, rng: np.random.Generator) -> dict[str, np.ndarray | int]:
        n_views, n_rows = self.data.views.shape[:2]
        if n_views == 1:
            return {"support": 0, "query": 0}
        if self.data.environments:
            offset = int(rng.integers(n_views)) * n_rows
            return {"support": offset, "query": offset}
        spec = self.spec
        return {
            "support": rng.integers(n_views, size=spec.n_way * spec.n_shot) * n_rows,
            "query": rng.integers(n_views, size=spec.n_way * spec.n_query) * n_rows,
        }

    def _query_counts(self, rng: np.random.Generator, classes: np.ndarray) -> np.ndarray:
        """Queries of each class, K numbers that add up to n_way × n_query.

        Proportions are rounded by largest remainder. A class that runs out of images passes its share on.
        """
        spec = self.spec
        concentration = spec.concentration()
        if concentration is None:
            return np.full(spec.n_way, spec.n_query)
        total = spec.n_way * spec.n_query
        room = np.array([len(self.rows_of_class[c]) - spec.n_shot for c in classes])
        if room.sum() < total:
            raise DataError(
                f"A task needs {total} queries, but its {spec.n_way} classes hold {room.sum()} images beside the "
                f"{spec.n_shot} shots each; ask for fewer queries."
            )
        share = rng.dirichlet(np.full(spec.n_way, concentration)) * total
        counts: np.ndarray = np.minimum(np.floor(share).astype(int), room)
        while counts.sum() < total:
            counts[np.argmax(np.where(counts < room, share - counts, -np.inf))] += 1
        return counts
