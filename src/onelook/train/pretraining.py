"""Pretraining: a classifier over the training classes, for the sake of its backbone."""

from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from onelook.artifacts import Artifact, backbone_artifact
from onelook.backbones import Backbone
from onelook.data.augment import N_DRAWS, Augmentation, augment, turn
from onelook.data.embed import EmbedConfig, embed, precision
from onelook.data.images import ImageSet
from onelook.data.sampler import TaskSpec
from onelook.errors import (
    Bound,
    Checked,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    TwoOrMore,
)
from onelook.events import finish
from onelook.machine import seeded
from onelook.methods import FeatureAveraging
from onelook.scoring import Estimate, mean_accuracy
from onelook.train.mixup import Mixture, Mixup
from onelook.train.optimisation import Optimisation
from onelook.train.processes import ALL, gather
from onelook.train.teacher import CosineClassifier, Distillation, Teacher


@dataclass(frozen=True)
class PretrainConfig(Checked):
    epochs: PositiveInt = 60
    """Passes through the training images."""
    batch_size: TwoOrMore = 128
    """Images in a step."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    optimisation: Optimisation = field(default_factory=lambda: Optimisation(learning_rate=0.2))
    precision: str = "bfloat16"
    """Number format of the network: float32 or bfloat16. Weights and optimiser stay in float32."""
    rotation_weight: NonNegativeFloat = 0.0
    """Weight of the rotation-prediction loss (Gidaris et al. 2019); 0 disables it, and halves the work."""
    validate_every: PositiveInt | None = None
    """Steps between validations. Default: an epoch."""
    n_validation_tasks: TwoOrMore = 1000
    """Tasks of a validation: 5-way 1-shot, by feature averaging."""
    seed: NonNegativeInt = 0
    rotations: Annotated[int, Bound(">=", 1), Bound("<=", 3)] = 1
    """Rotated copies per image, where there is a rotation weight (paper: 3)."""
    mixup: NonNegativeFloat = 0.0
    """Alpha of manifold mixup (S2M2: 2); 0 disables it. Rotated copies are not mixed."""
    mixup_probability: Fraction = 1.0
    """Probability of applying mixup in a step."""
    teacher_weight: Fraction = 0.5
    """Weight of the teacher's answers in the loss; the labels have the rest."""
    temperature: PositiveFloat = 4.0
    """Divisor of the scores that are compared with the teacher's."""


