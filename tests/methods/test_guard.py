import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from helpers.methods import random_tasks, tasks_of_any_shape
from onelook import ops
from onelook.methods.guard import MOST_CLASSES, Answer, Count, Verdict, apply_guard
from onelook.tasks import Tasks
from reference import guard as reference

scales = st.sampled_from([1.0, 4.0, 20.0])

tasks_of_many_shapes = tasks_of_any_shape(
    shots=st.lists(st.integers(1, 5), min_size=2, max_size=6).map(tuple), n_query=st.integers(2, 15)
)


def nearest(tasks: Tasks) -> Tensor:
    """An inductive method."""
    support, query = ops.normalise(tasks.support), ops.normalise(tasks.query)
    return -8 * ops.squared_distance(query, ops.class_means(support, tasks.support_labels, tasks.n_way))


def moving(scale: float) -> Answer:
    """A transductive method, of three steps of soft k-means, and the more erratic the larger its scale."""

    def answer(tasks: Tasks) -> Tensor:
        support, query = ops.normalise(tasks.support), ops.normalise(tasks.query)
        logits = scale * nearest(tasks)
        for _ in range(3):
            means = ops.soft_class_means(support, tasks.support_labels, query, logits.softmax(-1))
            logits = -8 * scale * ops.squared_distance(query, means)
        return logits

    return answer


def judge(transductive: Answer, inductive: Answer, tasks: Tasks) -> tuple[Tensor, Verdict]:
    def recognise(tasks: Tasks) -> Count:
        """Of all examples, without leaving any out."""
        alone = inductive(replace(tasks, query=tasks.support, query_labels=None))
        shots = ops.one_hot(tasks.support_labels, tasks.n_way, alone.dtype).sum(1)
        tested = shots.gather(1, tasks.support_labels) > 1
        return tested.sum(1), (tested & (alone.argmax(-1) == tasks.support_labels)).sum(1)

    return apply_guard(transductive, inductive, tasks, recognise)


def renamed(tasks: Tasks) -> Tensor:
    """Calls every class by the name of the next, whatever the other queries are."""
    return 10 * nearest(tasks).roll(1, -1)


def of_which_stays(part: float, n_query: int) -> Answer:
    """Of `n_query` queries it says that all are of the first class, of fewer that only this part of each is."""

    def answer(tasks: Tasks) -> Tensor:
        first = 1.0 if tasks.query.shape[1] == n_query else part
        share = tasks.query.new_full((*tasks.query.shape[:2], tasks.n_way), 1e-30)
        share[..., 0] += first
        share[..., 1] += 1 - first
        return share.log()

    return answer


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9, equal_nan=True)


def same(found: tuple[Tensor, Verdict], expected: tuple[Tensor, Verdict]) -> None:
    close(found[0], expected[0])
    for key, numbers in vars(expected[1]).items():
        close(vars(found[1])[key], numbers)


@given(tasks_of_any_shape(n_query=st.just(1)), scales)
def test_a_single_query_has_the_inductive_answer(tasks: Tasks, scale: float) -> None:
    logits, verdict = judge(moving(scale), nearest, tasks)
    assert torch.equal(logits, nearest(tasks))
    assert verdict.trust.tolist() == [0] * len(tasks)
    assert set(verdict.messages()) == {
        "There is a single unlabelled image, so it was judged by the labelled examples alone."
    }


@pytest.mark.parametrize(
    ("n_way", "n_shot", "noise", "is_used"),
    [
        (MOST_CLASSES, 1, 0.1, True),
        (MOST_CLASSES + 1, 1, 0.1, False),
        (MOST_CLASSES + 1, 2, 0.1, True),
        (MOST_CLASSES + 1, 2, 9.0, False),
    ],
)
def test_queries_of_many_classes_are_used_where_their_examples_are_recognised(
    n_way: int, n_shot: int, noise: float, is_used: bool
) -> None:
    tasks = random_tasks(1, (n_shot,) * n_way, n_query=5, feature_size=8, noise=noise)
    logits, verdict = judge(renamed, nearest, tasks)
    assert torch.equal(logits, (renamed if is_used else nearest)(tasks))
    (message,) = verdict.messages()
    assert ("more than 100 classes" in message) is not is_used


