"""The stages of the demo, and what they cost on this machine."""

import math
import tempfile
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onelook.artifacts import load_backbone
from onelook.data.embed import EmbedConfig, embed
from onelook.data.glyphs import GlyphsConfig, load_glyphs
from onelook.data.images import ImageSet
from onelook.data.sampler import TaskSpec
from onelook.data.scripts import characters
from onelook.data.sources import open_data
from onelook.errors import Checked, NonNegativeInt, PositiveInt, TwoOrMore, describe_seconds
from onelook.events import Notice, Progress, finish
from onelook.machine import Place
from onelook.tasks import Embeddings
from onelook.train.jobs import new_backbone
from onelook.train.loop import train
from onelook.train.optimisation import Optimisation
from onelook.train.pretraining import PretrainConfig, Pretraining
from onelook.train.recipes import MethodRequest, Ready, ready

METHODS = ("feature-averaging", "sib", "prototypical")
"""K = 0, K = 3 and prototypical networks; the first is the reference."""
BATCH, VALIDATE_EVERY = 128, 300
"""Images of a step of pretraining, and steps between its validations."""


@dataclass(frozen=True)
class DemoConfig(Checked):
    seed: NonNegativeInt = 0
    backbone: str = "conv4-64"
    glyphs: GlyphsConfig = GlyphsConfig(train_environments=7, val_environments=6, test_environments=8)
    epochs: PositiveInt = 1
    """Passes of pretraining through all environments."""
    meta_steps: PositiveInt = 1500
    """Steps of meta-training, of 8 tasks each."""
    n_tasks: TwoOrMore = 1000
    shots: tuple[int, ...] = (1, 5)
    n_pictures: PositiveInt = 3

    @property
    def specs(self) -> tuple[TaskSpec, ...]:
        return tuple(TaskSpec(n_shot=shot, seed=self.seed) for shot in self.shots)


def pretrain(
    config: DemoConfig, training: ImageSet, validation: ImageSet, folder: Path, place: Place
) -> Generator[Any, None, Path]:
    backbone = new_backbone(config.backbone, training, config.seed)
    settings = PretrainConfig(
        epochs=config.epochs,
        augmentation=open_data("glyphs").augmentation,
        precision=place.precision,
        seed=config.seed,
        optimisation=Optimisation(learning_rate=0.2),
        batch_size=BATCH,
        validate_every=VALIDATE_EVERY,
    )
    objective = Pretraining(config.backbone, backbone, training, validation, settings)
    about = {"data": training.source, "config": repr(settings)}
    objective.module.to(place.device)
    return (yield from train(objective, settings.optimisation, about, folder))


def meta_train(
    config: DemoConfig, spec: TaskSpec, training: Embeddings, validation: Embeddings, folder: Path
) -> Generator[Any, None, dict[str, Ready]]:
    trained = {}
    for name in METHODS:
        work = ready(MethodRequest(name), spec, training.feature_size, training, validation, folder, config.meta_steps)
        trained[name] = yield from work
    return trained


def announce(config: DemoConfig, place: Place) -> Generator[Any, None, None]:
    """Say how long the demo takes, from a few steps of each stage."""
    yield Progress("a few steps of each stage, to see what they cost", 0, 1)
    seconds = forecast(config, place)
    yield Notice(f"about {describe_seconds(seconds)} on this machine; Ctrl-C stops it, and the same command goes on.")


def forecast(config: DemoConfig, place: Place) -> float:
    """Seconds of the whole demo: each stage runs on a few images, in two sizes, and its cost is taken for linear."""
    started = time.perf_counter()

    def few(environments: int) -> Generator[Any, None, ImageSet]:
        return load_glyphs("val", replace(config.glyphs, val_environments=environments))

    drawing, rendering = _line(few, 1, 3)
    images = finish(few(1))
    n_few = len(images.labels)
    counts = {s: getattr(config.glyphs, f"{s}_environments") for s in ("train", "val", "test")}
    n_items = {s: len(characters(s)) * config.glyphs.images_per_class for s in counts}
    n_images = {s: counts[s] * n_items[s] for s in counts}
    total = sum(drawing * n_items[s] + rendering * n_images[s] for s in counts) / n_few
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def pretraining(epochs: int) -> Generator[Any, None, Path]:
            return pretrain(replace(config, epochs=epochs), images, images, folder / str(epochs), place)

        backbone, _ = load_backbone(finish(pretraining(2)))  # first, because a first call costs more than others
        validation, epoch = _line(pretraining, 1, 3)
        backbone.to(place.device)
        started_embedding = time.perf_counter()
        features = finish(embed(images, backbone, EmbedConfig(precision=place.precision)))
        embedding = time.perf_counter() - started_embedding
        n_steps = config.epochs * (n_images["train"] // BATCH)
        n_validations = math.ceil(n_steps / VALIDATE_EVERY)
        total += epoch * n_steps / (n_few // BATCH) + n_validations * validation
        total += embedding * (sum(n_images.values()) + n_validations * n_images["val"]) / n_few
        for spec in config.specs:

            def meta_training(n: int, spec: TaskSpec = spec) -> Generator[Any, None, Any]:
                return meta_train(replace(config, meta_steps=n), spec, features, features, folder)

            validation, step = _line(meta_training, 10, 40)
            total += step * config.meta_steps + validation * (1 + math.ceil(config.meta_steps / 500))
    return float(total + time.perf_counter() - started)


def _line(work: Callable[[int], Generator[Any, None, Any]], few: int, more: int) -> tuple[float, float]:
    """Seconds that work takes whatever its size, and seconds per unit of its size."""
    seconds = []
    for n in (few, more):
        started = time.perf_counter()
        finish(work(n))
        seconds.append(time.perf_counter() - started)
    slope = max(0.0, (seconds[1] - seconds[0]) / (more - few))
    return seconds[0] - few * slope, slope
