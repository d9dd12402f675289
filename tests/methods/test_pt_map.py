import numpy as np
import pytest
import torch
from hypothesis import given
from scipy.optimize import minimize

from helpers.methods import method_for, random_tasks, tasks_of_any_shape
from onelook import ops
from onelook.errors import SettingsError
from onelook.methods import PTMAP
from onelook.tasks import Tasks


def pt_map_for(tasks: Tasks, **kept: float) -> PTMAP:
    method = method_for(tasks, "pt-map", **kept)
    assert isinstance(method, PTMAP)
    return method


@given(tasks_of_any_shape())
def test_every_class_gets_the_same_number_of_queries(tasks: Tasks) -> None:
    plan = pt_map_for(tasks, scale=1.0, n_sinkhorn=300)(tasks).exp()
    torch.testing.assert_close(plan.sum(2), torch.ones(plan.shape[:2], dtype=torch.float64))
    torch.testing.assert_close(plan.sum(1), ops.balanced_mass(plan), rtol=1e-4, atol=1e-4)


def test_the_plan_is_the_cheapest_balanced_one_with_its_entropy_as_a_general_solver_finds_it() -> None:
    tasks = random_tasks(n_tasks=1, shots=(1, 2), n_query=6)
    method = pt_map_for(tasks, scale=3.0, n_steps=0, n_sinkhorn=500)
    rows = method.preprocess(tasks)
    cost = ops.squared_distance(rows.query, ops.class_means(rows.support, rows.support_labels, 2))[0].numpy()

    def price(first: np.ndarray) -> float:
        plan = np.stack([first, 1 - first], axis=1)
        return float((method.scale * cost * plan + plan * np.log(plan)).sum())

    half = {"type": "eq", "fun": lambda first: first.sum() - len(first) / 2}
    best = minimize(price, np.full(6, 0.5), bounds=[(1e-9, 1 - 1e-9)] * 6, constraints=[half], tol=1e-12)
    np.testing.assert_allclose(method(tasks)[0, :, 0].exp().numpy(), best.x, atol=1e-4)


def test_a_step_goes_the_given_part_of_the_way_to_the_means_weighted_by_the_plan() -> None:
    tasks = random_tasks()
    method = pt_map_for(tasks, n_steps=1, step_size=0.3)
    rows = method.preprocess(tasks)
    before = ops.class_means(rows.support, rows.support_labels, tasks.n_way)
    share = method.log_plan(rows, before).exp()
    whole = ops.soft_class_means(rows.support, rows.support_labels, rows.query, share)
    torch.testing.assert_close(method(tasks), method.log_plan(rows, 0.7 * before + 0.3 * whole))


def test_the_dimension_of_the_features_can_be_reduced_to_that_of_their_span_without_effect() -> None:
    # The authors' code works on a QR reduction; the distances, and so the answer, are the same.
    tasks = random_tasks(feature_size=30)
    rows = torch.cat([tasks.support, tasks.query], 1)
    reduced = torch.linalg.qr(rows.mT).R.mT
    n_support = tasks.support.shape[1]
    smaller = Tasks(reduced[:, :n_support], tasks.support_labels, reduced[:, n_support:], tasks.n_way)
    assert reduced.shape[-1] < 30
    # Without the root, because the entries themselves are others in another basis.
    first, second = (pt_map_for(t, transform="l2n")(t) for t in (tasks, smaller))  # type: ignore[arg-type]
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("wrong", [{"scale": 0.0}, {"step_size": 0.0}, {"n_steps": -1}, {"n_sinkhorn": 0}])
def test_impossible_settings_are_refused_with_what_was_found(wrong: dict[str, float]) -> None:
    ((key, value),) = wrong.items()
    with pytest.raises(SettingsError, match=f"{key} of .* is {value}"):
        PTMAP(8, **wrong)  # type: ignore[arg-type]
