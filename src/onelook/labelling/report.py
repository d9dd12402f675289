"""The report of labelled images: everything that the page shows, and the file."""

from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from onelook.data.formats import OTHER, PassedOver
from onelook.data.images import Rejected
from onelook.errors import DataError, SettingsError, plural
from onelook.estimators.pool import blocks_of
from onelook.events import Notice, Progress
from onelook.html import load_engine
from onelook.labelling.label import Labelled, suggest_images
from onelook.labelling.page import LabelReport, plane, thumbnail, write

N_NEIGHBOURS = 3
"""Labelled examples shown beside an image."""
N_SUGGESTIONS = 12
MOST_KEPT = 64 << 20
"""Bytes of files that are kept from choosing the suggestions, so that each is read once for the page."""


def write_report(done: Labelled, path: Path) -> Generator[Any, None, bool]:
    """Write the page, or without jinja2 a notice instead, and return whether it was written. Raises StorageError."""
    try:
        load_engine()
    except SettingsError as error:
        yield Notice(str(error))
        return False
    yield Progress("writing the report", 0, 1)
    write(make_report(done), path)
    yield Progress("writing the report", 1, 1)
    return True


def make_report(done: Labelled) -> LabelReport:
    """Collect what the page shows; images are read again for their thumbnails when it is rendered."""
    labelled, unlabelled, classifier = done.labelled, done.unlabelled, done.classifier
    features, names = done.embeddings.features.numpy(), np.array(done.embeddings.class_names, dtype=object)
    number = {name: k for k, name in enumerate(classifier.classes_)}
    items, positions = np.array(done.embeddings.items, dtype=object), plane(done.embeddings.features)
    blocks = (features[unlabelled[part]] @ features[labelled].T for part in blocks_of(len(unlabelled)))
    nearest = [np.argsort(-some, axis=1, kind="stable")[:, :N_NEIGHBOURS].copy() for some in blocks]

    kept: dict[str, bytes] = {}
    room = MOST_KEPT

    def read_and_keep(name: str) -> bytes:
        nonlocal room
        content = done.found.listing.read(name)
        if len(content) <= room:
            kept[name] = content
            room -= len(content)
        return content

    def read_thumbnail(name: str) -> bytes | None:
        try:
            return thumbnail(kept.pop(name, b"") or done.found.listing.read(name))
        except (OSError, ValueError, DataError):  # gone since its features were computed, or these were given
            return None

    probabilities = classifier.transduction_proba_
    return LabelReport(
        class_names=tuple(map(str, classifier.classes_)),
        items=tuple(items[unlabelled]),
        labels=torch.from_numpy(probabilities.argmax(1)),
        probabilities=torch.from_numpy(probabilities).float(),
        labelled=tuple(items[labelled]),
        labelled_classes=torch.tensor([number[name] for name in names[done.embeddings.labels[labelled].numpy()]]),
        thumbnail=read_thumbnail,
        unknown=torch.tensor([one.unknown for one in done.predictions]),
        undecided=torch.tensor([one.is_undecided for one in done.predictions]),
        inductive=torch.tensor([number[name] for name in classifier.inductive_]),
        neighbours=torch.from_numpy(np.concatenate(nearest)),
        positions=positions[unlabelled],
        labelled_positions=positions[labelled],
        title=f"Labels of {done.config.folder.resolve().name}",
        guard=classifier.guard_,
        assessment=done.assessment,
        advice=done.advice,
        facts=_describe_features(done),
        suggestions=suggest_images(done, N_SUGGESTIONS, read_and_keep).suggestions,
        rejected=(*done.rejected, *done.found.skipped, *_summarise(done.found.passed)),
    )


def _describe_features(done: Labelled) -> dict[str, str]:
    if done.choice is None:
        return {"features": str(done.config.features)}
    return {"feature network": ", because ".join(filter(None, (done.choice.name, done.choice.why)))}


def _summarise(passed: Iterable[PassedOver]) -> Iterator[Rejected]:
    """One line for each kind of files that a person may take for images."""
    for one in passed:
        if one.kind is not OTHER:
            more = f" and {plural(len(one.names) - 1, 'other')}" if len(one.names) > 1 else ""
            yield Rejected(f"{one.names[0]}{more}", "; ".join(filter(None, (one.kind.name, one.kind.remedy))))
