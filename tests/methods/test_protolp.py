import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from helpers.methods import method_for, random_tasks, tasks_of_any_shape
from onelook import ops
from onelook.errors import SettingsError
from onelook.methods import ProtoLP
from onelook.tasks import Tasks


def protolp_for(tasks: Tasks, **kept: float) -> ProtoLP:
    method = method_for(tasks, "protolp", **kept)
    assert isinstance(method, ProtoLP)
    return method


def shares(tasks: Tasks) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.rand(*tasks.query.shape[:2], tasks.n_way, generator=draw, dtype=torch.float64).softmax(-1)


def shots(tasks: Tasks) -> Tensor:
    return ops.one_hot(tasks.support_labels, tasks.n_way, torch.float64).sum(1)


@given(tasks_of_any_shape(n_query=st.integers(4, 8)), st.sampled_from([0.1, 1.0, 10.0]))
def test_the_labels_of_the_prototypes_minimise_the_misfit_of_the_support_and_the_roughness_of_the_graph(
    tasks: Tasks, smoothness: float
) -> None:
    method, share = protolp_for(tasks, smoothness=smoothness), shares(tasks)
    propagated = method.propagate(share, shots(tasks))
    for i in range(len(tasks)):
        hot = torch.eye(tasks.n_way, dtype=torch.float64)[tasks.support_labels[i]]
        label = torch.linalg.lstsq(share[i], propagated[i]).solution.requires_grad_()
        linked = torch.cat([hot, share[i]]) / (hot.sum(0) + share[i].sum(0)).sqrt()
        roughness = label.square().sum() - (linked @ label).square().sum()
        ((hot @ label - hot).square().sum() + smoothness * roughness).backward()
        assert label.grad is not None
        assert label.grad.abs().max() < 1e-8


@given(tasks_of_any_shape())
def test_of_balanced_classes_the_graph_is_that_of_the_published_code(tasks: Tasks) -> None:
    # One scaling by the sums of the columns, which are all equal here.
    n_way = tasks.n_way
    shots_of_each = torch.full((len(tasks), n_way), 2.0, dtype=torch.float64)
    log_plan = ops.sinkhorn(3 * shares(tasks), ops.balanced_mass(shares(tasks)), 3000)
    share = log_plan.exp()
    found = protolp_for(tasks).propagate(share, shots_of_each)
    for i in range(len(tasks)):
        z = np.concatenate([np.repeat(np.eye(n_way), 2, 0), share[i].numpy()])
        laplacian = np.eye(n_way) - z.T @ (z / z.sum(0))
        expected = share[i].numpy() @ np.linalg.inv(2 * np.eye(n_way) + laplacian) * 2
        np.testing.assert_allclose(found[i], expected, atol=1e-5)


def test_without_propagation_a_full_step_is_one_of_soft_k_means() -> None:
    tasks = random_tasks(n_query=7)
    kept = {"balanced": False, "propagated_part": 0.0, "step_size": 1.0, "dimensions": 0}
    rows = torch.cat([tasks.support, tasks.query], 1)
    rows = ops.normalise(rows.sign() * (rows.abs() + 1e-6).sqrt())
    rows = ops.normalise(rows - rows.mean(1, keepdim=True))
    support, query = rows[:, : tasks.support.shape[1]], rows[:, tasks.support.shape[1] :]
    share = protolp_for(tasks, n_steps=0, **kept)(tasks).exp()
    means = ops.soft_class_means(support, tasks.support_labels, query, share)
    expected = (-10 * ops.squared_distance(query, means)).log_softmax(-1)
    torch.testing.assert_close(protolp_for(tasks, n_steps=1, **kept)(tasks), expected)


def test_classes_get_equally_many_queries_exactly_when_they_are_said_to_be_balanced() -> None:
    tasks = random_tasks(n_tasks=20, shots=(2, 2, 2), n_query=12, noise=0.3)
    balanced, free = (protolp_for(tasks, balanced=value, n_sinkhorn=200)(tasks).exp() for value in (True, False))
    torch.testing.assert_close(balanced.sum(1), torch.full((20, 3), 4.0, dtype=torch.float64), atol=0.05, rtol=0)
    assert (free.sum(1) - 4).abs().max() > 1
    torch.testing.assert_close(free.sum(2), torch.ones(20, 12, dtype=torch.float64))


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_steps": -1},
        {"scale": 0.0},
        {"smoothness": 0.0},
        {"dimensions": -1},
        {"n_sinkhorn": 0},
        {"step_size": 0.0},
        {"step_size": 1.5},
        {"propagated_part": -0.1},
        {"propagated_part": 1.1},
    ],
)
def test_impossible_settings_are_refused_with_what_was_found(wrong: dict[str, float]) -> None:
    ((key, value),) = wrong.items()
    with pytest.raises(SettingsError, match=f"{key} of .* is {value}"):
        ProtoLP(8, **wrong)  # type: ignore[arg-type]
