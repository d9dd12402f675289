"""`onelook pretrain`, `train` and `embed`: feature networks, methods, and the features of images."""

from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from onelook import artifacts
from onelook.backbones import BACKBONES
from onelook.cli import console
from onelook.cli.clustering import embed_by_ray
from onelook.cli.options import Fields, Json, options
from onelook.cli.terminal import write
from onelook.cluster.session import Cluster
from onelook.data.sampler import TaskSpec
from onelook.data.sources import open_data
from onelook.data.vectors import save_features
from onelook.errors import Bound, NonNegativeInt, PositiveInt, SettingsError, unknown_name
from onelook.files import Output, place_run
from onelook.machine import Place
from onelook.methods import list_settings
from onelook.train import jobs, processes
from onelook.train.episodes import MetaTrainConfig
from onelook.train.mixed import MixedConfig
from onelook.train.optimisation import Optimisation
from onelook.train.pretraining import PretrainConfig
from onelook.train.recipes import MethodRequest, parse_request

Job = Generator[Any, None, Path]
RunFolder = Annotated[Path, place_run("model.safetensors", "state.safetensors")]
ImageSize = Annotated[int, Bound(">=", 16), Bound("<=", 256)]


@options
def pretrain(
    config: Annotated[PretrainConfig, Fields(without=("augmentation", "precision"))],
    place: Annotated[Place, Fields(without=("cache", "memory"))],
    *,
    data: str = "glyphs",
    backbone: Annotated[str, f"Feature network to train: {', '.join(BACKBONES)}."] = "conv4-64",
    out: RunFolder = Path("runs/backbone"),
    teacher: Annotated[Path | None, "Network made by `onelook pretrain` on these data, to learn from as well."] = None,
    image_size: ImageSize | None = None,
    as_json: Json = False,
) -> None:
    """Train a feature network: a cosine classifier over the training classes.

    Example: onelook pretrain --data cifar-fs --backbone conv4-64 --epochs 60 --out runs/cifar-fs
    """
    with processes.joined():
        config = replace(config, augmentation=open_data(data).augmentation, precision=place.precision)
        path = console.run(jobs.pretrain(data, backbone, config, out, place, image_size, teacher), "pretraining")
    console.print_artifact(artifacts.load(path, "backbone"), path, as_json)


@dataclass(frozen=True)
class Training:
    """Settings of `onelook train`."""

    data: str = "glyphs"
    backbone: str = "conv4-64"
    """Feature network made by `onelook pretrain`, or the name of a new one, which is trained along by episodes."""
    method: str = "sib"
    """Name of a method (docs/methods.md), with settings such as sib:n_steps=5:recipe=published. With --sources also the
    file of a trained one, to go on from its weights."""
    end_to_end: bool = False
    """Train the feature network as well, from where `pretrain` left it."""
    steps: PositiveInt | None = None
    """Training steps. Default: those of the recipe."""
    tasks_per_step: PositiveInt | None = None
    """Tasks in a step, where a feature network is trained. Default: those of the recipe."""
    learning_rate: float | None = None
    """Highest learning rate of Adam, where a feature network is trained, and of --sources. Default: that of the
    recipe."""
    average: str = "none"
    sources: str | None = None
    """Data for one method that serves all, divided by commas: DATA@FILE of a feature network, FILE.npz of features, or
    synthetic:N."""
    variants: NonNegativeInt = 0
    """Variants of the features of each of --sources."""
    image_size: ImageSize | None = None


@options
def train(
    tasks: Annotated[TaskSpec, Fields(only=("n_way", "n_shot", "n_query", "seed"))],
    training: Training,
    place: Place,
    *,
    out: RunFolder = Path("runs/method"),
    as_json: Json = False,
) -> None:
    """Meta-train a method on tasks of the training classes.

    Examples: onelook train --data cifar-fs --backbone runs/cifar-fs/model.safetensors --method sib --out runs/sib;
    onelook train --data omniglot --backbone conv4-64 --method prototypical --way 60 --query 5 --out runs/omniglot
    """
    with processes.joined():
        request = parse_request(training.method)
        path = console.run(_start(training, request, tasks, out, place), "training")
    console.print_artifact(artifacts.load(path, artifacts.read_kind(path)), path, as_json)


def _start(training: Training, request: MethodRequest, tasks: TaskSpec, out: Path, place: Place) -> Job:
    """The job that suits the method and the feature network."""
    steps, tasks_per_step, rate = training.steps, training.tasks_per_step, training.learning_rate
    data, average, is_new = training.data, training.average, training.backbone in BACKBONES
    if training.sources is not None:
        n_tasks = tasks_per_step or MixedConfig.tasks_per_step
        mixed = MixedConfig(steps or MixedConfig.n_steps, n_tasks, seed=tasks.seed)
        if rate is not None:
            mixed = replace(mixed, optimisation=replace(mixed.optimisation, learning_rate=rate))
        sources = training.sources.split(",")
        return jobs.meta_train_mixed(sources, request, mixed, out, place, training.variants, average)
    along = training.end_to_end or (not request.file and "backbone" in list_settings(request.name))
    if average != "none" and (along or is_new):
        raise SettingsError(
            "A feature network that is trained as well is trained on single images; give --average to "
            "`onelook benchmark`."
        )
    if is_new:
        optimisation = Optimisation("adam", 2e-3 if rate is None else rate, weight_decay=0.0)
        config = MetaTrainConfig(steps or 6000, tasks_per_step or 1, tasks, optimisation)
        return jobs.pretrain_by_episodes(data, training.backbone, request, config, out, place, training.image_size)
    checkpoint = Path(training.backbone)
    if not checkpoint.exists() and "/" not in training.backbone and checkpoint.suffix != ".safetensors":
        raise unknown_name("feature network", training.backbone, BACKBONES)
    if along:
        config = jobs.end_to_end(tasks, steps, tasks_per_step, rate)
        return jobs.meta_train_images(data, checkpoint, request, config, out, place)
    return jobs.meta_train(data, checkpoint, request, tasks, out, place, steps, average)


@options
def embed(
    place: Place,
    cluster: Cluster,
    *,
    backbone: Annotated[str, "Feature network: a name, such as lite, or a file made by `onelook pretrain`."],
    out: Annotated[Path | None, "The .npz file to write: features, labels, class_names, path.", Output()] = None,
    shards: Annotated[Path | None, "Folder or address of Parquet files to write, with --ray.", Output(())] = None,
    data: str = "glyphs",
    split: str = "test",
    average: str = "none",
) -> None:
    """Write the features of images to a file that numpy reads, or by Ray to Parquet files.

    Examples: onelook embed --data FOLDER --split all --backbone runs/mine/model.safetensors --out features.npz;
    onelook embed --data s3://bucket/photographs --backbone lite0 --shards s3://bucket/features --ray auto
    """
    if cluster.ray is not None:
        refused = {"--out": out, "--split": split not in ("test", "all"), "--home": place.home}
        embed_by_ray(data, backbone, average, place, cluster, shards, refused)
        return
    if shards is not None:
        raise SettingsError("--shards is for Ray; give --ray auto as well, or drop it.")
    if out is None:
        raise SettingsError("Name the .npz file to write with --out.")
    network, _ = console.run(artifacts.load_network(backbone), "network")
    embeddings = console.run(open_data(data, place.home).embed(split, network, place, average=average), "embedding")
    save_features(embeddings, out)
    write(f"{out}: {len(embeddings.labels):,} images, {embeddings.feature_size} features")
