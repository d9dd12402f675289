"""Labels of images in shards: `onelook label` by Ray.

Each process holds the features of some shards of unlabelled images; Glance sees them together by what is exchanged
(`estimators.sharded`). A process that is lost costs the answers of this run but no feature, and the run begins anew.
"""

import functools
import json
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from onelook.cluster.embedding import Task, embed_images
from onelook.cluster.session import Cluster, RayShards, Session, connect
from onelook.cluster.shards import Found, Part, divide, find_shards, read_features, remove_shards, write_labels
from onelook.cluster.source import Source, open_labelled
from onelook.data.addresses import Store, settle
from onelook.errors import DataError, plural
from onelook.estimators.asking import Transduction
from onelook.estimators.choosing import Choice, load_chosen
from onelook.estimators.fitting import LABELLING, STEPS
from onelook.estimators.model import Alone, SupportModel
from onelook.estimators.sharded import Shard, ShardedAnswers, ShardedPool, transduce_shards
from onelook.estimators.strangers import Strangers
from onelook.events import Notice, Progress, relay
from onelook.files import digest, parse_json
from onelook.labelling.folder import UNLABELLED
from onelook.labelling.label import LabelConfig
from onelook.labelling.predict import make_predictions
from onelook.machine import Place
from onelook.methods.priors import ClassPriors
from onelook.ops import normalise
from onelook.scoring import Estimate

ATTEMPTS = 3
"""Times that the answers are computed, where processes are lost."""
SUMMARY = "_summary.json"
CLAIM = "_images.json"
"""Says of which images the labels in a folder are."""


@dataclass(frozen=True)
class Summary:
    """Outcome of labelling in shards."""

    n_images: int
    n_labelled_examples: int
    n_unreadable: int
    counts: dict[str, int]
    """Images of each label; "unknown" and "undecided" stand for those without one."""
    guard: str
    expected_accuracy: Estimate
    network: str
    shards: tuple[str, ...]
    """Files of labels."""


@dataclass(frozen=True)
class Held:
    """A shard of features, and what becomes of it."""

    part: Part
    file: str
    """File of its labels."""
    labels: tuple[int, ...]
    """Class of each labelled example, or UNLABELLED."""


@dataclass(eq=False)
class Rows(Shard):
    """Unlabelled images of some shards of features."""

    held: tuple[Held, ...] = ()
    names: list[list[str]] = field(default_factory=list)
    """Names of the unlabelled images of each shard that can be read."""
    known: tuple[np.ndarray, list[int]] = field(default_factory=lambda: (np.zeros((0, 0), dtype=np.float32), []))
    """Features and classes of the labelled examples among them."""
    n_unreadable: int = 0


def label_shards(config: LabelConfig, place: Place, cluster: Cluster, out: Store) -> Generator[Any, None, Summary]:
    """Write the labels of all images without one to `labels` below `out`, and their features to `features`.

    What is finished is not made again. Raises DataError, SettingsError, StorageError, and those of `load_network`.
    """
    out = Store(settle(out.place))
    source = yield from open_labelled(config)
    priors = ClassPriors.parse(config.class_priors).name(source.listing.class_names)
    network, choice = yield from load_chosen(config.network, source.listing, config.offline)
    task = Task.of(network, choice.name, config.offline, config.average, place)
    parts = divide(source.images.names, source.images.stamps, task.key, cluster.shard_size)
    images = settle(config.folder)
    _require_own(out, images)
    features = out.below("features")
    found = find_shards(features, parts)
    job = _Job(config, source, choice, network.feature_size, parts, out, priors, found.refused)
    if not found.refused and (known := job.find_summary()) is not None:
        return known
    with connect(cluster, task.device) as session:
        out.write(CLAIM, json.dumps({"images": images}).encode())
        yield from embed_images(source.images, parts, found, task, features, session)
        job = replace(job, refused=find_shards(features, parts).refused)
        if (known := job.find_summary()) is not None:
            return known
        for _ in range(ATTEMPTS):
            try:
                return (yield from job.run(session, found.old))
            except session.lost:
                yield Notice("A process of Ray was lost; the answers are computed again, from the same features.")
        raise session.give_up()


