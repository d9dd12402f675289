import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from helpers.methods import method_for, random_tasks, tasks_of_any_shape
from onelook import ops
from onelook.errors import SettingsError
from onelook.methods import FeatureAveraging, InductiveSIB
from onelook.tasks import Tasks
from reference import sib_inductive as reference

steps = st.integers(0, 4)
prior_weights = st.sampled_from([0.0, 0.1, 2.0])
seeds = st.integers(0, 1000)


def made(tasks: Tasks, seed: int | None = 0, **kept: float) -> InductiveSIB:
    method = method_for(tasks, "sib-inductive", seed=seed, **kept)
    assert isinstance(method, InductiveSIB)
    return method


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


def support_losses(method: InductiveSIB, weights: Tensor, tasks: Tasks) -> Tensor:
    scores = method.score(weights, tasks.support)
    return functional.cross_entropy(scores.mT, tasks.support_labels, reduction="none").mean(1)


@given(tasks_of_any_shape(), seeds, steps, prior_weights, st.booleans())
def test_weights_loss_and_meta_gradients_are_those_of_automatic_differentiation_twice(
    tasks: Tasks, seed: int, n_steps: int, prior_weight: float, learn_step: bool
) -> None:
    kept = {"n_steps": n_steps, "prior_weight": prior_weight, "step_size": 0.05, "learn_step": learn_step}
    method = made(tasks, seed, **kept)
    one_by_one = [tasks[i : i + 1] for i in range(len(tasks))]
    close(method.adapt(tasks), torch.stack([reference.weights(method, task) for task in one_by_one]))
    loss = method.loss(tasks)
    expected_loss = torch.stack([reference.loss(method, task) for task in one_by_one]).mean()
    close(loss, expected_loss)
    parameters = list(method.parameters())
    found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    expected = torch.autograd.grad(expected_loss, parameters, allow_unused=True, materialize_grads=True)
    for found_one, expected_one in zip(found, expected, strict=True):
        close(found_one, expected_one)


@given(tasks_of_any_shape(), seeds)
def test_without_a_step_it_is_feature_averaging(tasks: Tasks, seed: int) -> None:
    method = made(tasks, seed, n_steps=0)
    averaging = FeatureAveraging(method.feature_size).double()
    averaging.load_state_dict({"diagonal": method.diagonal, "scale": method.scale})
    close(method(tasks), averaging(tasks))


@given(tasks_of_any_shape(), seeds)
def test_small_steps_lower_the_cross_entropy_of_the_support_set(tasks: Tasks, seed: int) -> None:
    method = made(tasks, seed, n_steps=1, step_size=1e-5, learn_step=False)
    weights = method.init(tasks)
    before, after = (support_losses(method, w, tasks) for w in (weights, method.step(weights, tasks)))
    gradient = (
        ops.cosine_pullback(
            tasks.support,
            weights,
            lambda c: (method.scale * c).softmax(-1) - ops.one_hot(tasks.support_labels, tasks.n_way, c.dtype),
        )
        .square()
        .sum((1, 2))
    )
    assert (after[gradient > 1e-6] < before[gradient > 1e-6]).all()
    assert (after <= before + 1e-12).all()


def test_a_learned_step_begins_as_the_given_one_and_stays_positive() -> None:
    tasks = random_tasks()
    learned, fixed = (made(tasks, None, step_size=0.3, learn_step=learn) for learn in (True, False))
    torch.testing.assert_close(learned(tasks), fixed(tasks), rtol=1e-6, atol=1e-6)  # the logarithm is kept in float32
    assert {name for name, _ in learned.named_parameters()} - {name for name, _ in fixed.named_parameters()} == {
        "log_step"
    }
    with torch.no_grad():
        learned.log_step.fill_(-30.0)
    close(learned(tasks), made(tasks, None, n_steps=0)(tasks))


@pytest.mark.parametrize("wrong", [{"n_steps": -1}, {"step_size": 0.0}, {"step_size": -1e-3}, {"prior_weight": -0.1}])
def test_impossible_settings_are_refused_with_what_was_found(wrong: dict[str, float]) -> None:
    ((key, value),) = wrong.items()
    with pytest.raises(SettingsError, match=f"{key} of .* is {value}"):
        InductiveSIB(8, **wrong)  # type: ignore[arg-type]
