"""Near copies with different labels: found among labelled images alone, and by their pictures."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onelook.server import near_copies
from onelook.server.near_copies import NearCopies
from onelook.server.relearning import Contradiction, Learned, add_copies

NAMES = ["a.png", "a-small.jpg", "b.png", "a-again.png", "text.png"]
CLEARED = -1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(4)
    a, b = (Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8)).resize((96, 96)) for _ in range(2))
    for name, picture in (("a.png", a), ("a-small.jpg", a.resize((70, 70))), ("b.png", b), ("a-again.png", a)):
        picture.save(tmp_path / name)
    (tmp_path / "text.png").write_text("no picture")
    return tmp_path


def find(copies: NearCopies, given: list[int], features: np.ndarray | None = None) -> list[tuple[int, int]]:
    features = np.ones((len(given), 3), np.float32) if features is None else features
    return copies.find_contradictory(features, np.ones(len(given), bool), np.array(given, np.int16))


def test_only_labels_of_the_same_picture_contradict_each_other(folder: Path) -> None:
    copies = NearCopies(folder, NAMES)
    assert find(copies, [0, CLEARED, 1, CLEARED, 2]) == [], "other pictures with like features are none"
    assert find(copies, [0, 1, 1, CLEARED, 2]) == [(0, 1)]
    assert find(copies, [0, 1, 1, 1, 2]) == [(0, 1), (0, 3)]
    assert find(copies, [1, 1, 1, 1, 2]) == [], "whoever mends a label sees it go"
    assert find(copies, [1, 1, 1, -2, 0]) == [], "none of these is no class"


def test_no_image_is_read_but_of_similar_features_and_different_labels(folder: Path) -> None:
    copies = NearCopies(folder / "gone", NAMES)
    find(copies, [0, 1, 2, 3, CLEARED], np.eye(5, dtype=np.float32))
    find(copies, [0, 0, 0, 0, 0])
    assert not copies._looks


def test_a_call_does_a_part_of_the_work_and_the_newest_label_comes_first(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near_copies, "PRODUCTS", 1)  # one image a call
    copies = NearCopies(folder, NAMES)
    find(copies, [0, CLEARED, 0, CLEARED, 0])
    assert find(copies, [0, CLEARED, 0, 1, 0]) == [(0, 3)]


def test_both_images_of_a_pair_are_shown_first_and_each_once() -> None:
    doubts = (Contradiction(1, 5, 6, 0.9, 0.0), Contradiction(7, 5, 6, 0.9, 0.0))
    learned = replace(Learned.nothing(8), contradictions=doubts)
    found = add_copies(learned, np.array([4, 5, 0, 0, 0, 0, 0, 5]), [(0, 1)]).contradictions
    assert [(one.row, one.label, one.says, one.other) for one in found] == [(0, 4, 5, 1), (1, 5, 4, 0), (7, 5, 6, None)]
    is_checked = np.isin(np.arange(8), [0, 1])
    assert add_copies(learned, np.array([4, 5, 0, 0, 0, 0, 0, 5]), [(0, 1)], is_checked).contradictions == doubts