def test_a_task_of_many_classes_is_settled_whatever_its_neighbours_are() -> None:
    n_way = MOST_CLASSES + 1
    easy, hard = (random_tasks(1, (2,) * n_way, n_query=5, feature_size=8, noise=x) for x in (0.1, 9.0))
    rows = [(task.support, task.support_labels, task.query) for task in (easy, hard)]
    both = Tasks(*map(torch.cat, zip(*rows, strict=True)), n_way)
    logits, verdict = judge(renamed, nearest, both)
    for i, task in enumerate((easy, hard)):
        alone, expected = judge(renamed, nearest, task)
        assert torch.equal(logits[i], alone[0])
        assert verdict.messages()[i] == expected.messages()[0]


@given(tasks_of_any_shape(shots=st.integers(2, 6).map(lambda n: (1,) * n), n_query=st.integers(2, 15)))
def test_what_depends_on_no_other_query_is_trusted_and_kept_to_the_bit(tasks: Tasks) -> None:
    for stable in (nearest, renamed):
        logits, verdict = judge(stable, nearest, tasks)
        assert torch.equal(logits, stable(tasks))
        assert verdict.trust.tolist() == [1] * len(tasks)
        close(verdict.stability, torch.ones_like(verdict.stability))
        same_class = (stable(tasks).argmax(-1) == nearest(tasks).argmax(-1)).double().mean(1)
        close(verdict.agreement, same_class)
        assert all("overlap by 100 %" in message for message in verdict.messages())


@pytest.mark.parametrize("seed", range(3))
def test_random_answers_are_not_believed(seed: int) -> None:
    tasks = random_tasks(shots=(1,) * 10, n_query=100, seed=seed)
    draw = torch.Generator().manual_seed(seed)

    def guesses(some: Tasks) -> Tensor:
        labels = torch.randint(10, some.query.shape[:2], generator=draw)
        return 30 * ops.one_hot(labels, 10, torch.float64)

    logits, verdict = judge(guesses, nearest, tasks)
    assert torch.equal(logits, nearest(tasks))
    assert (verdict.stability < 0.3).all()
    assert verdict.trust.tolist() == [0, 0, 0]
    assert all(re.search(r"not used: predictions overlap by only \d+ %", message) for message in verdict.messages())


@pytest.mark.parametrize("n_query", [2, 3, 8, 9])
@pytest.mark.parametrize(
    ("part", "trust"), [(0, 0), (0.3, 0), (0.39, 0), (0.41, 0.05), (0.5, 0.5), (0.59, 0.95), (0.61, 1), (1, 1)]
)
def test_trust_grows_with_what_stays_when_half_of_the_queries_are_left_out(
    part: float, trust: float, n_query: int
) -> None:
    tasks = random_tasks(shots=(1, 1, 1), n_query=n_query)
    method = of_which_stays(part, n_query)
    logits, verdict = judge(method, nearest, tasks)
    close(verdict.stability, torch.full((3,), part, dtype=torch.float64))
    close(verdict.trust, torch.full((3,), trust, dtype=torch.float64))
    expected = trust * method(tasks).softmax(-1) + (1 - trust) * nearest(tasks).softmax(-1)
    close(logits.softmax(-1), expected)
    used = "not used:" if trust == 0 else "used in part:" if trust < 1 else "were used:"
    only = "" if trust == 1 else "only "
    start = f"{used} predictions overlap by {only}{100 * part:.0f} %"
    assert all(start in message for message in verdict.messages())


@pytest.mark.parametrize(("part", "trust"), [(0.61, 0), (0.74, 0), (0.76, 0.2), (0.79, 0.8), (0.81, 1)])
def test_of_many_classes_more_has_to_stay(part: float, trust: float) -> None:
    tasks = random_tasks(1, (2,) * (MOST_CLASSES + 1), n_query=8, feature_size=8, noise=0.1)
    _, verdict = judge(of_which_stays(part, 8), nearest, tasks)
    close(verdict.trust, torch.full((1,), trust, dtype=torch.float64))
    assert re.search(f"predictions overlap by (only )?{100 * part:.0f} %", verdict.messages()[0])


