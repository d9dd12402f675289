"""Whether a method answers from what it may see: asked again with something changed that must not matter.

Every check asks about the same task twice and compares the logits. A method may differ where it declares so:
`transductive` (by the other queries), `ordered_support` (by the order of the labelled examples), `n_way` (by the
numbers of its classes). Nothing is declared that would excuse reading the labels of queries or other tasks.

Copies of the method are asked, in float64. There a sum taken in another order moves a logit in its 13th to 16th digit,
and a method of many steps some digits more: `TOLERANCE` is far above that, and far below what can turn an answer.
"""

import contextlib
import copy
import math
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from onelook.benchmark.tables import Table
from onelook.data.protocols import UNKNOWN
from onelook.data.sampler import TaskSampler
from onelook.events import Progress
from onelook.methods import Method
from onelook.tasks import Tasks

TOLERANCE = 1e-9
"""Changes below this part of the task's largest logit are rounding."""
TASKS, IMAGE_TASKS = 16, 2
"""Tasks to ask about: a method that leaks does so in almost every one."""
ALONE, IMAGE_ALONE = 8, 2
"""Queries of a task that are also asked about one by one."""
IMAGE_QUERIES = 10
"""Queries kept of a task of images, for the sake of time."""
NEIGHBOURS = 3
"""Other tasks beside each."""

SAME, AS_DECLARED, LEAK = "same", "as declared", "LEAK"
DECLARED = {
    "transductive": ("declared transductive, and is", "declared transductive, but is not"),
    "ordered_support": (
        "declared to read examples in order, and does",
        "declared to read examples in order, but does not",
    ),
    "n_way": ("made for numbered classes, and reads the numbers", "made for a fixed number of classes, in any order"),
}
"""What is said of a declared difference where there is one, and where there is none."""

Pairs = Iterator[tuple[Float[Tensor, "Q K"], Float[Tensor, "Q K"]]]
"""Logits as they should be, and as they are after the change."""


@dataclass(frozen=True)
class Check:
    """One thing that is changed."""

    name: str
    group: str
    """What it is about: a key of GROUPS."""
    changed: str
    """In words."""
    leak: str
    """What is to be said of a method that answers otherwise then, as the end of a sentence."""
    pairs: Callable[["Trial"], Pairs]
    declaration: str = ""
    """The attribute of a method that may excuse it."""


@dataclass(frozen=True)
class Finding:
    """What a check found, over all tasks."""

    check: Check
    change: float
    """Of the logits, at most; infinite where there was no answer at all."""
    relative: float
    """The same as a part of the task's largest logit."""
    answers_changed: float
    """Percent."""
    excused: bool
    """Whether the method declares that it may differ here."""

    @property
    def differs(self) -> bool:
        return self.relative > TOLERANCE

    @property
    def is_leak(self) -> bool:
        return self.differs and not self.excused

    @property
    def verdict(self) -> str:
        if not self.excused:
            return LEAK if self.differs else AS_DECLARED
        return DECLARED[self.check.declaration][0 if self.differs else 1]

    @property
    def sentence(self) -> str:
        """Of a leak, without its subject."""
        logits = f"logits by up to {self.change:.2g}" if math.isfinite(self.change) else "it fails, or is not finite"
        return f"{self.check.leak} ({logits}; {self.answers_changed:.3g} % of the answers)."


