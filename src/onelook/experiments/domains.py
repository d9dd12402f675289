"""Unsupervised adaptation to a new domain, from several labelled ones: SIB without a support set.

Shell Xu Hu, Pablo Garcia Moreno, Yang Xiao, Xi Shen, Guillaume Obozinski, Neil D. Lawrence, Andreas Damianou.
Empirical Bayes Transductive Meta-Learning with Synthetic Gradients. ICLR 2020, arXiv:2004.12696 ("SIB-Rot").

A task is a mini-batch of one domain; all domains have the same classes. Each domain in turn is the target, whose
labels are hidden, and the others are the sources. The weights theta of a cosine classifier start at a common lambda,
    theta_0 = lambda - eta_0 grad of the rotation loss of the images of the task, at lambda
and K synthetic gradient steps of SIB follow (`domain_head`). All of it learns by the labels of mini-batches of the
sources.

Stages for each target:
1. the feature network, lambda and the maps learn both class and turn of the source images, by the same 4K scores;
2. the network is kept as it is, and with the features of every image in its four turns the head learns on, from all
   sources, with one among them that stage 1 has not seen: the weights fit those it has seen so well that there a step
   has nothing to correct. (From the unseen one alone, lambda would come to fit that one and no other.)

Departures from the paper: a small network from scratch in the place of a ResNet-18 of ImageNet, frozen in stage 2, and
therefore the division of the sources; every domain has its own normalisation statistics (`_features`); the size of the
rotation step is learned; the first step is a mean over the images, the others a sum as in SIB.

Axes: T tasks, N images of a task, R = 4 turns, K classes, D feature.
"""

import copy
import dataclasses
import math
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from onelook import backbones, ops
from onelook.backbones import Backbone
from onelook.data.augment import N_DRAWS, Augmentation, augment, turn
from onelook.data.domains import Domains, read_domains
from onelook.data.embed import precision
from onelook.data.images import ImageSet, Reading
from onelook.errors import (
    Bound,
    Checked,
    DivergedError,
    Fraction,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SettingsError,
    TwoOrMore,
)
from onelook.events import Progress
from onelook.experiments.domain_head import N_TURNS, DomainHead
from onelook.machine import seeded
from onelook.scoring import Estimate, paired
from onelook.train.jobs import require_backbone
from onelook.train.optimisation import Optimisation
from onelook.train.pretraining import set_pixel_statistics

CHUNK = 512


@dataclass(frozen=True)
class DomainsConfig(Checked):
    backbone: str = "conv4-64"
    """Name of a feature network, such as conv4-64 or resnet12."""
    image_size: Annotated[int, Bound(">=", 16), Bound("<=", 256)] = 32
    """Height and width of images from a folder, in pixels."""
    batch_size: TwoOrMore = 64
    """Images of a task."""
    n_steps: NonNegativeInt = 3
    """K, the synthetic gradient steps."""
    step_size: PositiveFloat = 1e-3
    """eta, the size of these steps."""
    rotation_step_size: float = 0.03
    """eta_0 of the rotation step, before it learns."""
    pretrain_epochs: PositiveInt = 15
    pretrain_batch_size: TwoOrMore = 64
    pretrain_optimisation: Optimisation = field(
        default_factory=lambda: Optimisation("adam", learning_rate=4e-3, weight_decay=1e-4)
    )
    augmentation: Augmentation = field(default_factory=lambda: Augmentation(flip=False))
    upright: Fraction = 0.5
    """Fraction of the images that stage 1 does not turn."""
    n_held_out: NonNegativeInt = 1
    """The last so many sources are not seen by stage 1: to the network they are in stage 2 what the target will be."""
    meta_steps: NonNegativeInt = 150
    """Steps of stage 2, each with a task of every source."""
    meta_optimisation: Optimisation = field(
        default_factory=lambda: Optimisation("adam", learning_rate=3e-3, weight_decay=0.0)
    )
    own_statistics: bool = True
    """Whether the batch normalisation of the network takes its statistics from the domain at hand, or from all sources
    as they went by in stage 1."""
    precision: str = "bfloat16"
    """Number format of the network: float32 or bfloat16. Weights and the head stay in float32."""
    seed: NonNegativeInt = 0


@dataclass(frozen=True)
class _Features:
    """Features of one domain, every image in its four turns."""

    turned: Float[Tensor, "N 4 D"]
    labels: Int[Tensor, "N"]

    def __len__(self) -> int:
        return len(self.labels)


