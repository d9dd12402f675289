"""Labels for a folder of images, from the labelled examples in it: the work of `onelook label` and `suggest`."""

import itertools
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch

from onelook.artifacts import AUTO, identify_network
from onelook.backbones import Backbone
from onelook.data.embed import AVERAGE
from onelook.data.images import Rejected
from onelook.data.vectors import read_vectors
from onelook.errors import Bound, Checked, DataError, Fraction, SettingsError, quote_name
from onelook.estimators.choosing import Choice, load_chosen
from onelook.estimators.classifier import FewShotClassifier
from onelook.events import Notice
from onelook.labelling.advice import advise
from onelook.labelling.doctor import describe_junk
from onelook.labelling.export import Prediction
from onelook.labelling.features import embed_listing, foresee_results, match_vectors
from onelook.labelling.folder import FolderListing, list_folder, name_kinds
from onelook.labelling.predict import make_predictions
from onelook.labelling.quality import Assessment, assess
from onelook.labelling.suggest import Suggestion, suggest
from onelook.machine import Place, parse_memory
from onelook.methods.priors import ClassPriors
from onelook.tasks import Embeddings


@dataclass(frozen=True)
class LabelConfig(Checked):
    """Images to label, and the features by which they are labelled.

    >>> LabelConfig(Path("photographs"), class_priors="balanced").network
    'auto'
    """

    folder: Path
    """Images; those in sub-folders named like a class are the labelled examples, all others are to be labelled."""
    labels: tuple[Path, ...] = ()
    """Table (CSV, TSV or Parquet) with the columns path and label, which counts where a sub-folder says otherwise; may
    be given again."""
    answers: Path | None = None
    """File of `onelook review` whose answers count before all other labels."""
    pattern: str | None = None
    """Pattern of file names that hold their label, such as '{label}_*', instead of sub-folders."""
    also_classes: tuple[str, ...] = ()
    """Folder that is a class although its name says otherwise, such as test; may be given again."""
    not_classes: tuple[str, ...] = ()
    """Folder that is no class, but of images to label; may be given again."""
    network: str = AUTO
    """Feature network: auto (chosen by the images), a name of `onelook networks`, a file of `onelook pretrain`,
    hf:NAME, or FILE.onnx."""
    features: Path | None = None
    """File of features by name, from any network, instead of --network: .npz, .safetensors, .csv or .parquet."""
    offline: bool = False
    """Download nothing."""
    class_priors: str = "unknown"
    """Frequencies of the classes among the images to label: unknown, balanced, or numbers such as 0.5/0.3/0.2."""
    unknown_rate: Annotated[float, Bound(">=", 0), Bound("<=", 0.5)] = 0.0
    """Fraction of images of the known classes that may be set aside as unknown; 0 sets none aside."""
    min_confidence: Fraction = 0.0
    """Probability below which an image gets no label; its best guess stands in a column of its own."""
    average: str = AVERAGE
    """Versions of an image averaged into its feature: mirror, crops:N, mirror+crops:N or none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.features is not None and self.network != AUTO:
            raise SettingsError("Features come from --network or from the file of --features: drop one of the two.")


@dataclass(frozen=True)
class Labelled:
    """Answers for a folder of N images that can be read: S labelled examples and U images that were unlabelled."""

    config: LabelConfig
    found: FolderListing
    network: Backbone | None
    """Feature network; None where the features were given."""
    choice: Choice | None
    """Name of the network, and why it was chosen."""
    embeddings: Embeddings
    """Features of length 1 of the N images."""
    rejected: tuple[Rejected, ...]
    classifier: FewShotClassifier
    labelled: np.ndarray
    """Rows of the S labelled examples among the N images."""
    unlabelled: np.ndarray
    """Rows of the U others."""
    predictions: tuple[Prediction, ...]
    memory: int | None = None
    """Bytes for what is compared at once; None: enough."""

    @cached_property
    def assessment(self) -> Assessment:
        """Expected accuracy now and with more labels, computed when it is first asked for."""
        counts = Counter(self.embeddings.class_names[k] for k in self.embeddings.labels[self.labelled].tolist())
        answers = zip(self.predictions, self.classifier.inductive_, strict=True)
        n_changed = sum(one.best_guess != inductive and not one.unknown for one, inductive in answers)
        return assess(self.classifier, (counts[str(name)] for name in self.classifier.classes_), n_changed)

    @property
    def advice(self) -> str:
        """Sentence on what would help most where few answers should be right; empty elsewhere."""
        return advise(self.assessment, None if self.choice is None else self.choice.name)


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
    >>> labelled = finish(label_folder(LabelConfig(Path("photographs"), network="small"), Place(Path("cache"))))
    >>> [(one.path, one.label) for one in labelled.predictions]
    [('new.png', 'red')]
    """
    given = None if config.features is None else read_vectors(config.features)
    found = list_images(config, given)
    if found.lacks:
        raise DataError(" ".join([found.lacks[0], *name_kinds(found.passed)]))
    priors = ClassPriors.parse(config.class_priors).name(found.listing.class_names)
    yield from map(Notice, found.messages())
    network, choice, embeddings, rejected = yield from _features(config, found, given, place)
    labels, features = embeddings.labels.numpy(), embeddings.features.numpy()
    labelled, unlabelled = np.flatnonzero(labels >= 0), np.flatnonzero(labels < 0)
    y = np.array(embeddings.class_names, dtype=object)[labels[labelled]]
    _require_readable(config.folder, len(set(y)), len(unlabelled), rejected)
    if not isinstance(priors, str):
        priors = {name: prior for name, prior in priors.items() if name in set(y)}
    # The folder has said what is labelled: one that is named "nan" is a class.
    classifier = FewShotClassifier(class_priors=priors, features="network", unlabeled_marker=(), device=place.device)
    pool = features[unlabelled]
    yield from classifier.fit_with_events(features[labelled], y, pool, *foresee_results(len(pool)))
    unknown = classifier.reject(pool, rate=config.unknown_rate) if config.unknown_rate else None
    items = [embeddings.items[i] for i in unlabelled]
    predictions = make_predictions(
        items, classifier.classes_, classifier.transduction_proba_, unknown, config.min_confidence
    )
    about = (embeddings, rejected, classifier, labelled, unlabelled, predictions, parse_memory(place.memory))
    return Labelled(config, found, network, choice, *about)


