"""The page of labelled images: laws about its bytes, its words and what it may ask of the outside (nothing)."""

import base64
import io
import itertools
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.pages import Page
from helpers.reports import assessed, jpeg, report
from onelook.data.images import Rejected
from onelook.errors import DataError
from onelook.estimators import pool
from onelook.labelling import page as page_module
from onelook.labelling.page import LabelReport, plane, render, thumbnail, write
from onelook.labelling.suggest import Suggestion

HOSTILE = (
    "<script>alert(1)</script>.png",
    "a & \"b\" 'c'.jpg",
    "two\nlines.png",
    "🦊 ألف.png",
    "</style></script><b>.png",
    "{{ 7 * 7 }}{% raw %}.png",
    "javascript:alert(1)",
)


def test_the_same_report_gives_the_same_bytes() -> None:
    assert render(report()) == render(report())


def test_the_page_is_well_formed_and_asks_for_nothing_from_outside() -> None:
    html = render(report(n=40))
    for tag, attributes in Page(html).elements:
        assert tag not in {"link", "iframe", "object", "embed", "base"}
        for name in ("src", "href", "xlink:href", "srcset", "poster", "data", "action"):
            assert attributes.get(name, "#").startswith(("#", "data:image/jpeg;base64,"))
        assert not any(name.startswith("on") for name in attributes)
    assert "@import" not in html
    assert "url(" not in html
    assert not re.findall(r"https?://", html)
    assert "default-src 'none'" in html


def test_ids_are_said_once_and_references_are_to_them() -> None:
    elements = Page(render(report())).elements
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    references = {a["href"][1:] for _, a in elements if "href" in a} | {
        a["aria-labelledby"] for _, a in elements if "aria-labelledby" in a
    }
    assert references
    assert references <= set(ids)


def test_headings_are_in_order_and_what_can_be_chosen_can_be_reached_and_has_words() -> None:
    page = Page(render(report()))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below - above <= 1 for above, below in itertools.pairwise(levels))
    assert all(button["aria-label"] for button in page.buttons())
    scrolls = page.with_class("scroll")
    assert scrolls
    assert all(a["tabindex"] == "0" and a["aria-label"] for a in scrolls)
    assert all(
        "alt" in a and a["loading"] == "lazy" and a["decoding"] == "async" for t, a in page.elements if t == "img"
    )


def test_names_from_outside_are_text_wherever_they_stand() -> None:
    hostile = report(
        names=HOSTILE,
        labelled=HOSTILE[:6],
        class_names=HOSTILE[:3],
        title=HOSTILE[0],
        guard=HOSTILE[4],
        facts={HOSTILE[0]: HOSTILE[4]},
        rejected=tuple(Rejected(name, name) for name in HOSTILE),
        suggestions=tuple(Suggestion(i, name) for i, name in enumerate(HOSTILE)),
    )
    html = render(hostile)
    page = Page(html)
    tags = [tag for tag, _ in page.elements]
    assert tags.count("script") == tags.count("style") == 1
    assert html.count("<script>") == 1
    assert "alert(1)</script>" not in html
    assert {button["data-name"] for button in page.buttons()} >= set(HOSTILE)
    for name in HOSTILE:
        assert re.sub(r"\s+", " ", name) in page.text


def test_names_that_are_no_text_do_not_stop_the_writing(tmp_path: Path) -> None:
    write(report(names=("\udcff.png",)), tmp_path / "page.html")
    Page((tmp_path / "page.html").read_text("utf-8"))


@pytest.mark.parametrize("most", [page_module.MOST_PICTURES, 20, 0])
def test_every_image_appears_and_no_more_pictures_than_the_limit(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "MOST_PICTURES", most)
    asked: list[str] = []
    whole = report(n=60, thumbnail=lambda name: asked.append(name) or jpeg(name))
    page = Page(render(whole))
    text = page.text + " ".join(button["data-name"] for button in page.buttons())
    assert all(name in text for name in (*whole.items, "photos/broken.jpg"))
    pictures = [name for name in asked if name.startswith("photos")]
    assert len(pictures) == len(set(pictures)) == min(60, most)


def test_beyond_the_limit_it_says_how_many_more_and_pictures_are_those_of_the_least_sure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(page_module, "MOST_PICTURES", 15)
    whole = report(n=60, unknown=None, suggestions=(), inductive=None)
    page = Page(render(whole))
    more = [int(n) for n in re.findall(r"(\d+) more, by name", page.text)]
    assert sum(more) == 45
    sure = whole.probabilities.amax(1)
    shown = [int(button["data-i"]) for button in page.buttons()]
    for k in range(3):
        own = [i for i in range(60) if whole.labels[i] == k]
        pictured = [i for i in own if i in shown]
        assert pictured
        assert max(sure[i] for i in pictured) <= min(sure[i] for i in own if i not in pictured)


def test_each_class_has_its_images_the_surest_first_and_the_unknown_ones_are_apart() -> None:
    whole = report(n=30, suggestions=(), inductive=None)
    html = render(whole)
    for k in range(3):
        part = html.split(f'id="class-{k}"')[1].split('<div class="class"')[0].split("</section>")[0]
        rows = [int(i) for i in re.findall(r'data-i="(\d+)"', part)]
        assert set(rows) == {i for i in range(29) if whole.labels[i] == k}
        assert [float(whole.probabilities[i, k]) for i in rows] == sorted(
            (float(whole.probabilities[i, k]) for i in rows), reverse=True
        )
    part = html.split('id="unknown"')[1].split("</section>")[0]
    assert re.findall(r'data-i="(\d+)"', part) == ["29"]


