"""Spinning lines: what is known of them in closed form, and that SIB finds it."""

import json
import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from onelook.errors import SettingsError
from onelook.events import Progress, finish
from onelook.experiments.bayesian_network import BayesianNetwork
from onelook.experiments.lines import (
    TEST,
    TRAIN,
    LinesConfig,
    LineSIB,
    best_share,
    draw_lines,
    exact,
    lines,
    mixture_information,
    posterior_means,
)

SHORT = LinesConfig(n_points=8, n_train=24, n_test=16, epochs=2, seed=5)


def model_for(config: LinesConfig, seed: int = 0) -> LineSIB:
    """Every parameter off its initial value, because zeros hide errors."""
    model = LineSIB(config).double()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            value += 0.5 * torch.randn(value.shape, generator=draw, dtype=torch.float64)
    return model


@cache
def record(config: LinesConfig) -> dict[str, Any]:
    return finish(lines(config))


def drawn(config: LinesConfig, n_tasks: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and slopes by the definition, in another order of draws than the library's."""
    rng = np.random.default_rng(1)
    slope_noise = rng.normal(config.slope_mean, config.slope_scale, n_tasks)
    x = rng.normal(0, config.input_scale, (n_tasks, config.n_points))
    return x, x.mean(1) + slope_noise


# ------------------------------------------------------------------------------------------------ the tasks


def test_the_published_information_is_0_7085_nats() -> None:
    known = exact(LinesConfig())
    assert known.information == pytest.approx(0.7085, abs=5e-5)
    assert (known.prior_mean, known.posterior_variance) == (1.0, pytest.approx(0.01))
    assert known.prior_variance == pytest.approx(0.04125)


@pytest.mark.parametrize("config", [LinesConfig(), LinesConfig(n_points=5, input_scale=0.7, slope_mean=-2.0)])
def test_the_exact_laws_are_those_of_simulated_tasks(config: LinesConfig) -> None:
    x, w = drawn(config, 200_000)
    known = exact(config)
    assert w.mean() == pytest.approx(known.prior_mean, abs=5e-3)
    assert w.var() == pytest.approx(known.prior_variance, rel=0.02)
    away = w - posterior_means(config, torch.from_numpy(x)).numpy()
    assert away.mean() == pytest.approx(0, abs=2e-3)
    assert away.var() == pytest.approx(known.posterior_variance, rel=0.02)
    # Nothing of what is left can be told from the inputs, neither from their mean nor from one of them.
    assert abs(np.corrcoef(away, x.mean(1))[0, 1]) < 0.01
    assert abs(np.corrcoef(away, x[:, 0])[0, 1]) < 0.01
    correlation = np.corrcoef(w, x.mean(1))[0, 1]
    assert -0.5 * math.log(1 - correlation**2) == pytest.approx(known.information, rel=0.02)


@pytest.mark.parametrize("config", [LinesConfig(), LinesConfig(n_points=5, input_scale=0.7, slope_mean=-2.0)])
def test_drawn_tasks_have_the_laws_they_are_said_to_have(config: LinesConfig) -> None:
    tasks = draw_lines(config, TRAIN, range(20_000))
    torch.testing.assert_close(tasks.y, tasks.w.unsqueeze(1) * tasks.x)
    assert tasks.x.std().item() == pytest.approx(config.input_scale, rel=0.02)
    away = tasks.w - posterior_means(config, tasks.x)
    assert away.mean().item() == pytest.approx(0, abs=4e-3)
    assert away.std().item() == pytest.approx(config.slope_scale, rel=0.02)


def test_a_task_depends_on_seed_split_and_index_only() -> None:
    many, few = draw_lines(SHORT, TRAIN, range(10)), draw_lines(replace(SHORT, n_train=3), TRAIN, [7, 2])
    assert torch.equal(many.x[[7, 2]], few.x)
    assert torch.equal(many.w[[7, 2]], few.w)
    for other in (draw_lines(SHORT, TEST, range(10)), draw_lines(replace(SHORT, seed=6), TRAIN, range(10))):
        assert not torch.isin(other.x, many.x).any()


# ------------------------------------------------------------------------------------------------ the model


@given(st.integers(0, 1000), st.integers(0, 4))
def test_the_step_is_automatic_differentiation_with_xi_in_the_place_of_the_hidden_derivative(
    seed: int, n_steps: int
) -> None:
    config = replace(SHORT, n_steps=n_steps, step_size=0.02)
    model, x = model_for(config, seed), draw_lines(config, TEST, range(4)).x.double()
    expected = []
    for row in x:
        theta: Tensor = model.start
        for _ in range(n_steps):
            predictions = torch.stack([theta * one for one in row])
            xi = torch.stack([model.gradient_network(one.view(1, 1)).squeeze() for one in predictions])
            (gradient,) = torch.autograd.grad(predictions, theta, xi, create_graph=True)
            theta = theta - config.step_size * gradient
        expected.append(theta)
    found = model.adapt(x)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-10, atol=1e-10)
    parameters = [model.start, *model.gradient_network.parameters()]
    for one, other in zip(
        torch.autograd.grad(found.sum(), parameters, materialize_grads=True, allow_unused=True),
        torch.autograd.grad(sum(expected), parameters, materialize_grads=True, allow_unused=True),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@given(st.integers(0, 1000))
def test_many_tasks_at_once_are_one_after_the_other(seed: int) -> None:
    tasks = draw_lines(SHORT, TRAIN, range(5))
    model = model_for(SHORT, seed).float()
    torch.testing.assert_close(model.adapt(tasks.x), torch.cat([model.adapt(row.unsqueeze(0)) for row in tasks.x]))
    torch.testing.assert_close(model.loss(tasks), torch.stack([model.loss(tasks[[i]]) for i in range(5)]).mean())


def test_fit_and_rate_are_the_expectation_and_the_divergence_they_are_said_to_be() -> None:
    config = replace(SHORT, slope_scale=0.4)
    model, tasks = model_for(config), draw_lines(config, TRAIN, range(3))
    theta = torch.tensor([0.5, 1.0, -2.0], dtype=torch.float64)
    prior = Normal(model.prior_mean, model.prior_log_scale.exp())
    torch.testing.assert_close(model.rate(theta), kl_divergence(Normal(theta, 0.4), prior))
    w = theta + 0.4 * torch.randn(400_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = torch.stack([0.5 * (w[:, t : t + 1] * tasks.x[t] - tasks.y[t]).square().sum(1).mean() for t in range(3)])
    torch.testing.assert_close(model.distortion(theta, tasks), drawn, rtol=0.01, atol=0)
    expected = (model.distortion(theta, tasks) + config.kl_weight * model.rate(theta)).mean()
    model.adapt = lambda _: theta  # type: ignore[method-assign]
    torch.testing.assert_close(model.loss(tasks), expected)


# ------------------------------------------------------------------------------------------------ information


def test_the_information_of_gaussian_means_is_that_of_a_gaussian_channel() -> None:
    theta = Normal(torch.tensor(3.0, dtype=torch.float64), 0.25).icdf((torch.arange(400) + 0.5) / 400)
    assert mixture_information(theta, 0.1) == pytest.approx(0.5 * math.log(1 + theta.var().item() / 0.01), rel=0.01)


def test_tasks_all_alike_hold_no_information_and_tasks_far_apart_hold_their_number() -> None:
    assert mixture_information(torch.full((7,), 0.3), 0.1) == pytest.approx(0, abs=1e-12)
    assert mixture_information(100.0 * torch.arange(7), 0.1) == pytest.approx(math.log(7))


@given(st.integers(0, 1000), st.floats(0.01, 3))
def test_no_prior_costs_less_than_the_information(seed: int, spread: float) -> None:
    theta = spread * torch.randn(30, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert model_for(SHORT, seed).rate(theta).mean().item() >= mixture_information(theta, SHORT.slope_scale) - 1e-9


@pytest.mark.parametrize("kl_weight", [0.1, 1.0])
def test_the_best_share_is_where_the_loss_of_simulated_tasks_is_least(kl_weight: float) -> None:
    config = LinesConfig(kl_weight=kl_weight)
    x, w = drawn(config, 200_000)
    model = LineSIB(config).double()
    share, information = best_share(config)
    losses = []
    for a in (share - 0.1, share, share + 0.1):
        theta = torch.from_numpy(config.slope_mean + a * x.mean(1))
        with torch.no_grad():  # the best prior is the aggregated posterior
            model.prior_mean.copy_(theta.mean())
            model.prior_log_scale.copy_(0.5 * (theta.var() + config.slope_scale**2).log())
            fit = 0.5 * ((theta - torch.from_numpy(w)).unsqueeze(1) * torch.from_numpy(x)).square().sum(1).mean()
            losses.append((fit + kl_weight * model.rate(theta).mean()).item())
            if a == share:
                assert model.rate(theta).mean().item() == pytest.approx(information, rel=0.01)
    assert losses[1] < min(losses[0], losses[2])


def test_free_information_is_all_taken() -> None:
    assert best_share(LinesConfig(kl_weight=0.0)) == (1.0, pytest.approx(exact(LinesConfig()).information))


# ------------------------------------------------------------------------------------------------ the experiment


def test_the_record_is_plain_data_and_the_same_every_time() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = finish(lines(SHORT))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert json.loads(json.dumps(finish(lines(SHORT)))) == json.loads(json.dumps(first))
    assert [one["epoch"] for one in first["epochs"]] == [1, 2]
    assert len(first["points"]) == SHORT.n_test
    assert finish(lines(replace(SHORT, seed=6)))["final"] != first["final"]


def test_an_event_tells_of_each_epoch() -> None:
    events = list(lines(SHORT))
    assert [(e.done, e.total) for e in events if isinstance(e, Progress)] == [(1, 2), (2, 2)]


def test_the_last_figures_are_those_of_the_points() -> None:
    final, (truth, theta) = record(SHORT)["final"], np.array(record(SHORT)["points"]).T
    w = draw_lines(SHORT, TEST, range(SHORT.n_test)).w.numpy()
    assert final["correlation"] == pytest.approx(np.corrcoef(truth, theta)[0, 1], rel=1e-4)
    assert final["slope_error"] == pytest.approx(((theta - w) ** 2).mean(), rel=1e-4)
    assert final["slope_error_oracle"] == pytest.approx(((truth - w) ** 2).mean(), rel=1e-4)
    assert final["slope_error_constant"] == pytest.approx(((1 - w) ** 2).mean(), rel=1e-4)
    divergence = kl_divergence(Normal(torch.tensor(theta), 0.1), Normal(torch.tensor(truth), 0.1)).mean()
    assert final["kl_to_exact"] == pytest.approx(divergence.item(), rel=1e-4)
    assert final["gap"] == pytest.approx(final["test_error"] - final["train_error"])


def test_a_short_training_tells_unseen_tasks_apart_and_beats_every_constant() -> None:
    final = record(LinesConfig(epochs=15, learning_rate=0.02))["final"]
    assert final["correlation"] > 0.8
    assert final["slope_error"] < 0.75 * final["slope_error_constant"]


def test_without_a_step_nothing_is_told() -> None:
    final = record(replace(SHORT, n_steps=0, epochs=1))["final"]
    assert final["correlation"] == 0
    assert final["information"] == pytest.approx(0, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_published_claim_holds_on_unseen_tasks(seed: int) -> None:
    final = record(LinesConfig(seed=seed))["final"]
    assert final["correlation"] >= 0.9
    assert final["slope_error"] < 0.5 * final["slope_error_constant"]
    assert final["kl_to_exact"] < 0.1
    assert final["information"] == pytest.approx(best_share(LinesConfig())[1], abs=0.15)


@pytest.mark.slow
def test_a_higher_price_buys_less_information() -> None:
    held = [record(LinesConfig(kl_weight=beta))["final"]["information"] for beta in (0.0, 0.1, 1.0)]
    assert held == sorted(held, reverse=True)
    assert held[2] < 0.25


@pytest.mark.parametrize(
    "wrong", [{"n_points": 0}, {"n_steps": -1}, {"kl_weight": -0.1}, {"slope_scale": 0.0}, {"learning_rate": -1.0}]
)
def test_impossible_settings_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        LinesConfig(**wrong)


# ------------------------------------------------------------------------------------------------ the comparison


def test_a_sample_of_the_bayesian_network_has_the_moments_of_sampled_weights() -> None:
    network = BayesianNetwork(hidden=3, seed=1)
    layer = network.first
    with torch.no_grad():
        for log_scale in layer.log_scale:
            log_scale += 3 + torch.arange(3.0).view(-1, *[1] * (log_scale.ndim - 1)) / 3
    x, draw = torch.tensor([[0.7]]), torch.Generator().manual_seed(0)
    weight, bias = (
        mean + log_scale.exp() * torch.randn(100_000, *mean.shape, generator=draw)
        for mean, log_scale in zip((layer.mean.weight, layer.mean.bias), layer.log_scale, strict=True)
    )
    expected = weight[:, :, 0] * 0.7 + bias
    found = layer.sample(x.expand(100_000, 1), draw)
    torch.testing.assert_close(found.mean(0), expected.mean(0), atol=0.02, rtol=0)
    torch.testing.assert_close(found.std(0), expected.std(0), atol=0, rtol=0.02)


def test_the_divergence_of_the_bayesian_network_is_that_of_its_gaussians() -> None:
    network = BayesianNetwork(hidden=3, seed=1)
    expected = sum(
        kl_divergence(Normal(mean, log_scale.exp()), Normal(0.0, 1.0)).sum()
        for layer in (network.first, network.last)
        for mean, log_scale in zip((layer.mean.weight, layer.mean.bias), layer.log_scale, strict=True)
    )
    torch.testing.assert_close(network.divergence(), expected)