@dataclass(frozen=True)
class Audit:
    """All findings about one method."""

    findings: tuple[Finding, ...]
    n_tasks: int

    @property
    def leaks(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.is_leak)

    def summary(self) -> dict[str, str]:
        """The gravest of the findings of each group, in a word or two."""
        said = {}
        for group in GROUPS:
            own = [finding for finding in self.findings if finding.check.group == group]
            differs = AS_DECLARED if any(finding.differs for finding in own) else SAME
            said[group] = LEAK if any(finding.is_leak for finding in own) else differs
        return said

    def record(self) -> dict[str, Any]:
        """As JSON; a change that is not finite is null."""
        findings = [
            {
                "check": f.check.name,
                "changed": f.check.changed,
                "verdict": f.verdict,
                "change": _finite(f.change),
                "relative": _finite(f.relative),
                "answers_changed": round(f.answers_changed, 3),
            }
            for f in self.findings
        ]
        return {
            "n_tasks": self.n_tasks,
            "summary": self.summary(),
            "leaks": [f.sentence for f in self.leaks],
            "findings": findings,
        }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def tabulate(records: Iterable[dict[str, Any]]) -> Table:
    """A row for each method and kind of task."""
    kind = ("dataset", "backbone", "n_way", "n_shot", "protocol", "method")
    rows = ((*(str(r[name]) for name in kind), *(r["summary"][group] for group in GROUPS)) for r in records)
    return Table(("data", "backbone", "way", "shot", "queries", "method", *GROUPS.values()), tuple(rows))


@dataclass
class Trial:
    """One task, and what is there to change it with. The task is a batch of its own, so that others cannot matter."""

    method: Method
    """In float64; only copies of it are asked."""
    known: Tasks
    """The task with the labels of its queries, T = 1."""
    neighbours: Tasks
    """Other tasks of the same sizes, with theirs."""
    n_alone: int
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
        """With something in the task that must not be read; to fail by it is an answer too."""
        try:
            return self.ask(replace(self.tasks, **more))
        except Exception:  # whatever it is that a method does with what it must not touch
            return torch.full_like(self.expected, math.nan)


def audit(method: Method, sampler: TaskSampler, n_tasks: int = TASKS) -> Generator[Progress, None, Audit]:
    """What the answers of `method` depend on, seen on tasks 0 … n_tasks - 1; the method itself is left as it is."""
    pristine = copy.deepcopy(method).double().eval()
    tallies = [_Tally() for _ in CHECKS]
    for number in range(n_tasks):
        trial = _trial(pristine, sampler, number, n_tasks)
        scale = float(trial.expected.abs().max())
        for done, (check, tally) in enumerate(zip(CHECKS, tallies, strict=True), number * len(CHECKS) + 1):
            for expected, found in check.pairs(trial):
                tally.add(expected, found, scale)
            yield Progress("asking again", done, n_tasks * len(CHECKS))
    findings = [
        tally.finding(check, bool(check.declaration and getattr(method, check.declaration)))
        for check, tally in zip(CHECKS, tallies, strict=True)
    ]
    return Audit(tuple(findings), n_tasks)


@dataclass
class _Tally:
    """Of one check, while it goes over the tasks."""

    change: float = 0.0
    relative: float = 0.0
    n_changed: int = 0
    n_answers: int = 0

    def add(self, expected: Float[Tensor, "Q K"], found: Float[Tensor, "Q K"], scale: float) -> None:
        if not expected.numel():
            return
        # Infinite where one of the two is not a number; what is infinite in both is the same.
        difference = torch.where(expected == found, 0.0, (found - expected).abs())
        change = float(difference.nan_to_num(nan=math.inf).max())
        self.change = max(self.change, change)
        if change:
            self.relative = max(self.relative, change / scale if scale else math.inf)
        changed = (expected.argmax(-1) != found.argmax(-1)) | found.isnan().any(-1)
        self.n_changed += int(changed.sum())
        self.n_answers += len(changed)

    def finding(self, check: Check, excused: bool) -> Finding:
        return Finding(check, self.change, self.relative, 100 * self.n_changed / max(self.n_answers, 1), excused)


def _trial(method: Method, sampler: TaskSampler, number: int, n_tasks: int) -> Trial:
    of_images = sampler.data.views.dim() > 3
    tasks = sampler.sample([number, *(number + n_tasks * (i + 1) for i in range(NEIGHBOURS))])
    if of_images:
        labels = None if tasks.query_labels is None else tasks.query_labels[:, :IMAGE_QUERIES]
        tasks = replace(tasks, query=tasks.query[:, :IMAGE_QUERIES], query_labels=labels)
    tasks = replace(tasks, support=tasks.support.double(), query=tasks.query.double())
    draw = torch.Generator().manual_seed(number)
    return Trial(method, tasks[:1], tasks[1:], IMAGE_ALONE if of_images else ALONE, draw)


