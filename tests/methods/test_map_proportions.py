import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from helpers.methods import method_for, random_tasks, tasks_of_any_shape
from onelook import ops
from onelook.errors import SettingsError
from onelook.methods import MAPProportions, PrototypicalNetworks
from onelook.tasks import Tasks


def map_for(tasks: Tasks, **kept: float) -> MAPProportions:
    method = method_for(tasks, "map-proportions", **kept)
    assert isinstance(method, MAPProportions)
    return method


@given(tasks_of_any_shape())
def test_without_a_step_it_is_the_posterior_of_prototypical_networks(tasks: Tasks) -> None:
    prototypical = PrototypicalNetworks(tasks.query.shape[-1], transform="l2n").double()
    torch.testing.assert_close(map_for(tasks, n_steps=0, scale=1.0)(tasks), prototypical(tasks).log_softmax(-1))


@given(tasks_of_any_shape(), st.floats(0.1, 100), st.integers(0, 100))
def test_the_proportions_add_up_to_one_and_the_prior_holds_them_at_equal_ones(
    tasks: Tasks, prior: float, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    share = torch.randn(*tasks.query.shape[:2], tasks.n_way, generator=draw, dtype=torch.float64).softmax(-1)
    found = map_for(tasks, prior=prior).log_priors(share).exp()
    torch.testing.assert_close(found.sum(1), torch.ones(len(tasks), dtype=torch.float64))
    # The posterior mean lies between the prior's and that of the queries, the nearer to either the more it counts.
    weight = share.shape[1] / (share.shape[1] + tasks.n_way * prior)
    torch.testing.assert_close(found, weight * share.mean(1) + (1 - weight) / tasks.n_way)


def objective(method: MAPProportions, tasks: Tasks, means: Tensor, proportions: Tensor) -> Tensor:
    """(T) log of the density of support and queries and of the prior, for the mixture of the docstring."""
    to_queries = proportions.log().unsqueeze(1) - method.scale * ops.squared_distance(tasks.query, means)
    own = ops.one_hot(tasks.support_labels, tasks.n_way, means.dtype)
    of_support = -method.scale * (own * ops.squared_distance(tasks.support, means)).sum((1, 2))
    return to_queries.logsumexp(-1).sum(1) + of_support + method.prior * proportions.log().sum(1)


@given(tasks_of_any_shape(), st.sampled_from([0.2, 1.0]), st.sampled_from([0.5, 10.0]))
def test_a_step_never_lowers_the_density_that_it_maximises(tasks: Tasks, step_size: float, prior: float) -> None:
    method = map_for(tasks, step_size=step_size, prior=prior, n_steps=6)
    answer = method(tasks)
    tasks = method.preprocess(tasks)
    means = ops.class_means(tasks.support, tasks.support_labels, tasks.n_way)
    proportions = means.new_full(means.shape[:2], 1 / tasks.n_way)
    last = objective(method, tasks, means, proportions)
    for _ in range(method.n_steps):
        log_joint = proportions.log().unsqueeze(1) - method.scale * ops.squared_distance(tasks.query, means)
        share = log_joint.softmax(-1)
        found = ops.soft_class_means(tasks.support, tasks.support_labels, tasks.query, share)
        means = means + step_size * (found - means)
        proportions = method.log_priors(share).exp()
        now = objective(method, tasks, means, proportions)
        assert (now >= last - 1e-9).all()
        last = now
    log_joint = proportions.log().unsqueeze(1) - method.scale * ops.squared_distance(tasks.query, means)
    torch.testing.assert_close(answer, log_joint.log_softmax(-1))


def test_a_weak_prior_follows_the_queries_where_one_class_has_nearly_all() -> None:
    tasks = random_tasks(n_tasks=40, shots=(1, 1, 1), n_query=60, feature_size=8, noise=0.9)
    assert tasks.query_labels is not None
    kept = torch.argsort(tasks.query_labels, dim=1, stable=True)[:, :18]  # there are about 20 of class 0
    query = tasks.query.gather(1, kept.unsqueeze(-1).expand(-1, -1, 8))
    labels = tasks.query_labels.gather(1, kept)
    tasks = Tasks(tasks.support, tasks.support_labels, query, 3, labels)
    right = {p: (map_for(tasks, prior=p)(tasks).argmax(-1) == labels).double().mean() for p in (3.0, 1e6)}
    assert right[3.0] > right[1e6] + 0.03


@pytest.mark.parametrize("wrong", [{"scale": 0.0}, {"prior": 0.0}, {"step_size": 1.5}, {"n_steps": -1}])
def test_impossible_settings_are_refused_with_what_was_found(wrong: dict[str, float]) -> None:
    ((key, value),) = wrong.items()
    with pytest.raises(SettingsError, match=f"{key} of .* is {value}"):
        MAPProportions(8, **wrong)  # type: ignore[arg-type]
