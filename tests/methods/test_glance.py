import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.mixture import GaussianMixture
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.methods import method_for, random_tasks, tasks_of_any_shape
from onelook import ops
from onelook.artifacts import load_shipped
from onelook.errors import SettingsError
from onelook.methods import Glance, glance_support, regression
from onelook.methods.glance_support import Labelled, judge_loudness, leave_one_out
from onelook.methods.regression import equalise
from onelook.tasks import Tasks
from reference import glance as reference

SMALL: dict[str, Any] = {"width": 8, "n_steps": 3, "guard": False}
"""Most laws are about the method itself; the guard has its own (test_guard.py)."""

seeds = st.integers(0, 1000)

tasks_of_many_shapes = tasks_of_any_shape(
    n_tasks=st.integers(1, 2),
    shots=st.lists(st.integers(1, 6), min_size=2, max_size=12).map(tuple),
    n_query=st.integers(1, 30),
    feature_size=st.integers(2, 40),
)


def glance_for(tasks: Tasks, seed: int | None = 0, **kept: Any) -> Glance:
    method = method_for(tasks, "glance", seed=seed, **(SMALL | kept))
    assert isinstance(method, Glance)
    return method


def believing(method: Glance, logit: float) -> Glance:
    """The same with a fixed belief in the expected proportions."""
    with torch.no_grad():
        method.belief[-1].weight.zero_()
        method.belief[-1].bias.fill_(logit)
    return method


def hearing_means_alone(method: Glance) -> Glance:
    """The same, deaf to ridge regression."""
    with torch.no_grad():
        for conductor in (method.alone, method.together):
            conductor.layers[-1].bias[0] = -1e3
        method.log_scale -= math.log(2)  # what is not heard is as loud again in the means
    return method


def in_precision(method: Glance, tasks: Tasks, precision: torch.dtype) -> tuple[Glance, Tasks]:
    return method.to(precision), tasks.map_items(lambda rows: rows.to(precision))


def alike(found: Tensor, expected: Tensor) -> None:
    """Equal answers. In single precision the products round by 1e-7, distances are divided by that of the classes,
    which may be a hundredth, and three steps of random networks make more of it: of 150 random tasks, single and double
    precision gave posteriors 3e-6 apart in the median and 8e-4 in the worst one."""
    assert found.dtype == expected.dtype
    if found.dtype == torch.float64:
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    else:
        torch.testing.assert_close(found.softmax(-1), expected.softmax(-1), rtol=0, atol=1e-2)


def permutation(data: st.DataObject, n: int) -> Tensor:
    return torch.tensor(data.draw(st.permutations(range(n))))


# In single precision rounding may decide in which half of the queries the guard puts one of two that are nearly alike.
@pytest.mark.parametrize(
    ("guard", "precision"), [(False, torch.float64), (False, torch.float32), (True, torch.float64)]
)
@given(tasks_of_many_shapes, seeds, st.data())
def test_classes_queries_and_support_rows_may_change_places(
    guard: bool, precision: torch.dtype, tasks: Tasks, seed: int, data: st.DataObject
) -> None:
    method, tasks = in_precision(glance_for(tasks, seed, guard=guard), tasks, precision)
    new_name = permutation(data, tasks.n_way)
    row = permutation(data, tasks.support.shape[1])
    query = permutation(data, tasks.query.shape[1])
    moved = Tasks(tasks.support[:, row], new_name[tasks.support_labels[:, row]], tasks.query[:, query], tasks.n_way)
    alike(method(moved)[:, :, new_name], method(tasks)[:, query])


@given(tasks_of_many_shapes, seeds, st.data())
def test_given_priors_change_places_with_the_classes(tasks: Tasks, seed: int, data: st.DataObject) -> None:
    numbers = data.draw(st.lists(st.integers(1, 9), min_size=tasks.n_way, max_size=tasks.n_way))
    new_name = permutation(data, tasks.n_way)
    renamed = replace(tasks, support_labels=new_name[tasks.support_labels], query_labels=None)
    moved = [numbers[int((new_name == k).nonzero())] for k in range(tasks.n_way)]
    found = glance_for(tasks, seed, class_priors="/".join(map(str, moved)))(renamed)
    alike(found[:, :, new_name], glance_for(tasks, seed, class_priors="/".join(map(str, numbers)))(tasks))


