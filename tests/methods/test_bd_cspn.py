import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.methods import tasks_of_any_shape
from onelook import ops
from onelook.errors import SettingsError
from onelook.methods import BDCSPN
from onelook.methods.bd_cspn import rectify_means, shift_queries
from onelook.tasks import Tasks


@given(tasks_of_any_shape(n_query=st.integers(2, 6)), st.floats(-3, 3))
def test_a_constant_that_is_added_to_all_queries_is_shifted_away(tasks: Tasks, constant: float) -> None:
    moved = Tasks(tasks.support, tasks.support_labels, tasks.query + constant, tasks.n_way)
    method = BDCSPN(tasks.query.shape[-1], transform="none")
    torch.testing.assert_close(method(moved), method(tasks))
    shifted = shift_queries(moved)
    torch.testing.assert_close(shifted.query.mean(1), tasks.support.mean(1))


@given(tasks_of_any_shape(shots=st.integers(2, 4).map(lambda n_way: (1,) * n_way)))
def test_with_a_scale_of_either_extreme_a_prototype_has_the_direction_of_hard_k_means(tasks: Tasks) -> None:
    means = ops.class_means(tasks.support, tasks.support_labels, tasks.n_way)
    hard = ops.one_hot(ops.cosine_similarity(tasks.query, means).argmax(-1), tasks.n_way, torch.float64)
    expected = ops.soft_class_means(tasks.support, tasks.support_labels, tasks.query, hard)
    torch.testing.assert_close(rectify_means(tasks, 1e-12), expected / tasks.n_way)
    torch.testing.assert_close(rectify_means(tasks, 1e9), expected)


def test_a_doubtful_query_moves_its_prototype_less_than_a_clear_one() -> None:
    support = torch.eye(2, dtype=torch.float64).unsqueeze(0)
    angle = torch.tensor([0.1, 0.7], dtype=torch.float64)  # from the first class, the second being at pi / 2
    query = torch.stack([angle.cos(), angle.sin()], -1).unsqueeze(1).unsqueeze(1)
    clear, doubtful = (Tasks(support, torch.tensor([[0, 1]]), one, 2) for one in query)
    # The weight of the query against that of the support, from the direction between the two that comes out.
    weights = []
    for tasks, turn in ((clear, 0.1), (doubtful, 0.7)):
        first = rectify_means(tasks, 10.0)[0, 0]
        found = torch.atan2(first[1], first[0])
        weights.append(found.sin() / (turn - found).sin())
    assert weights[0] > 0.99
    assert weights[1] < 0.8


def test_a_scale_that_is_not_positive_is_refused_with_what_was_found() -> None:
    with pytest.raises(SettingsError, match=r"scale of .* is 0\.0"):
        BDCSPN(8, scale=0.0)
