"""Tasks drawn from a labelled data set. Task i is a pure function of (seed, i)."""

import itertools
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from onelook.data.protocols import UNKNOWN, Protocol, parse_protocol
from onelook.errors import Checked, DataError, NonNegativeInt, PositiveInt, TwoOrMore
from onelook.files import digest
from onelook.tasks import Tasks


@typing.runtime_checkable
class Views(typing.Protocol):
    """Items that tasks are drawn from: Embeddings, or an ImageSet."""

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
class TaskSpec(Checked):
    n_way: TwoOrMore = 5
    """Classes of a task."""
    n_shot: PositiveInt = 1
    """Labelled examples per class."""
    n_query: PositiveInt = 15
    """Average number of queries per class."""
    protocol: str = "balanced"
    """How queries and shots are spread over the classes: a name of `data.protocols`."""
    seed: NonNegativeInt = 0
    n_total: PositiveInt | None = None
    """Queries of a task. Default: way × query."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.spread.draw_priors(np.random.default_rng(0), self.n_way)  # refuses what cannot be with these ways

    def record(self) -> dict[str, Any]:
        """Sizes, protocol and seed, for a record of results."""
        return {key: getattr(self, key) for key in ("n_way", "n_shot", "n_query", "protocol", "seed")}

    @property
    def spread(self) -> Protocol:
        return parse_protocol(self.protocol)

    @property
    def total(self) -> int:
        """Q."""
        if self.spread.kind == "single":
            return 1
        return self.n_total or self.n_way * self.n_query

    @property
    def n_unknown(self) -> int:
        """Queries of classes that the task does not have; at least one query is of a class that it has."""
        return min(round(self.spread.unknown * self.total), self.total - 1)


@dataclass(frozen=True)
class TaskRows:
    """One task as row numbers of the data set; S support rows and Q query rows, each in random order."""

    classes: np.ndarray  # K, the class of the data set that each label stands for
    support: np.ndarray  # S
    support_labels: np.ndarray  # S
    query: np.ndarray  # Q
    query_labels: np.ndarray  # Q, UNKNOWN for a query of none of the classes


class TaskSampler:
    """All tasks of one specification over one data set; nothing is stored but the rows of each class."""

    def __init__(self, data: Views, spec: TaskSpec) -> None:
        self.spec = spec
        self.data = data
        labels = data.labels.numpy()
        spread = spec.spread
        self.n_known = spec.total - spec.n_unknown
        # Of each class, so that no class of a balanced task is short of images.
        reserve = -(-self.n_known // spec.n_way) if spread.is_balanced else 1
        needed = spec.n_shot + reserve
        order = np.argsort(labels, kind="stable")
        ends = np.searchsorted(labels[order], np.arange(len(data.class_names) + 1))
        rows = [order[start:end] for start, end in itertools.pairwise(ends)]
        self.classes = np.array([k for k, r in enumerate(rows) if len(r) >= needed], dtype=int)
        """The classes with enough images."""
        self.rows_of_class = rows
        self._reserve = reserve
        if len(self.classes) < spec.n_way:
            sizes = sorted((len(r), name) for r, name in zip(rows, data.class_names, strict=True))
            smallest = f"; {sizes[0][1]!r} has {sizes[0][0]}" if sizes else ""
            raise DataError(
                f"{spec.n_way}-way {spec.n_shot}-shot tasks with {spec.total} queries need {spec.n_way} classes of "
                f"{needed} images or more, but only {len(self.classes)} of the {len(rows)} classes of "
                f"{data.source or 'the data'} are so large{smallest}. Add images, or ask for fewer ways or shots."
            )

    def rows(self, task: int) -> TaskRows:
        """Rows of task number `task`. No row is both support and query."""
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

        support, query = gather("support"), gather("query")
        own, true, classes = (labels(part) for part in ("support_labels", "query_labels", "classes"))
        return Tasks(support, own, query, self.spec.n_way, true, classes)

    def _draw(self, rng: np.random.Generator) -> tuple[TaskRows, dict[str, np.ndarray | int]]:
        """The rows, and the offset of the view in which each is seen."""
        spec = self.spec
        classes = rng.choice(self.classes, spec.n_way, replace=False)
        size = np.array([len(self.rows_of_class[c]) for c in classes])
        if spec.spread.proportional_shots:
            counts = self._query_counts(rng, size - spec.n_shot)
            shots = spec.spread.shots(rng, spec.n_way, spec.n_shot, size - counts, counts)
        else:
            shots = spec.spread.shots(rng, spec.n_way, spec.n_shot, size - self._reserve)
            counts = self._query_counts(rng, size - shots)
        chosen = [
            self.rows_of_class[c][rng.choice(len(self.rows_of_class[c]), n + q, replace=False)]
            for c, n, q in zip(classes, shots, counts, strict=True)
        ]
        unknown = self._unknown(rng, classes)
        support_order = rng.permutation(spec.n_way * spec.n_shot)
        query_order = rng.permutation(spec.total)
        rows = TaskRows(
            classes,
            np.concatenate([c[:n] for c, n in zip(chosen, shots, strict=True)])[support_order],
            np.repeat(np.arange(spec.n_way), shots)[support_order],
            np.concatenate([*(c[n:] for c, n in zip(chosen, shots, strict=True)), unknown])[query_order],
            np.concatenate([np.repeat(np.arange(spec.n_way), counts), np.full(len(unknown), UNKNOWN)])[query_order],
        )
        return rows, self._view_offsets(rng)

    def _unknown(self, rng: np.random.Generator, classes: np.ndarray) -> np.ndarray:
        """Rows of other classes of the data set, for the queries of no class of the task."""
        n = self.spec.n_unknown
        if not n:
            return np.empty(0, dtype=int)
        others = np.concatenate([r for k, r in enumerate(self.rows_of_class) if k not in classes] or [np.empty(0, int)])
        if len(others) < n:
            found = f"{self.data.source} has {len(others)} images of other classes"
            raise DataError(f"A task needs {n} unknown queries, but {found}; ask for fewer ways or queries.")
        return others[rng.choice(len(others), n, replace=False)]

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
            "query": rng.integers(n_views, size=spec.total) * n_rows,
        }

    def _query_counts(self, rng: np.random.Generator, room: np.ndarray) -> np.ndarray:
        """Queries of each class, K numbers that add up to those of known classes; none above `room`.

        Class priors are rounded by largest remainder. A class that runs out of images passes its queries on. Those of
        effective classes are drawn from all their images, so that a class may have fewer, or none, by chance.
        """
        spec, total = self.spec, self.n_known
        if spec.spread.kind in ("balanced", "single"):
            even = np.full(spec.n_way, total // spec.n_way)
            if total % spec.n_way:
                even[rng.choice(spec.n_way, total % spec.n_way, replace=False)] += 1
            return even
        ideal = spec.spread.draw_priors(rng, spec.n_way) * total
        if spec.spread.kind in ("present", "effective"):
            room = np.where(ideal > 0, room, 0)  # the absent ones stay so
        if room.sum() < total:
            found = f"its {(room > 0).sum()} classes hold {room.sum()} images beside their shots"
            raise DataError(f"A task needs {total} queries, but {found}; ask for fewer queries.")
        if spec.spread.kind == "effective":
            return rng.multivariate_hypergeometric(room, total)
        counts: np.ndarray = np.minimum(np.floor(ideal).astype(int), room)
        while counts.sum() < total:
            counts[np.argmax(np.where(counts < room, ideal - counts, -np.inf))] += 1
        return counts

    def digest(self, n_tasks: int) -> str:
        """Identity of tasks 0 … n_tasks - 1; figures with the same digest may be paired."""
        items = getattr(self.data, "items", ()) or getattr(self.data, "names", ())
        parts: list[bytes] = ["\0".join(names).encode() for names in (items, self.data.class_names)]
        for i in range(n_tasks):
            rows, offsets = self._draw(np.random.default_rng([self.spec.seed, i]))
            parts += [np.asarray(x, dtype="<i8").tobytes() for x in (*vars(rows).values(), *offsets.values())]
        return digest(*parts).hex()[:16]
