from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.methods import method_for, random_tasks, tasks_of_any_shape
from onelook import ops
from onelook.errors import SettingsError
from onelook.methods import BMS
from onelook.methods.bms import min_size_sinkhorn
from onelook.tasks import Tasks


def bms_for(tasks: Tasks, balanced: bool, **kept: Any) -> BMS:
    method = method_for(tasks, "bms", balanced=balanced, **kept)
    assert isinstance(method, BMS)
    return method


@given(st.integers(1, 3), st.integers(4, 12), st.integers(2, 4), st.integers(0, 1000))
def test_no_class_is_smaller_than_the_least_size_and_only_those_at_it_were_raised(
    n_tasks: int, n_query: int, n_way: int, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    kernel = 2 * torch.randn(n_tasks, n_query, n_way, generator=draw, dtype=torch.float64)
    least = (0.1 + 0.8 * torch.rand(n_tasks, generator=draw, dtype=torch.float64)) * n_query / n_way
    plan = min_size_sinkhorn(kernel, least, 3000).exp()
    size = plan.sum(1)
    torch.testing.assert_close(plan.sum(2), torch.ones(n_tasks, n_query, dtype=torch.float64), rtol=1e-3, atol=1e-3)
    assert (size >= least.unsqueeze(1) - 1e-9).all()
    # Of the form diag(a) kernel diag(b), with the least b for every class that is larger than it must be.
    log_b = (plan.log() - kernel).log_softmax(-1)
    torch.testing.assert_close(log_b, log_b[:, :1].expand_as(log_b))
    free = size > least.unsqueeze(1) * (1 + 1e-3)
    lowest = log_b[:, 0].amin(1, keepdim=True).expand_as(size)
    torch.testing.assert_close(log_b[:, 0][free], lowest[free])


@given(st.integers(1, 12), st.integers(2, 4), st.integers(0, 1000))
def test_a_least_size_that_no_class_falls_below_changes_nothing(n_query: int, n_way: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    kernel = torch.randn(1, n_query, n_way, generator=draw, dtype=torch.float64)
    least = kernel.softmax(-1).sum(1).amin(1)
    torch.testing.assert_close(min_size_sinkhorn(kernel, least, 20), kernel.log_softmax(-1))


@given(tasks_of_any_shape())
def test_the_balanced_form_gives_every_class_the_same_number_of_queries(tasks: Tasks) -> None:
    plan = bms_for(tasks, True, scale=1.0, n_steps=3, n_sinkhorn=300)(tasks).exp()
    torch.testing.assert_close(plan.sum(1), ops.balanced_mass(plan), rtol=1e-4, atol=1e-4)


@given(tasks_of_any_shape(n_query=st.integers(1, 3)), st.floats(0.1, 100))
def test_the_lengths_of_the_support_means_mean_nothing(tasks: Tasks, factor: float) -> None:
    method = bms_for(tasks, False, n_steps=0, transform="none")
    longer = Tasks(factor * tasks.support, tasks.support_labels, tasks.query, tasks.n_way)
    torch.testing.assert_close(method(longer), method(tasks))


def test_the_form_with_a_least_size_is_the_better_one_where_the_queries_are_far_from_balanced() -> None:
    tasks = random_tasks(n_tasks=30, shots=(1, 1, 1), n_query=60, feature_size=8, noise=0.4)
    assert tasks.query_labels is not None
    kept = torch.argsort(tasks.query_labels, dim=1, stable=True)[:, :24]  # about 20 of class 0 and few others
    query = tasks.query.gather(1, kept.unsqueeze(-1).expand(-1, -1, 8))
    labels = tasks.query_labels.gather(1, kept)
    tasks = Tasks(tasks.support, tasks.support_labels, query, 3, labels)
    free, even = (
        (bms_for(tasks, b, transform="l2n")(tasks).argmax(-1) == labels).double().mean() for b in (False, True)
    )
    assert free > even + 0.05


@pytest.mark.parametrize("wrong", [{"scale": 0.0}, {"n_steps": -1}, {"n_sinkhorn": 0}])
def test_impossible_settings_are_refused_with_what_was_found(wrong: dict[str, float]) -> None:
    ((key, value),) = wrong.items()
    with pytest.raises(SettingsError, match=f"{key} of .* is {value}"):
        BMS(8, **wrong)  # type: ignore[arg-type]
