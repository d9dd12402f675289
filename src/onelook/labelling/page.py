"""One self-contained HTML page about a folder of images that were labelled: what each was taken for, and how surely.

`render` is pure, and the same report gives the same bytes. The page asks for nothing from outside (its
Content-Security-Policy forbids it), works without a script but for sorting, filtering and the panel of one image, and
holds a picture of every image up to a limit; images beyond it are listed by name.
"""

import io
import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from onelook.data.images import Rejected, decode
from onelook.errors import DataError
from onelook.files import write_atomically
from onelook.html import data_uri, filled
from onelook.labelling import page_accuracy
from onelook.labelling.quality import Assessment
from onelook.labelling.suggest import Suggestion

MOST_PICTURES = 2_000
"""Of images to label, on one page: about 7 MB. The least sure ones of each class have theirs first."""
MOST_CHANGES = 200
TILE = 96
"""Pixels of a side of a picture."""

Thumbnails = Callable[[str], bytes | None]
"""From the name of an image to a small JPEG; None where there is none."""


@dataclass(frozen=True)
class LabelReport:
    """All that the page shows. N images to label, S labelled examples, K classes, M neighbours."""

    class_names: tuple[str, ...]
    items: tuple[str, ...]
    """Names of the images to label, usually paths."""
    labels: Int[Tensor, "N"]
    """What each was taken for at last; of an image of no class, what it would be among the known ones."""
    probabilities: Float[Tensor, "N K"]
    labelled: tuple[str, ...]
    labelled_classes: Int[Tensor, "S"]
    thumbnail: Thumbnails
    unknown: Bool[Tensor, "N"] | None = None
    """Which images are taken for none of the classes."""
    inductive: Int[Tensor, "N"] | None = None
    """What each would be by the labelled examples alone."""
    neighbours: Int[Tensor, "N M"] | None = None
    """Rows of the labelled examples most like each image, the most alike first."""
    positions: Float[Tensor, "N 2"] | None = None
    labelled_positions: Float[Tensor, "S 2"] | None = None
    truth: Int[Tensor, "N"] | None = None
    """Where it is known, -1 elsewhere; for the confusion matrix."""
    title: str = "Labelled images"
    guard: str = ""
    """What the guard says of the unlabelled images, in a sentence."""
    assessment: Assessment | None = None
    """Whether the labels are good enough, and what more labels would bring."""
    facts: dict[str, str] = field(default_factory=dict)
    suggestions: tuple[Suggestion, ...] = ()
    """Of rows of the images to label."""
    rejected: tuple[Rejected, ...] = ()

    def __post_init__(self) -> None:
        n, k, s = len(self.items), len(self.class_names), len(self.labelled)
        rows = {
            "labels": self.labels,
            "probabilities": self.probabilities,
            "unknown": self.unknown,
            "inductive": self.inductive,
            "neighbours": self.neighbours,
            "positions": self.positions,
            "truth": self.truth,
        }
        for name, tensor in rows.items():
            if tensor is not None and len(tensor) != n:
                raise DataError(f"There are {n} images to label but {len(tensor)} rows of {name}; give one for each.")
        if self.probabilities.shape[1] != k:
            raise DataError(f"There are {k} class names but probabilities of {self.probabilities.shape[1]} classes.")
        if len(self.labelled_classes) != s or (
            s and not 0 <= int(self.labelled_classes.min()) <= int(self.labelled_classes.max()) < k
        ):
            raise DataError(f"Each of the {s} labelled examples needs a class from 0 to {k - 1}.")
        if n and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < k:
            raise DataError(
                f"Labels must be 0 to {k - 1}, but found {int(self.labels.min())} to {int(self.labels.max())}."
            )
        if any(not 0 <= one.index < n for one in self.suggestions):
            raise DataError(f"A suggestion is about a row that is none of the {n} images to label.")
        if self.assessment is not None and self.assessment.class_names != self.class_names:
            raise DataError("The assessment is about other classes than the page; give that of the same classifier.")
        if self.neighbours is not None and self.neighbours.numel() and int(self.neighbours.max()) >= s:
            raise DataError(f"A neighbour is row {int(self.neighbours.max())}, but there are {s} labelled examples.")