VARIANTS = {"fixed": (False, 0), "rotation": (True, 0), "rotation + steps": (True, None)}
"""Whether there is the rotation step, and how many synthetic steps (None: K), by name. Each learns separately."""


def domains(config: DomainsConfig, data: Path | Domains) -> Generator[Reading, None, dict[str, Any]]:
    """Each domain in turn as the target; returns the record of it as plain data.

    Raises DataError, SettingsError, DivergedError.
    data: a folder of domain/class/image, or images as `data.domains.glyph_domains` gives them.
    Accuracies are in percent, with 95 % intervals over the images of the target; differences are paired, image by
    image. Images of one task share its weights, which the intervals do not know.
    """
    require_backbone(config.backbone)
    images = (yield from read_domains(data, config.image_size)) if isinstance(data, Path) else data
    if len(images) < config.n_held_out + 2:
        raise SettingsError(
            f"{config.n_held_out} held-out sources, one more and a target are {config.n_held_out + 2} "
            f"domains, but got {len(images)}; give more, or a smaller n_held_out."
        )
    targets: list[dict[str, Any]] = []
    for number, target in enumerate(images):
        sources = {name: one for name, one in images.items() if name != target}
        named = f"{target} ({number + 1} of {len(images)})"
        right = yield from _adapt_to(images[target], sources, config, named)
        targets.append({"target": target, "sources": list(sources), "n_images": len(images[target])} | _summary(right))
    accuracies = {name: [t["accuracy"][name]["mean"] for t in targets] for name in targets[0]["accuracy"]}
    return {
        "experiment": "domains",
        "config": dataclasses.asdict(config),
        "data": {name: one.source for name, one in images.items()},
        "classes": list(next(iter(images.values())).class_names),
        "targets": targets,
        "mean_accuracy": {name: sum(values) / len(values) for name, values in accuracies.items()},
    }


def _summary(right: dict[str, Tensor]) -> dict[str, Any]:
    pairs = (("rotation", "fixed"), ("rotation + steps", "rotation"), ("rotation + steps", "fixed"))
    return {
        "accuracy": {name: Estimate.from_values(values).record("mean") for name, values in right.items()},
        "difference": {f"{a} - {b}": paired(right[a], right[b]).record("mean") for a, b in pairs},
    }


def _adapt_to(
    target: ImageSet, sources: Domains, config: DomainsConfig, named: str
) -> Generator[Progress, None, dict[str, Tensor]]:
    """Whether each image of the target is answered right (1 or 0), for every variant."""
    every = list(sources.values())
    first = every[: len(every) - config.n_held_out]
    pixels = torch.cat([one.pixels[0] for one in first])
    with seeded(config.seed):
        backbone = backbones.create(config.backbone, pixels.shape[1], pixels.shape[-1])
    set_pixel_statistics(backbone, pixels)
    head = make_head(backbone.feature_size, len(target.class_names), config)
    yield from _pretrain(backbone, head, first, config, named)
    seen = [_features(backbone, one, config) for one in every]
    unseen = _features(backbone, target, config)
    # Only the direction of a weight was learned; at length 1 a step has the size it has in SIB.
    head.start.data = ops.normalise(head.start.data)
    heads = {name: _variant(head, rotation, n_steps) for name, (rotation, n_steps) in VARIANTS.items()}
    before = {"stage 1": _judge(_variant(head, False, 0), unseen, config)}
    yield from _meta_train(heads, seen, config, named)
    return before | {name: _judge(one, unseen, config) for name, one in heads.items()}


def make_head(feature_size: int, n_way: int, config: DomainsConfig) -> DomainHead:
    return DomainHead(feature_size, n_way, config.n_steps, config.step_size, config.rotation_step_size, config.seed)


def _variant(head: DomainHead, rotation: bool, n_steps: int | None) -> DomainHead:
    one = copy.deepcopy(head)
    one.rotation, one.n_steps = rotation, one.n_steps if n_steps is None else n_steps
    return one