def list_images(config: LabelConfig, given: Embeddings | None = None, need_labels: bool = True) -> FolderListing:
    """The images of the folder, with the labels that they have. Raises DataError, SettingsError.

    given: features of a file, whose items may be of any kind. need_labels: refuse a folder without any label.
    """
    return list_folder(
        config.folder,
        config.labels,
        config.pattern,
        also_classes=config.also_classes,
        not_classes=config.not_classes,
        also_suffixes={PurePosixPath(name).suffix.lower() for name in (given.items if given else ())},
        need_labels=need_labels,
        answers=config.answers,
    )


class Advice(NamedTuple):
    """Images to label next, and those that were left out because they show nothing."""

    suggestions: tuple[Suggestion, ...]
    """Most useful first; an index is a row of the predictions."""
    junk: tuple[Rejected, ...]


def suggest_images(done: Labelled, n: int, read: Callable[[str], bytes] | None = None) -> Advice:
    """The n unlabelled images whose labels would help most, without those that show nothing.

    read: returns the content of an image by its name. Default: that of the listing.
    """
    features, posterior = done.embeddings.features, torch.from_numpy(done.classifier.transduction_proba_).float()
    names = tuple(quote_name(str(name)) for name in done.classifier.classes_)
    rows, junk, chosen = list(range(len(posterior))), dict[int, str](), tuple[Suggestion, ...]()
    read = read or done.found.listing.read
    known = features[done.labelled]
    for attempt in itertools.count():
        if not rows:
            chosen = ()
            break
        pool = features[done.unlabelled[rows]]
        chosen = suggest(pool, posterior[rows], min(n, len(rows)), known, names, memory=done.memory)
        chosen = tuple(replace(one, index=rows[one.index]) for one in chosen)
        # What shows nothing looks alike, so that few are ever chosen; where it does not, all images are looked at.
        looked_at = [one.index for one in chosen] if attempt < 3 else rows
        found = {i: why for i in looked_at if (why := _find_junk(read, done.predictions[i].path))}
        if not found:
            break
        junk |= found
        rows = [i for i in rows if i not in junk]
    left_out = tuple(Rejected(done.predictions[i].path, why) for i, why in sorted(junk.items()))
    return Advice(chosen, left_out)


def _find_junk(read: Callable[[str], bytes], name: str) -> str:
    try:
        return describe_junk(read(name))
    except OSError:  # gone since its features were computed, or these were given
        return ""


def save_classifier(done: Labelled, path: Path) -> None:
    """Save the classifier with the identity of the network of its features. Raises StorageError."""
    words = None
    if done.network is not None and done.choice is not None:
        words = identify_network(done.network, done.choice.name, done.config.average)
    done.classifier.save(path, network=words)


def _features(
    config: LabelConfig, found: FolderListing, given: Embeddings | None, place: Place
) -> Generator[Any, None, tuple[Backbone | None, Choice | None, Embeddings, tuple[Rejected, ...]]]:
    if given is not None and config.features is not None:
        return None, None, *(yield from match_vectors(found.listing, config.folder, given, config.features))
    network, choice = yield from load_chosen(config.network, found.listing, config.offline)
    return network, choice, *(yield from embed_listing(found.listing, network, config.average, place))


def _require_readable(folder: Path, n_classes: int, n_unlabelled: int, rejected: tuple[Rejected, ...]) -> None:
    first = f"; {quote_name(rejected[0].name)} cannot be, for example: {rejected[0].reason}" if rejected else ""
    if n_classes < 2:
        of = "one class" if n_classes else "no class"
        raise DataError(
            f"{folder} has labelled examples that can be read of {of}, but two classes are needed at least{first}."
        )
    if not n_unlabelled:
        raise DataError(f"{folder} has no image to label that can be read{first}.")
