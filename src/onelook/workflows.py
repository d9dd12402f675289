"""Whole jobs, from data to a model or a table: what the commands call, and a notebook can call too.

Each is a generator of events that returns its result (`onelook.events.finish`).
"""

import dataclasses
import zipfile
import zlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from onelook import backbones
from onelook.artifacts import load_backbone
from onelook.audit import IMAGE_TASKS, TASKS, audit
from onelook.backbones import Backbone
from onelook.benchmark import Entry, compare
from onelook.configuration import description
from onelook.data.embed import EmbedConfig, embed, embed_files, parse_averaging
from onelook.data.images import ImageSet
from onelook.data.sampler import TaskSampler, TaskSpec, Views
from onelook.data.sources import augmentation_of, is_rotated, list_split, open_split
from onelook.data.synthetic import synthetic_suite
from onelook.data.variants import variants
from onelook.errors import DataError, SettingsError, unknown_name
from onelook.events import Notice
from onelook.files import cache_home, replacing
from onelook.methods import EndToEnd, Glance, ImageMethod, Method, settings_of
from onelook.tasks import Embeddings
from onelook.train import (
    EpisodicPretraining,
    ImageMetaTraining,
    MetaTrainConfig,
    MixedConfig,
    MixedTraining,
    PretrainConfig,
    Pretraining,
    recipes,
    seconds_of_a_step,
    train,
)
from onelook.train.recipes import SHIPPED, MethodRequest, build, has_weights, ready
from onelook.train.teacher import load_teacher

N_VIEWS = 8
"""R, the augmented views of every training image that meta-training reads."""


@dataclass(frozen=True)
class Place:
    """Where things are and what the machine can do."""

    cache: Path = field(default_factory=cache_home)
    home: Path | None = None
    """Of the standard data sets; None: $ONELOOK_DATA or the user's cache folder."""
    precision: str = field(default_factory=lambda: best_precision())


def best_precision() -> str:
    """bfloat16 where the processor computes in it, else float32."""
    return "bfloat16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "float32"


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


def features(
    data: str, split: str, backbone: Backbone, place: Place, n_views: int = 1, average: str = "none"
) -> Generator[Any, None, Embeddings]:
    """Features of one split.

    n_views: > 1: of augmented views, where the data has no environments of its own.
    average: what else of an image goes into its feature (`parse_averaging`).
    """
    allowed = augmentation_of(data)
    augmentation = allowed if n_views > 1 and data != "glyphs" else None
    averaging = parse_averaging(average, allowed)
    config = EmbedConfig(augmentation, n_views if augmentation else 1, precision=place.precision, average=averaging)
    if data == "glyphs" or is_rotated(data):  # images that are not files
        images = yield from open_split(data, split, backbone.image_size, backbone.channels, place.home)
        return (yield from embed(images, backbone, config, place.cache))
    return (yield from embed_files(list_split(data, split, place.home), backbone, config, place.cache))


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


@dataclass(frozen=True)
class Comparison:
    """What `benchmark` compares, and on which tasks."""

    requests: tuple[MethodRequest, ...]
    specs: tuple[TaskSpec, ...]
    n_tasks: int = 2000
    average: str = "none"
    """What else of an image goes into its feature, in training and testing (`parse_averaging`)."""
    audited: bool = False
    """Whether it is asked what the answers of the methods depend on, instead of how many are right."""


@dataclass(frozen=True)
class Source:
    """Where the tasks of a comparison come from, and what its methods learn from."""

    test: Embeddings
    about: dict[str, Any]
    """dataset, split and backbone, for the record."""
    training: Callable[[], Generator[Any, None, tuple[Embeddings | None, Embeddings | None]]]
    """Of other classes, to train on and to choose by; asked for where a method learns."""
    own: Callable[[ImageMethod], Generator[Any, None, tuple[Method, Views]]] | None = None
    """What to ask a method of images, and about what (`items_of`); None: there are no images."""


def benchmark(
    comparison: Comparison, data: str, split: str, checkpoint: Path, place: Place
) -> Generator[Any, None, list[dict[str, Any]]]:
    """Result records on tasks of `split`; methods that learn are trained on the training classes of `data` first."""
    for request in comparison.requests:
        recipes.require_features(request)  # before the features are computed, which may take long
    source = yield from source_of(data, split, checkpoint, place, comparison.average)
    return (yield from _compare(comparison, source, place))