def write(report: LabelReport, path: Path) -> None:
    """Write the page; `path` is either the whole new page or what it was. Raises StorageError."""
    # The name of a file may hold what is no text; in its place stands a question mark.
    write_atomically(path, render(report).encode("utf-8", "replace"))


def render(report: LabelReport) -> str:
    shots = _shots(report)
    unknown = [shot for shot in shots if shot["unknown"]]
    return filled(
        "labelling/templates/labelled.html",
        report=report,
        tile=TILE,
        sections=_sections(report, shots),
        n_unknown=len(unknown),
        unknown=_parted(unknown, len(shots)),
        changes=_changes(shots),
        n_changed=sum(shot["changed"] for shot in shots),
        most_changes=MOST_CHANGES,
        suggestions=[(shots[one.index], one.why) for one in report.suggestions],
        map=_map(report, shots),
        good=None if report.assessment is None else page_accuracy.assessed(report.assessment, len(report.suggestions)),
        score=_score(report),
    )


def thumbnail(content: bytes, size: int = TILE) -> bytes:
    """A small square JPEG of an image file: upright, on white, its middle square. Raises DataError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            pixels = decode(content, size, 3)
    except Exception as error:  # what Pillow raises on damaged bytes has no common base
        raise DataError(f"No picture can be made of an image: {error or type(error).__name__}") from error
    stream = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(stream, "JPEG", quality=75, optimize=True)
    return stream.getvalue()


def plane(features: Float[Tensor, "N D"]) -> Float[Tensor, "N 2"]:
    """The two directions of the largest variance (principal components) of unit features, for the map.

    The sign of each is such that its largest entry is positive, so that the same features give the same map.
    """
    x = torch.nn.functional.normalize(features.double(), dim=1)
    x = x - x.mean(0)
    n = min(2, *x.shape)
    directions = torch.linalg.svd(x, full_matrices=False).Vh[:n]
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    flat = x @ (directions * largest.sign()).T
    return torch.nn.functional.pad(flat, (0, 2 - n)).to(features.dtype)


# ---------------------------------------------------------------------------------------------------- images


def _shots(report: LabelReport) -> list[dict[str, Any]]:
    """What the page knows of each image to label."""
    names = report.class_names
    ranked = report.probabilities.argsort(dim=1, descending=True, stable=True)
    shots: list[dict[str, Any]] = []
    for i, item in enumerate(report.items):
        label = int(report.labels[i])
        runner = next((k for k in ranked[i].tolist() if k != label), None)
        sure = float(report.probabilities[i, label])
        second = 0.0 if runner is None else float(report.probabilities[i, runner])
        before = label if report.inductive is None else int(report.inductive[i])
        unknown = report.unknown is not None and bool(report.unknown[i])
        shots.append(
            {
                "row": i,
                "name": item,
                "label": label,
                "class": names[label],
                "sure": sure,
                "percent": _percent(sure),
                "runner": "" if runner is None else names[runner],
                "runner_percent": _percent(second),
                "margin": sure - second,
                "unknown": unknown,
                "changed": before != label and not unknown,
                "before": names[before],
                "near": [] if report.neighbours is None else report.neighbours[i].tolist(),
                "picture": None,
            }
        )
    for shot in _pictured(shots, len(names), {one.index for one in report.suggestions}):
        shot["picture"] = _picture(report.thumbnail, shot["name"])
    return shots


def _pictured(shots: list[dict[str, Any]], n_classes: int, wanted: set[int]) -> Iterable[dict[str, Any]]:
    """Those that get a picture: all, or suggested ones and then the least sure ones of each class in turns."""
    if len(shots) <= MOST_PICTURES:
        return shots
    rank: dict[int, int] = {}
    of_class = [0] * n_classes
    for shot in sorted(shots, key=lambda shot: shot["sure"]):
        rank[shot["row"]] = of_class[shot["label"]]
        of_class[shot["label"]] += 1
    order = sorted(shots, key=lambda shot: (shot["row"] not in wanted, rank[shot["row"]], shot["row"]))
    return order[:MOST_PICTURES]


def _picture(provider: Thumbnails, name: str) -> str | None:
    content = provider(name)
    return None if content is None else data_uri(content, "image/jpeg")


def _percent(share: float) -> str:
    """Never 100 % of what is not certain, nor 0 % of what is possible."""
    if share != share:
        return "?"
    whole = round(100 * share)
    return "> 99" if whole == 100 and share < 1 else "< 1" if whole == 0 and share > 0 else str(whole)


def _labelled(report: LabelReport) -> list[dict[str, Any]]:
    return [
        {
            "row": i,
            "name": name,
            "class": report.class_names[k],
            "label": k,
            "picture": _picture(report.thumbnail, name),
        }
        for i, (name, k) in enumerate(zip(report.labelled, report.labelled_classes.tolist(), strict=True))
    ]


# -------------------------------------------------------------------------------------------------- sections


def _sections(report: LabelReport, shots: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One for each class: its labelled examples, and the images taken for it, the surest first."""
    sections = []
    examples = _labelled(report)
    for k, name in enumerate(report.class_names):
        own = sorted((s for s in shots if s["label"] == k and not s["unknown"]), key=lambda s: (-s["sure"], s["row"]))
        tiles, rest = _parted(own, len(shots))
        sections.append(
            {
                "number": k,
                "name": name,
                "n": len(own),
                "examples": [one for one in examples if one["label"] == k],
                "tiles": tiles,
                "rest": rest,
                "mean": _percent(sum(s["sure"] for s in own) / len(own)) if own else "",
            }
        )
    return sections


