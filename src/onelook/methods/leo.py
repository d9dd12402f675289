"""LEO: latent embedding optimisation.

Andrei A. Rusu, Dushyant Rao, Jakub Sygnowski, Oriol Vinyals, Razvan Pascanu, Simon Osindero, Raia Hadsell.
Meta-Learning with Latent Embedding Optimization. ICLR 2019, arXiv:1807.05960.

An encoder and a relation network over all pairs of support rows give each class a Gaussian latent code (equation 3); a
linear decoder turns the code into a Gaussian over the weights of the class (equation 4). The codes take a few gradient
steps on the support loss (equation 5) through the decoder, and then the weights themselves take a few. Meta-training
adds to the cross-entropy of the queries the divergence of the codes from a standard Gaussian, the distance the codes
moved, and how far the decoder is from orthogonal (equations 6 and 7). This is an inductive method.

Departures from the paper:
* codes and weights are drawn in `loss` only; a method answers with their means, so that it is a pure map;
* features are scaled to length 1, and by a learned scale before the classifier, because the lengths of features of a
  network trained with a cosine classifier say little; the first size of the fine-tuning step is larger to match;
* no dropout on the features, as training and evaluation have to agree, and no penalty on the size of the parameters,
  which is the optimiser's weight decay;
* the support loss is a mean over the rows and not their sum, so that a step size serves one shot and many;
* both step sizes learn through their logarithms, which keeps them positive, and are one number each, where the
  authors' code has one for every latent and every feature;
* the distance from orthogonal is a mean of squares, as in that code, where equation 7 adds absolute values;
* standard deviations are a softplus that starts at a tenth. Of an exponential of the codes, a step on the codes makes
  an exponential of an exponential; that code has to pass over steps whose loss is not a number.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from onelook import ops
from onelook.errors import NonNegativeFloat, NonNegativeInt, PositiveInt
from onelook.methods.base import Method, query_cross_entropy
from onelook.tasks import Tasks

_FIRST_STD = 0.1


class LEO(Method):
    """Gradient steps on a latent code of each class, then on its weights.

    >>> LEO(feature_size=64)(Tasks.random(n_tasks=2, n_way=5)).shape
    torch.Size([2, 15, 5])
    """

    feature_size: PositiveInt
    latent_size: PositiveInt = 64
    latent_steps: NonNegativeInt = 5
    """Gradient steps on the codes."""
    tuning_steps: NonNegativeInt = 5
    """Gradient steps on the weights, after those on the codes."""
    kl_weight: NonNegativeFloat = 1e-3
    """beta, weight of the divergence of the codes of the classes from a standard Gaussian."""
    distance_weight: NonNegativeFloat = 1e-6
    """gamma, weight of the squared distance between a code and where its steps led, from which it
    should learn to begin."""
    orthogonality_weight: NonNegativeFloat = 0.1
    """Weight of the mean squared correlation between the rows of the decoder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.encoder = nn.Linear(self.feature_size, self.latent_size, bias=False)
        self.relations = RelationNetwork(self.latent_size)
        # A bias would add the same to the weights of all classes, which the softmax does not see.
        self.decoder = nn.Linear(self.latent_size, 2 * self.feature_size, bias=False)
        self.scale = nn.Parameter(torch.tensor(5.0))
        self.log_latent_step_size = nn.Parameter(torch.tensor(0.0))
        self.log_tuning_step_size = nn.Parameter(torch.tensor(math.log(0.05)))

    def forward(self, tasks: Tasks) -> Float[Tensor, "T Q K"]:
        code_TKL, _ = self._codes(tasks)
        weights_TKD, _ = self._adapt(code_TKL, tasks, draw=False)
        return self._items(tasks.query) @ weights_TKD.mT

    def loss(self, tasks: Tasks) -> Float[Tensor, ""]:
        mean_TKL, std_TKL = self._codes(tasks)
        code_TKL = mean_TKL + std_TKL * torch.randn_like(mean_TKL)
        weights_TKD, moved_TKL = self._adapt(code_TKL, tasks, draw=True)
        logits = self._items(tasks.query) @ weights_TKD.mT
        divergence = (0.5 * (mean_TKL.square() + std_TKL.square() - 1) - std_TKL.log()).sum(-1).mean()
        distance = (moved_TKL.detach() - code_TKL).square().sum(-1).mean()
        return (
            query_cross_entropy(logits, tasks)
            + self.kl_weight * divergence
            + self.distance_weight * distance
            + self.orthogonality_weight * self._correlation()
        )

    def _items(self, rows: Float[Tensor, "T R D"]) -> Float[Tensor, "T R D"]:
        """Rows as the classifier reads them."""
        return self.scale * ops.normalise(rows)

    def _codes(self, tasks: Tasks) -> tuple[Float[Tensor, "T K L"], Float[Tensor, "T K L"]]:
        """Means and standard deviations of the codes of the classes."""
        # Entries near 1, not rows of length 1: the size of input that the first weights of a layer are made for.
        rows_TSD = math.sqrt(self.feature_size) * ops.normalise(tasks.support)
        mean_TKL, spread_TKL = self.relations(self.encoder(rows_TSD), tasks).chunk(2, -1)
        return mean_TKL, _std(spread_TKL)

    def _adapt(
        self, code: Float[Tensor, "T K L"], tasks: Tasks, draw: bool
    ) -> tuple[Float[Tensor, "T K D"], Float[Tensor, "T K L"]]:
        """Weights after all steps, and the codes they were decoded from; every decoding draws anew if asked to.

        The gradient g of the support loss by the weights is that of a linear softmax classifier. The decoder is
        linear, so by the code it is g M for the means w = M z, and for weights drawn as w = M z + e std(V z) it is
        g M + (g e std'(V z)) V. No inner autograd is needed.
        """
        items_TSD = self._items(tasks.support)
        hot_TSK = ops.one_hot(tasks.support_labels, tasks.n_way, items_TSD.dtype)
        to_mean_DL, to_spread_DL = self.decoder.weight.chunk(2)
        for _ in range(self.latent_steps):
            weights_TKD, slope_TKD = self._decode(code, draw)
            gradient_TKD = _support_gradient(weights_TKD, items_TSD, hot_TSK)
            by_code_TKL = gradient_TKD @ to_mean_DL + (gradient_TKD * slope_TKD) @ to_spread_DL
            code = code - self.log_latent_step_size.exp() * by_code_TKL
        weights_TKD, _ = self._decode(code, draw)
        for _ in range(self.tuning_steps):
            gradient_TKD = _support_gradient(weights_TKD, items_TSD, hot_TSK)
            weights_TKD = weights_TKD - self.log_tuning_step_size.exp() * gradient_TKD
        return weights_TKD, code

    def _decode(
        self, code: Float[Tensor, "T K L"], draw: bool
    ) -> tuple[Float[Tensor, "T K D"], Float[Tensor, "T K D"]]:
        """Weights, and their derivative by what the standard deviations they were drawn with are made from."""
        mean_TKD, spread_TKD = self.decoder(code).chunk(2, -1)
        if not draw:
            return mean_TKD, torch.zeros_like(mean_TKD)
        noise_TKD = torch.randn_like(mean_TKD)
        slope_TKD = noise_TKD * (_FIRST_STD / math.log(2)) * spread_TKD.sigmoid()
        return mean_TKD + noise_TKD * _std(spread_TKD), slope_TKD

    def _correlation(self) -> Float[Tensor, ""]:
        """The mean squared difference between the correlations of the decoder's rows, one for each latent, and I."""
        rows = ops.normalise(self.decoder.weight.mT)
        eye = torch.eye(self.latent_size, dtype=rows.dtype, device=rows.device)
        return (rows @ rows.mT - eye).square().mean()