def source_of(
    data: str, split: str, checkpoint: Path, place: Place, average: str = "none"
) -> Generator[Any, None, Source]:
    """The features of a data set."""
    backbone, named = load_backbone(checkpoint)
    test = yield from features(data, split, backbone, place, average=average)
    about = {"dataset": data, "split": split, "backbone": f"{named['name']}@{backbone.digest().hex()[:12]}",
             "precision": place.precision, "average": average}  # fmt: skip
    sets: list[Embeddings] = []

    def training() -> Generator[Any, None, tuple[Embeddings, Embeddings]]:
        if not sets:  # only where a method asks for them
            known = yield from features(data, "train", backbone, place, N_VIEWS, average)
            sets.extend([known, (yield from features(data, "val", backbone, place, average=average))])
        return sets[0], sets[1]

    def own(method: ImageMethod) -> Generator[Any, None, tuple[Method, Views]]:
        return items_of(method, data, split, place, average)

    return Source(test, about, training, own)


def items_of(
    method: ImageMethod, data: str, split: str, place: Place, average: str = "none"
) -> Generator[Any, None, tuple[Method, Views]]:
    """What to ask and what to ask it about: where features are all that a method needs, each image is embedded once."""
    if isinstance(method, EndToEnd):
        return method.head, (yield from features(data, split, method.backbone, place, average=average))
    if average != "none":
        raise SettingsError("A method that takes images, and not their features, has no features to average; leave "
                            "it out, or --average.")  # fmt: skip
    own = method.backbone
    return method, (yield from open_split(data, split, own.image_size, own.channels, place.home))


def benchmark_embeddings(
    comparison: Comparison, file: Path, training_file: Path | None, place: Place
) -> Generator[Any, None, list[dict[str, Any]]]:
    """The same on features from a file; those to train on come from another, a fifth of its classes to choose by."""
    n_way = max(spec.n_way for spec in comparison.specs)
    return (yield from _compare(comparison, source_of_files(file, training_file, n_way, comparison.average), place))


def source_of_files(file: Path, training_file: Path | None, n_way: int, average: str = "none") -> Source:
    """Features from a file. n_way: so many of the other file's classes at least are kept to choose by."""
    if average != "none":
        raise SettingsError("Features from a file are taken as they are; average them where they are made, by "
                            "`onelook embed --average`.")  # fmt: skip
    test = load_features(file)
    about = {"dataset": file.stem, "split": "all", "backbone": f"embeddings of size {test.feature_size}"}

    def training() -> Generator[Any, None, tuple[Embeddings | None, Embeddings | None]]:
        yield from ()
        if training_file is None:
            return None, None
        known = load_features(training_file)
        if known.feature_size != test.feature_size:
            raise DataError(f"{training_file} has features of size {known.feature_size}, but {file} of size "
                            f"{test.feature_size}; both must come from the same network.")  # fmt: skip
        return _divide(known, n_way)

    return Source(test, about, training)


def _compare(comparison: Comparison, source: Source, place: Place) -> Generator[Any, None, list[dict[str, Any]]]:
    records = []
    for spec in comparison.specs:
        entries = []
        for request in comparison.requests:
            entries.append((yield from entry_of(request, spec, source, place)))
        job = _audit if comparison.audited else compare
        records += yield from job(entries, source.test, spec, comparison.n_tasks, source.about)
    return records


def _audit(
    entries: Sequence[Entry], test: Embeddings, spec: TaskSpec, n_tasks: int, about: dict[str, Any]
) -> Generator[Any, None, list[dict[str, Any]]]:
    """A record of `onelook.audit` for each entry; a few tasks are enough for it."""
    records = []
    for entry in entries:
        most = IMAGE_TASKS if isinstance(entry.method, ImageMethod) else TASKS
        sampler = TaskSampler(test if entry.data is None else entry.data, spec)
        found = yield from audit(entry.method, sampler, min(n_tasks, most))
        records.append(
            {
                **about, "method": entry.label, "n_way": spec.n_way, "n_shot": spec.n_shot, "n_query": spec.n_query,
                "protocol": spec.protocol, "seed": spec.seed, "transductive": entry.method.transductive,
                **found.record(),
            }
        )  # fmt: skip
    return records


