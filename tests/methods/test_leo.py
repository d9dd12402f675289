from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from helpers.methods import method_for, random_tasks, tasks_of_any_shape
from onelook.errors import SettingsError
from onelook.methods import LEO
from onelook.methods.base import query_cross_entropy
from onelook.tasks import Tasks
from reference import leo as reference

steps = st.integers(0, 3)


def leo_for(tasks: Tasks, seed: int | None = 0, **kept: float) -> LEO:
    method = method_for(tasks, "leo", seed=seed, **({"latent_size": 3} | kept))
    assert isinstance(method, LEO)
    return method


def seeded_loss(method: LEO, tasks: Tasks, seed: int) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return method.loss(tasks)


def draws(method: LEO, tasks: Tasks, seed: int) -> list[Tensor]:
    """What the loss draws under this seed."""
    sizes = [method.latent_size] + [method.feature_size] * (method.latent_steps + 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return [torch.randn(len(tasks), tasks.n_way, size, dtype=torch.float64) for size in sizes]


@given(tasks_of_any_shape(n_tasks=st.integers(1, 2)), st.integers(0, 1000), steps, steps)
def test_loss_and_meta_gradients_are_those_of_automatic_differentiation_of_the_inner_steps(
    tasks: Tasks, seed: int, latent_steps: int, tuning_steps: int
) -> None:
    weights = {"kl_weight": 0.1, "distance_weight": 0.2, "orthogonality_weight": 0.3}
    method = leo_for(tasks, seed, latent_steps=latent_steps, tuning_steps=tuning_steps, **weights)
    loss = seeded_loss(method, tasks, seed)
    noises = draws(method, tasks, seed)
    expected_loss = torch.stack(
        [reference.loss(method, tasks[i : i + 1], iter([noise[i] for noise in noises])) for i in range(len(tasks))]
    ).mean()
    torch.testing.assert_close(loss, expected_loss, rtol=1e-9, atol=1e-9)
    parameters = list(method.parameters())
    found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    expected = torch.autograd.grad(expected_loss, parameters, allow_unused=True, materialize_grads=True)
    for found_one, expected_one in zip(found, expected, strict=True):
        torch.testing.assert_close(found_one, expected_one, rtol=1e-8, atol=1e-8)


def test_the_loss_is_drawn_from_the_global_generator_and_the_answer_is_not_drawn_at_all() -> None:
    tasks = random_tasks()
    method = leo_for(tasks)
    assert torch.equal(seeded_loss(method, tasks, 1), seeded_loss(method, tasks, 1))
    assert not torch.equal(seeded_loss(method, tasks, 1), seeded_loss(method, tasks, 2))
    before = torch.get_rng_state()
    method(tasks)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_steps_the_logits_are_linear_in_the_unit_features_of_the_queries() -> None:
    tasks = random_tasks(n_query=3)
    method = leo_for(tasks, latent_steps=0, tuning_steps=0)
    unit = tasks.query / tasks.query.norm(dim=-1, keepdim=True)
    sums = unit[:, :1] + unit[:, 1:2]
    length = sums.norm(dim=-1, keepdim=True)
    between = replace(tasks, query=sums, query_labels=None)
    torch.testing.assert_close(length * method(between), method(tasks)[:, :1] + method(tasks)[:, 1:2])


@pytest.mark.parametrize("kind", ["latent_steps", "tuning_steps"])
def test_steps_of_either_kind_lower_the_loss_of_the_support_rows(kind: str) -> None:
    tasks = random_tasks(shots=(2, 2, 2), feature_size=16)
    tasks = replace(tasks, query=tasks.support, query_labels=tasks.support_labels)
    losses = []
    for n_steps in (0, 1, 3):
        numbers = {"latent_steps": 0, "tuning_steps": 0, kind: n_steps}
        logits = leo_for(tasks, None, latent_size=16, **numbers)(tasks)
        losses.append(query_cross_entropy(logits, tasks).item())
    assert losses[0] > losses[1] > losses[2]


def test_without_steps_the_weights_of_a_class_still_depend_on_the_rows_of_the_others() -> None:
    tasks, others = random_tasks(seed=1), random_tasks(seed=2)
    own = (tasks.support_labels == 0).unsqueeze(-1)
    changed = replace(tasks, support=torch.where(own, tasks.support, others.support))
    method = leo_for(tasks, latent_steps=0, tuning_steps=0)
    assert not torch.allclose(method(changed)[:, :, 0], method(tasks)[:, :, 0])


def test_the_penalty_on_the_decoder_vanishes_when_its_rows_are_orthogonal() -> None:
    tasks = random_tasks()
    free, penalised = (leo_for(tasks, orthogonality_weight=weight) for weight in (0.0, 1.0))
    assert seeded_loss(penalised, tasks, 0) > seeded_loss(free, tasks, 0) + 1e-3
    with torch.no_grad():
        for method in (free, penalised):
            torch.nn.init.orthogonal_(method.decoder.weight, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(seeded_loss(penalised, tasks, 0), seeded_loss(free, tasks, 0))


@pytest.mark.parametrize(
    "wrong",
    [
        {"latent_size": 0},
        {"latent_steps": -1},
        {"tuning_steps": -1},
        {"kl_weight": -0.1},
        {"distance_weight": -0.1},
        {"orthogonality_weight": -0.1},
    ],
)
def test_impossible_settings_are_refused_with_what_was_found(wrong: dict[str, float]) -> None:
    ((key, value),) = wrong.items()
    with pytest.raises(SettingsError, match=f"{key} of .* is {value}"):
        LEO(8, **wrong)  # type: ignore[arg-type]
