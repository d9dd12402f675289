"""The comparison of the paper: SIB and its baselines, on the same tasks and the same feature network.

Shell Xu Hu et al. Empirical Bayes Transductive Meta-Learning with Synthetic Gradients. ICLR 2020, arXiv:2004.12696,
table 1. There each figure comes from the paper of its method, with its own network, images and tasks. Here every method
begins with the same pretrained network. One that learns on finished features gets those of that network; one that
trains its network goes on training it, by back-propagation through its own loss (`recipes.END_TO_END`), unless the
network is fixed for all.

A row that is done is stored with the accuracy of each task, and is not made again.
"""

import json
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from onelook.artifacts import load_backbone, load_method
from onelook.benchmark.measure import signed_difference
from onelook.benchmark.sources import Source, open_items, open_source
from onelook.benchmark.tables import Table
from onelook.data.sampler import TaskSampler, TaskSpec, Views
from onelook.data.sources import name_in_records
from onelook.errors import Checked, NonNegativeInt, TwoOrMore, unknown_name
from onelook.events import Notice, relay
from onelook.experiments.paper_rows import REFERENCE, ROWS, Row, published, published_elsewhere
from onelook.files import ResultStore, Stored, parse_json, read_regular, write_atomically
from onelook.machine import Place, provenance
from onelook.methods import METHODS, ImageMethod, Method, list_settings
from onelook.scoring import Estimate, paired, task_accuracies
from onelook.train import recipes
from onelook.train.jobs import meta_train_images
from onelook.train.loop import Validated
from onelook.train.recipes import has_weights, parse_request, ready


@dataclass(frozen=True)
class TableConfig(Checked):
    backbone: Path
    """Feature network that all rows share."""
    rotation_backbone: Path | None = None
    """Feature network pretrained with --rotation-weight, for the rows with rotation; these are omitted without it."""
    data: str = "cifar-fs"
    split: str = "test"
    fixed_network: bool = False
    """Let the rows that learn on images learn on features of the fixed network instead, in minutes. Methods that are
    nothing without their own network are left out."""
    rows: tuple[str, ...] = tuple(ROWS)
    """Rows of the table, in their order."""
    shots: tuple[int, ...] = (1, 5)
    n_tasks: TwoOrMore = 2000
    seed: NonNegativeInt = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in self.rows:
            if key not in ROWS:
                raise unknown_name("row", key, ROWS)

    def row(self, key: str) -> Row:
        return replace(ROWS[key], on="features") if self.fixed_network else ROWS[key]

    def obstacle(self, key: str) -> str:
        """Reason why a row cannot be made; empty where it can."""
        if ROWS[key].rotation and self.rotation_backbone is None:
            return "it needs a network that was pretrained with rotation"
        if self.fixed_network and "backbone" in list_settings(parse_request(ROWS[key].method).name):
            return "it is nothing without its own feature network"
        return ""


def table(config: TableConfig, out: Path, place: Place) -> Generator[Any, None, list[dict[str, Any]]]:
    """Result records, one for each row and shot, with the paired difference to SIB; rows are stored under `out`."""
    for checkpoint in (config.backbone, config.rotation_backbone):
        if checkpoint is not None:
            load_backbone(checkpoint)  # a file that will not do is refused now, not after hours
    made: dict[str, tuple[dict[str, Any], dict[int, Tensor]]] = {}
    for i, key in enumerate(config.rows):
        if obstacle := config.obstacle(key):
            yield Notice(f"{ROWS[key].title} is left out: {obstacle}.")
            continue
        yield Notice(f"row {i + 1} of {len(config.rows)}: {ROWS[key].title}")
        made[key] = yield from _row(key, config, out / key, place)
    reference = made.get(REFERENCE, ({}, {}))[1]
    return [
        record
        for key, (about, accuracies) in made.items()
        for record in _records(key, about, accuracies, reference, config)
    ]


def _records(
    key: str, about: dict[str, Any], accuracies: dict[int, Tensor], reference: dict[int, Tensor], config: TableConfig
) -> list[dict[str, Any]]:
    row, network, records = config.row(key), about["backbone"].split("@")[0], []
    named = {"row": key, "method": row.title, "paper": row.paper, "request": row.method, "on": row.on}
    named |= {"dataset": name_in_records(config.data), "split": config.split, "backbone": about["backbone"]}
    named |= {"epochs": about["epochs"], "rotation": about["rotation"]}
    for shot, values in accuracies.items():
        versus = None
        if shot in reference:
            versus = {"method": ROWS[REFERENCE].title, **paired(values, reference[shot]).record("difference")}
            versus["relative"] = relative_gain(reference[shot], values).record("mean")
        figures = {
            **TaskSpec(5, shot, 15, seed=config.seed).record(),
            "n_tasks": config.n_tasks,
            **Estimate.from_values(values).record("accuracy"),
            "versus": versus,
            "published": published(key, config.data, network, shot),
            "elsewhere": published_elsewhere(key, config.data, network),
            **about["by_shot"].get(str(shot), {}),
        }
        records.append(named | figures | {name: about[name] for name in ("transductive", "commit", "machine")})
    return records


def relative_gain(values: Float[Tensor, "T"], base: Float[Tensor, "T"]) -> Estimate:
    """The mean of `values` over that of `base`, less 1, on the same tasks; the interval is of first order."""
    values, base = values.double(), base.double()
    ratio = (values.mean() / base.mean()).item()
    spread = Estimate.from_values((values - ratio * base) / base.mean())  # of mean 0
    return Estimate.from_half_width(ratio - 1, spread.half_width)


