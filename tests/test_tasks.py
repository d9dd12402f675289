from dataclasses import FrozenInstanceError

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from helpers.methods import random_tasks, tasks_of_any_shape
from onelook.errors import DataError
from onelook.tasks import Embeddings, Tasks


def tasks_with_labels(labels: list[list[int]], n_way: int) -> Tasks:
    n_tasks, n_support = len(labels), len(labels[0])
    return Tasks(torch.zeros(n_tasks, n_support, 2), torch.tensor(labels), torch.zeros(n_tasks, 1, 2), n_way)


@given(st.integers(1, 3), st.integers(1, 5), st.data())
def test_tasks_exist_exactly_when_every_class_has_a_support_row_and_every_row_a_class(
    n_way: int, n_support: int, data: st.DataObject
) -> None:
    row = st.lists(st.integers(-1, n_way), min_size=n_support, max_size=n_support)
    labels = data.draw(st.lists(row, min_size=1, max_size=2))
    if all(set(one) == set(range(n_way)) for one in labels):
        assert len(tasks_with_labels(labels, n_way)) == len(labels)
    else:
        with pytest.raises(DataError):
            tasks_with_labels(labels, n_way)


def test_a_label_out_of_range_is_refused_with_the_range_found_and_the_range_expected() -> None:
    with pytest.raises(DataError, match="must be 0 to 2, but found 1 to 3; relabel"):
        tasks_with_labels([[1, 2, 3]], n_way=3)


def test_a_class_without_a_support_row_is_named() -> None:
    with pytest.raises(DataError, match="Class 1 has no labelled example"):
        tasks_with_labels([[0, 1, 2], [0, 2, 2]], n_way=3)


def test_tasks_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        random_tasks().n_way = 2  # type: ignore[misc]


@given(tasks_of_any_shape(), st.integers(0, 3), st.integers(0, 3))
def test_a_slice_holds_the_same_tasks(tasks: Tasks, start: int, stop: int) -> None:
    for whole in (tasks, tasks.without_query_labels()):
        part = whole[start:stop]
        assert len(part) == len(range(len(whole))[start:stop])
        assert part.n_way == whole.n_way
        assert torch.equal(part.support, whole.support[start:stop])
        assert torch.equal(part.support_labels, whole.support_labels[start:stop])
        assert torch.equal(part.query, whole.query[start:stop])
        if whole.query_labels is None:
            assert part.query_labels is None
        else:
            assert part.query_labels is not None
            assert torch.equal(part.query_labels, whole.query_labels[start:stop])


@given(tasks_of_any_shape())
def test_mapping_items_calls_the_function_once_and_leaves_every_row_in_its_place(tasks: Tasks) -> None:
    calls = []

    def image_of(rows: Tensor) -> Tensor:
        calls.append(len(rows))
        return torch.stack([rows, 2 * rows], 1).unsqueeze(1)

    images = tasks.map_items(image_of)
    assert calls == [tasks.support.shape[0] * (tasks.support.shape[1] + tasks.query.shape[1])]
    for image, row in ((images.support, tasks.support), (images.query, tasks.query)):
        assert image.shape == (*row.shape[:2], 1, 2, row.shape[2])
        assert torch.equal(image[:, :, 0, 0], row)
        assert torch.equal(image[:, :, 0, 1], 2 * row)
    assert images.support_labels is tasks.support_labels
    assert images.query_labels is tasks.query_labels
    back = images.map_items(lambda image: image[:, 0, 0])
    assert torch.equal(back.support, tasks.support)
    assert torch.equal(back.query, tasks.query)


def test_the_features_of_embeddings_are_their_first_view() -> None:
    views = torch.arange(24.0).reshape(2, 3, 4)
    embeddings = Embeddings(views, torch.tensor([0, -1, 0]), ("a",))
    assert torch.equal(embeddings.features, views[0])
    assert embeddings.feature_size == 4
