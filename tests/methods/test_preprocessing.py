from dataclasses import replace

import pytest
import torch
from hypothesis import given

import reference.common
from helpers.methods import random_tasks, tasks_of_any_shape, training_classes
from onelook.errors import SettingsError
from onelook.methods.preprocessing import TRANSFORMS, PreprocessedMethod
from onelook.tasks import Tasks

each_transform = pytest.mark.parametrize("transform", TRANSFORMS)


def prepared(transform: str, feature_size: int) -> PreprocessedMethod:
    method = PreprocessedMethod(feature_size, transform).double()
    method.prepare(*training_classes(feature_size))
    return method


@each_transform
@given(tasks=tasks_of_any_shape())
def test_a_batch_is_transformed_as_its_rows_are_one_by_one(transform: str, tasks: Tasks) -> None:
    method = prepared(transform, tasks.query.shape[-1])
    found = method.preprocess(tasks)
    for i in range(len(tasks)):
        support, query = reference.common.preprocessed(method, tasks[i : i + 1])
        torch.testing.assert_close(found.support[i], support, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found.query[i], query, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("transform", [t for t in TRANSFORMS if t != "none"])
def test_rows_have_length_one(transform: str) -> None:
    tasks = random_tasks()
    found = prepared(transform, 6).preprocess(tasks)
    for rows in (found.support, found.query):
        torch.testing.assert_close(rows.norm(dim=-1), torch.ones_like(rows[..., 0]))


def test_a_shift_of_all_roots_of_the_queries_is_removed_by_their_own_mean() -> None:
    tasks = random_tasks(n_query=8)
    found = prepared("root-task", 6).preprocess(replace(tasks, query=tasks.query.abs()))
    before = tasks.query.abs().sqrt()
    towards = (before / before.norm(dim=-1, keepdim=True)).mean(1, keepdim=True)
    # What is left of the common direction is small beside the length of 1.
    assert (found.query * towards).sum(-1).mean().abs() < 0.05


def test_a_single_query_keeps_its_direction() -> None:
    tasks = random_tasks(n_query=1)
    alone = prepared("root-task", 6).preprocess(tasks).query
    torch.testing.assert_close(alone, prepared("root", 6).preprocess(tasks).query)


@pytest.mark.parametrize("transform", ["L2N", "root_task"])
def test_an_unknown_transform_is_refused_with_what_there_is(transform: str) -> None:
    with pytest.raises(SettingsError, match="root-task.*" + transform):
        PreprocessedMethod(4, transform)
