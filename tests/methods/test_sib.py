import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from helpers.methods import method_for, random_tasks, tasks_of_any_shape
from onelook.errors import SettingsError
from onelook.methods import SIB, FeatureAveraging
from onelook.methods.sib import GradientNetwork, PerTaskNorm
from onelook.tasks import Tasks
from reference import sib as reference

steps = st.integers(0, 5)
prior_weights = st.sampled_from([0.0, 0.1, 2.0])
step_sizes = st.sampled_from([1e-3, 0.02])
seeds = st.integers(0, 1000)


def sib_for(tasks: Tasks, seed: int | None = 0, **kept: float) -> SIB:
    method = method_for(tasks, "sib", seed=seed, **kept)
    assert isinstance(method, SIB)
    return method


def one_by_one(tasks: Tasks) -> list[Tasks]:
    return [tasks[i : i + 1] for i in range(len(tasks))]


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def agree_in_loss_and_meta_gradients(method: SIB, tasks: Tasks, tolerance: float) -> None:
    parameters = list(method.parameters())
    loss = method.loss(tasks)
    expected_loss = torch.stack([reference.loss(method, task) for task in one_by_one(tasks)]).mean()
    close(loss, expected_loss, tolerance)
    found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    expected = torch.autograd.grad(expected_loss, parameters, allow_unused=True, materialize_grads=True)
    for found_one, expected_one in zip(found, expected, strict=True):
        close(found_one, expected_one, tolerance)


@given(tasks_of_any_shape(), seeds, steps, step_sizes, prior_weights)
def test_the_closed_form_of_the_step_is_the_step_by_automatic_differentiation(
    tasks: Tasks, seed: int, n_steps: int, step_size: float, prior_weight: float
) -> None:
    method = sib_for(tasks, seed, n_steps=n_steps, step_size=step_size, prior_weight=prior_weight)
    close(method.adapt(tasks), torch.stack([reference.weights(method, task) for task in one_by_one(tasks)]))


@given(tasks_of_any_shape(), seeds, steps, step_sizes, prior_weights)
def test_loss_and_meta_gradients_are_those_of_automatic_differentiation_twice(
    tasks: Tasks, seed: int, n_steps: int, step_size: float, prior_weight: float
) -> None:
    method = sib_for(tasks, seed, n_steps=n_steps, step_size=step_size, prior_weight=prior_weight)
    # Over a few queries the normalisation divides by deviations near 0, which magnifies the rounding of both.
    agree_in_loss_and_meta_gradients(method, tasks, 1e-8)


@pytest.mark.parametrize("n_steps", [0, 3])
def test_loss_and_meta_gradients_agree_to_1e_10_at_the_sizes_that_are_used(n_steps: int) -> None:
    tasks = random_tasks(n_tasks=2, shots=(1, 1, 1, 1, 1), n_query=75, feature_size=64)
    method = sib_for(tasks, n_steps=n_steps, step_size=1e-3, prior_weight=0.1)
    agree_in_loss_and_meta_gradients(method, tasks, 1e-10)


@given(tasks_of_any_shape(), seeds)
def test_without_a_step_sib_is_feature_averaging(tasks: Tasks, seed: int) -> None:
    method = sib_for(tasks, seed, n_steps=0)
    averaging = FeatureAveraging(method.feature_size).double()
    averaging.load_state_dict({"diagonal": method.diagonal, "scale": method.scale})
    # The bias moves all scores of a query alike.
    close(method(tasks) - method.scale * method.bias, averaging(tasks))
    close(method(tasks).softmax(-1), averaging(tasks).softmax(-1))


def test_the_five_way_head_on_640_features_has_2887_parameters() -> None:
    # sib.md 8: diagonal 640, scale, bias; xi 5→40→40→5 with two normalisations of 40.
    assert sum(parameter.numel() for parameter in SIB(640, n_way=5).parameters()) == 2887


@given(tasks_of_any_shape())
def test_untrained_and_without_a_step_the_logits_are_ten_times_the_cosine_to_the_mean_of_unit_features(
    tasks: Tasks,
) -> None:
    logits = sib_for(tasks, seed=None, n_steps=0)(tasks)
    for i in range(len(tasks)):
        support = functional.normalize(tasks.support[i], dim=-1)
        for label in range(tasks.n_way):
            mean = support[tasks.support_labels[i] == label].mean(0)
            close(logits[i, :, label], 10 * functional.cosine_similarity(tasks.query[i], mean.unsqueeze(0), dim=-1))


def test_the_gradient_network_sees_all_queries_of_its_task_at_once() -> None:
    scores = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    network = GradientNetwork(3).double()
    changed = scores.clone()
    changed[0, 5] += 1
    difference = (network(changed) - network(scores)).abs()
    assert (difference[0, :5].amax(-1) > 1e-6).all()
    assert (difference[1] < 1e-12).all()


