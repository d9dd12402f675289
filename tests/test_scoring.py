"""What is said of the mean over tasks is what statistics says of it."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from helpers.features import random_embeddings, random_images
from helpers.methods import method_for
from onelook import scoring
from onelook.data.sampler import TaskSampler, TaskSpec
from onelook.events import Progress, finish
from onelook.methods import Method, PrototypicalNetworks
from onelook.scoring import CHUNK, IMAGE_CHUNK, Estimate, harm, mean_accuracy, paired, task_accuracies
from onelook.tasks import Embeddings, Tasks

SPEC = TaskSpec(n_way=3, n_shot=1, n_query=2)
accuracies = st.lists(st.floats(0, 1), min_size=2, max_size=50)


@given(accuracies)
def test_the_interval_is_the_normal_one_of_95_percent(values: list[float]) -> None:
    found = Estimate.from_values(torch.tensor(values, dtype=torch.float64))
    error = float(stats.sem(values))
    assert found.value == pytest.approx(np.mean(values), abs=1e-9)
    if error > 1e-8:
        low, high = stats.norm.interval(0.95, loc=np.mean(values), scale=error)
        assert found.low == pytest.approx(low, abs=1e-4 * error)
        assert found.high == pytest.approx(high, abs=1e-4 * error)
    else:
        assert found.half_width == pytest.approx(0, abs=1e-5)


def test_the_interval_holds_the_true_mean_in_95_of_100_experiments() -> None:
    """Accuracies as few-shot tasks have them: of 75 queries, with a rate that differs from task to task."""
    rng = np.random.default_rng(0)
    rates = rng.beta(6, 4, (2000, 300))
    values = torch.from_numpy(rng.binomial(75, rates) / 75)
    held = np.mean([i.low <= 0.6 <= i.high for i in map(Estimate.from_values, values)])
    assert 0.935 <= held <= 0.965


def test_one_task_has_no_interval() -> None:
    assert Estimate.from_values(torch.tensor([0.7], dtype=torch.float64)) == Estimate(0.7, -math.inf, math.inf)


def test_many_single_precision_values_do_not_lose_digits() -> None:
    values = torch.full((100_000,), 0.613)
    assert Estimate.from_values(values).value == pytest.approx(float(values[0]), abs=1e-11)
    assert Estimate.from_values(values).half_width == pytest.approx(0, abs=1e-11)


@given(accuracies)
def test_nothing_differs_from_itself(values: list[float]) -> None:
    own = torch.tensor(values, dtype=torch.float64)
    assert paired(own, own) == Estimate(0.0, 0.0, 0.0)


def test_the_paired_difference_is_narrower_than_that_of_independent_tasks_where_tasks_are_hard_for_both() -> None:
    rng = np.random.default_rng(0)
    difficulty = 60 + 10 * rng.standard_normal(1000)
    first, second = (torch.from_numpy(difficulty + shift + rng.standard_normal(1000)) for shift in (0.5, 0.0))
    difference = paired(first, second)
    unpaired = math.hypot(*(Estimate.from_values(values).half_width for values in (first, second)))
    assert difference.value == pytest.approx((first.mean() - second.mean()).item())
    assert difference.half_width < unpaired / 5
    assert difference.excludes_zero
    assert not Estimate.from_half_width(difference.value, unpaired).excludes_zero


@given(accuracies, st.integers(0, 100))
def test_the_difference_changes_sign_with_the_order(values: list[float], seed: int) -> None:
    first = torch.tensor(values, dtype=torch.float64)
    second = first + torch.randn(len(values), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    there, back = paired(first, second), paired(second, first)
    assert there.value == pytest.approx(-back.value)
    assert there.half_width == pytest.approx(back.half_width)


@pytest.mark.parametrize(("mean", "excludes"), [(1.01, True), (-1.01, True), (0.99, False), (-0.99, False)])
def test_an_interval_excludes_zero_when_it_does_not_reach_it(mean: float, excludes: bool) -> None:
    assert Estimate.from_half_width(mean, 1.0).excludes_zero == excludes


def test_an_estimate_is_in_percent_where_it_is_printed_or_recorded_and_comes_back_from_its_record() -> None:
    found = Estimate(0.53, 0.41, 0.65)
    assert str(found) == "53 % (41 to 65)"
    assert found.plus_minus() == "53.00 ± 12.00"
    assert found.plus_minus("+") == "+53.00 ± 12.00"
    record = found.record("accuracy")
    assert record == {"accuracy": 53.0, "ci95": 12.0}
    back = Estimate.from_record(record, "accuracy")
    assert (back.value, back.low, back.high) == pytest.approx((0.53, 0.41, 0.65))


def test_harm_is_the_fraction_of_tasks_that_are_worse() -> None:
    own, other = torch.tensor([0.2, 0.5, 0.5, 0.9]), torch.tensor([0.3, 0.5, 0.4, 1.0])
    assert harm(own, other).value == 0.5
    assert harm(own, own) == Estimate(0.0, 0.0, 0.0)


def test_the_average_of_independent_estimates_is_narrower_by_the_root_of_their_number() -> None:
    parts = [Estimate.from_half_width(value, 0.02) for value in (0.5, 0.6, 0.7, 0.8)]
    found = Estimate.average(parts)
    assert found.value == pytest.approx(0.65)
    assert found.half_width == pytest.approx(0.01)


def any_method(name: str = "sib") -> Method:
    """In single precision, as the embeddings are."""
    made = TaskSampler(random_embeddings(), SPEC).sample(range(1))
    return method_for(made, name).float()


@pytest.mark.parametrize("chunk", [1, 2, 7, 100])
def test_accuracies_of_tasks_do_not_depend_on_how_many_are_computed_at_once(
    monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    sampler = TaskSampler(random_embeddings(), SPEC)
    expected = finish(task_accuracies(any_method(), sampler, 15))
    assert expected.unique().numel() > 2  # else the comparison would say nothing
    monkeypatch.setattr(scoring, "CHUNK", chunk)
    assert torch.equal(finish(task_accuracies(any_method(), sampler, 15)), expected)


@given(st.integers(1, 20), st.integers(0, 19))
def test_tasks_may_be_divided_among_several_calls(n_tasks: int, cut: int) -> None:
    cut = min(cut, n_tasks - 1)
    sampler = TaskSampler(random_embeddings(), SPEC)
    method = any_method("feature-averaging")
    parts = [finish(task_accuracies(method, sampler, n, first)) for n, first in ((cut, 0), (n_tasks - cut, cut)) if n]
    assert torch.equal(torch.cat(parts), finish(task_accuracies(method, sampler, n_tasks)))


class Oracle(Method):
    """Knows the answers for the first `n_right` queries, and is wrong about the others."""

    transductive = False
    assumes_balanced_queries = False

    def __init__(self, answers: torch.Tensor, n_right: int) -> None:
        super().__init__()
        self.answers = answers
        self.n_right = n_right

    def forward(self, tasks: Tasks) -> torch.Tensor:
        assert tasks.query_labels is None, "the method was shown the answers"
        wrong = (torch.arange(self.answers.shape[1]) >= self.n_right).long()
        return torch.nn.functional.one_hot((self.answers + wrong) % tasks.n_way, tasks.n_way).float()


@pytest.mark.parametrize("n_right", range(7))
def test_accuracy_is_the_fraction_of_right_answers_and_the_method_does_not_see_them(n_right: int) -> None:
    sampler = TaskSampler(random_embeddings(), SPEC)
    answers = sampler.sample(range(4)).query_labels
    assert answers is not None
    found = finish(task_accuracies(Oracle(answers, n_right), sampler, 4))
    torch.testing.assert_close(found, torch.full((4,), n_right / 6, dtype=torch.float64))


def test_the_mean_is_over_the_first_tasks_and_progress_reaches_its_total() -> None:
    data, method = random_embeddings(), any_method()
    events = []
    work = mean_accuracy(method, data, SPEC, 40)
    while True:
        try:
            events.append(next(work))
        except StopIteration as end:
            found = end.value
            break
    assert found == Estimate.from_values(finish(task_accuracies(method, TaskSampler(data, SPEC), 40)))
    assert events[-1] == Progress("tasks", 40, 40)
    assert [e.done for e in events] == sorted({e.done for e in events})


def test_scoring_keeps_no_graph() -> None:
    assert not finish(task_accuracies(any_method(), TaskSampler(random_embeddings(), SPEC), 3)).requires_grad


class Counting(PrototypicalNetworks):
    """Remembers how many tasks it was shown at once."""

    def forward(self, tasks: Tasks) -> torch.Tensor:
        self.sizes = [*getattr(self, "sizes", []), len(tasks)]
        return super().forward(tasks.map_items(lambda items: items.flatten(1).float()))


def test_few_tasks_of_images_are_in_memory_at_once_and_the_accuracies_are_the_same() -> None:
    images = random_images(3, 4, size=4)
    noise = torch.randint(0, 256, images.pixels.shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images = replace(images, pixels=noise)
    features = Embeddings(images.views.flatten(2).float(), images.labels, images.class_names)
    spec = TaskSpec(3, 1, 2)
    found = []
    for data, largest in ((images, IMAGE_CHUNK), (features, CHUNK)):
        method = Counting(48)
        found.append(finish(task_accuracies(method, TaskSampler(data, spec), CHUNK + 3)))
        assert max(method.sizes) == largest
        assert sum(method.sizes) == CHUNK + 3
    assert torch.equal(*found)
    assert found[0].std() > 0