@given(tasks_of_many_shapes, seeds)
def test_priors_of_the_settings_mean_what_a_tensor_of_priors_means(tasks: Tasks, seed: int) -> None:
    even = torch.full((len(tasks), tasks.n_way), 1 / tasks.n_way, dtype=torch.float64)
    numbers = torch.arange(1.0, 1 + tasks.n_way, dtype=torch.float64)
    text = "/".join(f"{x:g}" for x in numbers.tolist())
    unknown = glance_for(tasks, seed)
    meant = {"balanced": even, "unknown": even * torch.nan, text: (numbers / numbers.sum()).expand_as(even)}
    for setting, priors in meant.items():
        alike(glance_for(tasks, seed, class_priors=setting)(tasks), unknown.trajectory(tasks, priors)[-1])


def test_given_priors_override_the_settings_and_count_for_their_task_only() -> None:
    tasks = random_tasks(n_tasks=3, n_query=8)
    priors = torch.tensor([[0.2, 0.3, 0.5], [torch.nan] * 3, [1 / 3] * 3], dtype=torch.float64)
    method = glance_for(tasks, class_priors="0.1/0.1/0.8")
    found = method.trajectory(tasks, priors)[-1]
    guarded, _ = method.answer(tasks, priors)
    for i, setting in enumerate(["2/3/5", "unknown", "balanced"]):
        alike(found[i : i + 1], glance_for(tasks, class_priors=setting)(tasks[i : i + 1]))
        alike(guarded[i : i + 1], glance_for(tasks, class_priors=setting, guard=True)(tasks[i : i + 1]))


def test_priors_change_the_answer() -> None:
    tasks = random_tasks(n_query=8)
    answers = [glance_for(tasks, class_priors=text)(tasks) for text in ("unknown", "balanced", "1/2/3", "3/2/1")]
    for i, answer in enumerate(answers):
        assert all((answer - other).abs().amax() > 1e-3 for other in answers[:i])


def test_a_class_of_prior_zero_is_answered_less_and_the_answer_stays_finite() -> None:
    tasks = random_tasks(n_query=20)
    absent = glance_for(tasks, seed=None, class_priors="0/1/1")(tasks)
    assert absent.isfinite().all()
    share = absent.softmax(-1).mean(1)[:, 0]
    assert (share < 0.1 * glance_for(tasks, seed=None, class_priors="balanced")(tasks).softmax(-1).mean(1)[:, 0]).all()


@pytest.mark.parametrize("text", ["1/2", "1/2/3/4"])
def test_priors_of_another_number_of_classes_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"each of the 3 classes \(0, 1, 2\)"):
        glance_for(random_tasks(), class_priors=text)(random_tasks())


def test_priors_that_are_none_are_refused_when_the_method_is_made() -> None:
    with pytest.raises(SettingsError, match="but is 'even'"):
        Glance(class_priors="even")


@pytest.mark.parametrize("wrong", [{"n_steps": 0}, {"width": 0}, {"n_layers": 0}, {"n_neighbours": 1}])
def test_impossible_settings_are_refused_with_what_was_found(wrong: dict[str, int]) -> None:
    ((key, value),) = wrong.items()
    with pytest.raises(SettingsError, match=f"{key} of .* is {value}"):
        Glance(**wrong)  # type: ignore[arg-type]


def mixture_steps(
    tasks: Tasks, i: int, n_steps: int, prior: float, rate: float, tell: float, loud: float
) -> list[np.ndarray]:
    """Posteriors (Q, K) of task i by expectation maximisation: each expectation is scikit-learn's, of round clusters
    whose density is e^-8cd, d the distance in units of the mean squared distance between the class means, and c the
    factor `loud`. At first a class of fewer labelled examples than the others has a larger weight for it: e^8cx, where
    x is by how much its distances are too large. tell: the power of the numbers of labelled examples that is expected
    of the proportions."""
    support, query = (
        x[i].numpy() / np.linalg.norm(x[i].numpy(), axis=1, keepdims=True) for x in (tasks.support, tasks.query)
    )
    own = [support[tasks.support_labels[i].numpy() == k] for k in range(tasks.n_way)]
    means = centres = np.array([rows.mean(axis=0) for rows in own])
    shots = np.array([len(rows) for rows in own])
    pairs = [np.square(a - b).sum() for j, a in enumerate(means) for b in means[:j]]
    mixture = GaussianMixture(tasks.n_way, covariance_type="spherical")
    mixture.precisions_cholesky_ = np.full(tasks.n_way, math.sqrt(16 * loud / np.mean(pairs)))
    scatter = sum(np.square(rows - mean).sum() for rows, mean in zip(own, means, strict=True))
    excess = scatter / max(len(support) - len(own), 1) / np.mean(pairs) * (1 / shots - np.mean(1 / shots))
    expected = shots**tell / (shots**tell).sum()
    first = expected * np.exp(8 * loud * excess)
    mixture.weights_ = first / first.sum()
    anchor = np.minimum(shots, 1 / np.mean(1 / shots))
    found = []
    for _ in range(n_steps + 1):
        mixture.means_ = centres
        found.append(mixture.predict_proba(query))
        if len(found) == 1:
            mixture.weights_ = expected
        size = found[-1].sum(axis=0)
        maximum = (anchor[:, None] * means + found[-1].T @ query) / (anchor + size)[:, None]
        centres = centres + rate * (maximum - centres)
        mixture.weights_ = (size + prior) / (size + prior).sum() if prior < math.inf else mixture.weights_
    return found


