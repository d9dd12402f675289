"""Transductive methods under every protocol: what each makes of the unlabelled queries when nobody has evened them out.

Olivier Veilleux, Malik Boudiaf, Pablo Piantanida, Ismail Ben Ayed. Realistic Evaluation of Transductive Few-Shot
Learning. NeurIPS 2021, arXiv:2204.11181, ask it of Dirichlet proportions. Here a cell is a protocol with a number of
ways, shots and queries, and in each cell all methods meet the same tasks. Every one of them is compared with a
reference, and with the inductive classifier that does not look at the queries at all: how much is gained, and in how
many of the tasks something is lost.

The accuracy of each task is stored for each method and cell, so a method that is added later is compared, pair by pair,
with those that are there.
"""

import itertools
import json
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from onelook.artifacts import load_method
from onelook.benchmark.compare import make_entry
from onelook.benchmark.measure import Entry, Measured, measure, record_of
from onelook.benchmark.sources import Source
from onelook.data.sampler import TaskSampler, TaskSpec
from onelook.errors import Checked, NonNegativeInt, PositiveInt, SettingsError, TwoOrMore, describe_seconds
from onelook.events import Notice, Progress, finish, relay
from onelook.files import ResultStore, Stored, digest
from onelook.machine import Place
from onelook.methods import Method, find_name, list_settings
from onelook.scoring import task_accuracies
from onelook.train.recipes import MethodRequest, features_digest, parse_request

INDUCTIVE = "prototypical:transform=l2n"
"""Inductive method, which looks at no query but the one that it answers."""

_LISTS: dict[str, list[str]] = json.loads(Path(__file__).with_name("protocols.json").read_text(encoding="utf-8"))
PROTOCOL_METHODS, PROTOCOLS = tuple(_LISTS["methods"]), tuple(_LISTS["protocols"])
"""Methods, the reference first, and protocols that are compared by default."""

TRAINED_WAYS = 5
"""A method whose weights are those of a number of classes is trained for so many."""

TIMED = 4
"""Tasks by which the cost of a method is forecast."""