def entry_of(request: MethodRequest, spec: TaskSpec, source: Source, place: Place) -> Generator[Any, None, Entry]:
    """The row of a method, which is trained for tasks of `spec` first where it learns."""
    size = source.test.feature_size
    known, chosen = (yield from source.training()) if _learns(request, spec, size) else (None, None)
    made = yield from ready(request, spec, size, known, chosen, place.cache / "runs")
    if made.method.n_way not in (None, spec.n_way):
        raise SettingsError(f"{request.label} was trained for {made.method.n_way} classes, but the tasks have "
                            f"{spec.n_way}; use --way {made.method.n_way}, or train it again.")  # fmt: skip
    if not isinstance(made.method, ImageMethod):
        return Entry(request.label, made.method, made.about)
    if source.own is None:
        raise SettingsError(f"{request.label} has a feature network of its own and needs the images; "
                            f"give --data and --backbone instead of --embeddings.")  # fmt: skip
    method, items = yield from source.own(made.method)
    compute = place.precision if isinstance(method, ImageMethod) else "float32"
    return Entry(request.label, method, made.about, items, compute)


def _learns(request: MethodRequest, spec: TaskSpec, feature_size: int) -> bool:
    if request.file or request.name in SHIPPED:
        return False
    method = build(request, spec, feature_size)
    return method.needs_training_classes or has_weights(method)


def load_features(file: Path) -> Embeddings:
    """`features` (N, D) and `labels` (N, numbers or words) of an .npz file; `class_names` if it has them."""
    try:
        with file.open("rb") as stream:  # np.load itself would leave a damaged file open
            content = np.load(stream, allow_pickle=False)
            if isinstance(content, np.ndarray):
                raise ValueError("it holds a single array")
            arrays = {name: content[name] for name in content.files}
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("its members are not arrays")
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, SyntaxError) as error:
        # numpy would advise to load what is pickled all the same.
        reason = "it is none, or holds pickled objects, which are never loaded" if "pickle" in str(error) else error
        raise DataError(f"{file} cannot be read as an .npz file of plain arrays ({reason}).") from error
    missing = {"features", "labels"} - set(arrays)
    if missing:
        raise DataError(
            f"{file} needs the arrays features (N, D) and labels (N), but holds {', '.join(arrays) or 'none'}."
        )
    x, labels = arrays["features"], arrays["labels"]
    if x.dtype.kind not in "fiub":
        raise DataError(f"{file}: features must be numbers, but they are of type {x.dtype}.")
    with np.errstate(over="ignore"):  # what is too large for float32 is infinite then, and refused below
        x = np.asarray(x, dtype=np.float32)
    if x.ndim != 2 or labels.shape != (len(x),) or not len(x):
        raise DataError(f"{file}: features must be (N, D) and labels (N), but they are {x.shape} and {labels.shape}.")
    if not np.isfinite(x).all():
        row = int(np.flatnonzero(~np.isfinite(x).all(1))[0])
        raise DataError(f"{file}: the features of row {row} are not finite; repair or remove them.")
    classes, index = np.unique(labels, return_inverse=True)
    names = np.atleast_1d(arrays.get("class_names", classes))
    if labels.dtype.kind in "iu" and classes[0] >= 0 and classes[-1] < len(names):
        index = labels  # they number the names already, and a class may be without a row
    elif len(names) != len(classes):
        raise DataError(f"{file} has {len(names)} class_names, but {len(classes)} different labels.")
    return Embeddings(torch.from_numpy(x)[None], torch.from_numpy(index.astype(np.int64)),
                      tuple(map(str, names)), source=str(file))  # fmt: skip


def save_features(embeddings: Embeddings, file: Path) -> None:
    with replacing(file) as temporary, temporary.open("wb") as stream:
        np.savez(stream, features=embeddings.features.numpy(), labels=embeddings.labels.numpy(),
                 class_names=np.array(embeddings.class_names))  # fmt: skip


def _divide(data: Embeddings, n_way: int) -> tuple[Embeddings, Embeddings]:
    """A fifth of the classes to choose by, but enough for a task; the others to train on."""
    order = np.random.default_rng(0).permutation(len(data.class_names)).tolist()
    n_val = max(n_way, len(order) // 5)
    return _classes(data, sorted(order[n_val:])), _classes(data, sorted(order[:n_val]))


def _classes(data: Embeddings, classes: Sequence[int]) -> Embeddings:
    rows = torch.isin(data.labels, torch.tensor(classes, dtype=torch.long))
    place = {k: i for i, k in enumerate(classes)}
    labels = torch.tensor([place[k] for k in data.labels[rows].tolist()], dtype=torch.long)
    names = tuple(data.class_names[k] for k in classes)
    return Embeddings(data.views[:, rows], labels, names, source=data.source)