class Pretraining:
    """A cosine classifier over all training classes; its backbone is saved, with the classifier beside it.

    Spyros Gidaris, Nikos Komodakis. Dynamic Few-Shot Visual Learning without Forgetting. CVPR 2018, arXiv:1804.09458.
    With `rotation_weight`: Spyros Gidaris, Andrei Bursuc, Nikos Komodakis, Patrick Pérez, Matthieu Cord. Boosting
    Few-Shot Visual Learning with Self-Supervision. ICCV 2019, arXiv:1906.05186. Departures: by default each image has
    one rotated copy, which halves the cost, where the paper has all three (`rotations` = 3); the head is two linear
    layers instead of a residual block.
    """

    def __init__(
        self,
        name: str,
        backbone: Backbone,
        training: ImageSet,
        validation: ImageSet,
        config: PretrainConfig,
        teacher: Teacher | None = None,
    ) -> None:
        torch_seed = torch.Generator().manual_seed(config.seed)
        self.name = name
        self.config = config
        self.backbone = backbone
        self.validation = validation
        n_views = len(training.pixels)
        # Channels last in memory, as augmentation reads them.
        pixels = training.pixels.flatten(0, 1)
        self.pixels = pixels.contiguous(memory_format=torch.channels_last)
        self.labels = training.labels.repeat(n_views)
        self.classifier = CosineClassifier(backbone.feature_size, len(training.class_names), torch_seed)
        if teacher is not None:
            teacher.require(backbone, len(training.class_names))
        self.teacher = teacher
        self.distillation = Distillation(config.teacher_weight, config.temperature)
        self.module = nn.ModuleDict({"backbone": backbone, "classifier": self.classifier})
        if config.rotation_weight:
            self.module["turns"] = _turns_head(backbone.feature_size, config.seed)
        set_pixel_statistics(backbone, pixels)
        self.mixup = Mixup(config.mixup, config.mixup_probability)
        self.steps_per_epoch = len(self.labels) // config.batch_size
        self.n_steps = config.epochs * self.steps_per_epoch
        self.batch_size = config.batch_size
        self.validate_every = config.validate_every or self.steps_per_epoch
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0))

    def loss(self, step: int, rows: slice = ALL) -> Tensor:
        epoch, batch = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng([self.config.seed, 0, epoch]).permutation(len(self.labels)))
        size, device = self.batch_size, self.backbone.device
        chosen = torch.from_numpy(self._order[1][batch * size : (batch + 1) * size])
        draws = np.random.default_rng([self.config.seed, 1, step]).random((size, N_DRAWS))[rows]
        images = augment(self.pixels[chosen[rows]].to(device), self.config.augmentation, draws)
        pixels, n = images, len(images)
        if self.config.rotation_weight:
            turns = np.random.default_rng([self.config.seed, 2, step]).integers(1, 4, size)[rows]
            # The other copies go on from the turn that was drawn, so that no two of an image are alike.
            copies = [torch.from_numpy((turns - 1 + i) % 3 + 1).to(device) for i in range(self.config.rotations)]
            pixels = torch.cat([images, *(turn(images, one) for one in copies)])
        rng = np.random.default_rng([self.config.seed, 3, step])
        mixture = self.mixup.draw(rng, len(self.backbone.parts()), size, device, rows)
        with precision(self.config.precision, device):
            change = None if mixture is None else (mixture.part, mixture.maps)
            features = self.backbone(pixels, change=change).float()
        taught = None
        if self.teacher is not None:
            taught = gather(self.teacher.logits(images, self.config.precision), rows, size)
        own = torch.arange(size, device=device)[rows]
        loss = self._of_classes(self.classifier(features[:n]), self.labels[chosen].to(device), taught, own, mixture)
        if self.config.rotation_weight:
            answers = torch.cat([torch.zeros(n, dtype=torch.long, device=device), *copies])
            loss = loss + self.config.rotation_weight * functional.cross_entropy(
                self.module["turns"](features), answers
            )
        return loss

    def _of_classes(
        self, logits: Tensor, labels: Tensor, taught: Tensor | None, own: Tensor, mixture: Mixture | None
    ) -> Tensor:
        """labels, taught: of the whole batch, of which the logits are those of the images `own`."""

        def of_answers(numbers: Tensor) -> Tensor:
            if taught is None:
                return functional.cross_entropy(logits, labels[numbers])
            return self.distillation.loss(logits, labels[numbers], taught[numbers])

        return of_answers(own) if mixture is None else mixture.loss(of_answers)

    def validate(self) -> Estimate:
        embeddings = finish(embed(self.validation, self.backbone, EmbedConfig(precision=self.config.precision)))
        method = FeatureAveraging(embeddings.feature_size)
        return finish(mean_accuracy(method, embeddings, TaskSpec(), self.config.n_validation_tasks))

    def artifact(self, about: dict[str, Any]) -> Artifact:
        return backbone_artifact(self.backbone, self.name, about, self.classifier)


def _turns_head(feature_size: int, seed: int) -> nn.Module:
    """Predicts from a feature the quarter turns of its image, 0 to 3."""
    with seeded(seed):
        return nn.Sequential(nn.Linear(feature_size, feature_size), nn.ReLU(), nn.Linear(feature_size, 4))


def set_pixel_statistics(backbone: Backbone, pixels: Tensor) -> None:
    """Mean and standard deviation of each channel, from at most 10,000 images spread over the set."""
    some = pixels[:: max(1, len(pixels) // 10_000)].double()
    backbone.pixel_mean.copy_(some.mean((0, 2, 3)).view(-1, 1, 1))
    backbone.pixel_std.copy_(some.std((0, 2, 3)).clamp_min(1.0).view(-1, 1, 1))