# ------------------------------------------------------------------------------------------------ other tasks


def _asked_twice(trial: Trial) -> Pairs:
    method = trial.fresh()
    trial.ask(trial.tasks, method)
    yield trial.expected, trial.ask(trial.tasks, method)


def _memory(trial: Trial) -> Pairs:
    others = trial.neighbours.without_query_labels()
    for known_before in (False, True):
        method = trial.fresh()
        if known_before:
            trial.ask(trial.tasks, method)
        trial.ask(others, method)
        trial.ask(others, method.train())
        method.eval()
        yield trial.expected, trial.ask(trial.tasks, method)


def _labels_kept(trial: Trial) -> Pairs:
    method = trial.fresh()
    trial.ask(trial.tasks, method)
    with contextlib.suppress(Exception):  # what it answers then is for the checks of labels
        trial.ask(trial.known, method)
    yield trial.expected, trial.ask(trial.tasks, method)


def _training_mode(trial: Trial) -> Pairs:
    yield trial.expected, trial.ask(trial.tasks, trial.fresh().train())


def _batch(trial: Trial) -> Pairs:
    """In the first place and in the last: what runs over a batch may run in one direction."""
    others = trial.neighbours.without_query_labels()
    for parts in ((trial.tasks, others), (others, trial.tasks)):
        together = Tasks(
            torch.cat([p.support for p in parts]),
            torch.cat([p.support_labels for p in parts]),
            torch.cat([p.query for p in parts]),
            trial.tasks.n_way,
        )
        yield trial.expected, trial.ask_all(together)[0 if parts[0] is trial.tasks else -1]


# ------------------------------------------------------------------------------------------------ labels of queries


def _labels(trial: Trial) -> Int[Tensor, "1 Q"]:
    assert trial.known.query_labels is not None
    return trial.known.query_labels


def _true_labels(trial: Trial) -> Pairs:
    yield trial.expected, trial.ask_with(query_labels=_labels(trial))


def _wrong_labels(trial: Trial) -> Pairs:
    """Each class for the next, which leaves the counts of a balanced task; and one class for all."""
    labels = _labels(trial)
    wrong = torch.where(labels == UNKNOWN, labels, (labels + 1) % trial.tasks.n_way)
    for given in (wrong, torch.zeros_like(labels)):
        yield trial.expected, trial.ask_with(query_labels=given)


def _classes(trial: Trial) -> Pairs:
    """Without the labels of the queries, and beside them."""
    assert trial.known.classes is not None
    assert trial.neighbours.classes is not None
    for given in (trial.known.classes, trial.known.classes.flip(1), trial.neighbours.classes[:1]):
        yield trial.expected, trial.ask_with(classes=given)
    labels = _labels(trial)
    yield trial.ask_with(query_labels=labels), trial.ask_with(query_labels=labels, classes=trial.known.classes)


# ------------------------------------------------------------------------------------------------ other queries


def _queries_replaced(trial: Trial) -> Pairs:
    """Each half of the queries beside strangers in the place of the other half."""
    half = torch.randperm(trial.tasks.query.shape[1], generator=trial.draw) % 2 == 0
    for own in (half, ~half):
        query = trial.tasks.query.clone()
        query[:, ~own] = trial.neighbours.query[:1, ~own]
        yield trial.expected[own], trial.ask(replace(trial.tasks, query=query))[own]


def _each_alone(trial: Trial) -> Pairs:
    for i in torch.randperm(trial.tasks.query.shape[1], generator=trial.draw)[: trial.n_alone].tolist():
        yield trial.expected[i : i + 1], trial.ask(replace(trial.tasks, query=trial.tasks.query[:, i : i + 1]))


def _many_more(trial: Trial) -> Pairs:
    own = trial.tasks.query
    query = torch.cat([own, trial.neighbours.query.flatten(0, 1).unsqueeze(0)], 1)
    yield trial.expected, trial.ask(replace(trial.tasks, query=query))[: own.shape[1]]


