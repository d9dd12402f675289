"""From a folder of images to labels: what `onelook label` and `onelook suggest` do."""

from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from onelook.artifacts import load_network
from onelook.backbones import Backbone
from onelook.data.images import Rejected
from onelook.data.listing import SUFFIXES
from onelook.data.vectors import read_vectors
from onelook.errors import DataError, SettingsError, quote_name
from onelook.estimators.classifier import FewShotClassifier
from onelook.events import Notice, Progress
from onelook.html import engine
from onelook.labelling.export import Prediction
from onelook.labelling.features import features_of_files, features_of_rows
from onelook.labelling.folder import FolderListing, list_folder
from onelook.labelling.page import LabelReport, plane, thumbnail, write
from onelook.labelling.predict import predictions_of
from onelook.labelling.quality import Assessment
from onelook.labelling.suggest import Suggestion, suggest
from onelook.machine import Place
from onelook.methods.priors import ClassPriors
from onelook.ops import normalise
from onelook.tasks import Embeddings

N_NEIGHBOURS = 3
"""Labelled examples that are shown for an image."""
N_SUGGESTIONS = 12
"""On the page."""


@dataclass(frozen=True)
class LabelConfig:
    """What to label, and by which features.

    >>> LabelConfig(Path("photographs"), class_priors="balanced").network
    'onelook'
    """

    folder: Path
    """Images; those in sub-folders named like a class are the labelled examples, all others are to be labelled."""
    labels: Path | None = None
    """CSV or Parquet file with the columns path and label, instead of sub-folders."""
    pattern: str | None = None
    """Pattern of file names that hold their label, such as '{label}_*', instead of sub-folders."""
    also_classes: tuple[str, ...] = ()
    """Folder that is a class although its name says otherwise, such as test; may be given again."""
    network: str = "onelook"
    """Feature network: onelook (shipped), a file of `onelook pretrain`, hf:NAME, or FILE.onnx."""
    features: Path | None = None
    """File of features by name, from any network, instead of --network: .npz, .safetensors, .csv or .parquet."""
    offline: bool = False
    """Download nothing."""
    class_priors: str = "unknown"
    """Frequencies of the classes among the images to label: unknown, balanced, or numbers such as 0.5/0.3/0.2."""
    unknown_rate: float = 0.0
    """Fraction of images of the known classes that may be set aside as unknown; 0 sets none aside."""
    average: str = "mirror"
    """Versions of an image averaged into its feature: mirror, crops:N, mirror+crops:N or none."""

    def __post_init__(self) -> None:
        if self.features is not None and self.network != "onelook":
            raise SettingsError("Features come from --network or from the file of --features: drop one of the two.")


@dataclass(frozen=True)
class Labelled:
    """All that is known when the images are labelled. Rows are those of `embeddings`: N, of which U were to label."""

    config: LabelConfig
    found: FolderListing
    network: Backbone | None
    """None: the features were given."""
    embeddings: Embeddings
    rejected: tuple[Rejected, ...]
    classifier: FewShotClassifier
    labelled: np.ndarray
    """Rows of the labelled examples."""
    to_label: np.ndarray
    """U rows."""
    probabilities: np.ndarray
    """U × K"""
    alone: np.ndarray
    """U labels, as they would be if each image were judged by the labelled examples alone."""
    neighbours: np.ndarray
    """U × N_NEIGHBOURS or fewer rows of the labelled examples that are nearest to each image."""
    predictions: tuple[Prediction, ...]

    @cached_property
    def assessment(self) -> Assessment:
        """Whether the labels are good enough, and what more labels would bring."""
        of_classes = self.embeddings.labels[self.labelled]
        names = [str(name) for name in self.classifier.classes_]
        counts = Counter(self.embeddings.class_names[k] for k in of_classes.tolist())
        changed = [p.label != before and not p.unknown for p, before in zip(self.predictions, self.alone, strict=True)]
        return Assessment(
            tuple(names),
            tuple(counts[name] for name in names),
            self.classifier.estimate_accuracy(),
            self.classifier.learning_curve(),
            len(self.to_label),
            sum(changed),
        )


def label_folder(config: LabelConfig, place: Place) -> Generator[Any, None, Labelled]:
    """Label all images of a folder that have no label.

    Raises DataError where there are too few labelled examples or no image to label, SettingsError, and the errors of
    `load_network` and `embed_files`.

    >>> from PIL import Image
    >>> from onelook.events import finish
    >>> for name in ("red/1.png", "blue/1.png", "new.png"):
    ...     path = Path("photographs", name)
    ...     path.parent.mkdir(parents=True, exist_ok=True)
    ...     Image.new("RGB", (8, 8), "navy" if "blue" in name else "crimson").save(path)
    >>> labelled = finish(label_folder(LabelConfig(Path("photographs")), Place(Path("cache"))))
    >>> [(one.path, one.label) for one in labelled.predictions]
    [('new.png', 'red')]
    """
    given = None if config.features is None else read_vectors(config.features)
    suffixes = {*SUFFIXES, *(PurePosixPath(name).suffix.lower() for name in (given.items if given else ()))}
    found = list_folder(
        config.folder, config.labels, config.pattern, also_classes=config.also_classes, suffixes=suffixes
    )
    _require_work(found)
    priors = ClassPriors.parse(config.class_priors).name(found.listing.class_names)
    for words in found.words():
        yield Notice(words)
    network, embeddings, rejected = yield from _features(config, found, given, place)
    labels = embeddings.labels.numpy()
    labelled, to_label = np.flatnonzero(labels >= 0), np.flatnonzero(labels < 0)
    names = np.array(embeddings.class_names, dtype=object)
    y = names[labels[labelled]]
    _require_readable(config.folder, len(set(y)), len(to_label), rejected)
    features = normalise(embeddings.features).numpy()
    if not isinstance(priors, str):
        priors = {name: prior for name, prior in priors.items() if name in set(y)}
    classifier = FewShotClassifier(class_priors=priors, features="network")
    classifier.fit(features[labelled], y, unlabeled=features[to_label])
    alone = FewShotClassifier(features="network").fit(features[labelled], y).predict(features[to_label])
    p = classifier.transduction_proba_
    aside = classifier.reject(features[to_label], rate=config.unknown_rate) if config.unknown_rate else None
    items = tuple(embeddings.items[i] for i in to_label)
    predictions = predictions_of(items, classifier.classes_, p, aside)
    near = np.argsort(-(features[to_label] @ features[labelled].T), axis=1, kind="stable")[:, :N_NEIGHBOURS]
    return Labelled(
        config,
        found,
        network,
        embeddings,
        rejected,
        classifier,
        labelled,
        to_label,
        p,
        alone,
        labelled[near],
        predictions,
    )


