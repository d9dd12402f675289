"""Everything that a page or a program is told of a review."""

from dataclasses import asdict
from typing import Any

import numpy as np

from onelook.labelling.answers import CLEARED, KINDS
from onelook.server.moment import Moment
from onelook.server.relearning import UNLIKELY
from onelook.server.session import Session


def summarise(session: Session) -> dict[str, Any]:
    """All that is told of one moment but for the arrays."""
    now = session.now
    one, kinds = now.learned, _count(now.kinds)
    with_label, predicted = _count(now.labels), _count(one.predicted[now.labels == CLEARED])
    classes = [
        {"id": k, "name": name, "n_labelled": with_label.get(k, 0), "n_predicted": predicted.get(k, 0),
         "expected": one.per_class.get(k)}
        for k, name in now.names.items()
    ]  # fmt: skip
    return {
        "version": now.version,
        "revision": now.revision,
        "learned": now.learned_revision,
        "chosen": now.chosen_revision,
        "arrays": now.arrays,
        "is_thorough": one.is_thorough,
        "folder": session.config.folder.resolve().name,
        "who": session.who,
        "n_images": len(session.names),
        "n_ready": now.n_ready,
        "kinds": {name: kinds.get(i, 0) for i, name in enumerate(KINDS)},
        "classes": classes,
        "progress": now.progress and asdict(now.progress),
        "notices": now.notices[-5:],
        "problem": now.problem,
        "n_rejected": now.n_rejected,
        "estimate": one.estimate and asdict(one.estimate),
        "guard": one.guard,
        "moved": now.moved,
        "contradictions": [asdict(each) for each in one.contradictions],
        "n_contradictions": sum(each.own <= UNLIKELY for each in one.contradictions),
        "upcoming": [{"row": each.index, "why": each.why} for each in now.upcoming],
        **{f"can_{word}": value for word, value in now.can.items()},
    }


def _count(numbers: np.ndarray) -> dict[int, int]:
    """How often each number occurs; without a loop, because it is asked for a hundred thousand images."""
    values, counts = np.unique(numbers, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def pack_arrays(now: Moment) -> bytes:
    """Bytes of six arrays over the images, one after the other.

    Label, prediction and runner-up (int16), their probabilities in 1/10,000 (uint16), and the kind of label (uint8).
    """
    one = now.learned
    parts = [
        now.labels.astype("<i2"), one.predicted.astype("<i2"), one.runner_up.astype("<i2"),
        (10_000 * one.probability).round().astype("<u2"),
        (10_000 * one.runner_up_probability).round().astype("<u2"), now.kinds.astype("u1"),
    ]  # fmt: skip
    return b"".join(part.tobytes() for part in parts)
