"""The accuracy of each task, and the mean over tasks with its interval."""

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from onelook.data.embed import precision
from onelook.data.protocols import UNKNOWN
from onelook.data.sampler import TaskSampler, TaskSpec, Views
from onelook.events import Progress
from onelook.methods import Method
from onelook.tasks import Tasks

CPU = torch.device("cpu")
CHUNK = 32
"""Tasks of features in one call: few enough for them to stay in the processor's cache."""
IMAGE_CHUNK = 4
"""Tasks of images in one call: few enough for their activations to stay far from the limits of memory."""


@dataclass(frozen=True)
class Estimate:
    """A fraction, or a difference of two, with its interval, of 95 % unless something else is said.

    >>> print(Estimate(0.53, 0.41, 0.65))
    53 % (41 to 65)
    >>> Estimate.from_half_width(0.636, 0.0032).record("accuracy")
    {'accuracy': 63.6, 'ci95': 0.32}
    """

    value: float
    low: float
    high: float

    @classmethod
    def from_half_width(cls, value: float, half_width: float) -> "Estimate":
        return cls(value, value - half_width, value + half_width)

    @classmethod
    def from_values(cls, values: Float[Tensor, "T"]) -> "Estimate":
        """The mean with its normal interval, 1.96 standard errors; a single value has an infinite interval."""
        values = values.double()
        error = values.std(correction=1).item() / math.sqrt(len(values)) if len(values) > 1 else math.inf
        return cls.from_half_width(values.mean().item(), 1.96 * error)

    @classmethod
    def average(cls, parts: Sequence["Estimate"]) -> "Estimate":
        """The mean of estimates that are independent of each other."""
        half_width = math.hypot(*(part.half_width for part in parts)) / len(parts)
        return cls.from_half_width(sum(part.value for part in parts) / len(parts), half_width)

    @classmethod
    def from_record(cls, record: Mapping[str, Any], name: str, interval: str = "ci95") -> "Estimate":
        """Inverse of `record`."""
        return cls.from_half_width(record[name] / 100, record[interval] / 100)

    def __str__(self) -> str:
        return f"{100 * self.value:.0f} % ({100 * self.low:.0f} to {100 * self.high:.0f})"

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0

    def plus_minus(self, sign: str = "") -> str:
        """Percent for a table of results, as in 63.60 ± 0.32. sign: "+" for a difference."""
        value, half_width = (round(100 * x, 6) for x in (self.value, self.half_width))  # the decimals of a record again
        return f"{value:{sign}.2f} ± {half_width:.2f}"

    def record(self, name: str, interval: str = "ci95", digits: int = 3, scale: int = 100) -> dict[str, float]:
        """The estimate as it stands in result files: percent, and half the width of its interval.

        scale: 1 for what is no fraction, such as a loss.
        """
        return {name: round(scale * self.value, digits), interval: round(scale * self.half_width, digits)}


def paired(values: Float[Tensor, "T"], reference: Float[Tensor, "T"]) -> Estimate:
    """The mean difference task by task: what the tasks have in common drops out of its interval."""
    return Estimate.from_values(values.double() - reference.double())


def harm(values: Float[Tensor, "T"], reference: Float[Tensor, "T"]) -> Estimate:
    """The fraction of tasks in which `values` is below `reference`: how often the other would have been better."""
    return Estimate.from_values((values < reference).double())


def score_tasks(
    score: Callable[[Tasks], Float[Tensor, "*kinds T"]],
    sampler: TaskSampler,
    n_tasks: int,
    first: int = 0,
    device: torch.device = CPU,
) -> Generator[Progress, None, Float[Tensor, "*kinds T"]]:
    """Scores of the tasks first … first + n_tasks - 1, which `score` gets in batches on `device`, in inference mode."""
    parts = []
    chunk = CHUNK if sampler.data.views.dim() == 3 else IMAGE_CHUNK
    for start in range(first, first + n_tasks, chunk):
        tasks = sampler.sample(range(start, min(start + chunk, first + n_tasks))).to(device)
        with torch.inference_mode():
            parts.append(score(tasks).cpu())
        yield Progress("tasks", start + len(tasks) - first, n_tasks)
    return torch.cat(parts, -1)


def task_accuracies(
    method: Method, sampler: TaskSampler, n_tasks: int, first: int = 0, compute: str = "float32"
) -> Generator[Progress, None, Float[Tensor, "T"]]:
    """The fraction of right answers in each of the tasks first … first + n_tasks - 1.

    compute: the precision of a method of images, float32 or bfloat16.
    """

    def score(tasks: Tasks) -> Float[Tensor, "T"]:
        with precision(compute, method.device):
            answers = method(tasks.without_query_labels()).argmax(-1)
        return fraction_right(answers, tasks)

    return (yield from score_tasks(score, sampler, n_tasks, first, method.device))


def fraction_right(answers: Int[Tensor, "T Q"], tasks: Tasks) -> Float[Tensor, "T"]:
    """The accuracy of each task, over the queries whose class it has."""
    assert tasks.query_labels is not None
    known = tasks.query_labels != UNKNOWN
    return ((answers == tasks.query_labels) & known).sum(1).double() / known.sum(1)


def mean_accuracy(
    method: Method, data: Views, spec: TaskSpec, n_tasks: int, compute: str = "float32"
) -> Generator[Progress, None, Estimate]:
    """The mean over the first `n_tasks` tasks of `spec`."""
    return Estimate.from_values((yield from task_accuracies(method, TaskSampler(data, spec), n_tasks, compute=compute)))
