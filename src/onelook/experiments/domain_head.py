"""Classifier of a domain whose weights come from its unlabelled images: a rotation step, then steps of SIB.

How the rotation loss (Gidaris, Singh, Komodakis, ICLR 2018, arXiv:1803.07728) reads theta, which has to have the
class weights in it for its gradient to say anything, is our choice: an image of class c turned by r quarters scores
    z_cr = s (b + cos(f, R_r theta_c)),   R_0 = 1, and R_1 … R_3 learned D × D maps,
and p(r) = sum_c p(c, r) of the softmax over all 4K pairs. So the step brings the weight of a class closer to the
unlabelled images that look like the class, in the sense of the turns too.

Axes: T tasks, N images of a task, R = 4 turns, K classes, D feature.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from onelook import ops
from onelook.machine import seeded
from onelook.methods.sib import GradientNetwork

N_TURNS = 4


class DomainHead(nn.Module):
    """Map from the features of unlabelled images of a domain, in their four turns, to classifier weights for it.

    rotation: whether theta_0 is lambda after the rotation step, or lambda itself.
    """

    def __init__(
        self, feature_size: int, n_way: int, n_steps: int, step_size: float, rotation_step_size: float, seed: int
    ) -> None:
        super().__init__()
        self.n_steps, self.step_size, self.rotation = n_steps, step_size, True
        with seeded(seed):
            self.start = nn.Parameter(ops.normalise(torch.randn(n_way, feature_size)))
            self.gradient_network = GradientNetwork(n_way)
        # The maps R_1 … R_3, less the identity.
        self.maps = nn.Parameter(torch.zeros(N_TURNS - 1, feature_size, feature_size))
        self.rotation_step_size = nn.Parameter(torch.tensor(rotation_step_size))
        self.scale = nn.Parameter(torch.tensor(10.0))
        self.bias = nn.Parameter(torch.zeros(()))

    def adapt(self, turned: Float[Tensor, "T N 4 D"]) -> Float[Tensor, "T K D"]:
        theta = self.init(turned)
        for _ in range(self.n_steps):
            theta = self.step(theta, turned[:, :, 0])
        return theta

    def forward(self, turned: Float[Tensor, "T N 4 D"]) -> Float[Tensor, "T N K"]:
        """Logits of the upright images."""
        return self.score(self.adapt(turned), turned[:, :, 0])

    def init(self, turned: Float[Tensor, "T N 4 D"]) -> Float[Tensor, "T K D"]:
        theta = self.start.expand(len(turned), *self.start.shape)
        return theta - self.rotation_step_size * self.rotation_gradient(theta, turned) if self.rotation else theta

    def step(self, theta: Float[Tensor, "T K D"], features: Float[Tensor, "T N D"]) -> Float[Tensor, "T K D"]:
        """SIB's: the derivative of the hidden loss by the scores is estimated, the rest is known."""
        gradient = ops.cosine_pullback(
            features, theta, lambda cosine: self.gradient_network(self.scale * (self.bias + cosine))
        )
        return theta - self.step_size * self.scale * gradient

    def score(self, theta: Float[Tensor, "T K D"], features: Float[Tensor, "T N D"]) -> Float[Tensor, "T N K"]:
        return self.scale * (self.bias + ops.cosine_similarity(features, theta))

    def turned_weights(self, theta: Float[Tensor, "T K D"]) -> Float[Tensor, "T 4*K D"]:
        """R_r theta_c, turn by turn."""
        turned = theta.unsqueeze(1) @ self.maps.mT + theta.unsqueeze(1)
        return torch.cat([theta, turned.flatten(1, 2)], 1)

    def rotation_gradient(
        self, theta: Float[Tensor, "T K D"], turned: Float[Tensor, "T N 4 D"]
    ) -> Float[Tensor, "T K D"]:
        """Gradient of the rotation loss by theta, in closed form, so that no inner autograd is needed.

        The gradient by the scores of an image in turn r is p(c, r') for all pairs, less p(c | r) for the pairs of the
        true turn.
        """
        z = self._joint(theta, turned)
        own = torch.eye(N_TURNS, dtype=z.dtype, device=z.device).unsqueeze(-1)  # R (of the image) R (of the weight) 1
        by_scores = (z.flatten(-2).softmax(-1).view_as(z) - z.softmax(-1) * own) / (z.shape[1] * N_TURNS)
        weights = self.turned_weights(theta)
        by_scores = by_scores.flatten(-2).flatten(1, 2)
        by_weights = self.scale * ops.cosine_pullback(turned.flatten(1, 2), weights, lambda _: by_scores)
        by_weights = by_weights.view(len(theta), N_TURNS, *theta.shape[1:])
        others = by_weights[:, 1:]
        return by_weights[:, 0] + (others + others @ self.maps).sum(1)

    def _joint(self, theta: Float[Tensor, "T K D"], turned: Float[Tensor, "T N 4 D"]) -> Float[Tensor, "T N 4 4 K"]:
        """Scores z_cr of every turned image: its own turn, then r, then c."""
        z = self.score(self.turned_weights(theta), turned.flatten(1, 2))
        return z.view(*turned.shape[:3], N_TURNS, -1)
