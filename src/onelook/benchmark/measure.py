"""Methods compared on the same tasks: accuracies with intervals, and paired differences."""

import contextlib
import itertools
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from onelook.benchmark.tables import Table
from onelook.data.sampler import TaskSampler, TaskSpec, Views
from onelook.events import Progress
from onelook.machine import peak_memory, provenance, wait_for
from onelook.methods import IterativeMethod, Method
from onelook.scoring import Estimate, fraction_right, harm, paired, score_tasks, task_accuracies
from onelook.tasks import Embeddings, Tasks


@dataclass(frozen=True)
class Entry:
    """A row of the comparison."""

    label: str
    method: Method
    about: dict[str, Any] = field(default_factory=dict)
    """Further facts for the record, such as how it was trained."""
    data: Views | None = None
    """Items of the tasks where they differ from those of the other methods: its own features, or images."""
    compute: str = "float32"
    """The precision of a method of images."""

    @property
    def settings(self) -> dict[str, Any]:
        sizes = ("feature_size", "n_way")
        return {k: v for k, v in self.method.settings().items() if k not in sizes} | self.about


@dataclass(frozen=True)
class Measured:
    """A method on tasks 0 … T - 1 of a specification."""

    label: str
    settings: dict[str, Any]
    accuracies: Float[Tensor, "T"]
    cost: dict[str, Any]
    """seconds, of all; milliseconds, of the method alone on one task; memory_mb; and the commit and machine."""


def measure(entry: Entry, data: Views, spec: TaskSpec, n_tasks: int) -> Generator[Progress, None, Measured]:
    started = time.perf_counter()
    sampler = TaskSampler(data if entry.data is None else entry.data, spec)
    with _watched(entry.method) as calls:
        accuracies = yield from task_accuracies(entry.method, sampler, n_tasks, compute=entry.compute)
    seconds, milliseconds = round(time.perf_counter() - started, 3), round(1000 * sum(calls) / n_tasks, 3)
    cost = {"seconds": seconds, "milliseconds": milliseconds, "memory_mb": _peak_memory()}
    return Measured(entry.label, entry.settings, accuracies, cost | provenance())


def record_of(
    measured: Measured,
    spec: TaskSpec,
    tasks: str,
    about: dict[str, Any],
    reference: Measured,
    others: Sequence[Measured] = (),
) -> dict[str, Any]:
    """Record of a method, with its paired difference to the reference.

    tasks: the digest of the tasks, which all have met. others: whose differences are wanted beside that.
    """
    record = {**about, "method": measured.label, "settings": measured.settings, **spec.record()}
    record |= {"n_total": spec.total, "n_tasks": len(measured.accuracies), "tasks": tasks}
    record |= Estimate.from_values(measured.accuracies).record("accuracy")
    record["versus"] = _difference(measured, reference)
    if others:
        record["against"] = [
            _difference(measured, other) | harm(measured.accuracies, other.accuracies).record("harm", "harm_ci95")
            for other in others
        ]
    return record | measured.cost


def compare(
    entries: Sequence[Entry], data: Embeddings, spec: TaskSpec, n_tasks: int, about: dict[str, Any]
) -> Generator[Progress, None, list[dict[str, Any]]]:
    """One record for each entry, on tasks 0 … n_tasks - 1 of `spec`.

    The paired difference of each entry is to the first one. about: dataset, split and backbone, for the record.
    """
    tasks = TaskSampler(data, spec).digest(n_tasks)
    made: list[Measured] = []
    for entry in entries:
        made.append((yield from measure(entry, data, spec, n_tasks)))
    return [record_of(one, spec, tasks, about, made[0]) for one in made]


@contextlib.contextmanager
def _watched(method: Method) -> Iterator[list[float]]:
    """The seconds of each call of the method."""
    begun: list[float] = []
    seconds: list[float] = []
    before = method.register_forward_pre_hook(lambda *_: begun.append(time.perf_counter()))

    def stop(*_: Any) -> None:
        wait_for(method.device)
        seconds.append(time.perf_counter() - begun[-1])

    after = method.register_forward_hook(stop)
    try:
        yield seconds
    finally:
        before.remove()
        after.remove()


def _difference(measured: Measured, reference: Measured) -> dict[str, Any]:
    difference = paired(measured.accuracies, reference.accuracies)
    return {"method": reference.label, **difference.record("difference")}


def _peak_memory() -> float:
    """Highest resident memory of this process so far, in MB."""
    return round(peak_memory() / 1e6, 1)


def step_accuracies(
    method: IterativeMethod, data: Embeddings, spec: TaskSpec, n_tasks: int
) -> Generator[Progress, None, list[Estimate]]:
    """Accuracy after 0, 1, … n_steps steps, on the same tasks as `compare`."""

    def score(tasks: Tasks) -> Float[Tensor, "steps T"]:
        answers = method.trajectory(tasks.without_query_labels()).argmax(-1)
        return torch.stack([fraction_right(step, tasks) for step in answers])

    accuracies = yield from score_tasks(score, TaskSampler(data, spec), n_tasks, device=method.device)
    return [Estimate.from_values(step) for step in accuracies]


def tabulate(records: Iterable[dict[str, Any]]) -> Table:
    """A row for each method and setting, and two columns for each shot: accuracy, and paired difference."""
    records = list(records)
    shots = sorted({r["n_shot"] for r in records})
    groups: dict[tuple[tuple[str, ...], int], dict[int, dict[str, Any]]] = {}
    for record in records:
        # Records that differ in what the table does not show, such as the seed, get a row each.
        key = _row_key(record)
        row = next(i for i in itertools.count() if record["n_shot"] not in groups.get((key, i), {}))
        groups.setdefault((key, row), {})[record["n_shot"]] = record
    columns = ["data", "backbone", "way", "queries", "differences to", "method"]
    for shot in shots:
        columns += [f"{shot}-shot", "difference"]
    rows = (
        (*key, *(cell for shot in shots for cell in _cells(by_shot.get(shot)))) for (key, _), by_shot in groups.items()
    )
    return Table(tuple(columns), tuple(rows))


def _row_key(record: dict[str, Any]) -> tuple[str, ...]:
    average = record.get("average", "none")
    return (
        _short_name(record["dataset"]),
        _short_name(record["backbone"]) + ("" if average == "none" else f", {average}"),
        str(record["n_way"]),
        record["protocol"],
        (record.get("versus") or {}).get("method", "–"),
        _short_name(record["method"]),
    )


def _short_name(name: str) -> str:
    return name.split("@")[0]


def _cells(record: dict[str, Any] | None) -> tuple[str, str]:
    if record is None:
        return "–", "–"
    versus = record.get("versus")
    difference = "–" if versus is None or versus["method"] == record["method"] else signed_difference(versus)
    return Estimate.from_record(record, "accuracy").plus_minus(), difference


def signed_difference(versus: dict[str, Any]) -> str:
    """Paired difference of a record for a table."""
    return Estimate.from_record(versus, "difference").plus_minus("+")
