"""Spinning lines: SIB without a support set, on tasks whose exact answer is known.

Shell Xu Hu, Pablo Garcia Moreno, Yang Xiao, Xi Shen, Guillaume Obozinski, Neil D. Lawrence, Andreas Damianou.
Empirical Bayes Transductive Meta-Learning with Synthetic Gradients. ICLR 2020, arXiv:2004.12696 (the toy regression).

A task is a line through the origin, y = w x, whose slope depends on the mean of the inputs:

    x_i ~ N(0, sigma^2), i = 1 … n      w = mean(x) + e, e ~ N(mu_w, sigma_w^2)      y_i = w x_i

so the inputs alone tell the slope up to e. All that is to be learned is known in closed form (`exact`):

    p(w | x) = N(mean(x) + mu_w, sigma_w^2)      p(w) = N(mu_w, sigma^2 / n + sigma_w^2)
    I(w; x)  = 1/2 ln(1 + sigma^2 / (n sigma_w^2))

The posterior of a task is q(w) = N(theta_K, sigma_w^2). It starts at a learned number, theta_0 = lambda, and K times
    theta <- theta - eta sum_i x_i xi(theta x_i)
where the network xi stands in for the derivative of the loss by the prediction, y_i being hidden. lambda, xi and the
prior p_psi = N(m, s^2) learn together by
    1/2 sum_i E_q (w x_i - y_i)^2 + beta KL(q || p_psi)
the evidence bound of a task if its points are read as y_i ~ N(w x_i, beta), times beta.

That is an information bottleneck: over the tasks, the mean of KL(q || p_psi) is never below I_q(w; x), and equal to
it where the prior is the aggregated posterior. At beta = 1 the information is not worth its price here: the best
theta follows mean(x) by less than a third of the way, and holds 0.13 of the 0.71 nats (`best_share`). At beta = 0.1 it
holds nine tenths of them, and this is the default; a smaller beta is the better model too, as y_i has no noise.

Departures from the paper, as far as its settings are known: beta, which is 1 there; a learning rate of 1e-2 and not
1e-3, with which 150 epochs end before the slopes are learned; the errors are summed, as in the bound, and not averaged
over the points, which is a beta n times as large; the prior has no part in the steps.

Axes: T tasks, N points.
"""

import dataclasses
import math
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from onelook.errors import (
    Checked,
    DivergedError,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    TwoOrMore,
)
from onelook.events import Progress
from onelook.experiments.bayesian_network import BayesianNetwork
from onelook.machine import seeded

TRAIN, TEST = 0, 1
"""Number of the set of tasks; random numbers of two sets have nothing in common."""


@dataclass(frozen=True)
class LinesConfig(Checked):
    n_points: PositiveInt = 32
    input_scale: PositiveFloat = 1.0
    """sigma"""
    slope_mean: float = 1.0
    """mu_w"""
    slope_scale: PositiveFloat = 0.1
    """sigma_w, of the slopes around what the inputs tell, and of the posterior."""
    n_train: TwoOrMore = 240
    n_test: TwoOrMore = 240
    n_steps: NonNegativeInt = 3
    """K, the synthetic gradient steps."""
    step_size: PositiveFloat = 1e-3
    """eta"""
    epochs: PositiveInt = 150
    batch_size: PositiveInt = 8
    """Tasks in a step of training."""
    learning_rate: PositiveFloat = 1e-2
    """Learning rate of Adam."""
    kl_weight: NonNegativeFloat = 0.1
    """beta, the price of a nat about the inputs. 0 leaves only the fit; the prior then stays as it begins."""
    bayesian_network: bool = True
    """Whether to train one on the same batches, for comparison."""
    seed: NonNegativeInt = 0


@dataclass(frozen=True)
class Lines:
    """Tasks and their answers."""

    x: Float[Tensor, "T N"]
    y: Float[Tensor, "T N"]
    w: Float[Tensor, "T"]

    def __len__(self) -> int:
        return len(self.w)

    def __getitem__(self, rows: Any) -> "Lines":
        return Lines(self.x[rows], self.y[rows], self.w[rows])


def draw_lines(config: LinesConfig, split: int, indices: Iterable[int]) -> Lines:
    """Task i of a split is a pure function of (seed, split, i)."""
    draws = np.stack(
        [np.random.default_rng([config.seed, split, i]).standard_normal(config.n_points + 1) for i in indices]
    )
    x = torch.from_numpy(config.input_scale * draws[:, :-1])
    noise = torch.from_numpy(config.slope_mean + config.slope_scale * draws[:, -1])
    w = x.mean(1) + noise
    return Lines(x.float(), (w.unsqueeze(1) * x).float(), w.float())


