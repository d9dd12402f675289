"""What the tests of the page of labelled images share: reports, and a reader of pages."""

import io
import re
from collections.abc import Iterable
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import torch
from PIL import Image

from onelook.assessment import Assessment
from onelook.confidence import AccuracyEstimate
from onelook.data.images import Rejected
from onelook.labelled_page import LabelReport
from onelook.learning_curve import CurvePoint
from onelook.suggest import Suggestion

VOID = {"meta", "br", "img", "hr", "input", "link"}


class Page(HTMLParser):
    """Checks that tags balance, and collects attributes and text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        # An interactive element inside another cannot be reached, and a list in a paragraph is not one.
        assert tag != "button" or not {"button", "a"} & set(self.open)
        assert tag not in {"ul", "div", "section", "table"} or "p" not in self.open
        assert tag != "li" or self.open[-1] in {"ul", "ol"}
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert [tag] == self.open[-1:], f"</{tag}> closes nothing"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))

    def with_class(self, *names: str) -> list[dict[str, str]]:
        return [a for _, a in self.elements if set(names) <= set(a.get("class", "").split())]

    def buttons(self) -> list[dict[str, str]]:
        return [a for tag, a in self.elements if tag == "button" and "data-i" in a]


def jpeg(name: str) -> bytes:
    colour = tuple(np.random.default_rng(list(name.encode("utf-8", "replace"))).integers(0, 256, 3).tolist())
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(stream, "JPEG")
    return stream.getvalue()


def assessed(names: tuple[str, ...], confusion: Any = None, **changes: Any) -> Assessment:
    """Of two labelled examples of each class, all right, or of what `confusion` says."""
    k = len(names)
    matrix = 2 * np.eye(k, dtype=np.int64) if confusion is None else np.array(confusion)
    shots = tuple(max(1, int(n)) for n in matrix.sum(1))
    estimate = AccuracyEstimate(0.832, 0.714, 0.901, dict.fromkeys(names, 0.8) | {names[0]: 0.7}, matrix, 0.769)
    curve = (CurvePoint(1, k, 0.625, 0.5, 0.75),)
    return replace(Assessment(names, shots, estimate, curve, 100, 7), **changes)


def report(n: int = 12, k: int = 3, names: Iterable[str] = (), **changes: Any) -> LabelReport:
    g = torch.Generator().manual_seed(0)
    probabilities = torch.randn(n, k, generator=g).mul(2).softmax(-1)
    labels = probabilities.argmax(1)
    names_of_classes = changes.get("class_names", tuple("abcdefghij"[:k]))
    items = [*names, *(f"photos/{i}.jpg" for i in range(n))][:n]
    whole = LabelReport(
        class_names=names_of_classes,
        items=tuple(items),
        labels=labels,
        probabilities=probabilities,
        labelled=tuple(f"examples/{i}.jpg" for i in range(2 * k)),
        labelled_classes=torch.arange(2 * k) % k,
        thumbnail=jpeg,
        unknown=torch.arange(n) == n - 1,
        inductive=torch.where(torch.arange(n) % 4 == 0, (labels + 1) % k, labels),
        neighbours=torch.randint(2 * k, (n, 2), generator=g),
        positions=torch.randn(n, 2, generator=g),
        labelled_positions=torch.randn(2 * k, 2, generator=g),
        truth=torch.where(torch.arange(n) % 5 == 0, (labels + 1) % k, labels),
        guard="The unlabelled images were used.",
        assessment=assessed(names_of_classes),
        facts={"network": "conv4-64", "seconds": "3"},
        suggestions=(Suggestion(min(2, n - 1), "unsure: a or b"),),
        rejected=(Rejected("photos/broken.jpg", "it is not an image"),),
    )
    return replace(whole, **changes)