def loudness(method: Glance, tasks: Tasks) -> list[float]:
    labelled = Labelled.read(tasks)
    return list(judge_loudness(method.listen(labelled), labelled).flatten().exp().tolist())


@given(tasks_of_any_shape(shots=st.lists(st.integers(1, 6), min_size=2, max_size=8).map(tuple)), seeds, st.floats(0, 4))
def test_voices_are_as_loud_as_makes_the_labelled_examples_most_probable(
    tasks: Tasks, seed: int, hoarse: float
) -> None:
    method = glance_for(tasks, seed)
    with torch.no_grad():
        method.log_scale[0] -= hoarse
        method.log_scale_of_ridge[0] -= hoarse
    labelled = Labelled.read(tasks)
    hot, shots, voices = labelled.support_hot, labelled.shots, method.listen(labelled)
    distance = leave_one_out(
        ops.squared_distance(labelled.support, labelled.means) / labelled.unit, hot, shots[:, None]
    )
    scores = voices.mix(distance, equalise(labelled.left_out, hot, shots[:, None]))
    tested = (hot * (shots > 1)[:, None]).sum(-1)
    for i, found in enumerate(judge_loudness(voices, labelled).flatten().tolist()):

        def loss(x: float, i: int = i) -> float:
            log_p = (math.exp(x) * scores[i]).log_softmax(-1)
            return x**2 / (2 * 0.4**2) - (tested[i] * (hot[i] * log_p).sum(-1)).sum().item()

        best = min(map(loss, np.linspace(0, 2.5, 101)))
        assert loss(found) <= best + 1e-5
        assert found == 0 or tested[i].any()


@given(
    tasks_of_any_shape(n_query=st.integers(1, 6), feature_size=st.integers(2, 12)), seeds, st.sampled_from([8, 2**16])
)
def test_the_labelled_examples_alone_are_heard_as_the_slow_loop_hears_them(tasks: Tasks, seed: int, most: int) -> None:
    method = glance_for(tasks, seed)
    with pytest.MonkeyPatch.context() as patch:  # more examples than are judged, too
        patch.setattr(glance_support, "MOST_JUDGED", most)
        expected = np.stack([reference.inductive(method, tasks[i : i + 1]) for i in range(len(tasks))])
        torch.testing.assert_close(method.inductive(tasks), torch.from_numpy(expected), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("nuisance", "noise"), [(0.0, 3.0), (9.0, 1.5)])
def test_the_labelled_examples_alone_are_as_good_as_the_better_parent(nuisance: float, noise: float) -> None:
    """Noise in all directions asks for class means, a few large directions that mean nothing for ridge regression."""
    glance, tasks = load_shipped("glance").double(), in_few_directions(nuisance, noise)
    by_means, by_ridge = method_for(tasks, "prototypical", transform="l2n"), method_for(tasks, "ridge")
    better = max(right(method(tasks), tasks) for method in (by_means, by_ridge))
    assert isinstance(glance, Glance)
    assert right(glance.inductive(tasks), tasks) > better - 0.007


def in_few_directions(nuisance: float, noise: float) -> Tasks:
    """10 classes of 16 labelled examples, and in 8 of 48 directions what has nothing to do with them."""
    tasks, other = random_tasks(8, (16,) * 10, n_query=100, feature_size=48, noise=noise), np.random.default_rng(1)

    def disturb(rows: Tensor) -> Tensor:
        noisy = torch.from_numpy(nuisance * other.standard_normal((*rows.shape[:2], 8)))
        return torch.cat([noisy if nuisance else rows[..., :8], rows[..., 8:]], -1)

    return replace(tasks, support=disturb(tasks.support), query=disturb(tasks.query))


