"""A Bayesian neural network on the points of all spinning lines: what is left where no task is told from another.

Charles Blundell, Julien Cornebise, Koray Kavukcuoglu, Daan Wierstra. Weight Uncertainty in Neural Networks.
ICML 2015, arXiv:1505.05424, with the local reparameterisation of Kingma, Salimans & Welling, NeurIPS 2015.

y = f(x) with one law q over its weights, independent Gaussians, for all tasks. It sees one point at a time, so the best
it can do is E[y | x] = x E[w | x].
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from onelook.machine import seeded


class BayesianNetwork(nn.Module):
    """1-16-1, ReLU."""

    def __init__(self, hidden: int = 16, seed: int = 0) -> None:
        super().__init__()
        with seeded(seed):
            self.first, self.last = GaussianLinear(1, hidden), GaussianLinear(hidden, 1)
        self.noise = torch.Generator().manual_seed(seed)

    def forward(self, x: Float[Tensor, "*points"]) -> Float[Tensor, "*points"]:
        """Predict by the mean weights."""
        return self.last(functional.relu(self.first(x.unsqueeze(-1)))).squeeze(-1)  # type: ignore[no-any-return]

    def sample(self, x: Float[Tensor, "*points"]) -> Float[Tensor, "*points"]:
        """Predict by weights drawn from q, other ones for each point."""
        hidden = functional.relu(self.first.sample(x.unsqueeze(-1), self.noise))
        return self.last.sample(hidden, self.noise).squeeze(-1)

    def divergence(self) -> Float[Tensor, ""]:
        """KL of q from the standard normal law, in nats."""
        return self.first.divergence() + self.last.divergence()


class GaussianLinear(nn.Module):
    """A linear layer whose weights and biases are independent Gaussians."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.mean = nn.Linear(inputs, outputs)
        self.log_scale = nn.ParameterList([torch.full((outputs, inputs), -4.0), torch.full((outputs,), -4.0)])

    def forward(self, x: Tensor) -> Tensor:
        return self.mean(x)  # type: ignore[no-any-return]

    def sample(self, x: Tensor, noise: torch.Generator) -> Tensor:
        """The outputs are drawn, and not the weights: each is a Gaussian too."""
        variance = functional.linear(x.square(), *((2 * log_scale).exp() for log_scale in self.log_scale))
        mean: Tensor = self(x)
        return mean + variance.sqrt() * torch.randn(mean.shape, generator=noise, dtype=mean.dtype)

    def divergence(self) -> Tensor:
        means = (self.mean.weight, self.mean.bias)
        parts = [
            0.5 * ((2 * log_scale).exp() + mean.square() - 1) - log_scale
            for mean, log_scale in zip(means, self.log_scale, strict=True)
        ]
        return torch.stack([part.sum() for part in parts]).sum()
