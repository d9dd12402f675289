"""Glance by anchors: what it shares with Glance, and how far it may be from it."""

import pytest
import torch
from torch import Tensor

from onelook import ops
from onelook.artifacts import SHIPPED_METHODS, load_method
from onelook.events import finish
from onelook.methods import glance_pool
from onelook.methods.glance import Glance
from onelook.methods.glance_pool import answer_pool
from onelook.methods.regression import MOST_QUERIES
from onelook.tasks import Tasks


@pytest.fixture(scope="module")
def shipped() -> Glance:
    method = load_method(SHIPPED_METHODS["glance"])[0]
    assert isinstance(method, Glance)
    return method


def draw_mixture(n_query: int, n_way: int, noise: float = 1.3, n_shot: int = 5) -> tuple[Tasks, Tensor]:
    """One task of Gaussian classes, and the labels of its queries."""
    draw = torch.Generator().manual_seed(n_query + n_way)
    centres = torch.randn(n_way, 32, generator=draw)
    known, labels = torch.arange(n_way).repeat(n_shot), torch.randint(n_way, (n_query,), generator=draw)
    support, query = (centres[y] + noise * torch.randn(len(y), 32, generator=draw) for y in (known, labels))
    return Tasks(support[None], known[None], query[None], n_way), labels


def ask(method: Glance, task: Tasks, n_anchors: int, order: Tensor | None = None, **priors: Tensor) -> Tensor:
    """Logits (Q, K) of all queries, the first of which are anchors; order: of the others, as they are handed over."""
    anchors = Tasks(task.support, task.support_labels, task.query[:, :n_anchors], task.n_way)
    rest = torch.arange(n_anchors, task.query.shape[1])
    rest = rest if order is None else rest[order]
    with torch.no_grad():
        work = answer_pool(method, anchors, rest, lambda numbers: ops.normalise(task.query[0, numbers]), **priors)
        first, found = finish(work)
    out = torch.full((task.query.shape[1], task.n_way), -1e4)
    out[:n_anchors] = first
    values = found.logits
    if found.candidates is not None:
        values = out[rest].scatter(1, found.candidates.long(), values)
    out[rest] = values
    return out


def test_where_all_are_anchors_the_answer_is_that_of_glance(shipped: Glance) -> None:
    task, _ = draw_mixture(60, 4)
    with torch.no_grad():
        expected = shipped.trajectory(task)[-1][0]
    torch.testing.assert_close(ask(shipped, task, 60), expected, rtol=0, atol=0)


@pytest.mark.parametrize("n_way", [pytest.param(4, marks=pytest.mark.slow), 40])
def test_blocks_and_order_change_nothing(shipped: Glance, n_way: int, monkeypatch: pytest.MonkeyPatch) -> None:
    task, _ = draw_mixture(300, n_way)
    whole = ask(shipped, task, 100).softmax(1)
    monkeypatch.setattr(glance_pool, "BLOCK", 17)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ask(shipped, task, 100, order).softmax(1), whole, rtol=0, atol=2e-4)


def test_an_answer_by_anchors_is_near_to_that_of_all(shipped: Glance) -> None:
    task, labels = draw_mixture(2_000, 10)
    with torch.no_grad():
        exact = shipped.trajectory(task)[-1][0].argmax(1)
        alone = shipped.inductive(task)[0].argmax(1)
    found = ask(shipped, task, 700).argmax(1)
    accuracy = [(one == labels).double().mean().item() for one in (alone, found, exact)]
    assert (found == exact).double().mean() > 0.98
    assert abs(accuracy[1] - accuracy[2]) < 0.01
    assert accuracy[1] > accuracy[0] + 0.03


@pytest.mark.parametrize("n_anchors", [700, 2_000])
def test_thousands_of_queries_weigh_as_many_as_in_training_anchors_or_not(
    shipped: Glance, n_anchors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, estimate = [], Glance._estimate_priors

    def look(self: Glance, mass: Tensor) -> Tensor:
        weights.append(mass.sum().item())
        return estimate(self, mass)

    monkeypatch.setattr(Glance, "_estimate_priors", look)
    task, _ = draw_mixture(2_000, 10)
    ask(shipped, task, n_anchors)
    assert len(weights) == 2 * shipped.n_steps
    assert max(weights) < 1.3 * MOST_QUERIES  # synthetic gradients are doubled at most, and near 1 in the mean


def test_candidates_leave_out_what_is_out_of_the_question(shipped: Glance, monkeypatch: pytest.MonkeyPatch) -> None:
    task, _ = draw_mixture(300, 40, noise=0.8)
    few = ask(shipped, task, 150)
    monkeypatch.setattr(glance_pool, "CANDIDATES", 40)
    many = ask(shipped, task, 150)
    assert (few.argmax(1) == many.argmax(1)).double().mean() > 0.99


def test_given_class_priors_reach_all_queries(shipped: Glance) -> None:
    task, _ = draw_mixture(600, 3, noise=3.0)
    priors = torch.tensor([[0.7, 0.2, 0.1]])
    with torch.no_grad():
        exact = shipped.trajectory(task, priors)[-1][0].softmax(1).mean(0)
    found = ask(shipped, task, 200, priors=priors).softmax(1)
    assert found[200:].mean(0).sub(exact).abs().max() < 0.06
