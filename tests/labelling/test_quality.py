"""Whether labels are good enough: what is made of the numbers, for a person and for a program."""

import json

import numpy as np
import pytest
from scipy.stats import binomtest

from helpers.reports import assessed
from onelook.labelling.quality import confused_pairs
from onelook.labelling.suggest import after_more
from onelook.scoring import Estimate

NAMES = ("cat", "dog", "emu")
MATRIX = [[2, 1, 1], [0, 0, 0], [3, 0, 1]]


def test_more_labels_are_told_of_as_long_as_there_are_images_for_them() -> None:
    one = assessed(NAMES, MATRIX)
    assert (one.n_labelled, one.n_images) == (9, 100)
    assert one.with_more_labels() == [(18, one.after(9)), (36, one.after(27))]
    assert assessed(NAMES, MATRIX, n_images=27).with_more_labels() == [(18, one.after(9))]
    assert assessed(NAMES, MATRIX, n_images=9).with_more_labels() == []
    assert vars(one.after(9)) == pytest.approx(vars(after_more(Estimate(0.832, 0.714, 0.901), 9, 9)))
    assert one.after(0).value == pytest.approx(one.estimate.accuracy.value)


def test_a_class_is_told_by_those_of_its_examples_that_can_be_left_out() -> None:
    cat, dog, emu = assessed(NAMES, MATRIX).classes()
    assert [(c.n, c.n_left_out, c.n_right) for c in (cat, dog, emu)] == [(4, 4, 2), (1, 0, 0), (4, 4, 1)]
    assert dog.recall is None
    assert emu.recall is not None
    interval = binomtest(1, 4).proportion_ci(method="exact")
    assert vars(emu.recall) == pytest.approx({"value": 0.25, "low": interval.low, "high": interval.high})
    assert (cat.expected, emu.expected) == (0.7, 0.8)


def test_what_is_confused_most_comes_first() -> None:
    assert confused_pairs(np.array(MATRIX), NAMES) == [(3, "emu", "cat"), (1, "cat", "dog"), (1, "cat", "emu")]


def test_at_the_terminal_it_is_three_lines_at_most() -> None:
    first, weak, pair = assessed(NAMES, MATRIX).summary()
    assert first == (
        "Expected accuracy 83 % (71 to 90); by the labelled examples alone 77 % (7 of 100 answers changed)."
    )
    assert weak == "Labelled examples, each left out in turn: 3 of 8 right, fewest of cat (2 of 4)."
    assert pair == "Confused most: emu, taken for cat (3 of 4)."
    assert assessed(NAMES).summary() == [first, "Labelled examples, each left out in turn: 6 of 6 right."]
    weak = assessed(NAMES, [[2, 0, 0], [0, 5, 0], [0, 1, 8]]).summary()[
        1
    ]  # of cats least is expected, but none is wrong
    assert weak.endswith("15 of 16 right, fewest of emu (8 of 9).")
    nothing = assessed(NAMES, np.zeros((3, 3), dtype=np.int64), curve=()).summary()
    assert nothing[0] == first
    assert nothing[1].startswith("No class has two labelled examples")
    assert len(nothing) == 2


def test_names_that_would_break_a_line_are_told_in_one() -> None:
    lines = assessed(("a\nb", "c\nd"), [[1, 1], [0, 2]]).summary()
    assert len(lines) == 3
    assert not any("\n" in line for line in lines)


def test_the_record_is_json_of_fractions() -> None:
    one = assessed(NAMES, MATRIX)
    told = json.loads(json.dumps(one.record(), allow_nan=False))
    assert told["expected_accuracy"] == {"value": 0.832, "low": 0.714, "high": 0.901}
    assert (told["inductive_accuracy"], told["n_changed"]) == (0.769, 7)
    assert told["confusion"] == MATRIX
    assert [row["name"] for row in told["classes"]] == list(NAMES)
    accuracy = {"value": 0.625, "low": 0.5, "high": 0.75}
    assert told["learning_curve"] == [{"n_shot": 1, "n_labels": 3, "accuracy": accuracy}]
    assert [row["n_labels"] for row in told["with_more_labels"]] == [18, 36]
    assert told["with_more_labels"][0]["accuracy"] == pytest.approx(vars(one.after(9)))
