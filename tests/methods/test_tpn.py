import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from helpers.methods import method_for, random_tasks, tasks_of_any_shape
from onelook import ops
from onelook.errors import SettingsError
from onelook.methods import TransductivePropagation
from onelook.tasks import Tasks
from reference import tpn as reference

neighbours = st.integers(1, 6)
seeds = st.integers(0, 1000)


def tpn_for(tasks: Tasks, seed: int | None = 0, **kept: float) -> TransductivePropagation:
    method = method_for(tasks, "tpn", seed=seed, **kept)
    assert isinstance(method, TransductivePropagation)
    return method


def rows_of(tasks: Tasks) -> Tensor:
    return torch.cat([tasks.support, tasks.query], 1)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@given(tasks_of_any_shape(), seeds, neighbours)
def test_the_graph_is_symmetric_without_loops_and_each_row_has_its_neighbours(
    tasks: Tasks, seed: int, n_neighbours: int
) -> None:
    method = tpn_for(tasks, seed, n_neighbours=n_neighbours)
    rows = rows_of(tasks)
    similarity = method.similarity(rows)
    close(similarity, similarity.mT)
    assert not similarity.diagonal(dim1=1, dim2=2).any()
    for i in range(len(tasks)):
        edges = reference.weights(method, tasks[i : i + 1]) > 0
        assert (edges.sum(1) >= min(n_neighbours, rows.shape[1] - 1)).all()
        assert not similarity[i][~torch.from_numpy(edges)].any()


@given(tasks_of_any_shape(), seeds, neighbours)
def test_the_graph_is_normalised_so_that_the_root_of_the_degrees_is_its_eigenvector_of_one(
    tasks: Tasks, seed: int, n_neighbours: int
) -> None:
    method = tpn_for(tasks, seed, n_neighbours=n_neighbours)
    for i in range(len(tasks)):
        degree = reference.weights(method, tasks[i : i + 1]).sum(1)
        root = torch.from_numpy(degree / degree.max()).sqrt()
        close(method.similarity(rows_of(tasks)[i : i + 1])[0] @ root, root)


@given(tasks_of_any_shape(), seeds, st.sampled_from([0.2, 0.5, 0.8]))
def test_the_scores_are_the_limit_of_passing_labels_on(tasks: Tasks, seed: int, alpha: float) -> None:
    method = tpn_for(tasks, seed, n_neighbours=3, alpha=alpha)
    similarity = method.similarity(rows_of(tasks))
    hot = ops.one_hot(tasks.support_labels, tasks.n_way, torch.float64)
    given_labels = torch.cat([hot, torch.zeros(len(tasks), tasks.query.shape[1], tasks.n_way, dtype=hot.dtype)], 1)
    passed = given_labels
    for _ in range(150):
        passed = alpha * similarity @ passed + given_labels
    close(method.propagate(tasks), passed)


@given(tasks_of_any_shape(), st.floats(0.1, 10))
def test_the_lengths_of_the_features_mean_nothing(tasks: Tasks, factor: float) -> None:
    method = tpn_for(tasks)
    longer = Tasks(factor * tasks.support, tasks.support_labels, factor * tasks.query, tasks.n_way)
    close(method(longer), method(tasks))


@given(tasks_of_any_shape(), seeds)
def test_with_even_classes_a_class_is_as_likely_on_average_however_many_labelled_rows_it_has(
    tasks: Tasks, seed: int
) -> None:
    method = tpn_for(tasks, seed)
    mean_TK = method.scores(tasks).mean(1)
    close(mean_TK, method.log_factor.exp().expand_as(mean_TK))


def test_the_scores_of_the_paper_favour_the_class_with_more_labelled_rows_and_even_classes_do_not() -> None:
    tasks = random_tasks(n_tasks=200, shots=(1, 5), n_query=20, noise=3.0)
    share = {even: tpn_for(tasks, None, even_classes=even)(tasks).argmax(-1).double().mean() for even in (False, True)}
    assert share[False] > 0.9
    assert abs(share[True] - 0.5) < 0.15


@given(tasks_of_any_shape(), seeds)
def test_the_scores_weighted_by_the_root_of_the_degree_keep_their_sum(tasks: Tasks, seed: int) -> None:
    # 1' D^(1/2) S = 1' D^(1/2), so what each class was given is multiplied by 1 / (1 - alpha) and by nothing else.
    method = tpn_for(tasks, seed)
    for i in range(len(tasks)):
        root = torch.from_numpy(reference.weights(method, tasks[i : i + 1]).sum(1)).sqrt()
        hot = ops.one_hot(tasks.support_labels[i : i + 1], tasks.n_way, torch.float64)[0]
        given_sum = root[: len(hot)] @ hot / root.sum()
        close(root @ method.propagate(tasks)[i] / root.sum(), given_sum / (1 - method.alpha))


def test_a_small_graph_is_complete_whatever_the_number_of_neighbours() -> None:
    tasks = random_tasks()
    n_rows = tasks.support.shape[1] + tasks.query.shape[1]
    complete = tpn_for(tasks, n_neighbours=n_rows - 1)
    assert torch.equal(tpn_for(tasks, n_neighbours=1000)(tasks), complete(tasks))
    assert not torch.allclose(tpn_for(tasks, n_neighbours=2)(tasks), complete(tasks))


def test_a_row_far_from_all_others_has_a_finite_answer_and_gradient_in_single_precision() -> None:
    tasks = random_tasks()
    along = torch.eye(tasks.query.shape[-1])[0]
    support, query = (along + 0.1 * rows.float() for rows in (tasks.support, tasks.query))
    query[:, 0] = -along
    tasks = Tasks(support, tasks.support_labels, query, tasks.n_way, tasks.query_labels)
    method = tpn_for(tasks, seed=None).float()
    with torch.no_grad():
        method.log_scale[2].bias.fill_(-5.0)  # every sigma at its least, where exp(-d / 2 sigma^2) is zero from d = 1.8
    assert method(tasks).isfinite().all()
    method.loss(tasks).backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in method.parameters())


@given(tasks_of_any_shape(), seeds)
def test_the_loss_is_the_mean_over_the_rows_of_support_and_queries(tasks: Tasks, seed: int) -> None:
    assert tasks.query_labels is not None
    method = tpn_for(tasks, seed)
    scores = torch.stack([torch.from_numpy(reference.scores(method, tasks[i : i + 1])) for i in range(len(tasks))])
    labels = torch.cat([tasks.support_labels, tasks.query_labels], 1)
    close(method.loss(tasks), functional.cross_entropy(scores.flatten(0, 1), labels.flatten()))


@pytest.mark.parametrize("wrong", [{"n_neighbours": 0}, {"alpha": 0.0}, {"alpha": 1.0}, {"hidden": 0}])
def test_impossible_settings_are_refused_with_what_was_found(wrong: dict[str, float]) -> None:
    ((key, value),) = wrong.items()
    with pytest.raises(SettingsError, match=f"{key} of .* is {value}"):
        TransductivePropagation(8, **wrong)  # type: ignore[arg-type]