def suggest_next(done: Labelled, n: int) -> tuple[tuple[str, str], ...]:
    """Names of the images to label next, the most useful first, and why."""
    return tuple((done.predictions[one.index].path, one.why) for one in _suggestions(done, n))


def write_report(done: Labelled, path: Path) -> Generator[Any, None, None]:
    """The page about the labelled images; without the package that it needs, a notice. Raises StorageError."""
    try:
        engine()
    except SettingsError as error:
        yield Notice(str(error))
        return
    features = normalise(done.embeddings.features)
    positions = plane(features)
    place = {name: k for k, name in enumerate(done.classifier.classes_)}
    labels = done.embeddings.labels.numpy()
    names = np.array(done.embeddings.class_names, dtype=object)
    items = np.array(done.embeddings.items, dtype=object)
    report = LabelReport(
        class_names=tuple(map(str, done.classifier.classes_)),
        items=tuple(items[done.to_label]),
        labels=torch.from_numpy(done.probabilities.argmax(1)),
        probabilities=torch.from_numpy(done.probabilities).float(),
        labelled=tuple(items[done.labelled]),
        labelled_classes=torch.tensor([place[names[k]] for k in labels[done.labelled]]),
        thumbnail=_Thumbnails(done.found),
        unknown=torch.tensor([p.unknown for p in done.predictions]),
        inductive=torch.tensor([place[name] for name in done.alone]),
        neighbours=torch.from_numpy(np.searchsorted(done.labelled, done.neighbours)),
        positions=positions[done.to_label],
        labelled_positions=positions[done.labelled],
        title=f"Labels of {done.config.folder.resolve().name}",
        guard=done.classifier.guard_,
        assessment=done.assessment,
        facts={"features": str(done.config.features)}
        if done.network is None
        else {"feature network": done.config.network},
        suggestions=_suggestions(done, N_SUGGESTIONS),
        rejected=(*done.rejected, *done.found.skipped),
    )
    yield Progress("writing the report", 0, 1)
    write(report, path)
    yield Progress("writing the report", 1, 1)


def save_classifier(done: Labelled, path: Path) -> None:
    """The classifier, with what its features are of: rows of length 1. Raises StorageError."""
    network = done.network
    done.classifier.save(
        path,
        network=None
        if network is None
        else {"name": done.config.network, "digest": network.digest().hex(), "average": done.config.average},
    )


def _suggestions(done: Labelled, n: int) -> tuple[Suggestion, ...]:
    features = normalise(done.embeddings.features)
    posterior = torch.from_numpy(done.probabilities).float()
    names = tuple(quote_name(str(name)) for name in done.classifier.classes_)
    return suggest(features[done.to_label], posterior, min(n, len(posterior)), features[done.labelled], names)


@dataclass(frozen=True)
class _Thumbnails:
    found: FolderListing

    def __call__(self, name: str) -> bytes | None:
        try:
            return thumbnail(self.found.listing.read(name))
        except (OSError, ValueError, DataError):  # it left since its features were computed, or they were given
            return None


def _features(
    config: LabelConfig, found: FolderListing, given: Embeddings | None, place: Place
) -> Generator[Any, None, tuple[Backbone | None, Embeddings, tuple[Rejected, ...]]]:
    if given is not None and config.features is not None:
        embeddings, rejected = yield from features_of_rows(found.listing, config.folder, given, config.features)
        return None, embeddings, rejected
    network, _ = yield from load_network(config.network, config.offline)
    embeddings, rejected = yield from features_of_files(found.listing, network, config.average, place)
    return network, embeddings, rejected


def _require_work(found: FolderListing) -> None:
    """Raises DataError before anything is read or downloaded."""
    source, names = found.listing.source, found.listing.class_names
    first = f" ({quote_name(found.skipped[0].name)}: {found.skipped[0].reason})" if found.skipped else ""
    if len(names) < 2:
        raise DataError(
            f"All labelled examples of {source} are {quote_name(names[0])}{first}; label one of another class as well."
        )
    if not found.to_label:
        raise DataError(
            f"Every image of {source} is labelled already{first}; put those to label beside the class folders."
        )


def _require_readable(folder: Path, n_classes: int, n_to_label: int, rejected: tuple[Rejected, ...]) -> None:
    first = f"; {quote_name(rejected[0].name)} cannot be, for example: {rejected[0].reason}" if rejected else ""
    if n_classes < 2:
        of = "one class" if n_classes else "no class"
        raise DataError(
            f"{folder} has labelled examples that can be read of {of}, but two classes are needed at least{first}."
        )
    if not n_to_label:
        raise DataError(f"{folder} has no image to label that can be read{first}.")