def test_what_changed_is_said_with_the_label_before_and_after() -> None:
    labels, alone = torch.tensor([0, 1, 1, 1]), torch.tensor([0, 0, 0, 2])
    whole = report(n=4, labels=labels, inductive=alone, unknown=None)
    page = Page(render(whole))
    assert "3 of 4 images would have another label" in page.text
    assert re.search(r"a → b 2.*c → b 1", page.text)
    assert "What changed" not in Page(render(replace(whole, inductive=labels))).text


def test_an_image_names_its_neighbours_runner_up_and_margin() -> None:
    p = torch.tensor([[0.7, 0.1, 0.2]])
    whole = report(
        n=1,
        probabilities=p,
        labels=torch.tensor([0]),
        neighbours=torch.tensor([[5, 2]]),
        unknown=None,
        suggestions=(),
        inductive=None,
        positions=torch.zeros(1, 2),
    )
    page = Page(render(whole))
    (button,) = page.buttons()
    assert (button["data-near"], button["data-runner"], button["data-runner-percent"]) == ("5 2", "c", "20")
    assert {a["data-example"] for _, a in page.elements if "data-example" in a} >= {"5", "2"}
    assert float(page.with_class("tile")[0]["data-margin"]) == pytest.approx(0.5)


def test_a_percentage_is_never_surer_than_the_number() -> None:
    p = torch.tensor([[0.9999, 0.0001]])
    html = render(report(n=1, k=2, probabilities=p, labels=torch.tensor([0]), suggestions=(), assessment=None))
    assert "&gt; 99" in html
    assert "&lt; 1" in html
    assert "100&nbsp;%" not in html


def test_every_point_of_the_map_has_a_name_and_lies_inside() -> None:
    whole = report(n=25, assessment=None)
    page = Page(render(whole))
    circles = [a for tag, a in page.elements if tag == "circle"]
    assert len(circles) == 25 + 6
    (box,) = [a["viewbox"] for tag, a in page.elements if tag == "svg"]
    width, height = map(int, box.split()[2:])
    assert all(0 <= int(a["cx"]) <= width and 0 <= int(a["cy"]) <= height for a in circles)
    assert [tag for tag, _ in page.elements].count("title") == 1 + len(circles)


def test_a_report_of_the_least_is_a_page_without_empty_sections() -> None:
    least = LabelReport(
        ("a", "b"),
        ("x.png",),
        torch.tensor([1]),
        torch.tensor([[0.2, 0.8]]),
        ("l.png",),
        torch.tensor([0]),
        thumbnail=lambda _: None,
    )
    page = Page(render(least))
    assert "1 image labelled from 1 example" in page.text
    for word in ("Label these next", "What changed", "Unknown", "Map", "Accuracy", "could not be read", "estimate"):
        assert word not in page.text


def test_a_page_of_five_thousand_images_stays_small() -> None:
    rng = np.random.default_rng(0)
    stream = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (300, 400, 3), dtype=np.uint8)).save(stream, "PNG")
    worst = thumbnail(stream.getvalue())  # noise: the worst case of JPEG
    html = render(report(n=5000, k=10, thumbnail=lambda _: worst))
    assert len(html.encode()) < page_module.MOST_PICTURES * 1.4 * len(worst) + 8_000_000


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "I;16", "CMYK"])
def test_a_thumbnail_is_a_small_square_jpeg_whatever_the_image(mode: str) -> None:
    stream = io.BytesIO()
    Image.new(mode, (200, 100)).save(stream, "TIFF")
    with Image.open(io.BytesIO(thumbnail(stream.getvalue(), 40))) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (40, 40))


@pytest.mark.parametrize("content", [b"", b"no image", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_no_thumbnail_is_made_of_what_is_no_image(content: bytes) -> None:
    with pytest.raises(DataError, match="No picture"):
        thumbnail(content)


def test_pictures_on_the_page_are_what_the_provider_gave() -> None:
    html = render(report())
    for name in ("photos/3.jpg", "examples/1.jpg"):
        assert base64.b64encode(jpeg(name)).decode() in html


def test_the_plane_keeps_the_two_directions_that_matter_whatever_way_the_features_are_turned() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.nn.functional.normalize(torch.randn(30, 2, generator=g), dim=1)
    turn = torch.linalg.qr(torch.randn(9, 9, generator=g)).Q[:2]
    flat = plane(x @ turn)
    assert torch.allclose(flat @ flat.T, (x - x.mean(0)) @ (x - x.mean(0)).T, atol=1e-5)
    assert plane(x[:1]).tolist() == [[0.0, 0.0]]


def test_the_plane_of_many_features_is_that_of_evenly_spaced_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0)).repeat_interleave(3, 0)
    monkeypatch.setattr(page_module, "SAMPLE", 60)
    monkeypatch.setattr(pool, "BLOCK", 7)
    assert torch.allclose(plane(x)[1::3], plane(x[1::3]), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"items": ("x.png",) * 3}, "3 images to label but 12 rows of labels"),
        ({"labels": torch.full((12,), 3)}, "found 3 to 3"),
        ({"class_names": ("a",)}, "1 class names but probabilities of 3"),
        ({"labelled": ("a",)}, "Each of the 1 labelled examples"),
        ({"suggestions": (Suggestion(12, ""),)}, "none of the 12"),
        ({"neighbours": torch.full((12, 2), 6)}, "row 6, but there are 6"),
        ({"assessment": assessed(("a", "b"))}, "other classes"),
    ],
)
def test_what_does_not_fit_together_is_refused_in_words(change: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        report(**change)


def test_the_page_is_written_as_it_is_rendered(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write(report(), path)
    assert path.read_text("utf-8") == render(report())
    assert list(tmp_path.iterdir()) == [path]
