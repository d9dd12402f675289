"""The part of the page that says whether the labels are good enough."""

import itertools
import re
from typing import Any

import numpy as np
import pytest

from helpers.pages import Page
from helpers.reports import assessed, report
from onelook.estimators.calibration import AccuracyEstimate
from onelook.estimators.learning_curve import CurvePoint
from onelook.labelling.page import render
from onelook.labelling.page_accuracy import BOTTOM, LEFT, MOST_OPEN, NARROWEST, RIGHT, TOP, WIDTH, draw_curve
from onelook.labelling.quality import Assessment
from onelook.scoring import Estimate

MIXED = [[2, 1, 0], [0, 0, 0], [3, 0, 1]]


def page(assessment: Assessment | None, **changes: Any) -> Page:
    names = assessment.class_names if assessment else ("a", "b", "c")
    return Page(render(report(k=len(names), class_names=names, assessment=assessment, **changes)))


def estimate(value: float, low: float, high: float) -> AccuracyEstimate:
    per_class = dict.fromkeys("abc", value)
    return AccuracyEstimate(Estimate(value, low, high), value, per_class, 2 * np.eye(3, dtype=np.int64))


def section(of: Page) -> str:
    return of.text.split("Is it good enough?")[-1].split("Images by class")[0]


def test_it_tells_what_to_expect_and_what_the_images_to_label_are_worth() -> None:
    text = section(page(assessed(("a", "b", "c"), MIXED)))
    assert "83 % (71 to 90) of the labels should be right" in text
    assert re.search(r"alone it would be 77.%: .* changed 7 of 100 answers", text)
    assert "3 of 7 labelled examples were taken for their own class when they were left out" in text


def test_the_matrix_has_a_row_of_each_class_with_its_examples_and_what_they_were_taken_for() -> None:
    text = section(page(assessed(("a", "b", "c"), MIXED)))
    assert re.search(r"a ?67 % \(9 to 99\) ?3 ?2 ?1 ?0 ", text)
    assert re.search(r"c ?25 % \(1 to 81\) ?4 ?3 ?0 ?1 ", text)
    assert re.search(r"b ?\? ?1 ?0 ?0 ?0 ", text)


def test_of_a_class_of_one_example_it_says_that_nothing_can_be_said_of_it_alone() -> None:
    assert "b has one labelled example: left out, nothing is there to judge it by" in section(
        page(assessed(("a", "b", "c"), MIXED))
    )
    text = section(page(assessed(("a", "b", "c"), np.zeros((3, 3), dtype=np.int64), curve=())))
    assert "Each class has one labelled example" in text
    assert "Nothing is measured" in text
    assert "each judged by the others" not in text
    assert "Each class has" not in section(page(assessed(("a", "b", "c"))))
    many = np.diag([2, *[0] * 7])
    assert "b, c, d, e and 3 others have one labelled example each" in section(page(assessed(tuple("abcdefgh"), many)))


@pytest.mark.parametrize("k", [MOST_OPEN, MOST_OPEN + 1])
def test_the_table_of_many_classes_is_folded_and_what_is_confused_most_stands_before_it(k: int) -> None:
    names = tuple(f"class {i}" for i in range(k))
    matrix = 2 * np.eye(k, dtype=np.int64)
    matrix[0, 1] = 5
    of = page(assessed(names, matrix))
    text = section(of)
    assert ("Class by class" in text) == ("5 of class 0 taken for class 1" in text) == (k > MOST_OPEN)
    assert text.index("5 of class 0" if k > MOST_OPEN else "true class") < text.index("What more labels bring")
    assert "details" not in {tag for tag, _ in of.elements} or k > MOST_OPEN


def test_the_numbers_of_the_curve_are_a_table_too() -> None:
    points = (CurvePoint(1, 3, Estimate(0.5, 0.25, 0.75)), CurvePoint(2, 5, Estimate(0.6, 0.4, 0.8)))
    one = assessed(("a", "b", "c"), MIXED, curve=points)
    text = section(page(one))
    rows = [
        (3, "50 % (25 to 75)", "measured, 1 of each class"),
        (5, "60 % (40 to 80)", "measured, up to 2 of each class"),
        (8, "83 % (71 to 90)", "now, estimated"),
        (16, one.after(8), "expected, 2 times as many"),
        (32, one.after(24), "expected, 4 times as many"),
    ]
    assert re.search(" ?".join(re.escape(str(word)) for row in rows for word in row), text)
    (svg,) = [a for tag, a in page(one, positions=None).elements if tag == "svg"]
    assert svg["aria-label"]


def test_what_the_suggested_images_bring_is_told_where_others_are_left() -> None:
    one = assessed(("a", "b", "c"))
    assert f"With it labelled, {one.after(1)} of the others" in page(one).text
    assert "of the others" not in page(assessed(("a", "b", "c"), n_images=1)).text
    assert "of the others" not in page(None).text


@pytest.mark.parametrize(
    "one",
    [
        assessed(("a", "b", "c")),
        assessed(("a", "b", "c"), curve=()),
        assessed(("a", "b", "c"), curve=(), n_images=1),
        assessed(("a", "b", "c"), estimate=estimate(1.0, 0.0, 1.0)),
        assessed(("a", "b", "c"), estimate=estimate(1.0, 1.0, 1.0), curve=()),
        assessed(
            ("a", "b", "c"),
            n_examples=(40, 40, 40),
            n_images=10**6,
            curve=tuple(
                CurvePoint(s, 3 * s, Estimate(1 - 1 / (s + 1), 0.9 - 1 / (s + 1), 1.0))
                for s in (1, 2, 3, 5, 8, 13, 21, 34)
            ),
        ),
    ],
)
def test_the_curve_lies_inside_its_picture_whatever_the_numbers(one: Assessment) -> None:
    found = draw_curve(one)
    marks = found["marks"]
    assert [mark["x"] for mark in marks] == sorted({mark["x"] for mark in marks})
    assert all(LEFT < mark["x"] < RIGHT <= WIDTH for mark in marks)
    assert all(TOP <= mark["high"] <= mark["y"] <= mark["low"] <= BOTTOM for mark in marks)
    assert found["levels"][-1] == (100, TOP)
    assert found["levels"][0][1] == BOTTOM
    places = [mark["x"] for mark in found["numbers"]]
    assert all(b - a >= NARROWEST for a, b in itertools.pairwise(places))
    assert one.n_labelled in [mark["n"] for mark in found["numbers"]]
    assert len(found["measured"].split()) == len(one.curve)
    assert len(found["band"].split()) == 2 * len(one.curve)
    assert len(found["expected"].split()) == 1 + len(one.with_more_labels())


def test_equal_factors_of_labels_are_equally_far_apart_and_higher_is_better() -> None:
    marks = draw_curve(assessed(("a", "b", "c"), curve=()))["marks"]
    assert marks[1]["x"] - marks[0]["x"] == pytest.approx(marks[2]["x"] - marks[1]["x"], abs=0.11)
    assert marks[0]["y"] > marks[1]["y"] > marks[2]["y"]
