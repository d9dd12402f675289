"""Meta-training: a method over tasks, of kept features or together with the network that computes them."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from onelook.artifacts import Artifact, backbone_artifact, method_artifact
from onelook.backbones import Backbone
from onelook.data.embed import EmbedConfig, embed, precision
from onelook.data.images import ImageSet
from onelook.data.sampler import TaskSampler, TaskSpec
from onelook.events import finish
from onelook.methods import Method
from onelook.scoring import Interval, mean_accuracy
from onelook.tasks import Embeddings
from onelook.train.loop import Optimisation
from onelook.train.pretraining import set_pixel_statistics


@dataclass(frozen=True)
class MetaTrainConfig:
    n_steps: int = 6000
    tasks_per_step: int = 8
    tasks: TaskSpec = field(default_factory=TaskSpec)
    """The tasks of training; those of validation have the same sizes."""
    optimisation: Optimisation = field(
        default_factory=lambda: Optimisation("adam", learning_rate=1e-2, weight_decay=0.0, schedule="one-cycle")
    )
    validate_every: int = 500
    n_validation_tasks: int = 1000


class MetaTraining:
    """A method over tasks of features."""

    def __init__(self, method: Method, training: Embeddings, validation: Embeddings, config: MetaTrainConfig) -> None:
        self.config = config
        self.module = self.method = method
        self.sampler = TaskSampler(training, config.tasks)
        self.validation = validation
        self.n_steps = config.n_steps
        self.validate_every = config.validate_every

    def loss(self, step: int) -> Tensor:
        n = self.config.tasks_per_step
        return self.method.loss(self.sampler.sample(range(step * n, (step + 1) * n)))

    def validate(self) -> Interval:
        n_tasks = self.config.n_validation_tasks
        return finish(mean_accuracy(self.method, self.validation, self.config.tasks, n_tasks))

    def artifact(self, about: dict[str, Any]) -> Artifact:
        return method_artifact(self.method, about)


class EpisodicPretraining:
    """A method over tasks of images, together with the feature network; the network is what is kept."""

    def __init__(
        self, name: str, backbone: Backbone, method: Method, training: ImageSet, validation: ImageSet,
        config: MetaTrainConfig, precision: str = "bfloat16",
    ) -> None:  # fmt: skip
        self.name = name
        self.config = config
        self.backbone = backbone
        self.method = method
        self.module = nn.ModuleDict({"backbone": backbone, "method": method})
        self.sampler = TaskSampler(training, config.tasks)
        self.validation = validation
        self.precision = precision
        set_pixel_statistics(backbone, training.pixels.flatten(0, 1))
        self.n_steps = config.n_steps
        self.validate_every = config.validate_every

    def loss(self, step: int) -> Tensor:
        n = self.config.tasks_per_step
        tasks = self.sampler.sample(range(step * n, (step + 1) * n))
        with precision(self.precision):
            features = tasks.map_items(self.backbone)
        return self.method.loss(features.map_items(Tensor.float))

    def validate(self) -> Interval:
        embeddings = finish(embed(self.validation, self.backbone, EmbedConfig(precision=self.precision)))
        spec = TaskSpec(n_way=5, n_shot=self.config.tasks.n_shot, n_query=min(15, self.config.tasks.n_query))
        return finish(mean_accuracy(self.method, embeddings, spec, self.config.n_validation_tasks))

    def artifact(self, about: dict[str, Any]) -> Artifact:
        return backbone_artifact(self.backbone, self.name, about)
