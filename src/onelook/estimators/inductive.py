"""Models that judge each row by itself: the parents of Glance, with what they have learned so far."""

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from onelook.estimators import calibration
from onelook.methods.glance_support import Voices
from onelook.methods.regression import Linear


@dataclass(frozen=True, eq=False)
class InductiveModel:
    """Class means and ridge regression with calibrated logits; each row is judged by itself."""

    means: Float[Tensor, "K D"]
    ridge: Linear
    voices: Voices
    log_priors: Float[Tensor, "K"]
    log_scale: float
    """Logarithm of the factor of the scores of means and ridge regression together."""
    left_out: Float[Tensor, "S K"]
    """Distances of the labelled rows, each left out."""
    left_out_opinion: Float[Tensor, "S K"]
    """Opinions of ridge regression about these."""

    def compare(self, x: Float[Tensor, "N D"]) -> tuple[Float[Tensor, "N K"], Float[Tensor, "N K"]]:
        """Distances of rows from the class means, and opinions of ridge regression about them."""
        return calibration.scaled_distances(x, self.means.to(x)), self.ridge.to(x)(x[None])[0]

    def logits(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N K"]:
        return self.scores(*self.compare(x))

    def scores(self, distances: Float[Tensor, "N K"], opinion: Float[Tensor, "N K"]) -> Float[Tensor, "N K"]:
        mixed = self.voices.to(distances).mix(distances[None], opinion[None])[0]
        return self.log_priors.to(distances) + math.exp(self.log_scale) * mixed

    def left_out_logits(self) -> Float[Tensor, "S K"]:
        """Logits of the labelled rows, each left out."""
        return self.scores(self.left_out, self.left_out_opinion)


@dataclass(frozen=True, eq=False)
class AdaptedModel(InductiveModel):
    """Means and ridge regression that also learned from the unlabelled rows, as far as these are trusted."""

    confidence: float
    """Mean confidence in the answers to the unlabelled rows, as an estimate of their accuracy."""
    gain: float
    """Mean confidence less that of the labelled rows alone."""
