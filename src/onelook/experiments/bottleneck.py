"""The information-bottleneck view: what the KL term does to the gap between tasks of known and of unknown classes.

Shell Xu Hu et al. Empirical Bayes Transductive Meta-Learning with Synthetic Gradients. ICLR 2020, arXiv:2004.12696,
theorem 1: the objective with its KL term bounds the generalisation gap. With a Dirac posterior and a Gaussian prior of
mean 0 the term is gamma / 2 |theta|^2, and gamma the `prior_weight` of SIB.
"""

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from onelook.artifacts import load_backbone
from onelook.data.sampler import TaskSampler, TaskSpec
from onelook.data.sources import N_VIEWS, open_data
from onelook.events import Progress
from onelook.machine import Place, commit, machine
from onelook.methods import SIB
from onelook.scoring import CHUNK, Interval, interval
from onelook.tasks import Embeddings
from onelook.train.recipes import parse_request, ready


@dataclass(frozen=True)
class BottleneckConfig:
    backbone: Path
    data: str = "cifar-fs"
    prior_weights: tuple[float, ...] = (0.0, 0.01, 0.1, 1.0)
    """gamma; 0 is without the term."""
    shots: tuple[int, ...] = (1, 5)
    n_tasks: int = 2000
    seed: int = 0


def bottleneck(config: BottleneckConfig, place: Place) -> Generator[Any, None, list[dict[str, Any]]]:
    """A record for each weight and shot: accuracy and loss on tasks of training and of test classes, and their gaps."""
    backbone, named = load_backbone(config.backbone)
    training = yield from open_data(config.data, place.home).embed("train", backbone, place, N_VIEWS)
    validation = yield from open_data(config.data, place.home).embed("val", backbone, place)
    # Training classes as test classes are seen: without augmentation.
    sets = {
        "train": (yield from open_data(config.data, place.home).embed("train", backbone, place)),
        "test": (yield from open_data(config.data, place.home).embed("test", backbone, place)),
    }
    records = []
    for shot in config.shots:
        spec = TaskSpec(5, shot, 15, seed=config.seed)
        for weight in config.prior_weights:
            request = parse_request(f"sib:prior_weight={weight}" if weight else "sib")
            made = yield from ready(request, spec, backbone.feature_size, training, validation, place.cache / "runs")
            assert isinstance(made.method, SIB)
            known = yield from _measure(made.method, sets["train"], spec, config.n_tasks)
            unknown = yield from _measure(made.method, sets["test"], spec, config.n_tasks)
            records.append(
                {
                    "experiment": "information bottleneck",
                    "dataset": config.data,
                    "split": "test",
                    "backbone": f"{named['name']}@{backbone.digest().hex()[:12]}",
                    "method": request.label,
                    "prior_weight": weight,
                    "n_way": 5,
                    "n_shot": shot,
                    "n_query": 15,
                    "protocol": "balanced",
                    "n_tasks": config.n_tasks,
                    "seed": config.seed,
                    **_record(known, unknown),
                    "commit": commit(),
                    "machine": machine(),
                }
            )
    return records


@dataclass(frozen=True)
class _Measured:
    accuracy: Interval
    loss: Interval
    length: float
    """Root mean square of the entries of the final weights."""


def _measure(method: SIB, data: Embeddings, spec: TaskSpec, n_tasks: int) -> Generator[Progress, None, _Measured]:
    sampler = TaskSampler(data, spec)
    accuracies, losses, squares = [], [], []
    for start in range(0, n_tasks, CHUNK):
        tasks = sampler.sample(range(start, min(start + CHUNK, n_tasks)))
        assert tasks.query_labels is not None
        with torch.inference_mode():
            weights = method.adapt(tasks.without_query_labels())
            logits: Float[Tensor, "T Q K"] = method.score(weights, tasks.query)
            accuracies.append(100 * torch.eq(logits.argmax(-1), tasks.query_labels).float().mean(1))
            losses.append(functional.cross_entropy(logits.mT, tasks.query_labels, reduction="none").mean(1))
            squares.append(weights.square().mean((1, 2)))
        yield Progress("tasks", start + len(tasks), n_tasks)
    return _Measured(
        interval(torch.cat(accuracies)), interval(torch.cat(losses)), float(torch.cat(squares).mean().sqrt())
    )


def _record(train: _Measured, test: _Measured) -> dict[str, Any]:
    def gap(known: Interval, unknown: Interval) -> tuple[float, float]:
        """Of two independent sets of tasks."""
        return round(unknown.mean - known.mean, 4), round((known.ci95**2 + unknown.ci95**2) ** 0.5, 4)

    accuracy_gap, accuracy_ci = gap(test.accuracy, train.accuracy)
    loss_gap, loss_ci = gap(train.loss, test.loss)
    return {
        "accuracy": round(test.accuracy.mean, 3),
        "ci95": round(test.accuracy.ci95, 3),
        "train_accuracy": round(train.accuracy.mean, 3),
        "train_ci95": round(train.accuracy.ci95, 3),
        "accuracy_gap": accuracy_gap,
        "accuracy_gap_ci95": accuracy_ci,
        "loss": round(test.loss.mean, 4),
        "train_loss": round(train.loss.mean, 4),
        "loss_gap": loss_gap,
        "loss_gap_ci95": loss_ci,
        "weight_rms": round(test.length, 4),
    }
