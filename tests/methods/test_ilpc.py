import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from helpers.methods import method_for, random_tasks, tasks_of_any_shape
from onelook import ops
from onelook.errors import SettingsError
from onelook.methods import ILPC
from onelook.tasks import Tasks
from reference import ilpc as reference


def ilpc_for(tasks: Tasks, **kept: float) -> ILPC:
    method = method_for(tasks, "ilpc", **kept)
    assert isinstance(method, ILPC)
    return method


@given(tasks_of_any_shape(), st.integers(1, 30), st.sampled_from([0.1, 0.5, 1.0]))
def test_the_classifier_of_scores_is_the_classifier_of_weights_that_torch_trains(
    tasks: Tasks, n_steps: int, step_size: float
) -> None:
    method = ilpc_for(tasks, n_steps=n_steps, step_size=step_size)
    hot = ops.one_hot(tasks.support_labels, tasks.n_way, torch.float64)
    rows = tasks.support
    found = method.losses(rows @ rows.mT, hot, hot)
    for i in range(len(tasks)):
        head = torch.nn.Linear(rows.shape[-1], tasks.n_way, dtype=torch.float64)
        with torch.no_grad():
            head.weight.copy_(functional.normalize(hot[i].mT @ rows[i], dim=-1))
            head.bias.zero_()
        optimiser = torch.optim.SGD(head.parameters(), step_size, momentum=0.9, weight_decay=5e-4)
        total = torch.zeros(rows.shape[1], dtype=torch.float64)
        for _ in range(n_steps):
            loss = functional.cross_entropy(head(rows[i]), tasks.support_labels[i], reduction="none")
            total += loss.detach()
            optimiser.zero_grad()
            loss.mean().backward()
            optimiser.step()
        torch.testing.assert_close(found[i], total / n_steps, rtol=1e-9, atol=1e-9)


@given(tasks_of_any_shape(), st.integers(1, 5))
def test_the_propagation_is_the_sum_of_all_ways_through_the_graph(tasks: Tasks, n_neighbours: int) -> None:
    method = ilpc_for(tasks, n_neighbours=n_neighbours)
    rows = ops.normalise(torch.cat([tasks.support, tasks.query], 1))
    found = method.propagation(rows @ rows.mT)
    for i in range(len(tasks)):
        graph = torch.from_numpy(reference.graph(method, rows[i].numpy()))
        ways, total = torch.eye(len(graph), dtype=torch.float64), torch.zeros_like(graph)
        for _ in range(150):
            total += ways
            ways = method.alpha * ways @ graph
        torch.testing.assert_close(found[i], total, rtol=1e-9, atol=1e-9)


def test_the_cleanest_are_the_first_of_each_label_among_those_that_are_left() -> None:
    tasks = random_tasks()
    labels = torch.tensor([[0, 0, 0, 1, 1, 0, 2]])
    loss = torch.tensor([[0.3, 0.1, 0.2, 0.9, 0.8, 0.0, 5.0]])
    left = torch.tensor([[True, True, True, True, True, False, True]])
    moved = ilpc_for(tasks, n_moved=2).cleanest(loss, labels, left)
    assert moved.tolist() == [[False, True, True, True, True, False, True]]


def test_a_class_gets_its_part_of_the_queries_exactly_when_the_classes_are_said_to_be_balanced() -> None:
    tasks = random_tasks(n_tasks=20, shots=(2, 2, 2), n_query=12, noise=1.0)
    counts = {}
    for balanced in (True, False):
        answer = ilpc_for(tasks, balanced=balanced, n_moved=1)(tasks).argmax(-1)
        counts[balanced] = (ops.one_hot(answer, 3, torch.float64).sum(1) - 4).abs()
    assert counts[True].mean() < 0.5 * counts[False].mean()


def test_queries_move_in_rounds_and_what_moved_helps_to_judge_those_that_are_left() -> None:
    tasks = random_tasks(n_tasks=8, n_query=15)
    slow, fast = (ilpc_for(tasks, n_moved=n)(tasks) for n in (1, 15))
    shares = ilpc_for(tasks)
    rows = torch.cat([tasks.support, tasks.query], 1)
    rows = ops.normalise(rows.sign() * (rows.abs() + 1e-6).sqrt())
    rows = ops.normalise(rows - rows.mean(1, keepdim=True))
    n_support = tasks.support.shape[1]
    hot = ops.one_hot(tasks.support_labels, tasks.n_way, torch.float64)
    spread = (shares.propagation(rows @ rows.mT)[:, :, :n_support] @ hot)[:, n_support:]
    left = torch.ones(8, 15, dtype=torch.bool)
    first = shares.balance(spread, torch.zeros(8, 3, dtype=torch.float64), left)
    torch.testing.assert_close(fast, first)  # all at once: the first round is the last
    same = (slow - first).abs().amax(-1) < 1e-9
    assert (same.sum(1) >= 3).all()  # the first round moves one of each class
    assert (~same).any()


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_neighbours": 0},
        {"alpha": 0.0},
        {"alpha": 1.0},
        {"power": 0.0},
        {"n_moved": 0},
        {"n_steps": 0},
        {"step_size": 0.0},
        {"n_sinkhorn": 0},
    ],
)
def test_impossible_settings_are_refused_with_what_was_found(wrong: dict[str, float]) -> None:
    ((key, value),) = wrong.items()
    with pytest.raises(SettingsError, match=f"{key} of .* is {value}"):
        ILPC(8, **wrong)  # type: ignore[arg-type]
