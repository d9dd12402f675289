"""One self-contained HTML page about a folder of labelled images: the label of each, and its confidence.

`render` is pure, and the same report gives the same bytes. The page asks for nothing from outside (its
Content-Security-Policy forbids it), works without a script but for sorting, filtering and the panel of one image, and
holds a picture of every image up to a limit; images beyond it are listed by name, and so are files without pictures.
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

from onelook import ops
from onelook.data.images import Rejected, decode
from onelook.errors import DataError
from onelook.estimators.pool import SAMPLE, blocks_of, evenly
from onelook.files import write_atomically
from onelook.html import data_uri, render_template
from onelook.labelling import page_accuracy
from onelook.labelling.quality import Assessment
from onelook.labelling.suggest import Suggestion

MOST_PICTURES = 2_000
"""Pictures of images to label on one page, about 7 MB; the least sure images of each class come first."""
MOST_CHANGES = 200
TILE = 96
"""Pixels of a side of a picture."""

Thumbnails = Callable[[str], bytes | None]
"""A function from the name of an image to a small JPEG, or None where there is none."""


@dataclass(frozen=True)
class LabelReport:
    """All that the page shows. N images to label, S labelled examples, K classes, M neighbours."""

    class_names: tuple[str, ...]
    items: tuple[str, ...]
    """Names of the images to label, usually paths."""
    labels: Int[Tensor, "N"]
    """Final class index of each; for an unknown image the most probable class."""
    probabilities: Float[Tensor, "N K"]
    labelled: tuple[str, ...]
    labelled_classes: Int[Tensor, "S"]
    thumbnail: Thumbnails
    unknown: Bool[Tensor, "N"] | None = None
    """Images of none of the classes."""
    undecided: Bool[Tensor, "N"] | None = None
    """Images without a label, because none is sure enough."""
    inductive: Int[Tensor, "N"] | None = None
    """Class index of each by the labelled examples alone."""
    neighbours: Int[Tensor, "N M"] | None = None
    """Rows of the labelled examples most like each image, the most alike first."""
    positions: Float[Tensor, "N 2"] | None = None
    labelled_positions: Float[Tensor, "S 2"] | None = None
    title: str = "Labelled images"
    guard: str = ""
    """Sentence of the guard on the unlabelled images."""
    assessment: Assessment | None = None
    """Expected accuracy now and with more labels."""
    advice: str = ""
    """Sentence on what would help most; empty where nothing is needed."""
    facts: dict[str, str] = field(default_factory=dict)
    suggestions: tuple[Suggestion, ...] = ()
    """Suggested images, by their row among the images to label."""
    rejected: tuple[Rejected, ...] = ()

    def __post_init__(self) -> None:
        n, k, s = len(self.items), len(self.class_names), len(self.labelled)
        rows = {
            "labels": self.labels,
            "probabilities": self.probabilities,
            "unknown": self.unknown,
            "undecided": self.undecided,
            "inductive": self.inductive,
            "neighbours": self.neighbours,
            "positions": self.positions,
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
    tiles = _make_tiles(report)
    aside = {name: [tile for tile in tiles if tile["aside"] == name] for name in ("undecided", "unknown")}
    sections = _make_sections(report, tiles)
    examples = [one for section in sections for one in section["examples"]]
    return render_template(
        "labelling/templates/labelled.html",
        report=report,
        side=TILE,
        sections=sections,
        pictured=any(one["picture"] for one in (*tiles, *examples)) or not tiles,
        n_aside={name: len(own) for name, own in aside.items()},
        aside={name: _split_by_picture(own, len(tiles)) for name, own in aside.items()},
        changes=_group_changes(tiles),
        n_changed=sum(tile["changed"] for tile in tiles),
        most_changes=MOST_CHANGES,
        suggestions=[(tiles[one.index], one.why) for one in report.suggestions],
        map=_make_map(report, tiles),
        good=report.assessment and page_accuracy.fill_assessment(report.assessment, len(report.suggestions)),
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

    Of many features, SAMPLE decide on the directions. The sign of each is such that its largest entry is positive, so
    that the same features give the same map.
    """
    x = ops.normalise(features[evenly(len(features), SAMPLE)].double())
    mean, n = x.mean(0), min(2, *x.shape)
    directions = torch.linalg.eigh((x - mean).T @ (x - mean)).eigenvectors.flip(1)[:, :n]
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    directions = directions * largest.sign()
    flat = [(ops.normalise(features[part].double()) - mean) @ directions for part in blocks_of(len(features))]
    return torch.nn.functional.pad(torch.cat(flat), (0, 2 - n)).to(features.dtype)


# ---------------------------------------------------------------------------------------------------- images


