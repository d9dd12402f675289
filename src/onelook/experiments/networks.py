"""Feature networks in practice: `FewShotClassifier` for the same simulated users by the features of each.

A user draws some classes of a set, labels a few examples of each, and has the others, in Dirichlet(2) proportions, to
label; features are those of `onelook label`. `auto` is judged by the network that it chooses for the set. A cell is
a set with a network and a number of labels; what was measured in it is stored, and not measured again.
"""

import importlib
import io
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from onelook.artifacts import AUTO, PHOTOGRAPHS, SMALL, identify_shipped
from onelook.data.listing import Listing
from onelook.data.sampler import TaskSampler, TaskSpec
from onelook.data.sources import name_in_records, open_data
from onelook.errors import Checked, DataError, NonNegativeInt, PositiveInt, TwoOrMore
from onelook.estimators.choosing import load_chosen
from onelook.events import Progress
from onelook.experiments.practice import DIGITS, split_name
from onelook.experiments.practice_report import draw_user, make_classifier
from onelook.files import ResultStore, Stored
from onelook.labelling.features import embed_listing
from onelook.labelling.label import LabelConfig
from onelook.machine import Place, provenance
from onelook.scoring import Estimate, paired
from onelook.tasks import Embeddings
from onelook.train.recipes import features_digest

VERSION = 3
"""Number to raise when figures change, by a change of the classifier or of how it is measured."""


@dataclass(frozen=True)
class NetworksConfig(Checked):
    networks: tuple[str, ...] = (AUTO, SMALL, PHOTOGRAPHS)
    """Feature networks: names of `onelook networks`, or files."""
    sets: tuple[str, ...] = ("omniglot", DIGITS)
    """Data sets, each NAME, PATH or NAME:SPLIT; digits are those of scikit-learn."""
    shots: tuple[int, ...] = (1, 3, 5)
    n_way: TwoOrMore = 10
    """Classes of a user."""
    n_query: PositiveInt = 10
    """Average number of images to label per class."""
    protocol: str = "dirichlet:2"
    n_users: TwoOrMore = 200
    """Simulated users for each data set and number of labels."""
    average: str = LabelConfig.average
    seed: NonNegativeInt = 0

    @property
    def specs(self) -> tuple[TaskSpec, ...]:
        shots = dict.fromkeys(self.shots)
        return tuple(TaskSpec(self.n_way, shot, self.n_query, self.protocol, self.seed) for shot in shots)


def compare_networks(config: NetworksConfig, out: Path, place: Place) -> Generator[Any, None, list[dict[str, Any]]]:
    """A record for each set, number of labels and network, with its differences to the other networks.

    Raises DataError, SettingsError, and the errors of `load_network`. Finished cells are stored under `out`.
    """
    store, records = ResultStore(out), []
    listings = {text: _open(text, place) for text in dict.fromkeys(config.sets)}  # so that a wrong name is refused now
    for text, listing in listings.items():
        name, split = split_name(text)
        about = {"dataset": name_in_records(name), "split": split, "average": config.average}
        measured: dict[tuple[str, TaskSpec], Stored] = {}
        chosen: dict[str, dict[str, str]] = {}
        for network in dict.fromkeys(config.networks):
            data, chosen[network] = yield from _features(listing, network, config.average, place)
            for spec in config.specs:
                stage = f"{about['dataset']}, {network}, {spec.n_shot} a class"
                measured[network, spec] = yield from _measure(data, spec, config.n_users, stage, store)
        records += [
            about | chosen[network] | _record(network, spec, config.n_users, measured) for network, spec in measured
        ]
    return records


def _open(text: str, place: Place) -> Listing:
    name, split = split_name(text)
    if (name, split) == (DIGITS, "all"):
        return list_digits()
    opened = open_data(name, place.home)
    if opened.files is None:
        raise DataError(f"{name} has no image files; name a folder, a zip, a table or a standard set.")
    return opened.files(split)


def list_digits() -> Listing:
    """The 1,797 handwritten digits that come with scikit-learn, as PNG files of 8 × 8."""
    bunch = importlib.import_module("sklearn.datasets").load_digits()
    pixels = (bunch.images * (255 / 16)).round().astype(np.uint8)

    def read(name: str) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(pixels[int(name)]).save(stream, "PNG")
        return stream.getvalue()

    names, classes = tuple(map(str, range(len(pixels)))), tuple(map(str, range(10)))
    return Listing(names, tuple(bunch.target.tolist()), classes, "scikit-learn's digits", read)


def _features(
    listing: Listing, name: str, average: str, place: Place
) -> Generator[Any, None, tuple[Embeddings, dict[str, str]]]:
    """Features of a set, and which network they are from."""
    network, choice = yield from load_chosen(name, listing)
    data, _ = yield from embed_listing(listing, network, average, place)
    label = Path(choice.name).name  # a record is no place for the folders of a machine
    return data, {"backbone": f"{label}@{network.digest().hex()[:12]}", "precision": place.precision}


def _measure(
    data: Embeddings, spec: TaskSpec, n_users: int, stage: str, store: ResultStore
) -> Generator[Any, None, Stored]:
    """Measure the fraction of right answers to each user, and what was expected, with its interval."""
    sampler = TaskSampler(data, spec)
    key = {
        "study": "networks",
        "tasks": sampler.digest(n_users),
        "features": features_digest(data),
        "n_users": n_users,
        "seed": spec.seed,
        "version": VERSION,
        "glance": identify_shipped("glance"),
    }

    def compute() -> Generator[Progress, None, Stored]:
        rows = []
        for number in range(n_users):
            user = draw_user(sampler, number)
            own = make_classifier().fit(user.x, user.y, unlabeled=user.pool)
            expected = own.estimate_accuracy().accuracy
            rows.append([(own.transduction_ == user.truth).mean(), expected.value, expected.low, expected.high])
            yield Progress(stage, number + 1, n_users)
        return Stored({"users": torch.tensor(np.array(rows))}, {"tasks": key["tasks"], **provenance()})

    return (yield from store.get_or(key, compute))


def _record(network: str, spec: TaskSpec, n_users: int, measured: dict[tuple[str, TaskSpec], Stored]) -> dict[str, Any]:
    """Accuracy, expectation, and the paired difference to each other network."""
    stored = measured[network, spec]
    right, expected, low, high = stored.tensors["users"].T
    others: dict[str, Tensor] = {
        name: one.tensors["users"][:, 0] for (name, other), one in measured.items() if other == spec and name != network
    }
    return {
        "network": Path(network).name,
        "method": "onelook",
        **spec.record(),
        "n_total": spec.total,
        "n_tasks": n_users,
        **Estimate.from_values(right).record("accuracy"),
        **Estimate.from_values(expected).record("expected_accuracy", "expected_ci95"),
        "estimate_covers": round(float(((low <= right) & (right <= high)).double().mean()), 4),
        "versus": {Path(name).name: paired(right, one).record("difference") for name, one in others.items()},
        **stored.about,
    }
