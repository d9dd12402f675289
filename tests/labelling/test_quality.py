"""Whether labels are good enough: what is made of the numbers, for a person and for a program."""

import json

import numpy as np
import pytest
from scipy.stats import binomtest

from label_reports import assessed
from onelook.labelling.suggest import Estimate, after_more

NAMES = ("cat", "dog", "emu")
MATRIX = [[2, 1, 1], [0, 0, 0], [3, 0, 1]]


def test_more_labels_are_told_of_as_long_as_there_are_images_for_them() -> None:
    one = assessed(NAMES, MATRIX)
    assert (one.n_labelled, one.n_images) == (9, 100)
    assert one.later() == [(18, one.after(9)), (36, one.after(27))]
    assert assessed(NAMES, MATRIX, n_images=27).later() == [(18, one.after(9))]
    assert assessed(NAMES, MATRIX, n_images=9).later() == []
    assert vars(one.after(9)) == pytest.approx(vars(after_more(Estimate(83.2, 71.4, 90.1), 9, 9)))
    assert one.after(0).mean == pytest.approx(one.now.mean)


def test_a_class_is_told_by_those_of_its_examples_that_can_be_left_out() -> None:
    cat, dog, emu = assessed(NAMES, MATRIX).classes()
    assert [(c.n, c.n_left_out, c.n_right) for c in (cat, dog, emu)] == [(4, 4, 2), (1, 0, 0), (4, 4, 1)]
    assert (dog.low, dog.high) == (0, 1)
    interval = binomtest(1, 4).proportion_ci(method="exact")
    assert (emu.low, emu.high) == pytest.approx((interval.low, interval.high))
    assert (cat.expected, emu.expected) == (0.7, 0.8)


def test_what_is_confused_most_comes_first() -> None:
    assert assessed(NAMES, MATRIX).confused() == [(3, "emu", "cat"), (1, "cat", "dog"), (1, "cat", "emu")]


def test_at_the_terminal_it_is_three_lines_at_most() -> None:
    first, weak, pair = assessed(NAMES, MATRIX).words()
    assert first == (
        "Expected accuracy 83 %, between 71 and 90; 77 % by the labelled examples alone (7 of 100 answers changed)."
    )
    assert weak == "Labelled examples, each left out: 3 of 8 right, fewest of cat (2 of 4)."
    assert pair == "Confused most: emu, taken for cat (3 of 4)."
    assert assessed(NAMES).words() == [first, "Labelled examples, each left out: 6 of 6 right."]
    weak = assessed(NAMES, [[2, 0, 0], [0, 5, 0], [0, 1, 8]]).words()[1]  # of cats least is expected, but none is wrong
    assert weak.endswith("15 of 16 right, fewest of emu (8 of 9).")
    nothing = assessed(NAMES, np.zeros((3, 3), dtype=np.int64), curve=()).words()
    assert nothing[0] == first
    assert nothing[1].startswith("No class has two labelled examples")
    assert len(nothing) == 2


def test_names_that_would_break_a_line_are_told_in_one() -> None:
    lines = assessed(("a\nb", "c\nd"), [[1, 1], [0, 2]]).words()
    assert len(lines) == 3
    assert not any("\n" in line for line in lines)


def test_the_record_is_json_of_shares() -> None:
    one = assessed(NAMES, MATRIX)
    told = json.loads(json.dumps(one.record(), allow_nan=False))
    assert (told["expected_accuracy"], told["low"], told["high"]) == (0.832, 0.714, 0.901)
    assert (told["expected_accuracy_of_labelled_alone"], told["n_changed"]) == (0.769, 7)
    assert told["confusion"] == MATRIX
    assert [row["name"] for row in told["classes"]] == list(NAMES)
    assert told["learning_curve"] == [{"per_class": 1, "n_labels": 3, "accuracy": 0.625, "low": 0.5, "high": 0.75}]
    assert [row["n_labels"] for row in told["with_more_labels"]] == [18, 36]
    assert told["with_more_labels"][0]["mean"] == pytest.approx(one.after(9).mean / 100)
