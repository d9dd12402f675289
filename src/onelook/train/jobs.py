"""Whole trainings: the name of a data set becomes the file of a backbone or a method."""

import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from onelook import backbones
from onelook.artifacts import load_backbone, load_method, with_settings
from onelook.backbones import Backbone
from onelook.data.images import ImageSet
from onelook.data.sampler import TaskSampler, TaskSpec
from onelook.data.sources import N_VIEWS, open_data
from onelook.data.synthetic import synthetic_suite
from onelook.data.variants import variants
from onelook.data.vectors import load_features
from onelook.errors import SettingsError, describe_seconds, unknown_name
from onelook.events import Notice
from onelook.files import digest
from onelook.machine import Place, seeded
from onelook.methods import EndToEnd, Glance, ImageMethod, find_name
from onelook.tasks import Embeddings
from onelook.train import recipes
from onelook.train.episodes import EpisodicPretraining, ImageMetaTraining, MetaTrainConfig
from onelook.train.loop import Objective, train
from onelook.train.mixed import MixedConfig, MixedTraining
from onelook.train.pretraining import PretrainConfig, Pretraining
from onelook.train.recipes import MethodRequest, build, has_weights, ready
from onelook.train.teacher import load_teacher


def pretrain(
    data: str,
    name: str,
    config: PretrainConfig,
    run: Path,
    place: Place,
    image_size: int | None = None,
    teacher_file: Path | None = None,
) -> Generator[Any, None, Path]:
    """Train a backbone on the training classes of `data`; returns the path of the model.

    teacher_file: a backbone that was pretrained on the same classes, from which this one learns too.
    """
    require_backbone(name)
    teacher = None if teacher_file is None else load_teacher(teacher_file)
    training, validation = yield from _images(data, place, image_size)
    if config.batch_size > len(training) * len(training.pixels):
        found = f"{training.source} has {len(training)} images, fewer than a batch of {config.batch_size}"
        raise SettingsError(f"{found}; choose a smaller --batch-size.")
    TaskSampler(validation, TaskSpec())  # too few validation classes are refused now, not after an epoch
    backbone = new_backbone(name, training, config.seed)
    objective = Pretraining(name, backbone, training, validation, config, teacher)
    taught = {} if teacher is None else {"teacher": teacher.digest()}
    about = _about(name, backbone, training, config, objective="classes", **taught)
    objective.module.to(place.device)
    return (yield from train(objective, config.optimisation, about, run))


def pretrain_by_episodes(
    data: str,
    name: str,
    request: MethodRequest,
    config: MetaTrainConfig,
    run: Path,
    place: Place,
    image_size: int | None = None,
) -> Generator[Any, None, Path]:
    """Train a backbone on tasks of images, through a method without weights of its own."""
    require_backbone(name)
    if request.file or has_weights(build(request, config.tasks)):
        raise SettingsError(
            f"{request.label} begins with a network that was pretrained; run `onelook pretrain`, then `onelook train "
            f"--backbone` with its file."
        )
    training, validation = yield from _images(data, place, image_size)
    backbone = new_backbone(name, training, config.tasks.seed)
    method = build(request, config.tasks, backbone.feature_size)
    objective = EpisodicPretraining(name, backbone, method, training, validation, config, place.precision)
    TaskSampler(validation, objective.validation_spec)
    about = _about(name, backbone, training, config, objective=request.label, precision=place.precision)
    objective.module.to(place.device)
    return (yield from train(objective, config.optimisation, about, run))


def _images(
    data: str, place: Place, size: int | None, channels: int | None = None
) -> Generator[Any, None, tuple[ImageSet, ImageSet]]:
    """Images to train on and to validate on."""
    source = open_data(data, place.home)
    training = yield from source.images("train", size, channels)
    return training, (yield from source.images("val", size, channels))


def require_backbone(name: str) -> None:
    """Raises SettingsError for a backbone that does not exist; before the images are read, which may take long."""
    if name not in backbones.BACKBONES:
        raise unknown_name("feature network", name, backbones.BACKBONES)


def new_backbone(name: str, images: ImageSet, seed: int) -> Backbone:
    """Make an untrained backbone for images of this shape. The same seed gives the same first weights."""
    channels, size = images.pixels.shape[2], images.pixels.shape[3]
    with seeded(seed):
        return backbones.create(name, channels, size)


def _about(name: str, backbone: Backbone, images: ImageSet, config: Any, **more: Any) -> dict[str, Any]:
    return {
        "backbone": name,
        "image_size": backbone.image_size,
        "channels": backbone.channels,
        "data": images.source,
        "n_images": len(images),
        **asdict(config),
        **more,
    }


def meta_train(
    data: str,
    checkpoint: Path,
    request: MethodRequest,
    spec: TaskSpec,
    run: Path,
    place: Place,
    n_steps: int | None = None,
    average: str = "none",
) -> Generator[Any, None, Path]:
    """Train a method on tasks of the training classes of `data`; returns the path of the trained method."""
    backbone, _ = load_backbone(checkpoint)
    recipes.require_name(request)
    recipes.require_features(request)
    recipes.require_weights(request, build(request, spec))
    source = open_data(data, place.home)
    training = yield from source.embed("train", backbone, place, N_VIEWS, average)
    validation = yield from source.embed("val", backbone, place, average=average)
    method = build(request, spec, training.feature_size, len(training.class_names)).to(place.device)
    return (yield from recipes.resolve(request, spec, training, validation, n_steps, method).train(run))