def _require_own(out: Store, images: str) -> None:
    """Raises DataError where the folder holds labels of other images."""
    try:
        other = parse_json(out.read(CLAIM))["images"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if other != images:
        raise DataError(f"{out.place} holds labels of the images of {other}; give another folder with --out.")


def _name_stage(event: Progress) -> Progress | None:
    return Progress(LABELLING, STEPS.index(event.stage), len(STEPS) + 1) if event.stage in STEPS else None


@dataclass(frozen=True)
class _Job:
    config: LabelConfig
    source: Source
    choice: Choice
    size: int
    """Numbers of a feature."""
    parts: list[Part]
    """Shards of features."""
    out: Store
    priors: str | dict[str, float]
    """Class priors, for FewShotClassifier."""
    refused: dict[str, tuple[str, ...]]
    """Images that could not be got, by the shards of features that lack them."""

    @functools.cached_property
    def key(self) -> str:
        """Digest of all that the labels depend on."""
        settings = {name: getattr(self.config, name) for name in ("class_priors", "unknown_rate", "min_confidence")}
        listing = self.source.listing
        words = [[part.file for part in self.parts], listing.labels, listing.class_names, settings, self.refused]
        return digest(json.dumps(words, sort_keys=True).encode()).hex()[:16]

    def name(self, part: Part) -> str:
        """File of the labels of a shard."""
        return f"{part.file[:11]}-{self.key}.parquet"

    @property
    def labels(self) -> Store:
        return self.out.below("labels")

    def find_labels(self) -> Found:
        return find_shards(self.labels, [Part(self.name(part), 0, ()) for part in self.parts])

    def find_summary(self) -> Summary | None:
        """The summary of a run that is finished."""
        there = self.find_labels().finished
        try:
            found = parse_json(self.labels.read(SUMMARY))
        except (OSError, ValueError):
            return None
        if found.pop("key", None) != self.key or not there.issuperset(found["shards"]):
            return None
        estimate = Estimate(**found.pop("expected_accuracy"))
        return Summary(**found | {"expected_accuracy": estimate, "shards": tuple(found["shards"])})

    def run(self, session: Session, old_features: Sequence[str]) -> Generator[Any, None, Summary]:
        """Compute the answers, and write those that are not there, in place of old ones."""
        yield Progress(LABELLING, 0, len(STEPS) + 1)
        labels = self.source.listing.labels
        held = [Held(part, self.name(part), labels[part.start : part.start + len(part.names)]) for part in self.parts]
        groups = np.array_split(np.arange(len(held)), min(session.n_workers, len(held)))
        features = self.out.below("features")
        load = functools.partial(load_rows, features, self.size)
        shards = RayShards(session, [functools.partial(load, tuple(held[i] for i in group)) for group in groups])
        try:
            support, alone, found, pool = yield from relay(self._answer(shards), _name_stage)
            yield Progress(LABELLING, len(STEPS), len(STEPS) + 1)
            each = np.split((yield from self._find_unknown(support, pool)), pool.starts[1:-1])
            assert isinstance(found.posterior, ShardedAnswers)
            told = (self.labels, self.config.min_confidence, support.classes, found.posterior.name)
            counts = sum(shards.ask(_write, *told, each=each), Counter[str]())
            summary = self._summarise(len(support.rows), sum(shards.ask(_count_unreadable)), support, alone, found)
        finally:
            shards.close()
        summary = replace(summary, counts=dict(counts.most_common()), shards=tuple(one.file for one in held))
        remove_shards(self.labels, self.find_labels().old)
        remove_shards(features, old_features)
        self.labels.write(SUMMARY, json.dumps({"key": self.key, **asdict(summary)}).encode())
        yield Progress(LABELLING, len(STEPS) + 1, len(STEPS) + 1)
        return summary

    def _find_unknown(self, support: SupportModel, pool: ShardedPool) -> Generator[Any, None, np.ndarray]:
        """Find the images that are of none of the classes."""
        rate, strangers = self.config.unknown_rate, Strangers(support, pool)
        if not rate:
            return np.zeros(len(pool), dtype=bool)
        return strangers.find((yield from strangers.score_pool()), rate).numpy()

    def _answer(self, shards: RayShards) -> Generator[Any, None, tuple[SupportModel, Alone, Transduction, ShardedPool]]:
        known = shards.ask(_take_known)
        rows = np.concatenate([features for features, labels in known if labels] or [np.zeros((0, 1))])
        y = np.array(self.source.listing.class_names, dtype=object)[[label for _, labels in known for label in labels]]
        place, n_rows = self.source.listing.source, sum(shards.sizes)
        if len(set(y)) < 2 or not n_rows:
            raise DataError(
                f"{place} has labelled examples that can be read of {len(set(y))} classes and "
                f"{plural(n_rows, 'image')} to label; two classes and one image are needed at least."
            )
        named = self.priors
        priors = named if isinstance(named, str) else {name: one for name, one in named.items() if name in set(y)}
        support = SupportModel.fit(rows.astype(np.float64), y.astype(str), ClassPriors.parse(priors), "network")
        return support, *(yield from transduce_shards(support, shards))

    def _summarise(
        self, n_known: int, n_unreadable: int, support: SupportModel, alone: Alone, found: Transduction
    ) -> Summary:
        n = len(found.posterior)
        log_priors = support.estimate_log_priors(found.posterior.mass(), n, found.trust)
        gain = found.confidence - alone.confidence
        expected = support.estimate_accuracy(log_priors, found.confidence, gain, n).accuracy
        return Summary(n, n_known, n_unreadable, {}, found.message, expected, self.choice.name, ())


# What is done in a process of Ray.


def load_rows(features: Store, size: int, held: tuple[Held, ...]) -> Rows:
    """Read shards of features. size: numbers of a feature, which shards without a readable image do not tell."""
    rows, names, known, classes, n_unreadable = list[np.ndarray](), [], [], list[int](), 0
    for one in held:
        vectors, errors = read_features(features, one.part)
        n_unreadable += len(errors)
        label_of = dict(zip(one.part.names, one.labels, strict=True))
        names.append([name for name in vectors if label_of[name] == UNLABELLED])
        rows += [vectors[name] for name in names[-1]]
        labelled = [name for name in vectors if label_of[name] != UNLABELLED]
        known += [vectors[name] for name in labelled]
        classes += [label_of[name] for name in labelled]
    examples = _stack(known, size), classes
    return Rows(_stack(rows, size), held=held, names=names, known=examples, n_unreadable=n_unreadable)


def _stack(rows: Sequence[np.ndarray], size: int) -> Float32[np.ndarray, "N D"]:
    """Features at length 1."""
    found = np.stack(rows) if rows else np.zeros((0, size), dtype=np.float32)
    return normalise(torch.from_numpy(found)).numpy()


def _take_known(shard: Rows) -> tuple[np.ndarray, list[int]]:
    return shard.known


def _count_unreadable(shard: Rows) -> int:
    return shard.n_unreadable


def _write(
    shard: Rows, out: Store, min_confidence: float, classes: np.ndarray, name: str, unknown: np.ndarray
) -> Counter[str]:
    """Write the labels of each shard of features, and count them."""
    counts, start, there = Counter[str](), 0, set(out.list())
    for one, names in zip(shard.held, shard.names, strict=True):
        some = slice(start, start + len(names))
        p = shard.answers[name].block(some).numpy()
        found = make_predictions(names, classes, p, unknown[some], min_confidence) if names else ()
        if one.file not in there:
            write_labels(out, one.file, found)
        counts.update("unknown" if row.unknown else row.label or "undecided" for row in found)
        start += len(names)
    return counts