@dataclass(frozen=True)
class Exact:
    """Facts that are known without learning."""

    prior_mean: float
    prior_variance: float
    posterior_variance: float
    information: float
    """I(w; x) in nats."""


def exact(config: LinesConfig) -> Exact:
    told = config.input_scale**2 / config.n_points
    left = config.slope_scale**2
    return Exact(config.slope_mean, told + left, left, 0.5 * math.log1p(told / left))


def best_share(config: LinesConfig) -> tuple[float, float]:
    """The share a of mean(x) in theta = mu_w + a mean(x) at which the loss is least, and I_q(w; x) there in nats.

    With the best prior, the aggregated posterior, the loss is, but for what does not depend on a,
        1/2 E[sum_i x_i^2 mean(x)^2] (1 - a)^2 + beta/2 ln(1 + a^2 rho),   rho = sigma^2 / (n sigma_w^2)
    where the expectation is sigma^4 (1 + 2/n).
    """
    share = np.linspace(0, 1, 10_001)
    information = 0.5 * np.log1p(share**2 * config.input_scale**2 / (config.n_points * config.slope_scale**2))
    fit = 0.5 * config.input_scale**4 * (1 + 2 / config.n_points) * (1 - share) ** 2
    least = int(np.argmin(fit + config.kl_weight * information))
    return float(share[least]), float(information[least])


def posterior_means(config: LinesConfig, x: Float[Tensor, "T N"]) -> Float[Tensor, "T"]:
    """Means of the exact p(w | x)."""
    return x.mean(1) + config.slope_mean


# ------------------------------------------------------------------------------------------------ the model


class LineSIB(nn.Module):
    """lambda, xi and psi: what the tasks have in common."""

    def __init__(self, config: LinesConfig) -> None:
        super().__init__()
        self.config = config
        with seeded(config.seed):
            self.gradient_network = nn.Sequential(
                nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1)
            )
        self.start = nn.Parameter(torch.zeros(()))
        self.prior_mean = nn.Parameter(torch.zeros(()))
        self.prior_log_scale = nn.Parameter(torch.zeros(()))

    def adapt(self, x: Float[Tensor, "T N"]) -> Float[Tensor, "T"]:
        """theta_K of every task."""
        theta = self.start.expand(len(x))
        for _ in range(self.config.n_steps):
            theta = self.step(theta, x)
        return theta

    def step(self, theta: Float[Tensor, "T"], x: Float[Tensor, "T N"]) -> Float[Tensor, "T"]:
        """theta - eta sum_i xi(theta x_i) d(theta x_i)/dtheta."""
        xi_TN: Tensor = self.gradient_network((theta.unsqueeze(1) * x).unsqueeze(-1)).squeeze(-1)
        return theta - self.config.step_size * (x * xi_TN).sum(1)

    def rate(self, theta: Float[Tensor, "T"]) -> Float[Tensor, "T"]:
        """KL(q || p_psi) in nats. Its mean over tasks is never below the information I_q(w; x)."""
        log_ratio = self.prior_log_scale - math.log(self.config.slope_scale)
        square = self.config.slope_scale**2 + (theta - self.prior_mean).square()
        divergence: Tensor = log_ratio + 0.5 * square / (2 * self.prior_log_scale).exp() - 0.5
        return divergence

    def distortion(self, theta: Float[Tensor, "T"], lines: Lines) -> Float[Tensor, "T"]:
        """1/2 sum_i E_q (w x_i - y_i)^2, the expectation in closed form."""
        square = (theta.unsqueeze(1) * lines.x - lines.y).square() + (self.config.slope_scale * lines.x).square()
        return 0.5 * square.sum(1)

    def loss(self, lines: Lines) -> Float[Tensor, ""]:
        theta = self.adapt(lines.x)
        return (self.distortion(theta, lines) + self.config.kl_weight * self.rate(theta)).mean()


