"""Accuracy of each task, and what may be said of their mean."""

import math
from collections.abc import Generator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from onelook.data.embed import precision
from onelook.data.protocols import UNKNOWN
from onelook.data.sampler import TaskSampler, TaskSpec, Views
from onelook.events import Progress
from onelook.methods import Method
from onelook.tasks import Tasks

CHUNK = 32
"""Tasks of features in one call: few enough for them to stay in the processor's cache."""
IMAGE_CHUNK = 4
"""Tasks of images in one call: few enough for their activations to stay far from the limits of memory."""


@dataclass(frozen=True)
class Estimate:
    """A fraction, or a difference of two, with the ends of its interval: 95 % unless something else is said.

    >>> print(Estimate(0.53, 0.41, 0.65))
    53 % (41 to 65)
    """

    value: float
    low: float
    high: float

    @classmethod
    def from_values(cls, values: Float[Tensor, "T"]) -> "Estimate":
        """The mean with its normal interval, 1.96 standard errors; one value alone has an infinite interval."""
        values = values.double()
        error = values.std(correction=1).item() / math.sqrt(len(values)) if len(values) > 1 else math.inf
        mean = values.mean().item()
        return cls(mean, mean - 1.96 * error, mean + 1.96 * error)

    def __str__(self) -> str:
        return f"{100 * self.value:.0f} % ({100 * self.low:.0f} to {100 * self.high:.0f})"

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0

    def plus_minus(self) -> str:
        """Percent for a table of results, as in 63.60 ± 0.32."""
        return f"{100 * self.value:.2f} ± {100 * self.half_width:.2f}"


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % confidence interval, mean ± ci95."""

    mean: float
    ci95: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.ci95:.2f}"

    @property
    def excludes_zero(self) -> bool:
        return abs(self.mean) > self.ci95


def interval(values: Float[Tensor, "T"]) -> Interval:
    """Normal interval of the mean over tasks: 1.96 standard errors. One task has no interval (infinite)."""
    values = values.double()
    error = values.std(correction=1).item() / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return Interval(values.mean().item(), 1.96 * error)


def paired(values: Float[Tensor, "T"], reference: Float[Tensor, "T"]) -> Interval:
    """The mean difference task by task: what the tasks have in common drops out of its interval."""
    return interval(values.double() - reference.double())


def harm(values: Float[Tensor, "T"], reference: Float[Tensor, "T"]) -> Interval:
    """Percent of the tasks in which `values` is below `reference`: how often the other would have been better."""
    return interval(100 * (values < reference).double())


def task_accuracies(
    method: Method, sampler: TaskSampler, n_tasks: int, first: int = 0, compute: str = "float32"
) -> Generator[Progress, None, Float[Tensor, "T"]]:
    """Percent of right answers in each of the tasks first … first + n_tasks - 1.

    compute: the precision of a method of images, float32 or bfloat16.
    """
    parts = []
    chunk = CHUNK if sampler.data.views.dim() == 3 else IMAGE_CHUNK
    for start in range(first, first + n_tasks, chunk):
        tasks = sampler.sample(range(start, min(start + chunk, first + n_tasks)))
        with torch.inference_mode(), precision(compute):
            answers = method(tasks.without_query_labels()).argmax(-1)
        parts.append(percent_right(answers, tasks))
        yield Progress("tasks", start + len(tasks) - first, n_tasks)
    return torch.cat(parts)


def percent_right(answers: Int[Tensor, "T Q"], tasks: Tasks) -> Float[Tensor, "T"]:
    """Of each task, among the queries whose class it has."""
    assert tasks.query_labels is not None
    known = tasks.query_labels != UNKNOWN
    return 100 * ((answers == tasks.query_labels) & known).sum(1) / known.sum(1)


def mean_accuracy(
    method: Method, data: Views, spec: TaskSpec, n_tasks: int, compute: str = "float32"
) -> Generator[Progress, None, Interval]:
    """Mean over the first `n_tasks` tasks of `spec`, in percent."""
    return interval((yield from task_accuracies(method, TaskSampler(data, spec), n_tasks, compute=compute)))
