"""Checks of `audit`: one thing about a task is changed that must not matter, and the method is asked again.

What would spoil the other checks, by a memory of a class or a module, is looked for first.
"""

import contextlib
import copy
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from onelook.data.protocols import UNKNOWN
from onelook.data.sampler import TaskSampler
from onelook.methods import Method
from onelook.tasks import Tasks

ALONE, IMAGE_ALONE = 8, 2
"""Queries of a task that are also asked about one by one."""
IMAGE_QUERIES = 10
"""Queries of a task of images: few, for the sake of time."""
NEIGHBOURS = 3
"""Other tasks beside each."""

GROUPS = {"queries": "other queries", "order": "order, names", "tasks": "other tasks", "labels": "labels"}
"""Groups of checks, with their titles."""

Pairs = Iterator[tuple[Float[Tensor, "Q K"], Float[Tensor, "Q K"]]]
"""Logits as they should be, and as they are after the change."""
Asking = Callable[["Trial"], Pairs]


@dataclass(frozen=True)
class Check:
    """One thing that is changed."""

    name: str
    group: str
    """Key of GROUPS."""
    changed: str
    """Description of the change."""
    leak: str
    """End of a sentence about a method whose answers change then."""
    declaration: str
    """Attribute of a method that may excuse it; "" where nothing does."""
    pairs: Asking


CHECKS: list[Check] = []
"""All checks, in the order in which they are asked."""


_WORDS: dict[str, dict[str, str]] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
"""Words about each check: what is changed, and the end of a sentence about a method whose answers change then."""


def check(group: str, declaration: str = "") -> Callable[[Asking], Asking]:
    """Append a function, under its name, to CHECKS."""

    def register(pairs: Asking) -> Asking:
        name = pairs.__name__
        CHECKS.append(Check(name.replace("_", " "), group, **_WORDS[name], declaration=declaration, pairs=pairs))
        return pairs

    return register


@dataclass
class Trial:
    """One task, and what is there to change it with. The task is a batch of its own, so that others cannot matter."""

    method: Method
    """Method in float64; only copies of it are asked."""
    known: Tasks
    """The task with the labels of its queries, T = 1."""
    neighbours: Tasks
    """Other tasks of the same sizes, with theirs."""
    n_single: int
    draw: torch.Generator

    def __post_init__(self) -> None:
        self.tasks = self.known.without_query_labels()
        self.expected = self.ask(self.tasks)

    def fresh(self) -> Method:
        """The method as it was before it saw anything."""
        return copy.deepcopy(self.method)

    def ask(self, tasks: Tasks, method: Method | None = None) -> Float[Tensor, "Q K"]:
        """The logits of the first task."""
        return self.ask_all(tasks, method)[0]

    def ask_all(self, tasks: Tasks, method: Method | None = None) -> Float[Tensor, "T Q K"]:
        method = method or self.fresh()  # copied here, because a copy made in inference mode could take no gradient
        with torch.inference_mode():
            logits: Tensor = method(tasks)
        return logits

    def ask_with(self, **more: Any) -> Float[Tensor, "Q K"]:
        """Ask with something in the task that must not be read; a failure is an answer too."""
        try:
            return self.ask(replace(self.tasks, **more))
        except Exception:  # whatever it is that a method does with what it must not touch
            return torch.full_like(self.expected, math.nan)


def make_trial(method: Method, sampler: TaskSampler, number: int, n_tasks: int) -> Trial:
    """Task `number`, with neighbours from behind the first `n_tasks`."""
    of_images = sampler.data.views.dim() > 3
    tasks = sampler.sample([number, *(number + n_tasks * (i + 1) for i in range(NEIGHBOURS))])
    if of_images:
        labels = None if tasks.query_labels is None else tasks.query_labels[:, :IMAGE_QUERIES]
        tasks = replace(tasks, query=tasks.query[:, :IMAGE_QUERIES], query_labels=labels)
    tasks = replace(tasks, support=tasks.support.double(), query=tasks.query.double())
    draw = torch.Generator().manual_seed(number)
    return Trial(method, tasks[:1], tasks[1:], IMAGE_ALONE if of_images else ALONE, draw)


@check("tasks")
def twice(trial: Trial) -> Pairs:
    method = trial.fresh()
    trial.ask(trial.tasks, method)
    yield trial.expected, trial.ask(trial.tasks, method)


@check("tasks")
def memory(trial: Trial) -> Pairs:
    others = trial.neighbours.without_query_labels()
    for known_before in (False, True):
        method = trial.fresh()
        if known_before:
            trial.ask(trial.tasks, method)
        trial.ask(others, method)
        trial.ask(others, method.train())
        method.eval()
        yield trial.expected, trial.ask(trial.tasks, method)


