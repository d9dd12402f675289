"""Whether a method answers from what it may see: asked again with something changed that must not matter.

Every check asks about the same task twice and compares the logits. A method may differ where it declares so:
`transductive` (by the other queries), `ordered_support` (by the order of the labelled examples), `n_way` (by the
numbers of its classes). Nothing is declared that would excuse reading the labels of queries or other tasks.

Copies of the method are asked, in float64. There a sum taken in another order moves a logit in its 13th to 16th digit,
and a method of many steps some digits more: `TOLERANCE` is far above that, and far below what can turn an answer.
"""

import copy
import math
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from onelook.benchmark.audit_checks import CHECKS, GROUPS, Check, make_trial
from onelook.benchmark.tables import Table
from onelook.data.sampler import TaskSampler
from onelook.events import Progress
from onelook.methods import Method

TOLERANCE = 1e-9
"""Changes below this part of the task's largest logit are rounding."""
TASKS, IMAGE_TASKS = 16, 2
"""Tasks to ask about: a method that leaks does so in almost every one."""

SAME, AS_DECLARED, LEAK = "same", "as declared", "LEAK"
DECLARED = {
    "transductive": ("declared transductive, and is", "declared transductive, but is not"),
    "ordered_support": (
        "declared to read examples in order, and does",
        "declared to read examples in order, but does not",
    ),
    "n_way": ("made for numbered classes, and reads the numbers", "made for a fixed number of classes, in any order"),
}
"""Verdict on a declared difference where there is one, and where there is none."""


@dataclass(frozen=True)
class Finding:
    """Finding of a check, over all tasks."""

    check: Check
    change: float
    """Largest change of a logit; infinite where there was no answer at all."""
    relative: float
    """Largest change as a part of the task's largest logit."""
    answers_changed: float
    """Percent of the answers."""
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
        """Sentence about a leak, without its subject."""
        logits = f"logits by up to {self.change:.2g}" if math.isfinite(self.change) else "it fails, or is not finite"
        return f"{self.check.leak} ({logits}; {self.answers_changed:.3g} % of the answers)."

    def record(self) -> dict[str, Any]:
        about = {"check": self.check.name, "changed": self.check.changed, "verdict": self.verdict}
        sizes = {"change": _finite(self.change), "relative": _finite(self.relative)}
        return {**about, **sizes, "answers_changed": round(self.answers_changed, 3)}


@dataclass(frozen=True)
class Audit:
    """All findings about one method."""

    findings: tuple[Finding, ...]
    n_tasks: int

    @property
    def leaks(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.is_leak)

    def summary(self) -> dict[str, str]:
        """The gravest finding of each group, in a word or two."""
        found = {}
        for group in GROUPS:
            own = [finding for finding in self.findings if finding.check.group == group]
            differs = AS_DECLARED if any(finding.differs for finding in own) else SAME
            found[group] = LEAK if any(finding.is_leak for finding in own) else differs
        return found

    def record(self) -> dict[str, Any]:
        """JSON record; a change that is not finite is null."""
        leaks, findings = [f.sentence for f in self.leaks], [f.record() for f in self.findings]
        return {"n_tasks": self.n_tasks, "summary": self.summary(), "leaks": leaks, "findings": findings}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def tabulate(records: Iterable[dict[str, Any]]) -> Table:
    """A row for each method and kind of task."""
    kind = ("dataset", "backbone", "n_way", "n_shot", "protocol", "method")
    rows = ((*(str(r[name]) for name in kind), *(r["summary"][group] for group in GROUPS)) for r in records)
    return Table(("data", "backbone", "way", "shot", "queries", "method", *GROUPS.values()), tuple(rows))


def audit(method: Method, sampler: TaskSampler, n_tasks: int = TASKS) -> Generator[Progress, None, Audit]:
    """Find what the answers of `method` depend on, on tasks 0 … n_tasks - 1; the method itself is left as it is."""
    pristine = copy.deepcopy(method).double().eval()
    tallies = [_Tally() for _ in CHECKS]
    for number in range(n_tasks):
        trial = make_trial(pristine, sampler, number, n_tasks)
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
    """Sums of one check over the tasks."""

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
