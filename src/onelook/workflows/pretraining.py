"""A feature network from images: by a classifier of their classes, or by episodes."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch

from onelook import backbones
from onelook.backbones import Backbone
from onelook.configuration import description
from onelook.data.images import ImageSet
from onelook.data.sampler import TaskSampler, TaskSpec
from onelook.data.sources import open_split
from onelook.errors import SettingsError, unknown_name
from onelook.train import EpisodicPretraining, MetaTrainConfig, PretrainConfig, Pretraining, train
from onelook.train.recipes import MethodRequest, build, has_weights
from onelook.train.teacher import load_teacher
from onelook.workflows.place import Place


def pretrain(
    data: str, name: str, config: PretrainConfig, run: Path, place: Place, image_size: int | None = None,
    teacher_file: Path | None = None,
) -> Generator[Any, None, Path]:  # fmt: skip
    """A feature network from the training classes of `data`; returns the path of the model.

    teacher_file: of a network that was pretrained on the same classes, from which this one learns too.
    """
    require_backbone(name)
    teacher = None if teacher_file is None else load_teacher(teacher_file)
    training = yield from open_split(data, "train", image_size, home=place.home)
    validation = yield from open_split(data, "val", image_size, home=place.home)
    if config.batch_size > len(training) * len(training.pixels):
        raise SettingsError(f"{training.source} has {len(training)} images, fewer than a batch of "
                            f"{config.batch_size}; choose a smaller --batch-size.")  # fmt: skip
    TaskSampler(validation, TaskSpec())  # too few validation classes are refused now, not after an epoch
    backbone = new_backbone(name, training, config.seed)
    objective = Pretraining(name, backbone, training, validation, config, teacher)
    taught = {} if teacher is None else {"teacher": teacher.digest()}
    about = _about(name, backbone, training, config, objective="classes", **taught)
    return (yield from train(objective, config.optimisation, about, run))


def pretrain_by_episodes(
    data: str, name: str, request: MethodRequest, config: MetaTrainConfig, run: Path, place: Place,
    image_size: int | None = None,
) -> Generator[Any, None, Path]:  # fmt: skip
    """A feature network from tasks of images, taught through a method without weights of its own."""
    require_backbone(name)
    if request.file or has_weights(build(request, config.tasks)):
        raise SettingsError(f"{request.label} begins with a network that was pretrained; run `onelook pretrain`, "
                            f"then `onelook train --backbone` with its file.")  # fmt: skip
    training = yield from open_split(data, "train", image_size, home=place.home)
    validation = yield from open_split(data, "val", image_size, home=place.home)
    backbone = new_backbone(name, training, config.tasks.seed)
    method = build(request, config.tasks, backbone.feature_size)
    own = config.tasks  # as EpisodicPretraining validates
    TaskSampler(validation, TaskSpec(n_shot=own.n_shot, n_query=min(15, own.n_query)))
    objective = EpisodicPretraining(name, backbone, method, training, validation, config, place.precision)
    about = _about(name, backbone, training, config, objective=request.label, precision=place.precision)
    return (yield from train(objective, config.optimisation, about, run))


def require_backbone(name: str) -> None:
    """Raises SettingsError where there is no such network; before the images are read, which may take long."""
    if name not in backbones.BACKBONES:
        raise unknown_name("feature network", name, backbones.BACKBONES)


def new_backbone(name: str, images: ImageSet, seed: int) -> Backbone:
    """Untrained, for images of this shape. The same seed gives the same first weights."""
    channels, size = images.pixels.shape[2], images.pixels.shape[3]
    with torch.random.fork_rng(devices=[]):  # layers draw from the global generator; it is given back as it was
        torch.manual_seed(seed)
        return backbones.create(name, channels, size)


def _about(name: str, backbone: Backbone, images: ImageSet, config: Any, **more: Any) -> dict[str, Any]:
    return {
        "backbone": name, "image_size": backbone.image_size, "channels": backbone.channels,
        "data": images.source, "n_images": len(images), **description(config), **more,
    }  # fmt: skip
