"""Practice of a person with a few labelled examples and a pool to label: `FewShotClassifier` and scikit-learn's.

A simulated user draws some classes of a set, labels a few examples of each, and has the others, in Dirichlet(2)
proportions, to label. All classifiers meet the same users on the same features of unit length. Beside the accuracy it
is asked whether the report of the classifier about itself is true, for which there are also users with unknown images
in their pool. A cell is a set with a number of labels; what was measured in it is stored, and not measured again.
"""

import importlib
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from onelook.artifacts import SMALL, identify_shipped, load_network
from onelook.backbones import Backbone
from onelook.data.embed import EmbedConfig, embed
from onelook.data.images import ImageSet
from onelook.data.sampler import TaskSampler, TaskSpec
from onelook.data.sources import NAMES, name_in_records, open_data
from onelook.errors import Checked, DataError, NonNegativeInt, PositiveInt, SettingsError, TwoOrMore
from onelook.events import Notice
from onelook.experiments.practice_measure import compare_classifiers
from onelook.experiments.practice_report import add_unknown, sample_unknown
from onelook.files import ResultStore, Stored, digest
from onelook.machine import Place
from onelook.tasks import Embeddings
from onelook.train.recipes import features_digest

DIGITS = "digits"
"""Name of the digits of scikit-learn."""
VERSION = 7
"""Number to raise when figures change, by a change of the classifier or of how it is measured."""


@dataclass(frozen=True)
class PracticeConfig(Checked):
    backbone: str = SMALL
    """Feature network: one of those that come along, or the file of another."""
    sets: tuple[str, ...] = ("cifar-fs", "omniglot", DIGITS)
    """Data sets, each NAME, PATH or NAME:SPLIT; digits are those of scikit-learn."""
    shots: tuple[int, ...] = (1, 3, 5)
    n_way: TwoOrMore = 5
    """Classes of a user."""
    n_query: PositiveInt = 15
    """Average number of images to label per class."""
    protocol: str = "dirichlet:2"
    n_users: TwoOrMore = 200
    """Simulated users for each data set and number of labels."""
    seed: NonNegativeInt = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(add_unknown(spec).n_unknown for spec in self.specs):
            raise SettingsError("A user has too few images to label for one to be of no known class; raise --query.")

    @property
    def specs(self) -> tuple[TaskSpec, ...]:
        shots = dict.fromkeys(self.shots)
        return tuple(TaskSpec(self.n_way, shot, self.n_query, self.protocol, self.seed) for shot in shots)


def practice(config: PracticeConfig, out: Path, place: Place) -> Generator[Any, None, list[dict[str, Any]]]:
    """A record for each classifier, set and number of labels; ours first in each, with its report.

    A set with too few images for a number of labels is left out there, with a Notice. Raises DataError where nothing
    is left, or a set cannot be read. Finished cells are stored under `out`.
    """
    backbone, named = yield from load_network(config.backbone)
    specs, store = config.specs, ResultStore(out)
    network = {"backbone": f"{named['name']}@{backbone.digest().hex()[:12]}", "precision": place.precision}
    cells: list[_Cell] = []
    for text in dict.fromkeys(config.sets):  # all, so that a wrong name is refused now and not after hours
        name, split = split_name(text)
        data = yield from _features(name, split, backbone, place)
        about = {"dataset": name_in_records(name), "split": split, **network}
        cells += yield from _cells(about, data, specs, config.n_users, store)
    if not cells:
        raise DataError(
            "No set has images enough for any of these numbers of labels; give larger sets or fewer labels a class."
        )
    n_stored = sum(store.find(cell.key) is not None for cell in cells)
    if n_stored:
        yield Notice(f"{n_stored} of {len(cells)} cells are there already.")
    records = []
    for cell in cells:
        records += yield from cell.records()
    return records


@dataclass(frozen=True)
class _Cell:
    """A set with a number of labels."""

    about: dict[str, Any]
    data: Embeddings
    spec: TaskSpec
    n_users: int
    key: dict[str, Any]
    """Everything that the figures depend on."""
    store: ResultStore

    def records(self) -> Generator[Any, None, list[dict[str, Any]]]:
        def compute() -> Generator[Any, None, Stored]:
            stage = f"{self.about['dataset']}, {self.spec.n_shot} a class"
            measured = yield from compare_classifiers(self.data, self.spec, self.n_users, stage)
            return Stored(about={"records": measured})

        stored = yield from self.store.get_or(self.key, compute)
        facts = self.about | self.spec.record()
        facts |= {"n_total": self.spec.total, "n_tasks": self.n_users, "tasks": self.key["tasks"]}
        return [facts | record for record in stored.about["records"]]


def _cells(
    about: dict[str, Any], data: Embeddings, specs: tuple[TaskSpec, ...], n_users: int, store: ResultStore
) -> Generator[Notice, None, list[_Cell]]:
    cells = []
    versions = {
        "features": features_digest(data),
        "version": VERSION,
        "glance": identify_shipped("glance"),
        "sklearn": importlib.import_module("sklearn").__version__,
    }
    for spec in specs:
        try:
            samplers = TaskSampler(data, spec), sample_unknown(data, spec)
            tasks, unknown = (sampler and sampler.digest(n_users) for sampler in samplers)
        except DataError as error:
            yield Notice(f"{about['dataset']} is left out with {spec.n_shot} labels a class: {error}")
            continue
        key = {"tasks": tasks, "unknown": unknown, "n_users": n_users}
        key |= {"seed": spec.seed, **versions}
        cells.append(_Cell(about, data, spec, n_users, key, store))
    return cells


def split_name(text: str) -> tuple[str, str]:
    """Name or path of a set, and its split.

    >>> split_name("omniglot:val"), split_name("digits")
    (('omniglot', 'val'), ('digits', 'all'))
    """
    name, _, split = (text, "", "") if Path(text).exists() else text.partition(":")
    return name, split or ("test" if name in NAMES else "all")


def _features(name: str, split: str, backbone: Backbone, place: Place) -> Generator[Any, None, Embeddings]:
    if (name, split) == (DIGITS, "all"):
        images = digits(backbone.image_size, backbone.channels)
        backbone.to(place.device)
        return (yield from embed(images, backbone, EmbedConfig(precision=place.precision), place.cache))
    return (yield from open_data(name, place.home).embed(split, backbone, place))


def digits(size: int, channels: int) -> ImageSet:
    """The 1,797 handwritten digits that come with scikit-learn (8 × 8), enlarged."""
    bunch = importlib.import_module("sklearn.datasets").load_digits()
    small = torch.from_numpy(bunch.images).float().unsqueeze(1) * (255 / 16)
    large = torch.nn.functional.interpolate(small, size=(size, size), mode="bilinear", align_corners=False)
    pixels = large.round().clamp(0, 255).to(torch.uint8).expand(-1, channels, -1, -1).contiguous()
    names = tuple(f"digit {i}" for i in range(len(pixels)))
    digests = tuple(digest(image.numpy().tobytes()) for image in pixels)
    labels, classes = torch.from_numpy(bunch.target).long(), tuple(map(str, range(10)))
    return ImageSet(pixels.unsqueeze(0), labels, classes, names, digests, "scikit-learn's digits")
