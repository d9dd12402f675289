"""Statistics that Glance reads: named numbers of entries, queries, classes and tasks that every feature network has.

The order of the names is the order in which the trained weights read them.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from onelook import ops
from onelook.methods.glance_support import EVIDENCE, Labelled, Voices
from onelook.methods.regression import Moments, Regression

TASK = ("queries", "ways", "shots", "nearest", "margin")
SCALE = (*TASK, "unit", *EVIDENCE, "ridge lead")
CONFIDENCE = ("off", "largest", "smallest", "moved", "entropy", "progress", "ease", "queries", "ways", "shots")
_SCORES = ("nearness", "log posterior", "posterior", "lead", "log plan", "plan", "plan against posterior")
_NEIGHBOURS = ("near", "log near", "wide", "log wide", "near of near", "log near of near")
_RIDGE = ("ridge lead", "ridge posterior", "ridge log posterior")
ENTRY = (*_SCORES, *_NEIGHBOURS, *_RIDGE)
QUERY = ("entropy", "lead", "density", "distance", "ridge lead", "ridge height")
CLASS = ("log prior", "estimated", "mass", "compactness", "spread", "nearest", "shots")
STEP = (*TASK, *EVIDENCE, "confidence", "progress", "recognised", "ridge lead now")
RIDGE_SCALE = 8.0
"""Scale at which the predictions of ridge regression, which are about 1 apart, are read as posteriors."""


Votes = tuple[Float[Tensor, "T K"], Float[Tensor, "T K D"]]
"""Number of queries in each class, and their sums."""
Known = tuple[tuple[Tensor, Tensor], Moments]
"""`ops.nearest_rows` among the queries, and their moments."""


def stack(names: tuple[str, ...], statistics: dict[str, Tensor]) -> Tensor:
    """The statistics of these names along a new last axis."""
    return torch.stack([statistics[name] for name in names], -1)


@dataclass(frozen=True)
class Scene(Labelled):
    """Everything that does not change during the steps: n nearest rows of support and queries, B = 2 reaches."""

    query: Float[Tensor, "T Q D"]
    density: Float[Tensor, "T Q"]
    neighbours: Int[Tensor, "T Q n"]
    reach: Float[Tensor, "T Q B n"]
    regression: Regression
    """Regression on support and queries."""
    first_opinion: "Opinion"
    """Opinion of ridge regression on the labelled examples."""
    voices: tuple[Voices, Voices]
    """Voices at first, and after a step; the log scales of the steps are to be added."""
    initial_priors: Float[Tensor, "T K"]
    is_given: Bool[Tensor, "T 1"]

    @property
    def n_support(self) -> int:
        return self.support.shape[1]


@dataclass(frozen=True)
class Opinion:
    """Predictions of ridge regression for each query, and the two largest of them."""

    values: Float[Tensor, "T Q K"]
    best: Float[Tensor, "T Q 2"]

    @classmethod
    def of(cls, values: Float[Tensor, "T Q K"]) -> "Opinion":
        return cls(values, values.topk(2, -1).values)

    @property
    def lead(self) -> Float[Tensor, "T Q"]:
        return self.best[..., 0] - self.best[..., 1]


@dataclass(frozen=True)
class View:
    """Input of the gradient network, and what it was made of."""

    statistics: tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
    """Statistics of entries, queries, classes and task; posteriors (T, Q, K)."""
    log_plan: Float[Tensor, "T Q K"]
    near: Float[Tensor, "T Q K"]
    """Posteriors of the nearest rows."""
    confidence: Float[Tensor, "T 1"]
    """Confidence in the initial priors."""


@dataclass(frozen=True)
class Moment:
    """Answers after some steps, and what queries that come later need for the next one."""

    answer: Float[Tensor, "T Q K"]
    weights: Float[Tensor, "T K D"]
    log_priors: Float[Tensor, "T K"]
    moved: Float[Tensor, "T Q K"]
    """Scores added by transport, which within a query differ from the potentials of the classes by a constant."""
    targets: Float[Tensor, "T N K"] | None = None
    """Targets of the regression behind the answer; None: that of the labelled examples alone."""
    posterior: Float[Tensor, "T Q K"] | None = None
    near: Float[Tensor, "T Q K"] | None = None
    shifts: list[Float[Tensor, "T K H"]] | None = None
    """Sums that classes and task add to the entries in each layer of the gradient network."""


def describe_entries(
    logits: Float[Tensor, "T Q K"],
    log_p: Float[Tensor, "T Q K"],
    distance: Float[Tensor, "T Q K"],
    best: Float[Tensor, "T Q 2"],
    log_plan: Float[Tensor, "T Q K"],
    heard: tuple[Tensor, Tensor, Tensor],
    opinion: Opinion,
) -> dict[str, Tensor]:
    """Statistics ENTRY. best: the two largest scores of each query; heard: see `ask_neighbours`."""
    p = log_p.exp()
    near, wide, near_of_near = heard
    log_opinion = ops.log_softmax(RIDGE_SCALE * opinion.values)
    return {
        "nearness": 4 * (distance.amin(-1).unsqueeze(-1) - distance).clamp_min(-4),
        "log posterior": log_p.clamp_min(-12) / 4,
        "posterior": p,
        "lead": (logits - rival(logits, best)).clamp(-12, 12) / 4,
        "log plan": log_plan.clamp_min(-12) / 4,
        "plan": log_plan.exp(),
        "plan against posterior": (log_plan - log_p).clamp(-6, 6),
        "near": near,
        "log near": (near + 0.05).log(),
        "wide": wide,
        "log wide": (wide + 0.05).log(),
        "near of near": near_of_near,
        "log near of near": (near_of_near + 0.05).log(),
        "ridge lead": 4 * (opinion.values - rival(opinion.values, opinion.best)).clamp(-1, 1),
        "ridge posterior": log_opinion.exp(),
        "ridge log posterior": log_opinion.clamp_min(-12) / 4,
    }


def rival(scores: Float[Tensor, "T Q K"], best: Float[Tensor, "T Q 2"]) -> Float[Tensor, "T Q K"]:
    """The best score of another class."""
    return torch.where(scores >= best[..., :1], best[..., 1:], best[..., :1])


def describe_queries(
    log_p: Float[Tensor, "T Q K"],
    distance: Float[Tensor, "T Q K"],
    best: Float[Tensor, "T Q 2"],
    density: Float[Tensor, "T Q"],
    opinion: Opinion,
    n_way: int,
) -> dict[str, Tensor]:
    """Statistics QUERY."""
    return {
        "entropy": -(log_p.exp() * log_p).sum(-1) / math.log(n_way),
        "lead": (best[..., 0] - best[..., 1]).clamp_max(20),
        "density": density,
        "distance": log(distance.amin(-1)),
        "ridge lead": 4 * opinion.lead,
        "ridge height": 2 * opinion.best[..., 0],
    }


def ask_neighbours(p: Float[Tensor, "T Q K"], scene: Scene) -> tuple[Tensor, Tensor, Tensor]:
    """Posteriors of the nearest rows, with a short and a long reach, and of those nearest to them."""
    n_rows = scene.support_hot.shape[1] + p.shape[1]
    own = 1 - scene.reach.sum(-1)  # where all rows are equally far, a row has its own answer only
    offset = n_rows * torch.arange(len(p), device=p.device).view(-1, 1, 1)

    def heard(of_queries: Tensor) -> Float[Tensor, "T Q 2 K"]:
        rows = torch.cat([scene.support_hot, of_queries], 1).flatten(0, 1)
        found = rows.index_select(0, (scene.neighbours + offset).flatten()).view(*scene.neighbours.shape, -1)
        return scene.reach @ found + own.unsqueeze(-1) * of_queries.unsqueeze(2)

    wide, near = heard(p).unbind(2)
    return near, wide, heard(near)[:, :, 1]


def measure_reach(
    similarity: Float[Tensor, "T Q n"], unit: Float[Tensor, "T 1 1"], log_reach: Float[Tensor, "B"]
) -> tuple[Float[Tensor, "T Q B n"], Float[Tensor, "T Q"]]:
    """Weights of the nearest rows, largest similarity first, and the density at each query."""
    # The farthest neighbour weighs nothing, so that no answer jumps where two rows change places.
    nearness = ((similarity - similarity[..., -1:]) / unit).unsqueeze(2)
    reach = torch.expm1((log_reach.exp().unsqueeze(-1) * nearness).clamp_max(10.0))
    density = log(2 * (1 - similarity.mean(-1)) / unit.squeeze(-1))
    return reach / (reach.sum(-1, keepdim=True) + 1e-3), density


def log(x: Tensor) -> Tensor:
    """Logarithm of a number that may be 0."""
    return x.clamp_min(1e-6).log()


def relative(priors: Float[Tensor, "T K"]) -> Float[Tensor, "T K"]:
    """Logarithms, 0 for balanced classes."""
    return priors.log() + math.log(priors.shape[1])