@pytest.mark.parametrize(
    ("stability", "recognition", "reason"),
    [
        (0.72, -0.001, "predictions overlap by only 72 % when half of them are held out."),
        (0.72, float("nan"), "predictions overlap by only 72 % when half of them are held out."),
        (0.72, -0.2, "with them 20 % fewer of the labelled examples are classified correctly, and predictions overlap"),
        (0.9, -0.2, "with them 20 % fewer of the labelled examples are classified correctly."),
    ],
)
def test_what_was_not_used_has_a_reason_that_holds_however_many_classes_there_are(
    stability: float, recognition: float, reason: str
) -> None:
    (message,) = Verdict(*(torch.tensor([x]) for x in (0.0, stability, 0.5, recognition))).messages()
    assert f"The unlabelled images were not used: {reason}" in message


@pytest.mark.parametrize(("part", "trust"), [(0.6 - 1e-9, 1), (0.4 + 1e-9, 0)])
def test_rounding_does_not_decide_about_a_stability_at_a_threshold(part: float, trust: float) -> None:
    """As of certain answers, of which 3 in 5 stay."""
    tasks = random_tasks(shots=(1, 1, 1), n_query=5)
    method = of_which_stays(part, 5)
    logits, verdict = judge(method, nearest, tasks)
    assert (verdict.trust == trust).all()
    assert torch.equal(logits, method(tasks) if trust else nearest(tasks))


@pytest.mark.parametrize("shots", [(5, 5, 5), (2, 4, 6)])
@pytest.mark.parametrize("seed", range(3))
def test_classes_that_forget_their_labelled_examples_are_not_believed(shots: tuple[int, ...], seed: int) -> None:
    tasks = random_tasks(shots=shots, n_query=60, feature_size=32, noise=0.2, seed=seed)
    logits, verdict = judge(renamed, nearest, tasks)
    assert torch.equal(logits, nearest(tasks))
    assert verdict.trust.tolist() == [0, 0, 0]
    assert (verdict.recognition < -0.8).all()
    close(verdict.stability, torch.ones(3, dtype=torch.float64))
    found = [re.search(r"not used: with them (\d+) % fewer", message) for message in verdict.messages()]
    assert [one and int(one[1]) for one in found] == (-100 * verdict.recognition).round().int().tolist()


@pytest.mark.parametrize("shots", [(5, 5, 5), (2, 4, 6)])
def test_classes_that_keep_their_labelled_examples_are_believed(shots: tuple[int, ...]) -> None:
    tasks = random_tasks(shots=shots, n_query=60, feature_size=32, noise=0.2)
    logits, verdict = judge(moving(4.0), nearest, tasks)
    assert torch.equal(logits, moving(4.0)(tasks))
    assert verdict.recognition.tolist() == [0, 0, 0]
    assert verdict.agreement.min() > 0.9


def test_only_examples_of_classes_with_several_count_as_evidence() -> None:
    """Two of three forgotten are no evidence, all three are; how many classes of one example there are changes nothing.
    The queries, named by the wrong class, move the centre of the first class away from its examples."""
    seen = set()
    for n_more in (1, 2, 6):
        tasks = random_tasks(150, (3,) + (1,) * n_more, n_query=6, noise=0.6, seed=n_more)
        _, verdict = judge(renamed, nearest, tasks)
        lost = (-3 * verdict.recognition).round().int()
        assert torch.equal(verdict.trust, (lost < 3).double())
        seen |= {(n_more, number) for number in lost.tolist()}
    assert {(6, 2), (6, 3), (1, 2), (2, 2), (2, 3)} <= seen


def of_one(method: Answer) -> reference.Answer:
    return lambda task: method(task)[0].numpy()


@given(tasks_of_many_shapes, scales)
def test_the_verdict_is_that_of_the_slow_loop(tasks: Tasks, scale: float) -> None:
    for method in (moving(scale), renamed):
        logits, verdict = judge(method, nearest, tasks)
        for i in range(len(tasks)):
            found = reference.judged(of_one(method), of_one(nearest), tasks[i : i + 1])
            close(logits[i], torch.from_numpy(found.logits))
            for key, numbers in vars(verdict).items():
                close(numbers[i], torch.tensor(vars(found)[key], dtype=torch.float64))


