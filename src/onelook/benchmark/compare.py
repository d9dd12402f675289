"""Methods on the same tasks; those that learn are trained first."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onelook.benchmark.audit import IMAGE_TASKS, TASKS, audit
from onelook.benchmark.measure import Entry, compare
from onelook.benchmark.sources import Source, open_features, open_source
from onelook.data.sampler import TaskSampler, TaskSpec
from onelook.errors import Checked, SettingsError, TwoOrMore
from onelook.machine import Place
from onelook.methods import ImageMethod, list_settings
from onelook.tasks import Embeddings
from onelook.train import recipes
from onelook.train.recipes import MethodRequest, build, ready


@dataclass(frozen=True)
class Comparison(Checked):
    """Methods and tasks of `benchmark`."""

    requests: tuple[MethodRequest, ...]
    specs: tuple[TaskSpec, ...]
    n_tasks: TwoOrMore = 2000
    average: str = "none"
    """Versions of an image that are averaged into its feature, in training and testing (`parse_averaging`)."""
    audited: bool = False
    """Whether the methods are checked for what their answers depend on, instead of compared by accuracy."""


def benchmark(
    comparison: Comparison, data: str, split: str, network: Path | str, place: Place
) -> Generator[Any, None, list[dict[str, Any]]]:
    """Make result records on tasks of `split`; methods that learn are trained on the classes for it first."""
    for request in comparison.requests:
        recipes.require_features(request)  # before the features are computed, which may take long
    source = yield from open_source(data, split, network, place, comparison.average)
    return (yield from _compare(comparison, source, place))


def benchmark_embeddings(
    comparison: Comparison, file: Path, training_file: Path | None, place: Place
) -> Generator[Any, None, list[dict[str, Any]]]:
    """Make result records on features from a file; those to train on come from another file."""
    n_way = max(spec.n_way for spec in comparison.specs)
    return (yield from _compare(comparison, open_features(file, training_file, n_way, comparison.average), place))


def _compare(comparison: Comparison, source: Source, place: Place) -> Generator[Any, None, list[dict[str, Any]]]:
    records = []
    for spec in comparison.specs:
        entries = []
        for request in comparison.requests:
            entries.append((yield from make_entry(request, spec, source, place)))
        job = _audit if comparison.audited else compare
        records += yield from job(entries, source.test, spec, comparison.n_tasks, source.about)
    return records


def _audit(
    entries: Sequence[Entry], test: Embeddings, spec: TaskSpec, n_tasks: int, about: dict[str, Any]
) -> Generator[Any, None, list[dict[str, Any]]]:
    """A record of `onelook.benchmark.audit` for each entry; a few tasks are enough for it."""
    records = []
    for entry in entries:
        most = IMAGE_TASKS if isinstance(entry.method, ImageMethod) else TASKS
        sampler = TaskSampler(test if entry.data is None else entry.data, spec)
        found = yield from audit(entry.method, sampler, min(n_tasks, most))
        facts = {"method": entry.label, **spec.record(), "transductive": entry.method.transductive}
        records.append(about | facts | found.record())
    return records


def make_entry(request: MethodRequest, spec: TaskSpec, source: Source, place: Place) -> Generator[Any, None, Entry]:
    """Make the row of a method, which is trained for tasks of `spec` first where it learns."""
    size, method, known, chosen = source.test.feature_size, None, None, None
    if not recipes.is_trained(request):
        # The number of training classes shapes some methods, which cannot be built before it is known.
        if "n_classes" not in list_settings(request.name):
            method = build(request, spec, size)
        if method is None or recipes.learns(method):
            known, chosen = yield from source.training()
    made = yield from ready(
        request, spec, size, known, chosen, place.cache / "runs", method=method, device=place.device
    )
    if made.method.n_way not in (None, spec.n_way):
        raise SettingsError(
            f"{request.label} was trained for {made.method.n_way} classes, but the tasks have {spec.n_way}; "
            f"use --way {made.method.n_way}, or train it again."
        )
    if not isinstance(made.method, ImageMethod):
        return Entry(request.label, made.method, made.about)
    if source.own is None:
        raise SettingsError(
            f"{request.label} has a feature network of its own and needs the images; "
            f"give --data and --backbone instead of --embeddings."
        )
    method, items = yield from source.own(made.method)
    compute = place.precision if isinstance(method, ImageMethod) else "float32"
    return Entry(request.label, method, made.about, items, compute)
