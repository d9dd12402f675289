"""Manifold mixup: the classifier learns from blends of two images, mixed inside the network.

Vikas Verma, Alex Lamb, Christopher Beckham, Amir Najafi, Ioannis Mitliagkas, David Lopez-Paz, Yoshua Bengio. Manifold
Mixup: Better Representations by Interpolating Hidden States. ICML 2019, arXiv:1806.05236. For few-shot learning, with
rotations: Puneet Mangla et al. Charting the Right Manifold: Manifold Mixup for Few-shot Learning (S2M2). WACV 2020,
arXiv:1907.12087. Departure: S2M2 mixes in a second stage of training, here it is mixed in steps drawn at random.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from onelook.errors import Checked, Fraction, NonNegativeFloat
from onelook.train.processes import ALL, gather


@dataclass(frozen=True)
class Mixup(Checked):
    """Frequency and strength of the mixing."""

    alpha: NonNegativeFloat
    """Weights are drawn from Beta(alpha, alpha): near 0 or 1 below 1, near a half above. S2M2 has 2; 0: no mixup."""
    probability: Fraction = 1.0
    """Probability that mixup is applied in a step."""

    def draw(
        self, rng: np.random.Generator, n_parts: int, n_images: int, device: torch.device, rows: slice = ALL
    ) -> "Mixture | None":
        """The mixing of a step, of images on a device; None: none."""
        if self.alpha == 0 or rng.random() >= self.probability:
            return None
        partners = torch.from_numpy(rng.permutation(n_images)).to(device)
        return Mixture(int(rng.integers(n_parts)), float(rng.beta(self.alpha, self.alpha)), partners, rows)


@dataclass(frozen=True)
class Mixture:
    """Each of the first images of a batch blended with another one of them."""

    part: int
    """Part of the network before which the maps are mixed; 0: pixels are."""
    weight: float
    """Weight of the image itself."""
    partners: Int[Tensor, "N"]
    """The image that each of the batch is blended with."""
    rows: slice = field(default_factory=lambda: ALL)
    """Images that this process has, while their partners may be those of another."""

    def maps(self, x: Float[Tensor, "M C H W"]) -> Float[Tensor, "M C H W"]:
        """Mix the first maps, one for each image of this process; those after them stay as they are."""
        partners = self.partners[self.rows]
        n = len(partners)
        others = gather(x[:n], self.rows, len(self.partners))[partners]
        return torch.cat([torch.lerp(others, x[:n], self.weight), x[n:]])

    def loss(self, loss_of: Callable[[Int[Tensor, "N"]], Tensor]) -> Tensor:
        """loss_of: the loss where the answers are those of the images of these numbers."""
        own = torch.arange(len(self.partners), device=self.partners.device)[self.rows]
        return self.weight * loss_of(own) + (1 - self.weight) * loss_of(self.partners[self.rows])
