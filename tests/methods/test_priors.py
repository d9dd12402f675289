import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from onelook.errors import SettingsError
from onelook.methods.priors import ClassPriors

CLASSES = ["cat", "dog", "emu"]


@given(st.lists(st.integers(1, 9), min_size=3, max_size=3))
def test_every_way_to_write_numbers_means_the_same(numbers: list[int]) -> None:
    expected = torch.tensor(numbers, dtype=torch.float64) / sum(numbers)
    by_class = dict(zip(CLASSES, numbers, strict=True))
    ways = (numbers, tuple(numbers), np.array(numbers), "/".join(map(str, numbers)), by_class)
    for way in (*ways, dict(reversed(by_class.items()))):
        torch.testing.assert_close(ClassPriors.parse(way).tensor(CLASSES), expected)


def test_unknown_priors_are_nan_and_balanced_ones_are_equal() -> None:
    assert ClassPriors.parse("unknown").tensor(CLASSES).isnan().all()
    assert ClassPriors.parse("balanced").tensor(range(4)).tolist() == [0.25] * 4


def test_numbers_get_the_names_of_the_classes_and_words_stay_words() -> None:
    assert ClassPriors.parse("0.3/0.3/0.4").name(CLASSES) == {"cat": 0.3, "dog": 0.3, "emu": 0.4}
    assert [ClassPriors.parse(word).name(CLASSES) for word in ("unknown", "balanced")] == ["unknown", "balanced"]


TEXTS = ("", "even", "0.5", "0.5/", "0.5,0.5", "0.5/x", "-0.1/1.1", "1/-1", "nan/1", "inf/1", "1e308/1e308", "0/0", "/")
OTHERS = (None, 3, [], [1], [1, "x"], [1, -1], [0, 0], [1, math.nan], {"cat": 1}, {"cat": 1, "dog": None}, True)


@pytest.mark.parametrize("wrong", [*TEXTS, *OTHERS])
def test_what_gives_no_priors_is_refused_in_one_sentence(wrong: Any) -> None:
    with pytest.raises(SettingsError) as refusal:
        ClassPriors.parse(wrong)
    assert str(refusal.value) == (
        f"class_priors must be unknown, balanced, or a number for each class, written like 0.5/0.3/0.2, but is "
        f"{wrong!r}."
    )


@pytest.mark.parametrize("wrong", ["1/2", [1, 2, 3, 4], {"cat": 1, "dog": 2}, {"cat": 1, "dog": 2, "cow": 3}])
def test_priors_of_other_classes_are_refused_with_the_names_of_the_classes(wrong: Any) -> None:
    with pytest.raises(SettingsError, match=r"for each of the 3 classes \(cat, dog, emu\), written"):
        ClassPriors.parse(wrong).tensor(CLASSES)


def test_of_many_classes_the_sentence_names_ten() -> None:
    with pytest.raises(SettingsError, match=r"each of the 12 classes \(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, \.\.\.\)"):
        ClassPriors.parse("1/2").tensor(range(12))
