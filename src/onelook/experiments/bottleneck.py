"""The information-bottleneck view: what the KL term does to the gap between tasks of known and of unknown classes.

Shell Xu Hu et al. Empirical Bayes Transductive Meta-Learning with Synthetic Gradients. ICLR 2020, arXiv:2004.12696,
theorem 1: the objective with its KL term bounds the generalisation gap. With a Dirac posterior and a Gaussian prior of
mean 0 the term is gamma / 2 |theta|^2, and gamma the `prior_weight` of SIB.
"""

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from onelook.benchmark.compare import make_entry
from onelook.benchmark.sources import open_source
from onelook.data.sampler import TaskSampler, TaskSpec
from onelook.data.sources import open_data
from onelook.errors import Checked, NonNegativeInt, TwoOrMore
from onelook.events import Progress
from onelook.machine import Place, provenance
from onelook.methods import SIB
from onelook.scoring import Estimate, fraction_right, score_tasks
from onelook.tasks import Embeddings, Tasks
from onelook.train.recipes import parse_request


@dataclass(frozen=True)
class BottleneckConfig(Checked):
    backbone: str
    """Feature network: a name, such as lite, or a file made by `onelook pretrain`."""
    data: str = "cifar-fs"
    prior_weights: tuple[float, ...] = (0.0, 0.01, 0.1, 1.0)
    """Weights gamma of the KL term; 0 omits it."""
    shots: tuple[int, ...] = (1, 5)
    n_tasks: TwoOrMore = 2000
    seed: NonNegativeInt = 0


def bottleneck(config: BottleneckConfig, place: Place) -> Generator[Any, None, list[dict[str, Any]]]:
    """A record for each weight and shot: accuracy and loss on tasks of training and of test classes, and their gaps."""
    source = yield from open_source(config.data, "test", config.backbone, place)
    assert source.network is not None
    # Training classes as test classes are seen: without augmentation.
    seen = yield from open_data(config.data, place.home).embed("train", source.network, place)
    facts = {"experiment": "information bottleneck"} | {k: source.about[k] for k in ("dataset", "split", "backbone")}
    records = []
    for shot in config.shots:
        spec = TaskSpec(5, shot, 15, seed=config.seed)
        for weight in config.prior_weights:
            request = parse_request(f"sib:prior_weight={weight}" if weight else "sib")
            method = (yield from make_entry(request, spec, source, place)).method
            assert isinstance(method, SIB)
            known = yield from _measure(method, seen, spec, config.n_tasks)
            unknown = yield from _measure(method, source.test, spec, config.n_tasks)
            about = {
                **facts,
                "method": request.label,
                "prior_weight": weight,
                **spec.record(),
                "n_tasks": config.n_tasks,
            }
            records.append(about | _record(known, unknown) | provenance())
    return records


@dataclass(frozen=True)
class _Measured:
    accuracy: Estimate
    loss: Estimate
    length: float
    """Root mean square of the entries of the final weights."""


def _measure(method: SIB, data: Embeddings, spec: TaskSpec, n_tasks: int) -> Generator[Progress, None, _Measured]:
    def score(tasks: Tasks) -> Float[Tensor, "3 T"]:
        assert tasks.query_labels is not None
        weights = method.adapt(tasks.without_query_labels())
        logits: Float[Tensor, "T Q K"] = method.score(weights, tasks.query)
        losses = functional.cross_entropy(logits.mT, tasks.query_labels, reduction="none").mean(1)
        return torch.stack([fraction_right(logits.argmax(-1), tasks), losses, weights.square().mean((1, 2))])

    accuracy, loss, square = yield from score_tasks(score, TaskSampler(data, spec), n_tasks)
    return _Measured(Estimate.from_values(accuracy), Estimate.from_values(loss), float(square.float().mean().sqrt()))


def _record(train: _Measured, test: _Measured) -> dict[str, Any]:
    def gap(known: Estimate, unknown: Estimate) -> Estimate:
        """The difference of two independent sets of tasks."""
        return Estimate.from_half_width(unknown.value - known.value, math.hypot(known.half_width, unknown.half_width))

    return {
        **test.accuracy.record("accuracy"),
        **train.accuracy.record("train_accuracy", "train_ci95"),
        **gap(test.accuracy, train.accuracy).record("accuracy_gap", "accuracy_gap_ci95", 4),
        "loss": round(test.loss.value, 4),
        "train_loss": round(train.loss.value, 4),
        **gap(train.loss, test.loss).record("loss_gap", "loss_gap_ci95", 4, 1),
        "weight_rms": round(test.length, 4),
    }