def _pretrain(
    backbone: Backbone, head: DomainHead, sources: list[ImageSet], config: DomainsConfig, named: str
) -> Generator[Progress, None, None]:
    """Stage 1: class and turn together, every batch of one source."""
    size = min([config.pretrain_batch_size, *(len(one) for one in sources)])
    steps_per_epoch = sum(len(one) for one in sources) // size
    n_steps = config.pretrain_epochs * steps_per_epoch
    parameters = [*backbone.parameters(), head.start, head.maps, head.scale]
    optimiser = config.pretrain_optimisation.build(parameters)
    backbone.train()
    for step in range(n_steps):
        rng = np.random.default_rng([config.seed, 1, step])
        source = sources[step % len(sources)]
        rows = torch.from_numpy(rng.permutation(len(source))[:size])
        moved = augment(source.pixels[0, rows], config.augmentation, rng.random((size, N_DRAWS)))
        turns = torch.from_numpy(np.where(rng.random(size) < config.upright, 0, rng.integers(1, N_TURNS, size)))
        with precision(config.precision, backbone.device):
            features = backbone(turn(moved, turns)).float().unsqueeze(0)
        scores = head.score(head.turned_weights(head.start.unsqueeze(0)), features)[0]
        loss = functional.cross_entropy(scores, turns * head.start.shape[0] + source.labels[rows])
        _descend(optimiser, config.pretrain_optimisation, step, n_steps, loss)
        yield Progress(f"pretraining for {named}", step + 1, n_steps)
    backbone.eval()


@torch.no_grad()
def _features(backbone: Backbone, images: ImageSet, config: DomainsConfig) -> _Features:
    """Compute features with the normalisation statistics of these images, as every batch of stage 1 had its own.

    Yanghao Li, Naiyan Wang, Jianping Shi, Jiaying Liu, Xiaodi Hou. Revisiting Batch Normalization for Practical Domain
    Adaptation. 2016, arXiv:1603.04779.
    """
    own, pixels, n_images = copy.deepcopy(backbone), images.pixels[0], len(images)
    with precision(config.precision, own.device):
        if config.own_statistics:
            for module in own.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.reset_running_stats()
                    module.momentum = None  # the plain mean over batches, which therefore are of one size
            own.train()
            order = torch.from_numpy(np.random.default_rng([config.seed, 2]).permutation(n_images))
            for rows in order.tensor_split(math.ceil(N_TURNS * n_images / CHUNK)):
                own(torch.cat([pixels[rows].rot90(quarters, (2, 3)) for quarters in range(N_TURNS)]))
        own.eval()
        chunks = pixels.tensor_split(math.ceil(n_images / CHUNK))
        parts = [torch.cat([own(chunk.rot90(quarters, (2, 3))) for chunk in chunks]) for quarters in range(N_TURNS)]
    return _Features(torch.stack(parts, 1).float(), images.labels)


def _meta_train(
    heads: dict[str, DomainHead], sources: list[_Features], config: DomainsConfig, named: str
) -> Generator[Progress, None, None]:
    """Stage 2: all heads on the same tasks, one of every source in each step."""
    optimisation = config.meta_optimisation
    optimisers = {name: optimisation.build(head.parameters()) for name, head in heads.items()}
    size = min([config.batch_size, *(len(one) for one in sources)])
    for step in range(config.meta_steps):
        rng = np.random.default_rng([config.seed, 3, step])
        rows = [torch.from_numpy(rng.permutation(len(one))[:size]) for one in sources]
        turned = torch.stack([one.turned[r] for one, r in zip(sources, rows, strict=True)])
        labels = torch.stack([one.labels[r] for one, r in zip(sources, rows, strict=True)])
        for name, head in heads.items():
            loss = functional.cross_entropy(head(turned).flatten(0, 1), labels.flatten())
            _descend(optimisers[name], optimisation, step, config.meta_steps, loss)
        yield Progress(f"meta-training for {named}", step + 1, config.meta_steps)


def _descend(
    optimiser: torch.optim.Optimizer, optimisation: Optimisation, step: int, n_steps: int, loss: Tensor
) -> None:
    if not loss.isfinite():
        raise DivergedError(f"The loss became {loss.item()} at step {step + 1}; choose a smaller learning rate.")
    for group in optimiser.param_groups:
        group["lr"] = optimisation.learning_rate_at(step, n_steps)
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()


def _judge(head: DomainHead, target: _Features, config: DomainsConfig) -> Float[Tensor, "N"]:
    """Every image of the target is in one task; tasks are of nearly the same size."""
    n_tasks = max(1, round(len(target) / config.batch_size))
    order = torch.from_numpy(np.random.default_rng([config.seed, 4]).permutation(len(target)))
    right = torch.empty(len(target))
    for rows in order.tensor_split(n_tasks):
        with torch.inference_mode():
            answers = head(target.turned[rows].unsqueeze(0))[0].argmax(-1)
        right[rows] = (answers == target.labels[rows]).float()
    return right