def meta_train_mixed(
    sources: Sequence[str],
    request: MethodRequest,
    config: MixedConfig,
    run: Path,
    place: Place,
    n_variants: int = 0,
    average: str = "none",
) -> Generator[Any, None, Path]:
    """Train a method for any task and any backbone, from the weights of its file if it has one; returns its path.

    sources: DATA@FILE of a backbone, FILE.npz of features and labels, or synthetic:N for N made-up sets. The
        validation classes are those of the first kind.
    n_variants: variants of the features of each real source, as of further backbones (`data.variants`).
    """
    start = {}
    if request.file is None:
        method = build(request, TaskSpec(seed=config.seed))
    else:
        method = with_settings(load_method(request.file)[0], request.label, request.settings)
        start["start"] = digest(request.file.read_bytes()).hex()[:16]
    if not isinstance(method, Glance):
        raise SettingsError(f"Only glance is trained on multiple sources, and not {request.label}; give --data.")
    training: list[Embeddings] = []
    validation: list[Embeddings] = []
    for i, source in enumerate(sources):
        found, others = yield from _open_source(source, config.seed, place, average)
        real = [] if source.startswith("synthetic:") else found
        training += [*found, *(other for one in real for other in variants(one, config.seed + i, n_variants))]
        validation += others
    if not validation:
        raise SettingsError("Without a real source there is nothing to choose the best weights by; add DATA@FILE.")
    objective = MixedTraining(method.to(place.device), training, validation, config)
    about = {
        "method": find_name(method),
        "settings": method.settings(),
        **start,
        **asdict(config),
        "sources": list(sources),
        "variants": n_variants,
        "average": average,
        "features": recipes.features_digest(*training, *validation),
    }
    return (yield from train(objective, config.optimisation, about, run))


def _open_source(
    source: str, seed: int, place: Place, average: str
) -> Generator[Any, None, tuple[list[Embeddings], list[Embeddings]]]:
    """Features of the training classes of a source, and those of its validation classes, if it has any."""
    kind, _, number = source.partition(":")
    if kind == "synthetic" and number.isdigit() and int(number) > 0:
        return synthetic_suite(seed, int(number)), []
    if source.endswith(".npz"):
        return [load_features(Path(source))], []
    data, at, file = source.rpartition("@")
    if not at:
        raise SettingsError(
            f"A source is DATA@FILE of a feature network, FILE.npz of features, or synthetic:N, but got {source!r}."
        )
    backbone, _ = load_backbone(Path(file))
    opened = open_data(data, place.home)
    training = yield from opened.embed("train", backbone, place, average=average)
    return [training], [(yield from opened.embed("val", backbone, place, average=average))]


def end_to_end(
    spec: TaskSpec, n_steps: int | None = None, tasks_per_step: int | None = None, learning_rate: float | None = None
) -> MetaTrainConfig:
    """Configuration for `meta_train_images` on tasks of one shot; None: as it is known to work."""
    config = recipes.with_tasks(replace(recipes.END_TO_END, shots=(spec.n_shot,)), spec)
    rate = config.optimisation.learning_rate if learning_rate is None else learning_rate
    return replace(
        config,
        n_steps=n_steps or config.n_steps,
        tasks_per_step=tasks_per_step or config.tasks_per_step,
        optimisation=replace(config.optimisation, learning_rate=rate),
    )


def meta_train_images(
    data: str, checkpoint: Path, request: MethodRequest, config: MetaTrainConfig, run: Path, place: Place
) -> Generator[Any, None, Path]:
    """Train a method together with its backbone, which begins as that of `checkpoint`.

    A method of features that learns is trained on the features of `checkpoint` first, by the recipe of the request:
    that costs little, and an untrained method does not lead the backbone astray.
    """
    recipes.require_name(request)
    backbone, _ = load_backbone(checkpoint)
    identity = backbone.digest().hex()[:16]
    source = open_data(data, place.home)
    training, validation = yield from _images(data, place, backbone.image_size, backbone.channels)
    for spec in config.specs:
        TaskSampler(validation, spec)  # too few validation classes are refused now, not after hours
    untrained = build(request, config.tasks, backbone.feature_size, len(training.class_names), backbone)
    method = untrained if isinstance(untrained, ImageMethod) else EndToEnd(backbone, untrained)
    augmentation = source.augmentation
    objective = ImageMetaTraining(method.to(place.device), training, validation, config, augmentation, place.precision)
    if not (run / "model.safetensors").exists():
        cost = describe_seconds(seconds_of_a_step(objective) * config.n_steps)
        yield Notice(
            f"{request.label}: {config.n_steps:,} steps of {config.tasks_per_step} tasks of images, about "
            f"{cost} on this machine if it begins now; Ctrl-C stops it, and the same command goes on."
        )
    if method is not untrained:
        known = yield from source.embed("train", backbone, place, N_VIEWS)
        chosen = yield from source.embed("val", backbone, place)
        made = yield from ready(
            request, config.tasks, backbone.feature_size, known, chosen, run / "head", device=place.device
        )
        method = EndToEnd(backbone, made.method).to(place.device)
        objective = ImageMetaTraining(method, training, validation, config, augmentation, place.precision)
    about = {
        "method": request.label,
        "data": data,
        "n_images": len(training),
        "network": identity,
        "augmentation": asdict(augmentation),
        "precision": place.precision,
        **asdict(config),
    }
    # Steps of images are dear: a minute of them at most is lost to a kill.
    return (yield from train(objective, config.optimisation, about, run, save_every=50))


def seconds_of_a_step(objective: Objective) -> float:
    """Duration of a step on this machine, measured by the second of two that leave no trace."""
    with torch.random.fork_rng(devices=[]):
        objective.module.train()
        for _ in range(2):
            started = time.perf_counter()
            objective.loss(0).backward()  # type: ignore[no-untyped-call]
            objective.module.zero_grad()
    return time.perf_counter() - started
