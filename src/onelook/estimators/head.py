"""FewShotClassifier as a layer of torch, behind a feature network."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from onelook.estimators import calibration
from onelook.estimators.classifier import FewShotClassifier
from onelook.ops import normalise


class ProbabilityHead(nn.Module):
    """Features to the probabilities of `predict_proba`, in float32 and as one product with a matrix.

    On rows of length 1 a distance to a mean w is |w|² - 2 x·w + 1, and what all classes share drops out of a softmax.
    """

    def __init__(self, classifier: FewShotClassifier) -> None:
        super().__init__()
        model, scaling = classifier._model, classifier._support.scaling
        far, low = (math.exp(model.log_scale) * one.flatten() for one in model.voices.steepness())
        far = far / calibration.class_separation(model.means)
        middle, ridge = model.means.mean(0), model.ridge.to(model.means)
        squares = (model.means - middle).square().sum(1) + 2 * (model.means - middle) @ middle
        self.is_table, self.spread = scaling.is_table, scaling.spread
        self.centre = nn.Buffer(torch.from_numpy(scaling.centre).float())
        self.weight = nn.Buffer((2 * far * (model.means - middle) + low * ridge.weights[0].mT).float())
        self.bias = nn.Buffer((model.log_priors - far * squares + low * ridge.offset[0, 0]).float())

    def forward(self, features: Float[Tensor, "N D"]) -> Float[Tensor, "N K"]:
        if self.is_table:
            scaled = (features - self.centre) / self.spread
            features = torch.cat([scaled, torch.full_like(scaled[:, :1], 2.0)], 1)
        return (normalise(features) @ self.weight.mT + self.bias).softmax(1)