def mixture_information(theta: Float[Tensor, "T"], scale: float, n_nodes: int = 32) -> float:
    """I_q(w; x) in nats: the mean KL of q_t = N(theta_t, scale^2) from their mixture, the aggregated posterior.

    The expectation under each q_t is a Gauss-Hermite sum. Of finitely many tasks it is a little too high, because
    each is itself a part of the mixture, and at most ln T.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(n_nodes)
    centre = theta.double() / scale
    u_TH = centre.unsqueeze(1) + torch.from_numpy(nodes)
    log_mixture_TH = torch.logsumexp(-0.5 * (u_TH.unsqueeze(-1) - centre).square(), -1) - math.log(len(theta))
    log_own_H = -0.5 * torch.from_numpy(nodes).square()
    mean_weight = torch.from_numpy(weights / weights.sum())
    return ((log_own_H - log_mixture_TH) @ mean_weight).mean().item()


# ------------------------------------------------------------------------------------------------ the experiment


def lines(config: LinesConfig = LinesConfig()) -> Generator[Progress, None, dict[str, Any]]:
    """Train, judging all tasks after each epoch, and return the record of the run as plain data.

    epochs: a dict per epoch (`_judge`). final: after the last one, on unseen tasks. points: the exact posterior mean
    and theta_K of each unseen task. Errors are squared; KL and information are in nats.
    """
    training = draw_lines(config, TRAIN, range(config.n_train))
    unseen = draw_lines(config, TEST, range(config.n_test))
    model = LineSIB(config)
    network = BayesianNetwork(seed=config.seed) if config.bayesian_network else None
    # The two share no parameter, so that one optimiser trains each as if it were alone.
    parameters = [*model.parameters(), *(network.parameters() if network else ())]
    optimiser = torch.optim.Adam(parameters, config.learning_rate, fused=True)
    epochs = []
    for epoch in range(config.epochs):
        order = np.random.default_rng([config.seed, 2, epoch]).permutation(config.n_train)
        for start in range(0, config.n_train, config.batch_size):
            rows = order[start : start + config.batch_size]
            loss = model.loss(training[rows])
            if network:
                loss = loss + _network_loss(network, training[rows], config)
            if not loss.isfinite():
                raise DivergedError(
                    f"The loss of the lines became {loss.item()} in epoch {epoch + 1}; choose a "
                    f"smaller learning rate than {config.learning_rate}."
                )
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        judged = _judge(model, training, unseen) | _judge_network(network, unseen)
        epochs.append({"epoch": epoch + 1} | {name: float(f"{value:.5g}") for name, value in judged.items()})
        yield Progress("spinning lines", epoch + 1, config.epochs, f"error {epochs[-1]['test_error']:.4f}")
    with torch.no_grad():
        theta = model.adapt(unseen.x)
    truth = posterior_means(config, unseen.x)
    return {
        "experiment": "spinning lines",
        "config": dataclasses.asdict(config),
        "exact": dataclasses.asdict(exact(config))
        | dict(zip(("best_share", "best_information"), best_share(config), strict=True)),
        "epochs": epochs,
        "final": _final(config, theta, truth, unseen) | {k: v for k, v in epochs[-1].items() if k != "epoch"},
        "points": [[round(v, 5) for v in pair] for pair in torch.stack([truth, theta], 1).tolist()],
    }


@torch.no_grad()
def _judge(model: LineSIB, training: Lines, unseen: Lines) -> dict[str, float]:
    """Measurements that are drawn over training; all but the first and the gap on unseen tasks."""
    config = model.config
    theta_seen, theta = model.adapt(training.x), model.adapt(unseen.x)
    train_error, test_error = _error(theta_seen, training), _error(theta, unseen)
    away = (theta - posterior_means(config, unseen.x)).square().mean().item()
    return {
        "train_error": train_error,
        "test_error": test_error,
        "gap": test_error - train_error,
        "kl_to_exact": away / (2 * config.slope_scale**2),  # both are Gaussians of the same scale
        "information": mixture_information(theta, config.slope_scale),
        "kl_to_prior": model.rate(theta).mean().item(),
    }


def _network_loss(network: BayesianNetwork, lines: Lines, config: LinesConfig) -> Float[Tensor, ""]:
    """Loss of SIB, but the weights belong to all tasks, and each bears its part of their divergence."""
    fit = 0.5 * (network.sample(lines.x) - lines.y).square().sum(1).mean()
    return fit + config.kl_weight * network.divergence() / config.n_train


@torch.no_grad()
def _judge_network(network: BayesianNetwork | None, unseen: Lines) -> dict[str, float]:
    """The slope it gives a task is that of the line nearest to its predictions."""
    if network is None:
        return {}
    predictions = network(unseen.x)
    slopes = (predictions * unseen.x).sum(1) / unseen.x.square().sum(1)
    return {
        "network_test_error": (predictions - unseen.y).square().mean().item(),
        "network_slope_error": (slopes - unseen.w).square().mean().item(),
    }


def _error(theta: Float[Tensor, "T"], lines: Lines) -> float:
    """Mean squared error of the predictions theta_K x."""
    return (theta.unsqueeze(1) * lines.x - lines.y).square().mean().item()


def _final(config: LinesConfig, theta: Tensor, truth: Tensor, unseen: Lines) -> dict[str, float]:
    # A constant has no correlation: 0, where no step or no learning moved theta.
    moved = theta.std() > 0
    return {
        "correlation": torch.corrcoef(torch.stack([theta, truth]))[0, 1].item() if moved else 0.0,
        "slope_error": (theta - unseen.w).square().mean().item(),
        "slope_error_constant": (exact(config).prior_mean - unseen.w).square().mean().item(),
        "slope_error_oracle": (truth - unseen.w).square().mean().item(),
    }
