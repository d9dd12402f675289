"""A method from tasks: of the features of one data set or of several, or of images, together with its network."""

import dataclasses
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from onelook.artifacts import load_backbone
from onelook.configuration import description
from onelook.data.sampler import TaskSampler, TaskSpec
from onelook.data.sources import augmentation_of, open_split
from onelook.data.synthetic import synthetic_suite
from onelook.data.variants import variants
from onelook.errors import SettingsError
from onelook.events import Notice
from onelook.methods import EndToEnd, Glance, ImageMethod, settings_of
from onelook.tasks import Embeddings
from onelook.train import (
    ImageMetaTraining,
    MetaTrainConfig,
    MixedConfig,
    MixedTraining,
    recipes,
    seconds_of_a_step,
    train,
)
from onelook.train.recipes import MethodRequest, build, ready
from onelook.workflows.embedding import N_VIEWS, features
from onelook.workflows.place import Place


def meta_train(
    data: str, checkpoint: Path, request: MethodRequest, spec: TaskSpec, run: Path, place: Place,
    n_steps: int | None = None, average: str = "none",
) -> Generator[Any, None, Path]:  # fmt: skip
    """A method trained on tasks of the training classes of `data`; returns the path of the trained method."""
    backbone, _ = load_backbone(checkpoint)
    recipes.require_weights(request, spec)
    training = yield from features(data, "train", backbone, place, N_VIEWS, average)
    validation = yield from features(data, "val", backbone, place, average=average)
    return (yield from recipes.meta_train(request, spec, training, validation, run, n_steps))


def meta_train_mixed(
    sources: Sequence[str], request: MethodRequest, config: MixedConfig, run: Path, place: Place,
    n_variants: int = 0, average: str = "none",
) -> Generator[Any, None, Path]:  # fmt: skip
    """A method for any task and any feature network; returns its path.

    sources: DATA@FILE of a feature network, or synthetic:N for N made-up sets.
    n_variants: of the features of each real source, as further feature networks (`data.variants`).
    """
    recipes.require_name(request)
    method = build(request, TaskSpec(seed=config.seed))
    if not isinstance(method, Glance):
        raise SettingsError(f"Only glance is trained on several sources, and not {request.label}; give --data.")
    training: list[Embeddings] = []
    validation: list[Embeddings] = []
    for i, source in enumerate(sources):
        kind, _, number = source.partition(":")
        if kind == "synthetic" and number.isdigit() and int(number) > 0:
            training += synthetic_suite(config.seed, int(number))
            continue
        data, at, file = source.rpartition("@")
        if not at:
            raise SettingsError(f"A source is DATA@FILE of a feature network, or synthetic:N, but got {source!r}.")
        backbone, _ = load_backbone(Path(file))
        found = yield from features(data, "train", backbone, place, average=average)
        training += [found, *variants(found, config.seed + i, n_variants)]
        validation.append((yield from features(data, "val", backbone, place, average=average)))
    if not validation:
        raise SettingsError("Without a real source there is nothing to choose the best weights by; add DATA@FILE.")
    objective = MixedTraining(method, training, validation, config)
    about = {
        "method": request.name, "settings": settings_of(method), **description(config), "sources": list(sources),
        "variants": n_variants, "average": average, "features": recipes.features_digest(*training, *validation),
    }  # fmt: skip
    return (yield from train(objective, config.optimisation, about, run))


def end_to_end(
    spec: TaskSpec, n_steps: int | None = None, tasks_per_step: int | None = None, learning_rate: float | None = None
) -> MetaTrainConfig:
    """For `meta_train_images` on tasks of one shot; None: as it is known to work."""
    config = dataclasses.replace(recipes.END_TO_END, shots=(spec.n_shot,))
    optimisation = config.optimisation
    if learning_rate is not None:
        optimisation = dataclasses.replace(optimisation, learning_rate=learning_rate)
    return dataclasses.replace(
        recipes.with_tasks(config, spec), n_steps=n_steps or config.n_steps, optimisation=optimisation,
        tasks_per_step=tasks_per_step or config.tasks_per_step,
    )  # fmt: skip


def meta_train_images(
    data: str, checkpoint: Path, request: MethodRequest, config: MetaTrainConfig, run: Path, place: Place,
) -> Generator[Any, None, Path]:  # fmt: skip
    """A method trained together with its feature network, which begins as that of `checkpoint`.

    A method of features that learns begins as it comes out of its training on the features of `checkpoint`, by the
    recipe of the request: that costs little, and the network is not led astray by a method that knows nothing yet.
    """
    recipes.require_name(request)
    backbone, _ = load_backbone(checkpoint)
    identity = backbone.digest().hex()[:16]
    training = yield from open_split(data, "train", backbone.image_size, backbone.channels, place.home)
    validation = yield from open_split(data, "val", backbone.image_size, backbone.channels, place.home)
    for spec in config.specs:
        TaskSampler(validation, spec)  # too few validation classes are refused now, not after hours
    untrained = build(request, config.tasks, backbone.feature_size, len(training.class_names), backbone)
    method = untrained if isinstance(untrained, ImageMethod) else EndToEnd(backbone, untrained)
    augmentation = augmentation_of(data)
    objective = ImageMetaTraining(method, training, validation, config, augmentation, place.precision)
    if not (run / "model.safetensors").exists():
        minutes = seconds_of_a_step(objective) * config.n_steps / 60
        yield Notice(f"{request.label}: {config.n_steps:,} steps of {config.tasks_per_step} tasks of images, about "
                     f"{minutes:.0f} minutes on this machine if it begins now; Ctrl-C stops it, and the same command "
                     f"goes on.")  # fmt: skip
    if method is not untrained:
        known = yield from features(data, "train", backbone, place, N_VIEWS)
        chosen = yield from features(data, "val", backbone, place)
        made = yield from ready(request, config.tasks, backbone.feature_size, known, chosen, run / "head")
        method = EndToEnd(backbone, made.method)
        objective = ImageMetaTraining(method, training, validation, config, augmentation, place.precision)
    about = {
        "method": request.label, "data": data, "n_images": len(training), "network": identity,
        "augmentation": dataclasses.asdict(augmentation), "precision": place.precision, **description(config),
    }  # fmt: skip
    # Steps of images are dear: a minute of them at most is lost to a kill.
    return (yield from train(objective, config.optimisation, about, run, save_every=50))
