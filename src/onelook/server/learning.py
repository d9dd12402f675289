"""Work on classifiers, as generators of events: fit, add examples, predict, suggest, assess."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from fastapi import HTTPException

from onelook.data.embed import AVERAGE
from onelook.data.images import Rejected
from onelook.errors import DataError, SettingsError, quote_name
from onelook.estimators.classifier import FewShotClassifier
from onelook.events import Progress
from onelook.labelling.predict import make_predictions
from onelook.labelling.quality import Assessment, assess
from onelook.labelling.suggest import suggest
from onelook.methods.priors import ClassPriors
from onelook.server.classifiers import Classifiers, Kept
from onelook.server.networks import Networks
from onelook.server.uploads import Items, Sizes, Upload
from onelook.server.work import Work


@dataclass(frozen=True)
class FitSettings:
    """How a classifier is made; see `FewShotClassifier` and `ImageFeatures`."""

    class_priors: str = "unknown"
    features: str = "auto"
    network: str | None = None
    """Feature network of images; None: that of the server."""
    average: str = AVERAGE
    replace: bool = False


@dataclass(frozen=True)
class Rows:
    """Features of the items of a request, with the names of these."""

    features: np.ndarray
    places: tuple[int, ...]
    """Where the rows stand in the request, which may hold images that cannot be read."""
    names: tuple[str, ...]
    rejected: tuple[Rejected, ...] = ()


@dataclass(frozen=True)
class Learning:
    """Work on the classifiers of a server."""

    classifiers: Classifiers
    networks: Networks
    sizes: Sizes = Sizes()

    def fit(self, name: str, upload: Upload, settings: FitSettings) -> Work[dict[str, Any]]:
        """Make a classifier. Raises HTTPException (409) where it exists and is not to be replaced."""
        self.classifiers.require_room(name, settings.replace)
        network = None
        if not isinstance(upload.items, np.ndarray):
            network = yield from self.networks.identify(settings.network or self.networks.default, settings.average)
        rows, labels, pool = yield from self._examples(upload, network)
        priors = ClassPriors.parse(settings.class_priors).name(sorted(set(labels)))
        made = FewShotClassifier(
            class_priors=priors, features="network" if network else settings.features, device=self.networks.place.device
        )
        with self.classifiers.changing(name):
            self.classifiers.require_room(name, settings.replace)
            made.fit(rows.features, np.array(labels), unlabeled=pool.features)
            yield Progress("saving", 0, 1)  # whoever has gone by now finds nothing changed
            kept = self.classifiers.save(name, made, network)
        answers = _predictions(kept, pool, kept.classifier.transduction_proba_)
        return {**kept.describe(), "unlabelled": answers, "rejected": _reasons(rows.rejected + pool.rejected)}

    def add(self, name: str, upload: Upload) -> Work[dict[str, Any]]:
        """Add examples, of known classes or new ones."""
        if len(upload.unlabelled):
            raise DataError(
                "Examples that are added have labels; to change what is unlabelled, fit the classifier again."
            )
        network = self.classifiers.open(name).network
        rows, labels, _ = yield from self._examples(upload, network)
        with self.classifiers.changing(name):
            kept = self.classifiers.open(name)
            if kept.network != network:
                raise DataError(f"{name} was replaced meanwhile by one with another feature network; send them again.")
            changed = FewShotClassifier.load(self.classifiers.require(name))  # others may be reading the one in memory
            _require_width(kept, rows)
            self._require_room(kept, labels)
            changed.add_examples(rows.features, np.array(labels))
            yield Progress("saving", 0, 1)
            kept = self.classifiers.save(name, changed, network)
        return {**kept.describe(), "rejected": _reasons(rows.rejected)}

    def delete(self, name: str) -> Work[None]:
        with self.classifiers.changing(name):
            self.classifiers.delete(name)
        yield Progress("deleting", 1, 1)

    def predict(self, name: str, items: Items, unknown_rate: float, all_classes: bool) -> Work[dict[str, Any]]:
        """Label rows or images, each by itself."""
        kept = self.classifiers.open(name)
        rows = yield from self._rows(items, kept.network)
        _require_width(kept, rows)
        p = kept.classifier.predict_proba(rows.features)
        unknown = kept.classifier.reject(rows.features, rate=unknown_rate) if unknown_rate else None
        answers = _predictions(kept, rows, p, unknown)
        if all_classes:
            names = [str(one) for one in kept.classifier.classes_]
            for answer, row in zip(answers, p.round(6).tolist(), strict=True):
                answer["probabilities"] = dict(zip(names, row, strict=True))
        return {"predictions": answers, "rejected": _reasons(rows.rejected)}

    def suggest(self, name: str, items: Items | None, number: int) -> Work[dict[str, Any]]:
        """Rows or images to label next: among those of the request, or the unlabelled ones of the classifier."""
        kept = self.classifiers.open(name)
        made = kept.classifier
        if items is None:
            features = torch.cat([kept.tensors["marked"], kept.tensors["pool"]]).numpy()
            rows, p = _plain_rows(features), made.transduction_proba_
            if not len(features):
                raise DataError(f"{name} was fitted without unlabelled rows; send some to choose from.")
        else:
            rows = yield from self._rows(items, kept.network)
            _require_width(kept, rows)
            p = made.predict_proba(rows.features)
        names = [quote_name(str(one)) for one in made.classes_]
        pool, labelled = (torch.from_numpy(made.scale_rows(x)) for x in (rows.features, kept.tensors["rows"].numpy()))
        found = suggest(pool, torch.from_numpy(p).float(), min(number, len(p)), labelled, names)
        assessment = _assess(kept)
        return {
            "suggestions": [
                {"index": rows.places[one.index], "name": rows.names[one.index], "why": one.why} for one in found
            ],
            "expected_accuracy": asdict(assessment.estimate.accuracy),
            "expected_accuracy_then": asdict(assessment.after(len(found))),
            "rejected": _reasons(rows.rejected),
        }

    def assess(self, name: str) -> Work[dict[str, Any]]:
        """How accurate a classifier should be, class by class, and with more labels."""
        yield Progress("assessing", 0, 1)
        return _assess(self.classifiers.open(name)).record()

    def _require_room(self, kept: Kept, labels: Sequence[Any]) -> None:
        n_rows, n_classes = len(kept.tensors["rows"]) + len(labels), len({*kept.classifier.classes_.tolist(), *labels})
        if n_rows > self.sizes.rows or n_classes > self.sizes.classes:
            raise HTTPException(
                413, f"A classifier has {self.sizes.rows:,} examples of {self.sizes.classes:,} classes at most."
            )

    def _examples(self, upload: Upload, network: dict[str, str] | None) -> Work[tuple[Rows, list[Any], Rows]]:
        """Labelled rows, their labels, and unlabelled rows, of what can be read."""
        n = len(upload.items)
        if isinstance(upload.items, np.ndarray) or isinstance(upload.unlabelled, np.ndarray):
            return _plain_rows(upload.items), list(upload.labels), _plain_rows(upload.unlabelled)
        both = yield from self._rows((*upload.items, *upload.unlabelled), network)
        split = sum(place < n for place in both.places)
        rows = Rows(both.features[:split], both.places[:split], both.names[:split], both.rejected)
        pool = Rows(both.features[split:], tuple(place - n for place in both.places[split:]), both.names[split:])
        if not split:
            raise DataError(f"None of the labelled images can be read; {_first(both.rejected)}.")
        return rows, [upload.labels[place] for place in rows.places], pool

    def _rows(self, items: Items, network: dict[str, str] | None) -> Work[Rows]:
        if isinstance(items, np.ndarray):
            return _plain_rows(items)
        if network is None:
            raise SettingsError(
                "The classifier was made from features and not from images; send features of the same network."
            )
        found = yield from self.networks.embed(items, network)
        return Rows(found.features, found.rows, tuple(items[i].name for i in found.rows), found.rejected)


def _assess(kept: Kept) -> Assessment:
    made = kept.classifier
    return assess(made, kept.count_examples(), int((made.transduction_ != made.inductive_).sum()))


def _require_width(kept: Kept, rows: Rows) -> None:
    own, given = kept.classifier.n_features_in_, rows.features.shape[1]
    if given != own:
        raise DataError(f"The rows of {kept.name} have {own} features, but those of the request have {given}.")


def _plain_rows(features: Any) -> Rows:
    places = tuple(range(len(features)))
    return Rows(np.asarray(features), places, tuple(map(str, places)))


def _predictions(kept: Kept, rows: Rows, p: np.ndarray, unknown: np.ndarray | None = None) -> list[dict[str, Any]]:
    found = make_predictions(rows.names, kept.classifier.classes_, p, unknown)
    return [
        {"index": place, "name": one.path} | {key: value for key, value in asdict(one).items() if key != "path"}
        for place, one in zip(rows.places, found, strict=True)
    ]


def _reasons(rejected: Sequence[Rejected]) -> list[dict[str, str]]:
    return [asdict(one) for one in rejected]


def _first(rejected: Sequence[Rejected]) -> str:
    return f"{rejected[0].name}, for example: {rejected[0].reason}"
