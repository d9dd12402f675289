"""The page of a run: laws about its bytes, its words and what it may ask of the outside (nothing)."""

import base64
import io
import itertools
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from helpers.pages import Page
from onelook.experiments.demo_page import Curve, Report, TaskPicture, render, write

X = tuple(range(20))
HOSTILE = ("<script>alert(1)</script>", "A & B", "\"quoted\" 'names'", "ألف", "</style><b>")


def record(**changes: Any) -> dict[str, Any]:
    values = {
        "dataset": "glyphs",
        "split": "test",
        "backbone": "conv4",
        "method": "sib",
        "settings": {"n_steps": 3},
        "n_way": 5,
        "n_shot": 1,
        "n_query": 15,
        "protocol": "fixed tasks",
        "n_tasks": 2000,
        "seed": 7,
        "accuracy": 68.91,
        "ci95": 0.42,
        "seconds": 12.34,
        "commit": "0123456789abcdef",
    }
    return values | changes


def pair(difference: float, ci95: float, n_shot: int = 1) -> dict[str, Any]:
    names = {"method": "SIB, 3 steps", "reference": "SIB, 0 steps"}
    return {"n_shot": n_shot, "difference": difference, "ci95": ci95, **names}


def steps(n_shot: int, *accuracies: float) -> Curve:
    x = tuple(float(k) for k in range(len(accuracies)))
    return Curve(f"{n_shot}-shot", "steps", "accuracy (%)", x, accuracies, (0.41,) * len(x))


def one_hot(answers: list[int], n_way: int) -> torch.Tensor:
    return 0.1 + (1 - 0.1 * n_way) * torch.nn.functional.one_hot(torch.tensor(answers), n_way).float()


def task(channels: int = 3, names: tuple[str, ...] = ("ka", "ta"), size: tuple[int, int] = (8, 8)) -> TaskPicture:
    """Six queries: always right; wrong to right; right to wrong; always wrong; always right; wrong to right."""
    images = np.random.default_rng(3).integers(0, 256, (len(names) + 6, channels, *size), dtype=np.uint8)
    pixels = torch.from_numpy(images)
    return TaskPicture(
        class_names=names,
        support=pixels[: len(names)],
        support_labels=torch.arange(len(names)),
        query=pixels[len(names) :],
        query_labels=torch.tensor([0, 0, 0, 1, 1, 1]),
        before=one_hot([0, 1, 0, 0, 1, 0], len(names)),
        after=one_hot([0, 0, 1, 0, 1, 1], len(names)),
        note="the first test task",
    )


def full_report() -> Report:
    curve = Curve("Pretraining: loss", "epoch", "cross-entropy", X, tuple(4 / (1 + i) for i in X))
    return Report(
        title="A run",
        records=[record(), record(accuracy=61.23, ci95=0.39, settings={"k": 0}), record(n_shot=5, accuracy=79.87)],
        paired=[pair(7.68, 0.33), pair(2.31, 0.21, n_shot=5)],
        steps=(steps(1, 61.23, 65.5, 68.91), steps(5, 77.56, 78.0, 79.87)),
        curves=(curve, replace(curve, title="Validation", error=(0.5,) * 20)),
        tasks=(task(), task(channels=1)),
        facts={"command": "onelook demo --seed 7", "machine": "2 cores"},
        commands=(("Label your own images", "onelook label folder/"),),
    )


def headline(report: Report) -> str:
    found = re.search(r"<h1>(.*?)</h1>", render(report))
    assert found
    return found[1]


def test_the_same_report_gives_the_same_bytes() -> None:
    assert render(full_report()) == render(full_report())


def test_a_users_matplotlib_settings_change_neither_the_page_nor_are_they_changed() -> None:
    expected = render(full_report())
    with matplotlib.rc_context({"font.size": 30, "lines.linewidth": 9}):
        assert render(full_report()) == expected
        assert matplotlib.rcParams["font.size"] == 30


