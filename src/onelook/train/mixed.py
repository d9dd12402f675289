"""Mixed meta-training: one method on tasks of many data sets and feature networks, of every size and protocol."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from onelook import ops
from onelook.artifacts import Artifact, method_artifact
from onelook.data.sampler import TaskSampler, TaskSpec
from onelook.errors import Checked, DataError, Fraction, NonNegativeInt, PositiveInt, TwoOrMore
from onelook.events import finish
from onelook.methods import Glance
from onelook.scoring import Estimate, mean_accuracy
from onelook.tasks import Embeddings, Tasks
from onelook.train.optimisation import Optimisation
from onelook.train.processes import ALL


@dataclass(frozen=True)
class MixedConfig(Checked):
    """Distributions of the tasks; a value that is in a tuple more than once is drawn more often."""

    n_steps: PositiveInt = 12_000
    tasks_per_step: PositiveInt = 16
    ways: tuple[int, ...] = (2, 3, 5, 5, 5, 5, 5, 5, 10, 10, 10, 20)
    shots: tuple[int, ...] = (1, 1, 1, 1, 1, 2, 3, 3, 5, 5, 5, 10, 16, 16)
    totals: tuple[int, ...] = (1, 10, 10, 30, 75, 75, 75, 75, 75, 100, 100, 150)
    """All queries of a task."""
    balanced: Fraction = 0.42
    """Fraction of the tasks whose queries are balanced. The larger it is, the more equal a method without class priors
    expects them to be."""
    unbalanced: tuple[str, ...] = (
        *("dirichlet:0.5",) * 4,
        "dirichlet:1",
        *("dirichlet:2",) * 4,
        "dirichlet:5",
        "long-tail:10",
        *("present:1",) * 3,
        *("present:2",) * 2,
    )
    unequal_shots: Fraction = 0.1
    unknown: Fraction = 0.05
    """Fraction of the tasks in which up to a third of the queries are of no class of theirs."""
    given_balanced: Fraction = 0.3
    """Fraction of the balanced steps whose method is given the class priors."""
    given_unbalanced: Fraction = 0.15
    """Fraction of the other steps whose method is given the class priors."""
    optimisation: Optimisation = field(
        default_factory=lambda: Optimisation(
            "adam", learning_rate=3e-3, weight_decay=0.0, schedule="one-cycle", clip_norm=1.0
        )
    )
    validate_every: PositiveInt = 1000
    n_validation_tasks: TwoOrMore = 200
    """Tasks of each protocol, shot and validation set."""
    seed: NonNegativeInt = 0


class MixedTraining:
    """Each step takes tasks of one kind from one source; step i is a pure function of (seed, i)."""

    def __init__(
        self, method: Glance, sources: Sequence[Embeddings], validation: Sequence[Embeddings], config: MixedConfig
    ) -> None:
        self.module = self.method = method
        self.sources = sources
        self.validation = validation
        self.config = config
        self.n_steps = config.n_steps
        self.batch_size = config.tasks_per_step
        self.validate_every = config.validate_every

    def loss(self, step: int, rows: slice = ALL) -> Tensor:
        config = self.config
        rng = np.random.default_rng([config.seed, step])
        source, spec = self.sources[int(rng.integers(len(self.sources)))], self._spec(rng)
        is_given = rng.random() < (config.given_balanced if spec.spread.is_balanced else config.given_unbalanced)
        tasks = _sample(source, spec, range(step * config.tasks_per_step, (step + 1) * config.tasks_per_step))
        tasks = tasks[rows].to(self.method.device)
        return self.method.loss(tasks, true_priors(tasks) if is_given else None)

    def _spec(self, rng: np.random.Generator) -> TaskSpec:
        config = self.config
        way, shot, total = (int(rng.choice(values)) for values in (config.ways, config.shots, config.totals))
        protocol = "balanced" if rng.random() < config.balanced else str(rng.choice(config.unbalanced))
        if rng.random() < config.unequal_shots:
            protocol += "+unequal-shots"
        if rng.random() < config.unknown:
            protocol += f"+unknown:{rng.choice([0.1, 0.2, 0.33])}"
        return TaskSpec(way, shot, 1, protocol, config.seed, total)

    def validate(self) -> Estimate:
        protocols = ("balanced", "dirichlet:2", "dirichlet:0.5")
        specs = [TaskSpec(n_shot=shot, protocol=protocol) for shot in (1, 5) for protocol in protocols]
        n_tasks = self.config.n_validation_tasks
        found = [finish(mean_accuracy(self.method, data, spec, n_tasks)) for data in self.validation for spec in specs]
        return Estimate.average(found)

    def artifact(self, about: dict[str, Any]) -> Artifact:
        return method_artifact(self.method, about)


def true_priors(tasks: Tasks) -> Float[Tensor, "T K"]:
    """True class priors of the queries whose class the task has."""
    assert tasks.query_labels is not None
    count = ops.one_hot(tasks.query_labels, tasks.n_way, tasks.query.dtype).sum(1)
    return count / count.sum(1, keepdim=True)


def _sample(data: Embeddings, spec: TaskSpec, tasks: Sequence[int]) -> Tasks:
    """Tasks as near to the specification as the data allows: fewer queries, then shots, then ways."""
    while True:
        try:
            return TaskSampler(data, spec).sample(tasks)
        except DataError:
            if spec.n_way == 2 and spec.n_shot == 1 and spec.total <= 4:
                raise
            spec = _smaller(spec)


def _smaller(spec: TaskSpec) -> TaskSpec:
    total = spec.total
    if total > 2 * spec.n_way:
        return replace(spec, n_total=total // 2)
    if spec.n_shot > 1:
        return replace(spec, n_shot=spec.n_shot - 1)
    return replace(spec, n_way=spec.n_way - 1)