class RelationNetwork(nn.Module):
    """Three layers, without biases, on each pair of codes of the task; a class is the mean over the pairs of its rows.

    The first layer, of a pair laid end to end, is the sum of one layer of each; the mean is taken before the last
    layer, which is linear: only the middle layer has S x S rows to read. Its width is twice the size of a code.
    """

    def __init__(self, latent_size: int) -> None:
        super().__init__()
        hidden = 2 * latent_size
        self.first = nn.Linear(2 * latent_size, hidden, bias=False)
        self.middle = nn.Linear(hidden, hidden, bias=False)
        self.last = nn.Linear(hidden, 2 * latent_size, bias=False)

    def forward(self, codes: Float[Tensor, "T S L"], tasks: Tasks) -> Float[Tensor, "T K M"]:
        own, other = self.first.weight.chunk(2, -1)
        pairs_TSSH = functional.relu((codes @ own.mT).unsqueeze(2) + (codes @ other.mT).unsqueeze(1))
        rows_TSH = functional.relu(self.middle(pairs_TSSH)).mean(2)
        return self.last(ops.class_means(rows_TSH, tasks.support_labels, tasks.n_way))  # type: ignore[no-any-return]


def _std(spread: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
    return _FIRST_STD / math.log(2) * functional.softplus(spread)


def _support_gradient(
    weights: Float[Tensor, "T K D"], items: Float[Tensor, "T S D"], hot: Float[Tensor, "T S K"]
) -> Float[Tensor, "T K D"]:
    """Gradient of the mean cross-entropy of the support rows of each task, by the weights."""
    error_TSK = (items @ weights.mT).softmax(-1) - hot
    return error_TSK.mT @ items / items.shape[1]
