"""Labelled examples as Glance reads them: class means, ridge regression, and which of the two they speak for.

Where classes are round clouds, their means are all there is to know of them; where they differ by little in a few
directions, a linear classifier is 2 to 10 points better from three examples a class on (docs/log.md). The examples
themselves show which it is: each is judged by both as if it had no label.

Classes with unequal numbers of examples: with s^2 the spread of a class, a query of it lies s^2 + s^2 / n_k from the
mean of its n_k examples on average, so a class with fewer examples is farther from its own queries and loses them.
Therefore the first distances are reduced by s^2 (1 / n_k - 1 / n), n the harmonic mean of all n_k, and the gradient
network reads n for every class. It was trained on few tasks of unequal classes; with the n_k themselves it gave too few
queries to the classes with most examples (docs/log.md). No class anchors its mean, nor weighs in ridge regression, with
more than n examples.

On features that it never met, and with more classes than the 20 that it was trained with, Glance speaks too low: of 200
classes it gives the right one a tenth of the posterior, and the queries pull all means to the same place. The examples
show this too: all voices are raised by the factor under which they are most probable, each left out (`judge_loudness`).
Where there are no queries they choose in the same way how loud ridge regression is beside the means (`judge_share`).
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from onelook import ops
from onelook.methods.leave_one_out import find_company
from onelook.methods.penalty import judge_penalty
from onelook.methods.regression import Linear, Regression, equalise, margin
from onelook.tasks import Tasks

EVIDENCE = ("means left out", "ridge left out", "tested")
ALONE = ("ways", "shots", "unit", *EVIDENCE)
SPREAD = 0.4
"""Prior standard deviation of the logarithm by which all voices are raised; 0.8 was as good on validation classes."""
LOUDEST = 2.5
"""Largest logarithm by which they are raised."""
SHIFTS, LOUDNESSES = range(-3, 4), (0.0, 0.5, 1.0, 1.5, 2.0, LOUDEST)
"""Logits by which the part of ridge regression may change, and the loudnesses at which it is judged (`judge_share`)."""
SPREAD_OF_SHARE = 1.0
"""Prior standard deviation of that logit; 0.5 and 2 gain about as much on validation classes."""
MOST_JUDGED = 2**16
"""Scores that are judged there at most; where there are more, every other example speaks, or every third."""
LEAD_TELLS, LEAD_BY_CHANCE = 4.0, 0.3
"""Logit of the part of ridge regression for a lead of 1 over the class means; the lead for one labelled example a class
that says nothing yet."""


@dataclass(frozen=True)
class Labelled:
    """Support of each task, and what depends on nothing else."""

    support: Float[Tensor, "T S D"]
    support_hot: Float[Tensor, "T S K"]
    means: Float[Tensor, "T K D"]
    shots: Float[Tensor, "T K"]
    typical: Float[Tensor, "T 1"]
    """The harmonic mean of the shots."""
    anchor: Float[Tensor, "T K"]
    """Number of examples with which each class holds its mean."""
    unit: Float[Tensor, "T 1 1"]
    """Unit of all squared distances: their mean between the class means."""
    spread: Float[Tensor, "T K"]
    """Variance of each class, 0 where nothing tells."""
    excess: Float[Tensor, "T K"]
    """How much farther than from others the queries stand from this mean, for being of fewer examples."""
    penalty: Float[Tensor, "T 1 1"]
    """Penalty of ridge regression."""
    ridge: Linear
    """Ridge regression on the labelled examples."""
    left_out: Float[Tensor, "T S K"]
    """Opinion of ridge regression on the other examples about each."""
    recognised: Float[Tensor, "T S"]
    """The lead of the right class in that opinion; 0 where it has no other example."""
    about: dict[str, Float[Tensor, "T"]]
    """Statistics ALONE."""

    @classmethod
    def read(cls, tasks: Tasks) -> "Labelled":
        support = ops.normalise(tasks.support)
        hot = ops.one_hot(tasks.support_labels, tasks.n_way, support.dtype)
        means, shots = ops.class_means(support, tasks.support_labels, tasks.n_way), hot.sum(1)
        typical = 1 / (1 / shots).mean(1, keepdim=True)
        unit, anchor = unit_of_means(means), torch.minimum(shots, typical)
        spread, pooled = class_spread(support, means, hot, unit)
        weight = weigh(hot, anchor / shots)
        penalty = judge_penalty(support, weight, hot)
        regression = Regression.fit(support, weight, penalty)
        others = weigh(hot, shots - 1)
        testable = (others > 0).to(support.dtype)
        n_testable = testable.sum(1).clamp_min(1)
        # The mean of the others is farther from a row than that with the row by this factor.
        farther = (1 + 1 / others.clamp_min(0.5)).square().unsqueeze(-1)
        distance = ops.squared_distance(support, means) / unit
        by_means = testable * margin(-torch.where(hot > 0, farther * distance, distance), hot)
        left_out = regression.leave_out(hot)
        by_ridge = testable * margin(left_out, hot)
        about = {
            "ways": shots.new_full(shots.shape[:1], tasks.n_way).log() / 2,
            "shots": typical.squeeze(1).log(),
            "unit": unit.flatten().log() / 4,
            "means left out": by_means.sum(1) / n_testable,
            "ridge left out": by_ridge.sum(1) / n_testable,
            "tested": testable.mean(1),
        }
        return cls(
            support=support,
            support_hot=hot,
            means=means,
            shots=shots,
            typical=typical,
            anchor=anchor,
            unit=unit,
            spread=spread,
            excess=pooled * (1 / shots - 1 / typical),
            penalty=penalty,
            ridge=regression.solve(hot),
            left_out=left_out,
            recognised=by_ridge,
            about=about,
        )


@dataclass(frozen=True)
class Voices:
    """How loud class means and ridge regression are in the scores."""

    share: Float[Tensor, "T 1 1"]
    """Part of ridge regression, 0 to 1."""
    log_scale: Float[Tensor, "T 1 1"]
    log_scale_of_ridge: Float[Tensor, "T 1 1"]

    def mix(self, distance: Float[Tensor, "T Q K"], opinion: Float[Tensor, "T Q K"]) -> Float[Tensor, "T Q K"]:
        """Scores, 0 at most. distance: from the class means; opinion: of ridge regression."""
        of_distance, of_opinion = self.steepness()
        far, low = distance - distance.amin(-1, keepdim=True), opinion.amax(-1, keepdim=True) - opinion
        return -(of_distance * far + of_opinion * low)

    def steepness(self) -> tuple[Float[Tensor, "T 1 1"], Float[Tensor, "T 1 1"]]:
        """Factors of the distances and of the opinions; equal voices have their log scales as factors."""
        return 2 * (1 - self.share) * self.log_scale.exp(), 2 * self.share * self.log_scale_of_ridge.exp()

    def raise_by(self, log_scale: Float[Tensor, "*T"], log_scale_of_ridge: Float[Tensor, "*T"]) -> "Voices":
        return Voices(self.share, self.log_scale + log_scale, self.log_scale_of_ridge + log_scale_of_ridge)

    def follow(self, labelled: Labelled) -> "Voices":
        """Voices with more of ridge regression where it recognises examples, each left out, that the means do not.

        Those of the later steps listen to the queries too, and hardly to this: of classes that differ in few directions
        they lost up to 2 points with many examples (docs/log.md). Nothing changes where no class has two examples.
        """
        about, chance = labelled.about, LEAD_BY_CHANCE / labelled.typical.squeeze(1)
        lead = (about["ridge left out"] - about["means left out"] - chance).clamp_min(0).view(-1, 1, 1)
        return self.favour_ridge(LEAD_TELLS * lead)

    def suit(self, labelled: Labelled) -> "Voices":
        """Voices with the part of ridge regression that suits the examples, for answers by these alone.

        The steps, which were trained without, gain nothing by it (docs/log.md).
        """
        return self.favour_ridge(judge_share(self, labelled))

    def favour_ridge(self, logit: Float[Tensor, "T 1 1"]) -> "Voices":
        more = self.share * logit.exp()
        return replace(self, share=more / (1 - self.share + more))

    def to(self, like: Tensor) -> "Voices":
        """Voices of the type and on the device of another tensor."""
        return Voices(*(one.to(like) for one in vars(self).values()))


@torch.no_grad()
def judge_loudness(voices: Voices, labelled: Labelled) -> Float[Tensor, "T 1 1"]:
    """Most probable logarithm, 0 to LOUDEST, by which the voices are to be raised, judged by examples left out.

    voices: those of the labelled examples. The slope of the loss is negative below the minimum: bisection finds it for
    all tasks at once. Exactly 0 where no class has two examples. Lower voices were no better on validation classes.
    """
    scores, tested = judge_left_out(voices, labelled)
    hot, scores = labelled.support_hot, tested.unsqueeze(-1) * scores
    low, high = torch.zeros_like(voices.share), torch.full_like(voices.share, LOUDEST)
    for _ in range(24):
        middle = (low + high) / 2
        factor = middle.exp()
        excess = (scores * ((factor * scores).softmax(-1) - hot)).sum((1, 2)).view_as(middle)
        is_below = factor * excess + middle / SPREAD**2 < 0
        low, high = torch.where(is_below, middle, low), torch.where(is_below, high, middle)
    return low


@torch.no_grad()
def judge_share(voices: Voices, labelled: Labelled) -> Float[Tensor, "T 1 1"]:
    """Logit to be added to the part of ridge regression, judged by examples left out as `judge_loudness` does.

    The mean of SHIFTS, weighted by the likelihood of the examples and normal priors of the logit and of the loudness.
    Exactly 0 where no class has two examples. Where classes are many or their examples, the networks that judge it are
    beyond what they were trained for: they lost up to 4 points to the better parent (docs/log.md).
    """
    step = math.ceil(labelled.support_hot[0].numel() / MOST_JUDGED)
    distance, opinion, tested = leave_out(labelled, step)
    if not tested.any():
        return torch.zeros_like(voices.share)
    hot = labelled.support_hot[:, ::step]
    evidence = []
    for shift in SHIFTS:
        scores = voices.favour_ridge(torch.full_like(voices.share, shift)).mix(distance, opinion)
        right, of_loudness = (scores * hot).sum(-1), []
        for louder in LOUDNESSES:
            log_p = math.exp(louder) * right - (math.exp(louder) * scores).logsumexp(-1)
            of_loudness.append((tested * log_p).sum(1) - (louder / SPREAD) ** 2 / 2)
        evidence.append(torch.stack(of_loudness, 1).logsumexp(1) - (shift / SPREAD_OF_SHARE) ** 2 / 2)
    weights = torch.stack(evidence, 1).softmax(1).unbind(1)
    found = torch.stack([shift * weight for shift, weight in zip(SHIFTS, weights, strict=True)]).sum(0)
    return torch.where(tested.any(1), found, 0.0).view(-1, 1, 1)


def judge_left_out(voices: Voices, labelled: Labelled) -> tuple[Float[Tensor, "T S K"], Bool[Tensor, "T S"]]:
    """Scores of the labelled examples, each left out and judged as if it were new, and which have company for it."""
    distance, opinion, tested = leave_out(labelled)
    return voices.mix(distance, opinion), tested


def leave_out(
    labelled: Labelled, step: int = 1
) -> tuple[Float[Tensor, "T s K"], Float[Tensor, "T s K"], Bool[Tensor, "T s"]]:
    """Distances and opinions of each step-th labelled example as if it were new, and which have company for it."""
    hot, shots = labelled.support_hot[:, ::step], labelled.shots.unsqueeze(1)
    distance = ops.squared_distance(labelled.support[:, ::step], labelled.means) / labelled.unit
    opinion = equalise(labelled.left_out[:, ::step], hot, shots)
    return leave_one_out(distance, hot, shots), opinion, find_company(labelled.support_hot)[:, ::step]


def leave_one_out(
    distance: Float[Tensor, "*T N K"], weight: Float[Tensor, "*T N K"], mass: Float[Tensor, "*M K"]
) -> Float[Tensor, "*T N K"]:
    """Distances of rows that are part of the means, corrected as if the rows were new.

    weight: weight of each row in each mean; mass: that of all rows. A row that is all of a mean says nothing of it.

    A row that was left out is farther from the mean of the other n - 1 examples of its class than a new row is from the
    mean of all n: by the factor n / (n - 1) against (n + 1) / n on average. Distances to the own class are multiplied
    by the ratio of the two, so that these distances stand for n shots and not for n - 1.
    """
    return distance * (mass + weight) / (mass - weight).clamp_min(0.5)


class Conductor(nn.Module):
    """Judges from statistics of a task how loud its voices are; at first they are equal."""

    def __init__(self, n_statistics: int) -> None:
        super().__init__()
        last = nn.Linear(16, 3)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(nn.Linear(n_statistics, 16), nn.Tanh(), last)

    def forward(self, statistics: Float[Tensor, "T R"]) -> Voices:
        share, log_scale, log_scale_of_ridge = self.layers(statistics).mT[..., None, None]
        return Voices(torch.sigmoid(share), log_scale, log_scale_of_ridge)


def weigh(hot: Float[Tensor, "T S K"], of_class: Float[Tensor, "T K"]) -> Float[Tensor, "T S"]:
    """The number of its class for each example."""
    return (hot @ of_class.unsqueeze(-1)).squeeze(-1)


def unit_of_means(means: Float[Tensor, "T K D"], least: float = 1e-3) -> Float[Tensor, "T 1 1"]:
    """The mean squared distance between the class means. least: where rounding would look like evidence below it, and
    gradients, which need more, overflow."""
    apart = 2 * (means - means.mean(1, keepdim=True)).square().sum((1, 2)) / (means.shape[1] - 1)
    return apart.clamp_min(least).view(-1, 1, 1)


def class_spread(
    support: Float[Tensor, "T S D"],
    means: Float[Tensor, "T K D"],
    hot: Float[Tensor, "T S K"],
    unit: Float[Tensor, "T 1 1"],
) -> tuple[Float[Tensor, "T K"], Float[Tensor, "T 1"]]:
    """The variance of each class and that of all, 0 where nothing tells; a class of one example has that of all."""
    shots = hot.sum(1)
    scatter = (hot.mT @ (support - hot @ means).square().sum(-1, keepdim=True) / unit).squeeze(-1)
    pooled = scatter.sum(1, keepdim=True) / (shots - 1).sum(1, keepdim=True).clamp_min(1)
    return torch.where(shots > 1, scatter / (shots - 1).clamp_min(1), pooled), pooled