@given(tasks_of_many_shapes, scales)
def test_shares_are_shares_and_recognition_is_known_where_a_class_has_several(tasks: Tasks, scale: float) -> None:
    logits, verdict = judge(moving(scale), nearest, tasks)
    assert logits.isfinite().all()
    for share in (verdict.trust, verdict.stability, verdict.agreement):
        assert share.dtype == torch.float64
        assert (share >= 0).all()
        assert (share <= 1 + 1e-12).all()
    several = ops.one_hot(tasks.support_labels, tasks.n_way, torch.float64).sum(1).amax(1) > 1
    assert verdict.recognition.dtype == torch.float64
    assert torch.equal(verdict.recognition.isfinite(), several)
    assert torch.equal(verdict.recognition.isnan(), ~several)
    assert (verdict.recognition[several].abs() <= 1).all()
    assert len(verdict.messages()) == len(tasks)
    assert all(message.count(".") == 1 and "nan" not in message for message in verdict.messages())


def permutation(data: st.DataObject, n: int) -> Tensor:
    return torch.tensor(data.draw(st.permutations(range(n))))


@given(tasks_of_many_shapes, scales, st.data())
def test_classes_queries_and_support_rows_may_change_places(tasks: Tasks, scale: float, data: st.DataObject) -> None:
    name, row, query = (permutation(data, n) for n in (tasks.n_way, tasks.support.shape[1], tasks.query.shape[1]))
    moved = Tasks(tasks.support[:, row], name[tasks.support_labels[:, row]], tasks.query[:, query], tasks.n_way)
    logits, verdict = judge(moving(scale), nearest, moved)
    expected, expected_verdict = judge(moving(scale), nearest, tasks)
    same((logits[:, :, name], verdict), (expected[:, query], expected_verdict))


@given(tasks_of_any_shape(n_tasks=st.integers(2, 4), n_query=st.integers(1, 15)), scales)
def test_a_batch_gives_what_its_tasks_give_one_by_one(tasks: Tasks, scale: float) -> None:
    logits, verdict = judge(moving(scale), nearest, tasks)
    for i in range(len(tasks)):
        own = Verdict(**{key: numbers[i : i + 1] for key, numbers in vars(verdict).items()})
        alone = judge(moving(scale), nearest, tasks[i : i + 1])
        same(alone, (logits[i : i + 1], own))
        assert alone[1].messages() == verdict.messages()[i : i + 1]


@pytest.mark.parametrize("n_query", [1, 2, 7])
def test_no_method_is_shown_the_labels_of_the_queries(n_query: int) -> None:
    def blind(method: Answer) -> Answer:
        def answer(tasks: Tasks) -> Tensor:
            assert tasks.query_labels is None
            assert tasks.classes is None
            return method(tasks)

        return answer

    tasks = random_tasks(n_query=n_query)
    found = judge(blind(moving(4.0)), blind(nearest), tasks)
    same(found, judge(moving(4.0), nearest, tasks.without_query_labels()))


@pytest.mark.parametrize("scale", [0.5, 1.0, 4.0, 50.0])
@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_gradients_are_finite_and_not_needed_for_the_answer(scale: float, precision: torch.dtype) -> None:
    tasks = random_tasks(20, n_query=7, noise=2.0).map_items(lambda rows: rows.to(precision))
    query = tasks.query.requires_grad_()
    logits, verdict = judge(moving(scale), nearest, replace(tasks, query=query))
    (gradient,) = torch.autograd.grad(logits.log_softmax(-1)[..., 0].sum(), query)
    assert gradient.isfinite().all()
    assert gradient.abs().amax() > 0
    verdict.messages()
    with torch.inference_mode():
        torch.testing.assert_close(judge(moving(scale), nearest, tasks)[0], logits.detach())


def test_the_gradient_of_a_mixture_is_that_of_small_changes() -> None:
    tasks = random_tasks(3, (1, 1, 1), n_query=5, noise=2.0, seed=1)
    half = of_which_stays(0.5, 5)

    def answer(query: Tensor) -> Tensor:
        def drifting(some: Tasks) -> Tensor:
            return (0.9 * half(some).softmax(-1) + 0.1 * moving(1.0)(some).softmax(-1)).log()

        logits, verdict = judge(drifting, nearest, replace(tasks, query=query))
        assert ((verdict.trust > 0) & (verdict.trust < 1)).all()
        return logits

    assert torch.autograd.gradcheck(answer, tasks.query.clone().requires_grad_(), fast_mode=True)
