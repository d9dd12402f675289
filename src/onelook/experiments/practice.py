"""What a person gets who has a few labelled examples and a pool to label: `FewShotClassifier` beside scikit-learn's.

A simulated user draws some classes of a set, labels a few examples of each, and has the others, in Dirichlet(2)
proportions, to label. All classifiers meet the same users on the same features of unit length. Beside the accuracy it
is asked whether what the classifier says of itself is true, for which there are also users with strangers in their
pool. A cell is a set with a number of labels; what was measured in it is kept in a file, and not measured again.
"""

import importlib
import inspect
import json
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from onelook import ops
from onelook.artifacts import SHIPPED_METHODS, SHIPPED_NETWORK, load_backbone
from onelook.backbones import Backbone
from onelook.data import sampler
from onelook.data.embed import EmbedConfig, embed
from onelook.data.images import ImageSet
from onelook.data.sampler import TaskSampler, TaskSpec
from onelook.data.sources import NAMES, open_data
from onelook.errors import DataError
from onelook.estimators import calibration, classifier, label_values
from onelook.events import Notice
from onelook.experiments import practice_cell, practice_said
from onelook.experiments.practice_cell import compared
from onelook.experiments.practice_said import with_strangers
from onelook.files import digest, write_atomically
from onelook.machine import Place
from onelook.methods import exchangeable, glance, guard
from onelook.tasks import Embeddings
from onelook.train.recipes import features_digest

DIGITS = "digits"
"""Those of scikit-learn."""
CODE = (calibration, classifier, exchangeable, glance, guard, label_values, ops, practice_cell, practice_said, sampler)
"""What the figures depend on: where it was mended, they are made again."""


@dataclass(frozen=True)
class PracticeConfig:
    backbone: Path = SHIPPED_NETWORK
    """Feature network. Default: the shipped one."""
    sets: tuple[str, ...] = ("cifar-fs", "omniglot", DIGITS)
    """Data sets, each NAME, PATH or NAME:SPLIT; digits are those of scikit-learn."""
    shots: tuple[int, ...] = (1, 3, 5)
    n_way: int = 5
    """Classes of a user."""
    n_query: int = 15
    """Average number of images to label per class."""
    protocol: str = "dirichlet:2"
    n_users: int = 200
    """Simulated users for each data set and number of labels."""
    seed: int = 0

    @property
    def specs(self) -> tuple[TaskSpec, ...]:
        return tuple(
            TaskSpec(self.n_way, shot, self.n_query, self.protocol, self.seed) for shot in dict.fromkeys(self.shots)
        )


def practice(config: PracticeConfig, out: Path, place: Place) -> Generator[Any, None, list[dict[str, Any]]]:
    """A record for each classifier, set and number of labels; ours first in each, with what it said of itself.

    A set with too few images for a number of labels is left out there, with a Notice. Raises DataError where nothing
    is left, or a set cannot be read. What is done is kept under `out`.
    """
    backbone, named = load_backbone(config.backbone)
    specs = config.specs  # refuses what cannot be
    network = {"backbone": f"{named['name']}@{backbone.digest().hex()[:12]}", "precision": place.precision}
    cells: list[_Cell] = []
    for text in dict.fromkeys(config.sets):  # all, so that a wrong name is refused now and not after hours
        name, split = _name_and_split(text)
        data = yield from _features(name, split, backbone, place)
        about = {"dataset": Path(name).name.removesuffix(".zip"), "split": split, **network}
        cells += yield from _cells(about, data, specs, config.n_users)
    if not cells:
        raise DataError(
            "No set has images enough for any of these numbers of labels; give larger sets or fewer labels a class."
        )
    n_kept = sum(cell.kept(out) is not None for cell in cells)
    if n_kept:
        yield Notice(f"{n_kept} of {len(cells)} cells are there already.")
    records = []
    for cell in cells:
        records += yield from cell.records(out)
    return records


@dataclass(frozen=True)
class _Cell:
    """A set with a number of labels."""

    about: dict[str, Any]
    data: Embeddings
    spec: TaskSpec
    n_users: int
    asked: dict[str, Any]
    """All that the figures depend on."""

    @property
    def title(self) -> str:
        return f"{self.about['dataset']}, {self.spec.n_shot} a class"

    def file(self, out: Path) -> Path:
        identity = digest(json.dumps(self.asked, sort_keys=True).encode()).hex()[:16]
        return out / f"{self.about['dataset']}-{self.spec.n_shot}-{identity}.json"

    def kept(self, out: Path) -> list[dict[str, Any]] | None:
        try:
            found = json.loads(self.file(out).read_text())
            return list(found["measured"]) if found["asked"] == self.asked else None
        except (OSError, ValueError, LookupError, TypeError):
            return None  # made again

    def records(self, out: Path) -> Generator[Any, None, list[dict[str, Any]]]:
        """From the file, or measured and kept."""
        measured = self.kept(out)
        if measured is None:
            measured = yield from compared(self.data, self.spec, self.n_users, self.title)
            write_atomically(self.file(out), json.dumps({"asked": self.asked, "measured": measured}).encode())
        spec = self.spec
        facts = {
            **self.about,
            "n_way": spec.n_way,
            "n_shot": spec.n_shot,
            "n_query": spec.n_query,
            "protocol": spec.protocol,
            "n_total": spec.total,
            "n_tasks": self.n_users,
            "seed": spec.seed,
            "tasks": self.asked["tasks"],
        }
        return [facts | record for record in measured]


def _cells(
    about: dict[str, Any], data: Embeddings, specs: tuple[TaskSpec, ...], n_users: int
) -> Generator[Notice, None, list[_Cell]]:
    cells = []
    features_of = features_digest(data)
    for spec in specs:
        try:
            tasks, strange = (TaskSampler(data, one).digest(n_users) for one in (spec, with_strangers(spec)))
        except DataError as error:
            yield Notice(f"{about['dataset']} is left out with {spec.n_shot} labels a class: {error}")
            continue
        asked = {
            "features": features_of,
            "tasks": tasks,
            "strange": strange,
            "n_users": n_users,
            "seed": spec.seed,
            "code": _code(),
        }
        cells.append(_Cell(about, data, spec, n_users, asked))
    return cells


def _code() -> str:
    files = [*(Path(inspect.getsourcefile(module) or "") for module in CODE), SHIPPED_METHODS["glance"]]
    version = importlib.import_module("sklearn").__version__
    return digest(version.encode(), *(file.read_bytes() for file in files)).hex()[:16]


def _name_and_split(text: str) -> tuple[str, str]:
    name, _, split = (text, "", "") if Path(text).exists() else text.partition(":")
    return name, split or ("test" if name in NAMES else "all")


def _features(name: str, split: str, backbone: Backbone, place: Place) -> Generator[Any, None, Embeddings]:
    if (name, split) == (DIGITS, "all"):
        images = digits(backbone.image_size, backbone.channels)
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
    return ImageSet(
        pixels.unsqueeze(0),
        torch.from_numpy(bunch.target).long(),
        tuple(map(str, range(10))),
        names,
        digests,
        "scikit-learn's digits",
    )