@given(st.integers(1, 4), st.integers(2, 9), st.integers(1, 5), seeds)
def test_the_normalisation_is_that_of_torch_task_by_task(n_tasks: int, n_query: int, size: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    x = 3 + 2 * torch.randn(n_tasks, n_query, size, generator=draw, dtype=torch.float64)
    norm, torchs = PerTaskNorm(size).double(), nn.BatchNorm1d(size).double()
    with torch.no_grad():
        for name, parameter in norm.named_parameters():
            parameter.copy_(torch.randn(size, generator=draw, dtype=torch.float64))
            torchs.get_parameter(name).copy_(parameter)
    for i in range(n_tasks):
        close(norm(x)[i], functional.batch_norm(x[i], None, None, norm.weight, norm.bias, training=True))
    close(norm(x[:1])[0], torchs(x[0]))


def test_the_normalisation_of_a_single_query_leaves_the_bias() -> None:
    norm = PerTaskNorm(4).double()
    with torch.no_grad():
        norm.bias.copy_(torch.arange(4))
    x = torch.randn(2, 1, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    close(norm(x), norm.bias.expand(2, 1, 4))


def test_renaming_the_classes_changes_the_answer_which_is_why_n_way_is_fixed() -> None:
    tasks = random_tasks()
    new_name = torch.tensor([1, 2, 0])
    renamed = Tasks(tasks.support, new_name[tasks.support_labels], tasks.query, tasks.n_way)
    method = sib_for(tasks, seed=None)
    difference = method(renamed)[:, :, new_name] - method(tasks)
    assert difference.abs().max() > 1e-6
    without_steps = sib_for(tasks, seed=None, n_steps=0)
    close(without_steps(renamed)[:, :, new_name], without_steps(tasks))


@given(tasks_of_any_shape(), seeds, steps, st.floats(0, 5))
def test_the_prior_adds_half_its_weight_times_the_squared_length_of_the_weights_to_the_loss(
    tasks: Tasks, seed: int, n_steps: int, prior_weight: float
) -> None:
    method = sib_for(tasks, seed, n_steps=n_steps, prior_weight=prior_weight)
    assert tasks.query_labels is not None
    cross_entropy = functional.cross_entropy(method(tasks).flatten(0, 1), tasks.query_labels.flatten())
    squares = torch.stack([weights.flatten() @ weights.flatten() for weights in method.adapt(tasks)])
    close(method.loss(tasks), cross_entropy + prior_weight / 2 * squares.mean())


@given(tasks_of_any_shape(), seeds, st.floats(0, 5))
def test_the_prior_pulls_each_step_towards_zero(tasks: Tasks, seed: int, prior_weight: float) -> None:
    plain, pulled = (sib_for(tasks, seed, step_size=0.02, prior_weight=weight) for weight in (0.0, prior_weight))
    weights = plain.init(tasks)
    close(pulled.step(weights, tasks), plain.step(weights, tasks) - 0.02 * prior_weight * weights)


@given(tasks_of_any_shape(), seeds, steps)
def test_the_trajectory_holds_the_answers_of_fewer_steps(tasks: Tasks, seed: int, n_steps: int) -> None:
    trajectory = sib_for(tasks, seed, n_steps=n_steps).trajectory(tasks)
    assert len(trajectory) == n_steps + 1
    for k in range(n_steps + 1):
        close(trajectory[k], sib_for(tasks, seed, n_steps=k)(tasks))


def test_rows_that_no_step_has_seen_are_scored_as_if_they_stood_alone() -> None:
    tasks, unseen = random_tasks(n_query=6), random_tasks(n_query=4, seed=1).query
    method = sib_for(tasks)
    weights = method.adapt(tasks)
    together = method.score(weights, torch.cat([tasks.query, unseen], 1))
    close(together[:, :6], method(tasks))
    close(together[:, 6:], method.score(weights, unseen))


@pytest.mark.parametrize(
    "wrong", [{"n_way": 1}, {"n_steps": -1}, {"step_size": 0.0}, {"step_size": -1e-3}, {"prior_weight": -0.1}]
)
def test_impossible_settings_are_refused_with_what_was_found(wrong: dict[str, float]) -> None:
    ((key, value),) = wrong.items()
    with pytest.raises(SettingsError, match=f"{key} of .* is {value}"):
        SIB(8, **wrong)  # type: ignore[arg-type]


def test_tasks_of_another_number_of_classes_are_refused_in_one_sentence() -> None:
    with pytest.raises(SettingsError, match=r"made for 5 classes, but the tasks have 3"):
        SIB(8, n_way=5).double()(random_tasks(shots=(1, 1, 1), feature_size=8))
