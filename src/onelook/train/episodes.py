"""Meta-training: a method over tasks, of features or together with the backbone that computes them."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from onelook.artifacts import Artifact, backbone_artifact, method_artifact
from onelook.backbones import Backbone
from onelook.data.augment import N_DRAWS, Augmentation, augment
from onelook.data.embed import EmbedConfig, embed, precision
from onelook.data.images import ImageSet
from onelook.data.sampler import TaskSampler, TaskSpec, Views
from onelook.errors import Checked, PositiveInt, TwoOrMore
from onelook.events import finish
from onelook.methods import EndToEnd, ImageMethod, Method
from onelook.scoring import Estimate, mean_accuracy
from onelook.tasks import Tasks
from onelook.train.optimisation import Optimisation
from onelook.train.pretraining import set_pixel_statistics
from onelook.train.processes import ALL


@dataclass(frozen=True)
class MetaTrainConfig(Checked):
    n_steps: PositiveInt = 6000
    tasks_per_step: PositiveInt = 8
    tasks: TaskSpec = field(default_factory=TaskSpec)
    """Tasks of training and of validation."""
    optimisation: Optimisation = field(
        default_factory=lambda: Optimisation("adam", learning_rate=1e-2, weight_decay=0.0, schedule="one-cycle")
    )
    validate_every: PositiveInt = 500
    n_validation_tasks: TwoOrMore = 1000
    shots: tuple[int, ...] = ()
    """Labelled examples per class of steps 0, 1, 2, … in turns, for a multi-shot method; empty: those of `tasks`.
    Validation is the mean over them."""

    @property
    def specs(self) -> tuple[TaskSpec, ...]:
        return tuple(replace(self.tasks, n_shot=n) for n in self.shots or (self.tasks.n_shot,))


class Episodes:
    """Tasks of each step of a training; those of step i are a pure function of (seed, i)."""

    def __init__(self, data: Views, config: MetaTrainConfig) -> None:
        self.n_tasks = config.tasks_per_step
        self.samplers = [TaskSampler(data, spec) for spec in config.specs]

    def draw(self, step: int, rows: slice = ALL) -> Tasks:
        sampler = self.samplers[step % len(self.samplers)]
        return sampler.sample(range(step * self.n_tasks, (step + 1) * self.n_tasks)[rows])


class MetaTraining:
    """A method over tasks of features."""

    module: nn.Module

    def __init__(self, method: Method, training: Views, validation: Views, config: MetaTrainConfig) -> None:
        self.config = config
        self.module = self.method = method
        self.episodes = Episodes(training, config)
        self.validation = validation
        self.n_steps = config.n_steps
        self.batch_size = config.tasks_per_step
        self.validate_every = config.validate_every

    def loss(self, step: int, rows: slice = ALL) -> Tensor:
        return self.method.loss(self.episodes.draw(step, rows).to(self.method.device))

    def validate(self) -> Estimate:
        return _accuracy(self.method, self.validation, self.config)

    def artifact(self, about: dict[str, Any]) -> Artifact:
        return method_artifact(self.method, about)


class ImageMetaTraining(MetaTraining):
    """A method of images, its backbone included, over tasks of augmented images."""

    def __init__(
        self,
        method: ImageMethod,
        training: ImageSet,
        validation: ImageSet,
        config: MetaTrainConfig,
        augmentation: Augmentation,
        precision: str = "bfloat16",
    ) -> None:
        super().__init__(method, training, validation, config)
        self.images = validation
        self.augmentation = augmentation
        self.precision = precision

    def loss(self, step: int, rows: slice = ALL) -> Tensor:
        tasks = self.episodes.draw(step, rows).to(self.method.device)
        rng = np.random.default_rng([self.config.tasks.seed, 1, step])
        sizes = tasks.support.shape[1], tasks.query.shape[1]
        drawn = [rng.random((self.batch_size, size, N_DRAWS))[rows].reshape(-1, N_DRAWS) for size in sizes]
        tasks = tasks.map_items(lambda pixels: augment(pixels, self.augmentation, np.concatenate(drawn)))
        with precision(self.precision, self.method.device):
            return self.method.loss(tasks).float()

    def validate(self) -> Estimate:
        if not isinstance(self.method, EndToEnd):
            return _accuracy(self.method, self.validation, self.config, self.precision)
        # Every image goes through the network once, and not once for each task that it is in.
        features = finish(embed(self.images, self.method.backbone, EmbedConfig(precision=self.precision)))
        return _accuracy(self.method.head, features, self.config)


def _accuracy(method: Method, data: Views, config: MetaTrainConfig, compute: str = "float32") -> Estimate:
    """The mean over the shots that are trained."""
    found = [finish(mean_accuracy(method, data, spec, config.n_validation_tasks, compute)) for spec in config.specs]
    return Estimate.average(found)  # as if the tasks of one shot had nothing to do with those of another


class EpisodicPretraining(MetaTraining):
    """A method over tasks of images, together with the backbone, which is what is saved."""

    def __init__(
        self,
        name: str,
        backbone: Backbone,
        method: Method,
        training: ImageSet,
        validation: ImageSet,
        config: MetaTrainConfig,
        precision: str = "bfloat16",
    ) -> None:
        super().__init__(method, training, validation, config)
        self.name = name
        self.backbone = backbone
        self.module = nn.ModuleDict({"backbone": backbone, "method": method})
        self.images = validation
        self.precision = precision
        self.validation_spec = TaskSpec(n_shot=config.tasks.n_shot, n_query=min(15, config.tasks.n_query))
        set_pixel_statistics(backbone, training.pixels.flatten(0, 1))

    def loss(self, step: int, rows: slice = ALL) -> Tensor:
        tasks = self.episodes.draw(step, rows).to(self.backbone.device)
        with precision(self.precision, self.backbone.device):
            features = tasks.map_items(self.backbone)
        return self.method.loss(features.map_items(Tensor.float))

    def validate(self) -> Estimate:
        embeddings = finish(embed(self.images, self.backbone, EmbedConfig(precision=self.precision)))
        return finish(mean_accuracy(self.method, embeddings, self.validation_spec, self.config.n_validation_tasks))

    def artifact(self, about: dict[str, Any]) -> Artifact:
        return backbone_artifact(self.backbone, self.name, about)