def _parted(shots: list[dict[str, Any]], n_all: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Those with a tile, and those with a name only: beyond the limit, what has no picture."""
    if n_all <= MOST_PICTURES:
        return shots, []
    return [s for s in shots if s["picture"]], [s for s in shots if not s["picture"]]


def _changes(shots: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """From which class to which, the most frequent first; the surest changes of each first."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for shot in sorted((s for s in shots if s["changed"]), key=lambda s: (-s["sure"], s["row"]))[:MOST_CHANGES]:
        groups.setdefault((shot["before"], shot["class"]), []).append(shot)
    ordered = sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))
    return [{"before": before, "after": after, "tiles": tiles} for (before, after), tiles in ordered]


def _map(report: LabelReport, shots: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The points of each class in a square of 1000, and the labelled examples."""
    if report.positions is None or not shots:
        return None
    examples = report.labelled_positions if report.labelled_positions is not None else report.positions[:0]
    every = torch.cat([report.positions, examples])
    low, high = every.amin(0), every.amax(0)
    scale = 960 / float((high - low).max().clamp_min(1e-9))
    height = 40 + math.ceil(scale * float(high[1] - low[1]))

    def place(points: Tensor) -> list[list[int]]:
        return ((points - low) * scale + 20).round().int().tolist() if len(points) else []

    points = [
        {"x": x, "y": height - y, "shot": shot} for (x, y), shot in zip(place(report.positions), shots, strict=True)
    ]
    marks = [
        {"x": x, "y": height - y, "name": report.class_names[k], "number": k}
        for (x, y), k in zip(place(examples), report.labelled_classes.tolist(), strict=False)
    ]
    return {"height": height, "points": points, "marks": marks}


def _score(report: LabelReport) -> dict[str, Any] | None:
    """Accuracy of each class and what was taken for what, where the truth is known."""
    if report.truth is None or not bool((report.truth >= 0).any()):
        return None
    known = report.truth >= 0
    k = len(report.class_names)
    pairs = report.truth[known] * k + report.labels[known]
    return page_accuracy.confusion(torch.bincount(pairs, minlength=k * k).view(k, k).numpy(), report.class_names)
