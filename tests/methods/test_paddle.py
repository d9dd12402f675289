from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from helpers.methods import method_for, random_tasks, tasks_of_any_shape
from onelook import ops
from onelook.errors import SettingsError
from onelook.methods import PADDLE
from onelook.tasks import Tasks

PUBLISHED: dict[str, Any] = {"min_max": True, "temperature": 1.0, "transform": "none"}


def description_length(u: Tensor, tasks: Tasks, class_weight: float) -> Tensor:
    """The objective of each task, with the best centres for these assignments."""
    centres = ops.soft_class_means(tasks.support, tasks.support_labels, tasks.query, u)
    hot = ops.one_hot(tasks.support_labels, tasks.n_way, u.dtype)
    of_queries = (u * ops.squared_distance(tasks.query, centres)).sum((1, 2))
    of_support = (hot * ops.squared_distance(tasks.support, centres)).sum((1, 2))
    share = u.mean(1)
    code = -(share * share.clamp_min(1e-30).log()).sum(1) * class_weight * u.shape[1]
    return (of_queries + of_support) / 2 + (u * u.clamp_min(1e-30).log()).sum((1, 2)) + code


@given(tasks_of_any_shape(n_query=st.integers(2, 8)), st.sampled_from([0.0, 0.5, 1.0, 3.0]))
def test_no_iteration_makes_the_description_longer(tasks: Tasks, class_weight: float) -> None:
    lengths = []
    for n in range(1, 10):
        method = method_for(
            tasks, "paddle", class_weight=class_weight, n_iterations=n, **(PUBLISHED | {"min_max": False})
        )
        lengths.append(description_length(method(tasks).exp(), tasks, class_weight))
    # The least share that is added to a proportion moves the objective by as much as itself and a little more.
    assert (torch.stack(lengths).diff(dim=0) < 1e-4).all()


def test_the_price_of_classes_leaves_fewer_of_them() -> None:
    tasks = random_tasks(n_tasks=30, shots=(1, 1, 1, 1, 1), n_query=30, feature_size=16, noise=1.0)

    def entropy(class_weight: float) -> float:
        share = method_for(tasks, "paddle", class_weight=class_weight, **PUBLISHED)(tasks).softmax(-1).mean(1)
        return float(-(share * share.clamp_min(1e-30).log()).sum(1).mean())

    assert entropy(0.0) > entropy(1.0) + 0.02
    assert entropy(1.0) > entropy(4.0) + 0.02


@given(tasks_of_any_shape(n_query=st.integers(2, 6)), st.integers(0, 100))
def test_the_unit_and_the_origin_of_each_feature_mean_nothing_with_min_max(tasks: Tasks, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    factor, offset = torch.rand(2, tasks.query.shape[-1], generator=draw, dtype=torch.float64) + 0.1
    other = Tasks(factor * tasks.support + offset, tasks.support_labels, factor * tasks.query + offset, tasks.n_way)
    method = method_for(tasks, "paddle", n_iterations=5, **PUBLISHED)
    torch.testing.assert_close(method(other), method(tasks), rtol=1e-6, atol=1e-6)


def test_a_feature_that_all_queries_have_alike_is_left_as_it_is() -> None:
    tasks = random_tasks(n_query=5)
    query = tasks.query.clone()
    query[..., 0] = 2.0
    tasks = Tasks(tasks.support, tasks.support_labels, query, tasks.n_way)
    spread = query.amax(1, keepdim=True) - query.amin(1, keepdim=True)
    spread[..., 0] = 1.0
    scaled = Tasks(tasks.support / spread, tasks.support_labels, query / spread, tasks.n_way)
    expected = method_for(tasks, "paddle", **(PUBLISHED | {"min_max": False}))(scaled)
    torch.testing.assert_close(method_for(tasks, "paddle", **PUBLISHED)(tasks), expected)


@pytest.mark.parametrize("wrong", [{"class_weight": -1.0}, {"n_iterations": 0}, {"temperature": 0.0}])
def test_impossible_settings_are_refused_with_what_was_found(wrong: dict[str, Any]) -> None:
    ((key, value),) = wrong.items()
    with pytest.raises(SettingsError, match=f"{key} of .* is {value!r}"):
        PADDLE(8, **wrong)
