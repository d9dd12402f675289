"""Labels for new images by a saved classifier: the work of `onelook predict`."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from onelook.data.images import Rejected
from onelook.data.listing import Listing, measure, read_below
from onelook.errors import Bound, Checked, DataError, Fraction, plural, quote_name
from onelook.estimators.classifier import FewShotClassifier
from onelook.events import Notice
from onelook.labelling.export import Prediction
from onelook.labelling.features import embed_listing
from onelook.labelling.folder import UNLABELLED, find_images, name_kinds
from onelook.labelling.labels import read_answers
from onelook.labelling.saved import read_saved
from onelook.machine import Place

DIGITS = 6
"""Decimals of a probability; further ones differ between machines."""
ROWS = 4096
"""Rows whose classes are put in order at once."""


@dataclass(frozen=True)
class PredictConfig(Checked):
    """Images to label, and the classifier that labels them.

    >>> PredictConfig(Path("model.safetensors"), (Path("new-photographs"),)).unknown_rate
    0.0
    """

    classifier: Path
    """File of `onelook label --save` or `FewShotClassifier.save`, which names the feature network of its rows."""
    images: tuple[Path, ...]
    """A folder, whose images are all labelled, whatever its sub-folders are called; or several images and folders."""
    answers: Path | None = None
    """File of `onelook review`; an image of a single folder that a person labelled there keeps that label."""
    unknown_rate: Annotated[float, Bound(">=", 0), Bound("<=", 0.5)] = 0.0
    """Fraction of images of the known classes that may be set aside as unknown; 0 sets none aside."""
    min_confidence: Fraction = 0.0
    """Probability below which an image gets no label; its best guess stands in a column of its own."""
    network: str | None = None
    """Feature network of the classifier, where it does not come with Onelook: a file, a folder or hf:NAME."""
    offline: bool = False
    """Download nothing."""


@dataclass(frozen=True)
class Predicted:
    classifier: FewShotClassifier
    predictions: tuple[Prediction, ...]
    rejected: tuple[Rejected, ...]


def predict_images(config: PredictConfig, place: Place) -> Generator[Any, None, Predicted]:
    """Label images by a saved classifier, each image by itself.

    Raises ArtifactError where the classifier cannot be used, DataError where there is no image to use it on, and the
    errors of `load_network` and `embed_files`.

    >>> from PIL import Image
    >>> from onelook.estimators.image_features import ImageFeatures
    >>> from onelook.events import finish
    >>> for name in ("crimson", "navy", "red"):
    ...     Image.new("RGB", (8, 8), name).save(f"{name}.png")
    >>> features = ImageFeatures("small")
    >>> rows = features.fit_transform(["crimson.png", "navy.png"])
    >>> classifier = FewShotClassifier(features="network").fit(rows, ["red", "blue"])
    >>> classifier.save("model.safetensors", network=features.network_)
    >>> config = PredictConfig(Path("model.safetensors"), (Path("red.png"),))
    >>> [one.label for one in finish(predict_images(config, Place(Path("cache")))).predictions]
    ['red']
    """
    saved = read_saved(config.classifier)
    listing, skipped, passed = _listing(config.images)
    for one in skipped:
        yield Notice(f"{quote_name(one.name)} was passed over: {one.reason}.")
    yield from map(Notice, passed)
    network = yield from saved.load_network(config.network, config.offline)
    embeddings, rejected = yield from embed_listing(listing, network, saved.average, place)
    classifier = saved.classifier
    features = embeddings.features.numpy()
    p = classifier.predict_proba(features)
    unknown = classifier.reject(features, rate=config.unknown_rate) if config.unknown_rate else None
    predictions = make_predictions(embeddings.items, classifier.classes_, p, unknown, config.min_confidence)
    if config.answers is not None and len(config.images) == 1 and config.images[0].is_dir():
        predictions = yield from _keep_answers(predictions, config.images[0], config.answers)
    return Predicted(classifier, predictions, (*skipped, *rejected))


def _keep_answers(
    predictions: tuple[Prediction, ...], folder: Path, file: Path
) -> Generator[Notice, None, tuple[Prediction, ...]]:
    """The predictions, with the label of a person where there is one."""
    found, _, _ = read_answers(folder, [one.path for one in predictions], file)
    if n := sum(bool(found.get(one.path)) for one in predictions):
        yield Notice(f"{plural(n, 'label')} of `onelook review` count, from {file}; --no-reviewed leaves them out.")
    return tuple(Prediction(one.path, label, 1.0) if (label := found.get(one.path)) else one for one in predictions)


def make_predictions(
    items: Sequence[str], classes: np.ndarray, p: np.ndarray, unknown: np.ndarray | None, min_confidence: float = 0.0
) -> tuple[Prediction, ...]:
    """One prediction for each item, from the probabilities p (N, K).

    unknown: which items are of no class; of the others, those less probable than min_confidence get no label.
    """
    rows = list[Prediction]()
    for start in range(0, len(p), ROWS):  # in blocks, as an order of all classes takes twice the memory of p
        block = p[start : start + ROWS]
        order = np.argsort(-block, axis=1, kind="stable")[:, :2]
        best = np.take_along_axis(block, order, axis=1).round(DIGITS)
        numbers = range(start, start + len(block))
        for i, (first, second), (highest, next_best) in zip(numbers, order, best, strict=True):
            names, margin = (str(classes[first]), str(classes[second])), round(float(highest - next_best), DIGITS)
            is_unknown = bool(unknown is not None and unknown[i])
            label = names[0] if is_unknown or highest >= min_confidence else ""
            rows.append(Prediction(items[i], label, float(highest), names[1], margin, is_unknown, names[0]))
    return tuple(rows)


def _listing(images: tuple[Path, ...]) -> tuple[Listing, tuple[Rejected, ...], tuple[str, ...]]:
    """Images that were given, what cannot be read, and sentences on kinds that are not read.

    Names are relative to a single folder that was given, or else to the working folder; / stands between folders.
    """
    source = f"{images[0]} and {len(images) - 1} more" if len(images) > 1 else str(images[0])
    root, names, refused, passed = Path(), list[str](), list[Rejected](), list[str]()
    if len(images) == 1 and images[0].is_dir():
        root, images = images[0], ()
        names, refused, kinds = find_images(root)
        passed += name_kinds(kinds)
    for path in images:
        if not path.exists():
            raise DataError(f"There is no file or folder {path}; give images, or a folder of them.")
        if not path.is_dir():
            names.append(_name_file(path))
            continue
        below, skipped, kinds = find_images(path)
        names += [_name_file(path / name) for name in below]
        refused += [Rejected(str(path / one.name), one.reason) for one in skipped]
        passed += [f"{path}: {sentence}" for sentence in name_kinds(kinds)]
    unique = tuple(dict.fromkeys(names))
    listing = Listing(unique, (UNLABELLED,) * len(unique), (), source, read_below(root), measure(root))
    return listing, tuple(refused), tuple(passed)


def _name_file(path: Path) -> str:
    here, full = Path.cwd(), path.absolute()
    return (full.relative_to(here) if full.is_relative_to(here) else path).as_posix()