@dataclass(frozen=True)
class ProtocolsConfig(Checked):
    methods: tuple[str, ...] = PROTOCOL_METHODS
    reference: str = PROTOCOL_METHODS[0]
    """Method that differences are to; differences to the inductive method are recorded too."""
    protocols: tuple[str, ...] = PROTOCOLS
    ways: tuple[int, ...] = (5,)
    """Classes of a task."""
    shots: tuple[int, ...] = (1, 5)
    n_query: PositiveInt = 15
    """Average number of queries per class."""
    totals: tuple[int | None, ...] = (None,)
    """Queries of a task. Default: way × query."""
    n_tasks: TwoOrMore = 2000
    seed: NonNegativeInt = 0
    requests: tuple[MethodRequest, ...] = field(init=False)
    """The reference, the inductive method and the others."""
    specs: tuple[TaskSpec, ...] = field(init=False)
    """The cells."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # By what they ask for, so that one that is written in two ways is not asked twice.
        asked = {r.label: r for r in map(parse_request, (self.reference, INDUCTIVE, *self.methods))}
        object.__setattr__(self, "requests", tuple(asked.values()))
        cells = itertools.product(self.ways, self.shots, self.totals, self.protocols)
        specs = (TaskSpec(way, shot, self.n_query, protocol, self.seed, total) for way, shot, total, protocol in cells)
        object.__setattr__(self, "specs", tuple(spec for spec in specs if not self._is_another(spec)))

    def _is_another(self, spec: TaskSpec) -> bool:
        """Whether its tasks are those of another cell: of one query, or of one shot, which cannot be unequal."""
        if spec.spread.kind == "single" and spec.n_total != self.totals[0]:
            return True
        equal = spec.protocol.replace("+unequal-shots", "").replace("+proportional-shots", "")
        return spec.n_shot == 1 and equal != spec.protocol and equal in self.protocols


def protocols(
    config: ProtocolsConfig, source: Source, out: Path, place: Place
) -> Generator[Any, None, list[dict[str, Any]]]:
    """Result records, cell by cell, the reference first in each; finished cells are stored under `out`.

    Beside its paired difference to the reference ("versus"), a record has that to the inductive method, and the harm:
    the fraction of the tasks in which it is below that ("against").
    """
    cells = yield from _cells(config, source, ResultStore(out), place)
    yield from _announce(cells, config.n_tasks)
    records = []
    for i, cell in enumerate(cells):
        missing = cell.missing
        if missing:
            yield Notice(f"cell {i + 1} of {len(cells)}: {title(cell.spec)}")
        measured = {}
        for label in cell.entries:
            note = f"{missing.index(label) + 1} of {len(missing)} in this cell" if label in missing else ""
            rename = partial(replace, stage=label, note=note)
            measured[label] = yield from relay(cell.measure(label), rename)
        reference, inductive = measured[config.requests[0].label], measured[parse_request(INDUCTIVE).label]
        records += [
            record_of(one, cell.spec, cell.tasks, source.about, reference, (inductive,)) for one in measured.values()
        ]
    return records


def title(spec: TaskSpec) -> str:
    queries = "1 query" if spec.total == 1 else f"{spec.total} queries"
    return f"{spec.protocol}, {spec.n_way}-way {spec.n_shot}-shot, {queries}"


@dataclass(frozen=True)
class _Cell:
    """All methods on the tasks of one specification."""

    spec: TaskSpec
    n_tasks: int
    source: Source
    tasks: str
    """The digest of the tasks."""
    entries: dict[str, Entry]
    keys: dict[str, dict[str, Any]]
    """Everything that the figures of each entry depend on."""
    store: ResultStore

    @property
    def missing(self) -> list[str]:
        return [label for label, key in self.keys.items() if self.store.find(key) is None]

    def measure(self, label: str) -> Generator[Progress, None, Measured]:
        entry = self.entries[label]

        def compute() -> Generator[Progress, None, Stored]:
            measured = yield from measure(entry, self.source.test, self.spec, self.n_tasks)
            return Stored({"accuracies": measured.accuracies}, measured.cost)

        stored = yield from self.store.get_or(self.keys[label], compute)
        return Measured(label, entry.settings, stored.tensors["accuracies"], stored.about)


def _cells(
    config: ProtocolsConfig, source: Source, store: ResultStore, place: Place
) -> Generator[Any, None, list[_Cell]]:
    """Cells to measure, with the methods trained that learn."""
    digests = []
    for i, spec in enumerate(config.specs):  # what has too few classes or images is refused now, not after hours
        digests.append(TaskSampler(source.test, spec).digest(config.n_tasks))
        yield Progress("drawing the tasks", i + 1, len(config.specs))
    cells = []
    features = features_digest(source.test)
    ready: dict[TaskSpec, dict[str, tuple[Entry, dict[str, Any]]]] = {}
    for spec, tasks in zip(config.specs, digests, strict=True):
        trained = replace(spec, protocol="balanced", n_total=None)  # whatever the tasks are that they are wanted for
        if trained not in ready:
            ready[trained] = yield from _ready(config, trained, source, place)
        about = spec.record()
        cell = {name: about[name] for name in ("n_way", "n_shot", "protocol", "seed")}
        cell |= {"features": features, "tasks": tasks, "n_tasks": config.n_tasks, "n_total": spec.total}
        entries = {label: entry for label, (entry, _) in ready[trained].items()}
        keys = {label: cell | identity for label, (_, identity) in ready[trained].items()}
        cells.append(_Cell(spec, config.n_tasks, source, tasks, entries, keys, store))
    return cells


def _ready(
    config: ProtocolsConfig, spec: TaskSpec, source: Source, place: Place
) -> Generator[Any, None, dict[str, tuple[Entry, dict[str, Any]]]]:
    """The entries for tasks of these sizes, each with its identity."""
    made = {}
    for request in config.requests:
        if not _fits(request, spec):
            if request is config.requests[0]:
                raise SettingsError(
                    f"{request.label} cannot be the reference of {spec.n_way}-way tasks, because it is "
                    f"for another number of classes; choose another."
                )
            yield Notice(
                f"{request.label} is left out of {spec.n_way}-way {spec.n_shot}-shot tasks: it is for another "
                f"number of classes."
            )
            continue
        entry = yield from make_entry(request, spec, source, place)
        made[request.label] = entry, _identity(entry)
    return made


def _fits(request: MethodRequest, spec: TaskSpec) -> bool:
    if request.file:
        return load_method(request.file)[0].n_way in (None, spec.n_way)
    return "n_way" not in list_settings(request.name) or spec.n_way == TRAINED_WAYS


def _identity(entry: Entry) -> dict[str, Any]:
    """Everything that answers depend on beside the features: the method with its version, settings and weights."""
    method = entry.method
    own = {} if entry.data is None else {"items": features_digest(entry.data), "compute": entry.compute}
    named = {"method": find_name(method), "settings": method.settings()}
    return {**named, "weights": _weights(method), "version": method.version, **own}


def _weights(method: Method) -> str:
    """All that it has learned, or taken from the training classes."""
    tensors = sorted(method.state_dict().items())
    parts = (part for name, x in tensors for part in (name.encode(), x.contiguous().numpy().tobytes()))
    return digest(*parts).hex()[:16]


# ------------------------------------------------------------------------------------------------ cost and progress


def _announce(cells: Sequence[_Cell], n_tasks: int) -> Generator[Any, None, None]:
    """Forecast the cost of the work, from a few tasks of each method and size."""
    missing = [(cell, label) for cell in cells for label in cell.missing]
    n_all = sum(len(cell.entries) for cell in cells)
    if not missing:
        yield Notice(f"All {n_all} figures are there already.")
        return
    seconds: dict[tuple[str, int, int, int], float] = {}
    total = 0.0
    for i, (cell, label) in enumerate(missing):
        key = (label, cell.spec.n_way, cell.spec.n_shot, cell.spec.total)
        if key not in seconds:
            seconds[key] = _seconds(cell.entries[label], cell)
        total += seconds[key] * n_tasks
        yield Progress("a few tasks of each, to see what they cost", i + 1, len(missing))
    there = f", {n_all - len(missing)} are there already" if len(missing) < n_all else ""
    yield Notice(
        f"{len(missing)} figures of {n_tasks:,} tasks each{there}: about {describe_seconds(total)} on this machine; "
        f"Ctrl-C stops it, and the same command goes on."
    )


def _seconds(entry: Entry, cell: _Cell) -> float:
    """Seconds for one task."""
    sampler = TaskSampler(cell.source.test if entry.data is None else entry.data, cell.spec)
    n = min(TIMED, cell.n_tasks)
    finish(task_accuracies(entry.method, sampler, 1, compute=entry.compute))  # a first call pays for all others
    started = time.perf_counter()
    finish(task_accuracies(entry.method, sampler, n, compute=entry.compute))
    return (time.perf_counter() - started) / n