def _row(
    name: str, config: TableConfig, folder: Path, place: Place
) -> Generator[Any, None, tuple[dict[str, Any], dict[int, Tensor]]]:
    """Facts about a row, and the accuracy of each of its tasks for each shot."""
    row = config.row(name)
    checkpoint = config.rotation_backbone if row.rotation else config.backbone
    assert checkpoint is not None
    backbone, named = load_backbone(checkpoint)
    request = parse_request(row.method)
    network = backbone.digest().hex()[:12]
    key = {"request": row.method, "version": METHODS[request.name].version, "network": network}
    key |= {"data": config.data, "split": config.split, "n_tasks": config.n_tasks, "seed": config.seed}
    key |= {"shots": list(config.shots), "precision": place.precision}
    if config.fixed_network:
        key |= {"on": row.on}
    measure = partial(_measure, row, config, checkpoint, folder, place)
    stored = yield from ResultStore(folder / "results").get_or(key, measure)
    pretraining = named.get("config", {})
    about = {"epochs": pretraining.get("epochs"), "rotation": bool(pretraining.get("rotation_weight"))}
    about |= {"backbone": f"{named['name']}@{network}", **stored.about}
    return about, {shot: stored.tensors[str(shot)] for shot in config.shots}


def _measure(
    row: Row, config: TableConfig, checkpoint: Path, folder: Path, place: Place
) -> Generator[Any, None, Stored]:
    specs = [TaskSpec(5, shot, 15, seed=config.seed) for shot in config.shots]
    source = yield from open_source(config.data, config.split, checkpoint, place)
    for spec in specs:
        TaskSampler(source.test, spec)  # too few test classes are refused now, not after a training
    about: dict[str, Any] = {"by_shot": {}}
    accuracies: dict[str, Tensor] = {}
    for spec in specs:
        method, items, facts = yield from _train(row, spec, config, checkpoint, source, folder, place)
        compute = place.precision if isinstance(method, ImageMethod) else "float32"  # features have it behind them
        sampler = TaskSampler(items, spec)
        shot = str(spec.n_shot)
        accuracies[shot] = yield from task_accuracies(method, sampler, config.n_tasks, compute=compute)
        about["by_shot"][shot] = facts
        about["transductive"] = method.transductive
    return Stored(accuracies, about | provenance())


def _train(
    row: Row, spec: TaskSpec, config: TableConfig, checkpoint: Path, source: Source, folder: Path, place: Place
) -> Generator[Any, None, tuple[Method, Views, dict[str, Any]]]:
    """The method of a row, what its tasks are drawn from, and its size and cost."""
    request = parse_request(row.method)
    # Before the clock is started: the features are there for all rows.
    training, validation = yield from source.training()
    assert training is not None
    assert validation is not None
    if row.on == "features":
        # In the folder of the training, which may serve several shots.
        clock = _Clock(recipes.resolve(request, spec, training, validation).folder(folder) / "seconds.json")
        work = ready(request, spec, source.test.feature_size, training, validation, folder, device=place.device)
        method = (yield from clock.measure(work)).method
        n_parameters = _n_parameters(method) + _n_parameters(load_backbone(checkpoint)[0])
        learned = has_weights(method) and not recipes.is_trained(request)
        return method, source.test, _facts(n_parameters, clock.seconds if learned else 0.0)
    clock = _Clock(folder / "seconds.json")
    settings = recipes.with_tasks(recipes.END_TO_END, TaskSpec(5, 1, 15, seed=config.seed))
    path = yield from clock.measure(meta_train_images(config.data, checkpoint, request, settings, folder, place))
    whole, _ = load_method(path)
    assert isinstance(whole, ImageMethod)
    method, items = yield from open_items(whole, config.data, config.split, place)
    return method, items, _facts(_n_parameters(whole), clock.seconds)


def _facts(n_parameters: int, seconds: float) -> dict[str, Any]:
    return {"parameters": n_parameters, "train_seconds": round(seconds, 3)}


def _n_parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


class _Clock:
    """The time that a piece of work takes, over all its interruptions."""

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            self.seconds = float(parse_json(read_regular(file)))
        except (OSError, ValueError, TypeError):
            self.seconds = 0.0

    def measure(self, work: Generator[Any, None, Any]) -> Generator[Any, None, Any]:
        """Run `work`; the time so far is saved at every validation and at the end."""
        before, started = self.seconds, time.perf_counter()

        def save() -> None:
            self.seconds = before + time.perf_counter() - started
            write_atomically(self.file, json.dumps(self.seconds).encode())

        def watch(event: Any) -> Any:
            if isinstance(event, Validated):
                save()
            return event

        try:
            return (yield from relay(work, watch))
        finally:
            save()


def tabulate(records: Sequence[dict[str, Any]]) -> Table:
    """A row for each method: ours with its interval, the difference to SIB, the published figure, size and cost."""
    shots = sorted({r["n_shot"] for r in records})
    columns = ["method", "learns on", "sees the queries"]
    for shot in shots:
        columns += [f"{shot}-shot", "to SIB", "published"]
    rows = []
    for key in dict.fromkeys(r["row"] for r in records):
        own = {r["n_shot"]: r for r in records if r["row"] == key}
        one = next(iter(own.values()))
        cells = [f"{one['method']} ({one['paper']})", one["on"], "yes" if one["transductive"] else "no"]
        for shot in shots:
            versus = None if key == REFERENCE else own[shot]["versus"]
            cells.append(Estimate.from_record(own[shot], "accuracy").plus_minus())
            cells += ["–" if versus is None else signed_difference(versus), str(own[shot]["published"] or "–")]
        seconds = max(r["train_seconds"] for r in own.values())
        rows.append((*cells, f"{one['parameters']:,}", f"{seconds:.0f} s" if seconds else "none"))
    return Table((*columns, "parameters", "training"), tuple(rows))