# ------------------------------------------------------------------------------------------------ order and names


def _in_order(trial: Trial, order: Int[Tensor, "Q"]) -> Pairs:
    yield trial.expected[order], trial.ask(replace(trial.tasks, query=trial.tasks.query[:, order]))


def _query_order(trial: Trial) -> Pairs:
    yield from _in_order(trial, torch.randperm(trial.tasks.query.shape[1], generator=trial.draw))


def _queries_sorted(trial: Trial) -> Pairs:
    yield from _in_order(trial, _labels(trial)[0].argsort(stable=True))


def _support_order(trial: Trial) -> Pairs:
    tasks = trial.tasks
    by_class = tasks.support_labels[0].argsort(stable=True)
    for order in (torch.randperm(len(by_class), generator=trial.draw), by_class):
        changed = replace(tasks, support=tasks.support[:, order], support_labels=tasks.support_labels[:, order])
        yield trial.expected, trial.ask(changed)


def _class_names(trial: Trial) -> Pairs:
    """Moved on by one, so that each class has another."""
    tasks = trial.tasks
    new_name = (torch.arange(tasks.n_way) + 1) % tasks.n_way
    yield trial.expected, trial.ask(replace(tasks, support_labels=new_name[tasks.support_labels]))[:, new_name]


GROUPS = {"queries": "other queries", "order": "order, names", "tasks": "other tasks", "labels": "labels"}

# What would spoil the other checks, by a memory of a class or a module, is looked for first.
CHECKS = (
    Check("twice", "tasks", "nothing: asked twice", "does not give the same answers when asked twice", _asked_twice),
    Check(
        "memory",
        "tasks",
        "other tasks seen before",
        "remembers: its answers change after it has seen other tasks",
        _memory,
    ),
    Check(
        "labels kept",
        "labels",
        "the same task seen before, with the labels of its queries",
        "keeps labels: its answers change after it was once shown those of the queries",
        _labels_kept,
    ),
    Check(
        "batch",
        "tasks",
        "other tasks in the batch",
        "mixes tasks: its answers change with the other tasks of the batch",
        _batch,
    ),
    Check(
        "training mode",
        "tasks",
        "train() mode for eval() mode",
        "answers otherwise in train() mode than in eval() mode",
        _training_mode,
    ),
    Check(
        "true labels",
        "labels",
        "true labels of the queries given",
        "reads the labels of the queries: its answers change when the true ones are given",
        _true_labels,
    ),
    Check(
        "wrong labels",
        "labels",
        "wrong labels of the queries given",
        "reads the labels of the queries: its answers change when wrong ones are given",
        _wrong_labels,
    ),
    Check(
        "classes",
        "labels",
        "classes of the data set given",
        "reads `classes`: its answers change when it is given which classes of the data set these are",
        _classes,
    ),
    Check(
        "replaced",
        "queries",
        "other queries replaced",
        "is declared inductive, but its answers change when the other queries are replaced",
        _queries_replaced,
        "transductive",
    ),
    Check(
        "alone",
        "queries",
        "each query alone",
        "is declared inductive, but its answers change when a query is asked alone",
        _each_alone,
        "transductive",
    ),
    Check(
        "many more",
        "queries",
        "four times as many queries",
        "is declared inductive, but its answers change when there are more queries",
        _many_more,
        "transductive",
    ),
    Check(
        "query order",
        "order",
        "queries in another order",
        "reads something from the order of the queries: its answers change with it",
        _query_order,
    ),
    Check(
        "sorted queries",
        "order",
        "queries sorted by class",
        "reads something from the order of the queries: its answers change when these are sorted by class",
        _queries_sorted,
    ),
    Check(
        "support order",
        "order",
        "labelled examples in another order",
        "reads something from the order of the labelled examples, and does not declare it (ordered_support)",
        _support_order,
        "ordered_support",
    ),
    Check(
        "class names",
        "order",
        "other numbers for the classes",
        "reads something from the number that a class has, though it is made for any classes (n_way)",
        _class_names,
        "n_way",
    ),
)