def test_many_classes_gain_by_their_queries_as_few_do() -> None:
    glance = load_shipped("glance").double()
    assert isinstance(glance, Glance)
    tasks = random_tasks(1, (3,) * 150, n_query=600, feature_size=48, noise=1.2)
    assert right(glance(tasks), tasks) > right(glance.trajectory(tasks)[0], tasks) + 0.03


@pytest.mark.parametrize("noise", [1.5, 2.4])
def test_class_means_are_not_heard_again_where_many_labelled_examples_say_that_they_mislead(noise: float) -> None:
    glance = load_shipped("glance").double()
    tasks = in_few_directions(9.0, noise)
    by_ridge = method_for(tasks, "ridge")
    assert right(glance(tasks), tasks) > right(by_ridge(tasks), tasks)


@given(
    tasks_of_any_shape(
        n_query=st.integers(1, 20),
        shots=st.lists(st.integers(1, 5), min_size=2, max_size=6).map(tuple),
        feature_size=st.integers(3, 20),
    ),
    st.floats(0.1, 5),
    st.floats(-2, 4),
)
def test_a_new_network_that_disbelieves_takes_steps_of_expectation_maximisation(
    tasks: Tasks, prior: float, rate: float
) -> None:
    method = hearing_means_alone(believing(glance_for(tasks, seed=None), -1e3))
    with torch.no_grad():
        method.log_prior_count.fill_(math.log(prior))
        method.rate.fill_(rate)
    found = method.trajectory(tasks).softmax(-1).detach().numpy()
    for i, loud in enumerate(loudness(method, tasks)):
        expected = mixture_steps(tasks, i, method.n_steps, prior, 1 / (1 + math.exp(-rate)), 0.2, loud)
        np.testing.assert_allclose(found[:, i], expected, rtol=1e-6, atol=1e-8)


@given(tasks_of_any_shape(n_query=st.integers(1, 20), feature_size=st.integers(3, 20)))
def test_a_new_network_that_believes_leaves_the_proportions_of_the_mixture_as_expected(tasks: Tasks) -> None:
    balanced = glance_for(tasks, None, class_priors="balanced")
    for method, tell in ((believing(glance_for(tasks, seed=None), 1e3), 0.2), (balanced, 0.0)):
        found = hearing_means_alone(method).trajectory(tasks).softmax(-1).detach().numpy()
        n = method.n_steps + (method is not balanced)  # its last answer is transported to what it is told
        for i, loud in enumerate(loudness(method, tasks)):
            expected = mixture_steps(tasks, i, method.n_steps, math.inf, 0.5, tell, loud)
            np.testing.assert_allclose(found[:n, i], expected[:n], rtol=1e-6, atol=1e-8)


@given(tasks_of_any_shape(n_query=st.integers(4, 30)), seeds)
def test_the_last_answer_is_nearer_to_the_given_priors_than_the_one_before(tasks: Tasks, seed: int) -> None:
    method = glance_for(tasks, seed, class_priors="balanced")
    scene = method.scene(tasks, None)
    logits = method.inductive(tasks)
    before, after = (x.softmax(-1).mean(1) for x in (logits, method._transport_to_priors(logits, scene)))
    off_before, off_after = ((x.log() + math.log(tasks.n_way)).abs().amax(1) for x in (before, after))
    assert (off_after <= off_before + 1e-9).all()


@given(tasks_of_any_shape(n_query=st.integers(1, 12), feature_size=st.integers(2, 12)), seeds, st.data())
def test_all_steps_are_those_of_the_slow_loop_under_any_priors(tasks: Tasks, seed: int, data: st.DataObject) -> None:
    numbers = "/".join(str(data.draw(st.integers(0 if k else 1, 5))) for k in range(tasks.n_way))
    with pytest.MonkeyPatch.context() as patch:  # more queries than have full weight, too
        patch.setattr(regression, "MOST_QUERIES", data.draw(st.sampled_from([1, 4, 150])))
        patch.setattr(regression, "MOST_OF_CLASS", data.draw(st.sampled_from([0.5, 3])))
        compare_with_the_slow_loop(tasks, seed, numbers, data.draw(st.integers(2, 30)))


def compare_with_the_slow_loop(tasks: Tasks, seed: int, numbers: str, n_neighbours: int) -> None:
    for priors in ("unknown", "balanced", numbers):
        method = glance_for(tasks, seed, class_priors=priors, n_neighbours=n_neighbours)
        expected = np.stack([reference.trajectory(method, tasks[i : i + 1]) for i in range(len(tasks))], 1)
        torch.testing.assert_close(method.trajectory(tasks), torch.from_numpy(expected), rtol=1e-9, atol=1e-9)