def test_the_page_is_well_formed_and_asks_for_nothing_from_outside() -> None:
    html = render(full_report())
    page = Page(html)
    for tag, attributes in page.elements:
        assert tag not in {"link", "iframe", "object", "embed", "base"}
        for name in ("src", "href", "xlink:href", "srcset", "poster", "data"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    assert "@import" not in html
    targets = re.findall(r"url\(([^)]{0,20})", html)
    assert targets
    assert all(target.startswith(("data:", "#")) for target in targets)
    assert "default-src 'none'" in html


def test_ids_are_said_once_and_references_are_to_them() -> None:
    html = render(full_report())
    ids = [attributes["id"] for _, attributes in Page(html).elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    references = re.findall(r'(?:xlink:href="#|url\(#|aria-labelledby=")([^")]+)', html)
    assert references
    assert set(references) <= set(ids)


def test_headings_are_in_order_and_pictures_have_words() -> None:
    page = Page(render(full_report()))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below - above <= 1 for above, below in itertools.pairwise(levels))
    assert dict(page.elements)["html"]["lang"] == "en"
    pictures = [attributes for tag, attributes in page.elements if tag == "svg" or attributes.get("role") == "img"]
    assert all(attributes.get("aria-label") for attributes in pictures)


def test_names_from_outside_are_text_wherever_they_stand() -> None:
    hostile = task(names=HOSTILE)
    curve = Curve(HOSTILE[0], HOSTILE[1], HOSTILE[2] + " $x_", (0.0, 1.0), (1.0, 2.0))
    report = replace(
        full_report(),
        title=HOSTILE[0],
        records=[record(method=HOSTILE[0], settings={HOSTILE[4]: HOSTILE[2]})],
        paired=[pair(1, 2) | {"method": HOSTILE[4]}],
        steps=(curve, curve),
        curves=(curve,),
        tasks=(hostile,),
        facts={HOSTILE[0]: HOSTILE[4]},
    )
    html = render(report)
    page = Page(html)
    assert "<script>alert" not in html
    assert "</style><b>" not in html
    for name in HOSTILE:
        assert name in page.text
        assert f"labelled example of {name}" in {attributes.get("aria-label") for _, attributes in page.elements}


def test_every_record_and_every_interval_is_on_the_page() -> None:
    text = Page(render(full_report())).text
    for words in ("68.91 ± 0.42", "61.23 ± 0.39", "79.87 ± 0.42", "+7.68 ± 0.33", "+2.31 ± 0.21", "65.50 ± 0.41"):
        assert words in text
    for words in ("5-way 1-shot", "5-way 5-shot", "k 0", "fixed tasks", "conv4", "2000", "12.3", "0123456789"):
        assert words in text
    for words in ("onelook demo --seed 7", "2 cores", "Label your own images", "onelook label folder/"):
        assert words in text


def test_a_shown_gain_is_the_headline() -> None:
    assert headline(full_report()) == "The unlabelled images were worth 7.68 points of accuracy."


@pytest.mark.parametrize("difference", [0.2, 0.0, -0.2])
def test_an_interval_that_holds_zero_is_no_difference_shown(difference: float) -> None:
    report = Report("A run", paired=[pair(difference, 0.2)])
    assert headline(report).startswith("No difference was shown")
    text = Page(render(report)).text
    assert "which includes 0" in text
    assert "more accurate" not in text
    assert "less accurate" not in text


def test_a_shown_loss_says_that_the_steps_hurt() -> None:
    report = Report("A run", paired=[pair(-1.5, 0.2)])
    assert headline(report) == "The steps hurt: using the unlabelled images cost 1.50 points of accuracy."
    text = Page(render(report)).text
    for words in ("−1.50 points", "interval −1.70 to −1.30", "✗ less accurate"):
        assert words in text


def test_a_comparison_with_another_method_does_not_borrow_the_accuracies_of_the_steps() -> None:
    other = pair(3.0, 0.3) | {"reference": "prototypical"}
    page = render(Report("A run", paired=[other], steps=(steps(1, 60.0, 68.0),)))
    assert "SIB, 3 steps against prototypical" in Page(page).text
    assert "accuracy is 60" not in Page(page).text


def test_changed_answers_are_marked_and_whether_to_right_or_to_wrong() -> None:
    page = Page(render(Report("A run", tasks=(task(),))))
    tiles = [a for a in page.with_class("tile") if "data-q" in a]
    assert len(tiles) == 12
    before, after = ({int(a["data-q"]): a for a in half} for half in (tiles[:6], tiles[6:]))
    for board in (before, after):
        assert {q for q, a in board.items() if "moved" in a["class"].split()} == {1, 2, 5}
    assert {q for q, a in before.items() if "wrong" in a["class"].split()} == {1, 3, 5}
    assert {q for q, a in after.items() if "wrong" in a["class"].split()} == {2, 3}
    assert after[1]["aria-label"] == "called ka (90 %): right; changed from ta"
    assert after[2]["aria-label"] == "called ta (90 %): wrong, it is ka; changed from ka"
    assert before[5]["aria-label"] == "called ka (90 %): wrong, it is ta; will change to ta"
    assert len(page.with_class("mark", "good", "filled")) == 2 + 1  # and one in the key
    assert len(page.with_class("mark", "bad", "filled")) == 1 + 1
    assert "3 answers changed: 2 from wrong to right, 1 from right to wrong, 0 from wrong to wrong" in page.text
    assert "3 → 4 of 6 right" in page.text


@pytest.mark.parametrize(("channels", "size"), [(1, (8, 8)), (3, (8, 8)), (3, (6, 10))])
def test_each_tile_shows_its_own_image(channels: int, size: tuple[int, int]) -> None:
    """The part of the sheet that a browser shows, computed from the style sheet as a browser does."""
    picture = task(channels, size=size)
    html = render(Report("A run", tasks=(picture,)))
    sheet = np.asarray(sheet_of(html))
    height, width = size
    tiles = [a for a in Page(html).with_class("tile") if "data-q" in a]
    for tile in tiles[:6]:
        x, y = (float(v) / 100 for v in re.findall(r"([\d.]+)%", tile["style"]))
        left, top = round(x * (sheet.shape[1] - width)), round(y * (sheet.shape[0] - height))
        shown = sheet[top : top + height, left : left + width].transpose(2, 0, 1)
        assert (shown == picture.query[int(tile["data-q"])].expand(3, -1, -1).numpy()).all()
    stretch = re.search(r"background-size: ([\d.]+)% ([\d.]+)%; aspect-ratio: (\d+) / (\d+)", html)
    assert stretch
    assert (int(stretch[3]), int(stretch[4])) == (width, height)
    assert float(stretch[1]) == pytest.approx(100 * sheet.shape[1] / width, abs=0.01)


def test_large_photographs_are_made_small() -> None:
    sheet = sheet_of(render(Report("A run", tasks=(task(size=(100, 200)),))))
    assert sheet.size == (8 * 50, 26)


def sheet_of(html: str) -> Image.Image:
    found = re.search(r"url\(data:image/png;base64,([^)]+)\)", html)
    assert found
    return Image.open(io.BytesIO(base64.b64decode(found[1])))


def test_a_report_with_nothing_in_it_is_still_a_page() -> None:
    assert "was not measured" in headline(Report("Nothing"))
    Page(render(Report("Nothing")))


def test_one_shot_setting_without_tasks_or_training_is_enough() -> None:
    page = Page(render(Report("A run", [record()], [pair(8.0, 0.3)], (steps(1, 60.0, 68.0),))))
    assert "accuracy is 60.00 ± 0.41 % for SIB, 0 steps and 68.00 ± 0.41 % for SIB, 3 steps" in page.text
    assert "Tasks in pictures" not in page.text
    assert "Training" not in page.text


def test_a_page_is_written_as_it_is_rendered(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write(full_report(), path)
    assert path.read_text("utf-8") == render(full_report())
    assert list(tmp_path.iterdir()) == [path]


def test_the_page_of_a_demo_stays_below_three_megabytes() -> None:
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (80, 3, 84, 84), dtype=np.uint8))  # noise: the worst case of PNG
    labels = torch.arange(5).repeat(16)
    answers = one_hot(labels[5:].tolist(), 5)
    big = TaskPicture(tuple("abcde"), pixels[:5], labels[:5], pixels[5:], labels[5:], answers, answers, "")
    assert len(render(replace(full_report(), tasks=(big, big, big))).encode()) < 3_000_000