@check("labels")
def labels_kept(trial: Trial) -> Pairs:
    method = trial.fresh()
    trial.ask(trial.tasks, method)
    with contextlib.suppress(Exception):  # what it answers then is for the checks of labels
        trial.ask(trial.known, method)
    yield trial.expected, trial.ask(trial.tasks, method)


@check("tasks")
def batch(trial: Trial) -> Pairs:
    """Ask in the first place and in the last: what runs over a batch may run in one direction."""
    others = trial.neighbours.without_query_labels()
    for parts in ((trial.tasks, others), (others, trial.tasks)):
        columns = zip(*((part.support, part.support_labels, part.query) for part in parts), strict=True)
        support, labels, query = map(torch.cat, columns)
        together = Tasks(support, labels, query, trial.tasks.n_way)
        yield trial.expected, trial.ask_all(together)[0 if parts[0] is trial.tasks else -1]


@check("tasks")
def training_mode(trial: Trial) -> Pairs:
    yield trial.expected, trial.ask(trial.tasks, trial.fresh().train())


def _labels(trial: Trial) -> Int[Tensor, "1 Q"]:
    assert trial.known.query_labels is not None
    return trial.known.query_labels


@check("labels")
def true_labels(trial: Trial) -> Pairs:
    yield trial.expected, trial.ask_with(query_labels=_labels(trial))


@check("labels")
def wrong_labels(trial: Trial) -> Pairs:
    """Each class for the next, which leaves the counts of a balanced task; and one class for all."""
    labels = _labels(trial)
    wrong = torch.where(labels == UNKNOWN, labels, (labels + 1) % trial.tasks.n_way)
    for given in (wrong, torch.zeros_like(labels)):
        yield trial.expected, trial.ask_with(query_labels=given)


@check("labels")
def classes(trial: Trial) -> Pairs:
    """Give classes without the labels of the queries, and beside them."""
    assert trial.known.classes is not None
    assert trial.neighbours.classes is not None
    for given in (trial.known.classes, trial.known.classes.flip(1), trial.neighbours.classes[:1]):
        yield trial.expected, trial.ask_with(classes=given)
    labels = _labels(trial)
    yield trial.ask_with(query_labels=labels), trial.ask_with(query_labels=labels, classes=trial.known.classes)


@check("queries", "transductive")
def replaced(trial: Trial) -> Pairs:
    """Each half of the queries beside other images in the place of the other half."""
    half = torch.randperm(trial.tasks.query.shape[1], generator=trial.draw) % 2 == 0
    for own in (half, ~half):
        query = trial.tasks.query.clone()
        query[:, ~own] = trial.neighbours.query[:1, ~own]
        yield trial.expected[own], trial.ask(replace(trial.tasks, query=query))[own]


@check("queries", "transductive")
def alone(trial: Trial) -> Pairs:
    for i in torch.randperm(trial.tasks.query.shape[1], generator=trial.draw)[: trial.n_single].tolist():
        yield trial.expected[i : i + 1], trial.ask(replace(trial.tasks, query=trial.tasks.query[:, i : i + 1]))


@check("queries", "transductive")
def many_more(trial: Trial) -> Pairs:
    own = trial.tasks.query
    query = torch.cat([own, trial.neighbours.query.flatten(0, 1).unsqueeze(0)], 1)
    yield trial.expected, trial.ask(replace(trial.tasks, query=query))[: own.shape[1]]


def _in_order(trial: Trial, order: Int[Tensor, "Q"]) -> Pairs:
    yield trial.expected[order], trial.ask(replace(trial.tasks, query=trial.tasks.query[:, order]))


@check("order")
def query_order(trial: Trial) -> Pairs:
    yield from _in_order(trial, torch.randperm(trial.tasks.query.shape[1], generator=trial.draw))


@check("order")
def sorted_queries(trial: Trial) -> Pairs:
    yield from _in_order(trial, _labels(trial)[0].argsort(stable=True))


@check("order", "ordered_support")
def support_order(trial: Trial) -> Pairs:
    tasks = trial.tasks
    by_class = tasks.support_labels[0].argsort(stable=True)
    for order in (torch.randperm(len(by_class), generator=trial.draw), by_class):
        changed = replace(tasks, support=tasks.support[:, order], support_labels=tasks.support_labels[:, order])
        yield trial.expected, trial.ask(changed)


@check("order", "n_way")
def class_names(trial: Trial) -> Pairs:
    """Moved on by one, so that each class has another."""
    tasks = trial.tasks
    new_name = (torch.arange(tasks.n_way) + 1) % tasks.n_way
    yield trial.expected, trial.ask(replace(tasks, support_labels=new_name[tasks.support_labels]))[:, new_name]