def slow_loss(method: Glance, tasks: Tasks) -> float:
    """Cross-entropy of the queries and of their proportions, of those that are of a class of their task, over that of
    not knowing anything."""
    assert tasks.query_labels is not None
    total = weights = 0.0
    for step, answers in enumerate(method.trajectory(tasks).softmax(-1).tolist()):
        of_queries, prior_loss = [], []
        for answer, labels in zip(answers, tasks.query_labels.tolist(), strict=True):
            known = [(p, label) for p, label in zip(answer, labels, strict=True) if label >= 0]
            of_queries += [-math.log(p[label]) for p, label in known]
            mean = [sum(p[k] for p, _ in known) / len(known) for k in range(tasks.n_way)]
            prior_loss.append(-sum(math.log(max(mean[label], 1e-4)) for _, label in known) / len(known))
        weight = 0.5 ** (method.n_steps - step)
        total += weight * (np.mean(of_queries) + 0.5 * np.mean(prior_loss))
        weights += weight
    return total / weights / math.log(tasks.n_way)


def with_some_unknown(tasks: Tasks, n: int) -> Tasks:
    assert tasks.query_labels is not None
    labels = tasks.query_labels.clone()
    labels[:, :n] = -1
    return replace(tasks, query_labels=labels)


@pytest.mark.parametrize("n_unknown", [0, 3])
def test_queries_of_no_class_of_their_task_do_not_enter_the_loss(n_unknown: int) -> None:
    tasks = with_some_unknown(random_tasks(n_query=9), n_unknown)
    method = glance_for(tasks)
    assert method.loss(tasks).item() == pytest.approx(slow_loss(method, tasks), rel=1e-9)


def test_a_task_with_no_known_query_leaves_the_loss_of_the_others_finite() -> None:
    tasks = random_tasks(n_query=4)
    assert tasks.query_labels is not None
    labels = tasks.query_labels.clone()
    labels[0] = -1
    method = glance_for(tasks)
    loss = method.loss(replace(tasks, query_labels=labels))
    loss.backward()
    assert loss.isfinite()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in method.parameters())


def test_training_lowers_the_loss_of_tasks_that_it_has_not_seen() -> None:
    def tasks(seed: int, n_tasks: int = 8, n_query: int = 12) -> Tasks:
        return random_tasks(n_tasks, (1, 1, 1, 1), n_query, feature_size=16, noise=0.7, seed=seed)

    unseen = tasks(0, 16, 20)
    method = glance_for(unseen, seed=None)
    optimiser = torch.optim.Adam(method.parameters(), 8e-3)
    before = method.loss(unseen).item()
    for step in range(20):
        optimiser.zero_grad()
        method.loss(tasks(step + 1)).backward()
        optimiser.step()
    assert method.loss(unseen).item() < 0.95 * before


@given(tasks_of_many_shapes, seeds, st.booleans())
def test_a_query_and_its_double_have_the_same_answer(tasks: Tasks, seed: int, guard: bool) -> None:
    twice = replace(tasks, query=tasks.query.repeat(1, 2, 1), query_labels=None)
    one, other = glance_for(tasks, seed, guard=guard)(twice).chunk(2, 1)
    alike(one, other)


@given(tasks_of_many_shapes, seeds, st.booleans())
def test_the_directions_of_the_axes_and_the_lengths_of_the_rows_mean_nothing(
    tasks: Tasks, seed: int, guard: bool
) -> None:
    draw = torch.Generator().manual_seed(seed)
    size = tasks.query.shape[-1]
    rotation = torch.linalg.qr(torch.randn(size, size, generator=draw, dtype=torch.float64)).Q

    def elsewhere(rows: Tensor) -> Tensor:
        return rows @ rotation * torch.empty(len(rows), 1, dtype=torch.float64).uniform_(0.1, 50, generator=draw)

    method = glance_for(tasks, seed, guard=guard)
    alike(method(tasks.map_items(elsewhere)), method(tasks))


@given(tasks_of_many_shapes, seeds, st.booleans())
def test_many_axes_in_which_nothing_differs_change_nothing(tasks: Tasks, seed: int, guard: bool) -> None:
    """With more features than rows the work is done in as many axes as there are rows."""
    n_rows = tasks.support.shape[1] + tasks.query.shape[1]
    wide = tasks.map_items(lambda rows: functional.pad(rows, (0, 2 * n_rows)))
    method = glance_for(tasks, seed, guard=guard)
    alike(method(wide), method(tasks))