def _make_tiles(report: LabelReport) -> list[dict[str, Any]]:
    """One tile for each image to label: its answer, its neighbours and, up to the limit, its picture."""
    names = report.class_names
    ranked = report.probabilities.argsort(dim=1, descending=True, stable=True)
    tiles: list[dict[str, Any]] = []
    for i, item in enumerate(report.items):
        label = int(report.labels[i])
        runner = next((k for k in ranked[i].tolist() if k != label), None)
        sure = float(report.probabilities[i, label])
        second = 0.0 if runner is None else float(report.probabilities[i, runner])
        before = label if report.inductive is None else int(report.inductive[i])
        flags = {"unknown": report.unknown, "undecided": report.undecided}
        aside = next((name for name, flag in flags.items() if flag is not None and bool(flag[i])), "")
        answer = {"label": label, "class": names[label], "sure": sure, "percent": _percent(sure)}
        other = {"runner": "" if runner is None else names[runner], "runner_percent": _percent(second)}
        change = {"aside": aside, "changed": before != label and not aside, "before": names[before]}
        near = [] if report.neighbours is None else report.neighbours[i].tolist()
        about = {"row": i, "name": item, "margin": sure - second, "near": near, "picture": None}
        tiles.append(about | answer | other | change)
    for tile in _choose_pictured(tiles, len(names), {one.index for one in report.suggestions}):
        tile["picture"] = _picture(report.thumbnail, tile["name"])
    return tiles


def _choose_pictured(tiles: list[dict[str, Any]], n_classes: int, wanted: set[int]) -> Iterable[dict[str, Any]]:
    """Tiles that get a picture: all, or suggested ones and then the least sure ones of each class in turns."""
    if len(tiles) <= MOST_PICTURES:
        return tiles
    rank: dict[int, int] = {}
    of_class = [0] * n_classes
    for tile in sorted(tiles, key=lambda tile: tile["sure"]):
        rank[tile["row"]] = of_class[tile["label"]]
        of_class[tile["label"]] += 1
    order = sorted(tiles, key=lambda tile: (tile["row"] not in wanted, rank[tile["row"]], tile["row"]))
    return order[:MOST_PICTURES]


def _picture(provider: Thumbnails, name: str) -> str | None:
    content = provider(name)
    return None if content is None else data_uri(content, "image/jpeg")


def _percent(fraction: float) -> str:
    """Percent as a whole number, but never 100 for less than certainty nor 0 for more than nothing."""
    if fraction != fraction:
        return "?"
    whole = round(100 * fraction)
    return "> 99" if whole == 100 and fraction < 1 else "< 1" if whole == 0 and fraction > 0 else str(whole)


# -------------------------------------------------------------------------------------------------- sections


def _make_sections(report: LabelReport, tiles: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One section for each class: its labelled examples, and the images taken for it, the surest first."""
    sections = []
    labelled = enumerate(zip(report.labelled, report.labelled_classes.tolist(), strict=True))
    examples = [
        {"row": i, "name": one, "class": report.class_names[k], "label": k, "picture": _picture(report.thumbnail, one)}
        for i, (one, k) in labelled
    ]
    for k, name in enumerate(report.class_names):
        own = sorted((t for t in tiles if t["label"] == k and not t["aside"]), key=lambda t: (-t["sure"], t["row"]))
        mean = _percent(sum(t["sure"] for t in own) / len(own)) if own else ""
        about = {"number": k, "name": name, "n": len(own), "mean": mean}
        pictured, rest = _split_by_picture(own, len(tiles))
        shown = [one for one in examples if one["label"] == k]
        sections.append(about | {"examples": shown, "tiles": pictured, "rest": rest})
    return sections


def _split_by_picture(tiles: list[dict[str, Any]], n_all: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Images shown as tiles, and those shown by name only: beyond the limit, all without a picture."""
    if n_all <= MOST_PICTURES:
        return tiles, []
    return [t for t in tiles if t["picture"]], [t for t in tiles if not t["picture"]]


def _group_changes(tiles: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Changed images by the classes before and after, the most frequent pair first, the surest image first."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for tile in sorted((t for t in tiles if t["changed"]), key=lambda t: (-t["sure"], t["row"]))[:MOST_CHANGES]:
        groups.setdefault((tile["before"], tile["class"]), []).append(tile)
    ordered = sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))
    return [{"before": before, "after": after, "tiles": group} for (before, after), group in ordered]


def _make_map(report: LabelReport, tiles: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The points of each class in a square of 1000, and the labelled examples."""
    if report.positions is None or not tiles:
        return None
    examples = report.labelled_positions if report.labelled_positions is not None else report.positions[:0]
    every = torch.cat([report.positions, examples])
    low, high = every.amin(0), every.amax(0)
    scale = 960 / float((high - low).max().clamp_min(1e-9))
    height = 40 + math.ceil(scale * float(high[1] - low[1]))

    def place(points: Tensor) -> list[list[int]]:
        return ((points - low) * scale + 20).round().int().tolist() if len(points) else []

    points = [
        {"x": x, "y": height - y, "tile": tile} for (x, y), tile in zip(place(report.positions), tiles, strict=True)
    ]
    marks = [
        {"x": x, "y": height - y, "name": report.class_names[k], "number": k}
        for (x, y), k in zip(place(examples), report.labelled_classes.tolist(), strict=False)
    ]
    return {"height": height, "points": points, "marks": marks}
