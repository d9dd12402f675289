"""Sources of the tasks of a comparison: the features of a data set, or those in a file."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from onelook.artifacts import load_network
from onelook.backbones import Backbone
from onelook.data.sampler import Views
from onelook.data.sources import N_VIEWS, name_in_records, open_data
from onelook.data.vectors import load_features
from onelook.errors import DataError, SettingsError
from onelook.machine import Place
from onelook.methods import EndToEnd, ImageMethod, Method
from onelook.tasks import Embeddings


@dataclass(frozen=True)
class Source:
    """Features for the tasks of a comparison, and for its methods to learn from."""

    test: Embeddings
    about: dict[str, Any]
    """dataset, split and backbone, for the record."""
    training: Callable[[], Generator[Any, None, tuple[Embeddings | None, Embeddings | None]]]
    """Computes the features of other classes, to train on and to choose by; called where a method learns."""
    own: Callable[[ImageMethod], Generator[Any, None, tuple[Method, Views]]] | None = None
    """Replaces a method of images by one with items that it takes (`open_items`); None: there are no images."""
    network: Backbone | None = None
    """Network of the features; None: they are from a file."""


def open_source(
    data: str, split: str, network: Path | str, place: Place, average: str = "none"
) -> Generator[Any, None, Source]:
    """Open a data set by the features of a network, which is given as `load_network` takes it."""
    backbone, named = yield from load_network(str(network))
    opened = open_data(data, place.home)
    test = yield from opened.embed(split, backbone, place, average=average)
    about = {"dataset": name_in_records(data), "split": split}
    about |= {"backbone": f"{named['name']}@{backbone.digest().hex()[:12]}"}
    about |= {"precision": place.precision, "average": average}
    sets: list[Embeddings] = []

    def training() -> Generator[Any, None, tuple[Embeddings, Embeddings]]:
        if not sets:  # only where a method asks for them
            known = yield from opened.embed("train", backbone, place, N_VIEWS, average)
            sets.extend([known, (yield from opened.embed("val", backbone, place, average=average))])
        return sets[0], sets[1]

    def own(method: ImageMethod) -> Generator[Any, None, tuple[Method, Views]]:
        return open_items(method, data, split, place, average)

    return Source(test, about, training, own, backbone)


def open_items(
    method: ImageMethod, data: str, split: str, place: Place, average: str = "none"
) -> Generator[Any, None, tuple[Method, Views]]:
    """A method with the items of its tasks. Where features are all that it needs, each image is embedded once."""
    method.to(place.device)
    if isinstance(method, EndToEnd):
        return method.head, (
            yield from open_data(data, place.home).embed(split, method.backbone, place, average=average)
        )
    if average != "none":
        raise SettingsError("A method that takes images has no features to average; leave it out, or --average.")
    own = method.backbone
    return method, (yield from open_data(data, place.home).images(split, own.image_size, own.channels))


def open_features(file: Path, training_file: Path | None, n_way: int, average: str = "none") -> Source:
    """Open a file of features. n_way: at least so many classes of the training file are set aside to choose by."""
    if average != "none":
        raise SettingsError("Features from a file are averaged where they are made, by `onelook embed --average`.")
    test = load_features(file)
    about = {"dataset": file.stem, "split": "all", "backbone": f"embeddings of size {test.feature_size}"}

    def training() -> Generator[Any, None, tuple[Embeddings | None, Embeddings | None]]:
        yield from ()
        if training_file is None:
            return None, None
        known = load_features(training_file)
        if known.feature_size != test.feature_size:
            raise DataError(
                f"{training_file} has features of size {known.feature_size}, but {file} of size {test.feature_size}; "
                "both must come from the same network."
            )
        return _divide(known, n_way)

    return Source(test, about, training)


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