def test_a_single_query_is_judged_by_the_labelled_examples_alone() -> None:
    tasks = random_tasks(n_query=1)
    method = glance_for(tasks, guard=True)
    assert torch.equal(method(tasks), method.inductive(tasks))
    assert not torch.allclose(method(tasks), method.trajectory(tasks)[-1])


@pytest.mark.parametrize("seed", range(3))
def test_the_guard_judges_the_last_step_and_does_not_enter_the_loss(seed: int) -> None:
    tasks = random_tasks(n_tasks=8, shots=(2, 3, 2), n_query=12, seed=seed)
    method, bare = (glance_for(tasks, seed, guard=guard) for guard in (True, False))
    logits, verdict = method.answer(tasks)
    assert torch.equal(method(tasks), logits)
    share = verdict.trust.view(-1, 1, 1)
    expected = share * bare(tasks).softmax(-1) + (1 - share) * method.inductive(tasks).softmax(-1)
    torch.testing.assert_close(logits.softmax(-1), expected)
    assert torch.equal(method.loss(tasks), bare.loss(tasks))


class Largest(TorchDispatchMode):
    """The size of the largest tensor that comes out of any operation."""

    n = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for one in found if isinstance(found, (tuple, list)) else [found]:
            if isinstance(one, Tensor):
                self.n = max(self.n, one.untyped_storage().nbytes() // one.element_size())
        return found


def test_thousands_of_queries_need_no_table_of_all_pairs_of_them() -> None:
    tasks = random_tasks(1, (5,) * 8 + (1,) * 12, n_query=3000, feature_size=64)
    method, tasks = in_precision(glance_for(tasks, n_steps=2, width=32, guard=True), tasks, torch.float32)
    with torch.no_grad(), Largest() as largest:
        assert method(tasks).isfinite().all()
    assert largest.n <= 1024 * (tasks.support.shape[1] + 3000)


def right(logits: Tensor, tasks: Tasks) -> float:
    return (logits.argmax(-1) == tasks.query_labels).double().mean().item()


def test_a_class_of_few_labelled_examples_is_at_first_answered_as_often_as_those_of_many() -> None:
    tasks = random_tasks(200, (1, 1, 10, 10), n_query=40, feature_size=32, noise=2.0, balanced=True)
    new = hearing_means_alone(glance_for(tasks, seed=None))
    few = torch.tensor([0, 1])
    assert (new.inductive(tasks).argmax(-1).unsqueeze(-1) == few).double().sum(-1).mean() < 0.1
    at_first = (new.trajectory(tasks)[0].argmax(-1).unsqueeze(-1) == few).double().sum(-1).mean()
    assert 0.4 < at_first < 0.6


@given(st.integers(1, 9), st.integers(2, 12), seeds)
def test_equal_numbers_of_labelled_examples_are_told_as_they_are_and_nothing_is_subtracted(
    shot: int, way: int, seed: int
) -> None:
    tasks = random_tasks(1, (shot,) * way, seed=seed)
    scene = glance_for(tasks, seed).scene(tasks, None)
    torch.testing.assert_close(scene.typical, torch.full((1, 1), float(shot), dtype=torch.float64), rtol=1e-14, atol=0)
    assert scene.excess.abs().amax() < 1e-12


@pytest.mark.parametrize("n_query", [(6, 11, 20, 31, 45), (22,) * 5, (45, 31, 20, 11, 6)])
def test_the_shipped_method_is_not_led_astray_by_unequal_numbers_of_labelled_examples(n_query: tuple[int, ...]) -> None:
    shots = (2, 4, 7, 11, 16)
    draw = torch.Generator().manual_seed(0)
    rows = {
        k: [(0.75 * centre + torch.randn(12, n, 48, generator=draw)).relu() for n in (shots[k], n_query[k])]
        for k, centre in enumerate(torch.randn(5, 12, 1, 48, generator=draw))
    }
    support, query = (torch.cat(part, 1) for part in zip(*rows.values(), strict=True))
    labels, true = (torch.arange(5).repeat_interleave(torch.tensor(n)).expand(12, -1) for n in (shots, n_query))
    tasks = Tasks(support, labels, query, 5, true)
    glance = load_shipped("glance")
    with torch.inference_mode():
        assert right(glance(tasks), tasks) > right(glance.inductive(tasks), tasks) - 0.005
