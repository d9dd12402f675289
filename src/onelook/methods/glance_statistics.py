"""Statistics that Glance reads: named numbers of entries, queries, classes and tasks that every feature network has.

The order of the names is the order in which the trained weights read them.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

TASK = ("queries", "ways", "shots", "nearest", "margin")
SCALE = (*TASK, "unit")
CONFIDENCE = ("off", "largest", "smallest", "moved", "entropy", "progress", "ease", "queries", "ways", "shots")
_SCORES = ("nearness", "log posterior", "posterior", "lead", "log plan", "plan", "plan against posterior")
_NEIGHBOURS = ("near", "log near", "wide", "log wide", "near of near", "log near of near")
ENTRY = (*_SCORES, *_NEIGHBOURS)
QUERY = ("entropy", "lead", "density", "distance")
CLASS = ("log prior", "estimated", "mass", "compactness", "spread", "nearest", "shots")
STEP = (*TASK, "confidence", "progress")


Votes = tuple[Float[Tensor, "T K"], Float[Tensor, "T K D"]]
"""Number of queries in each class, and their sums."""


def stack(names: tuple[str, ...], statistics: dict[str, Tensor]) -> Tensor:
    """The statistics of these names along a new last axis."""
    return torch.stack([statistics[name] for name in names], -1)


@dataclass(frozen=True)
class Scene:
    """Everything that does not change during the steps: n nearest rows of support and queries, B = 2 reaches."""

    support: Float[Tensor, "T S D"]
    query: Float[Tensor, "T Q D"]
    means: Float[Tensor, "T K D"]
    anchor: Float[Tensor, "T K"]
    """Number of examples with which each class holds its mean."""
    typical: Float[Tensor, "T 1"]
    """The harmonic mean of the shots."""
    excess: Float[Tensor, "T K"]
    """How much farther than from others the queries stand from this mean, for being of fewer examples."""
    support_hot: Float[Tensor, "T S K"]
    unit: Float[Tensor, "T 1 1"]
    """Unit of all squared distances: their mean between the class means."""
    spread: Float[Tensor, "T K"]
    density: Float[Tensor, "T Q"]
    neighbours: Int[Tensor, "T Q n"]
    reach: Float[Tensor, "T Q B n"]
    about: dict[str, Tensor]
    """Statistics TASK of each task (T)."""
    log_scale: Float[Tensor, "T 1 1"]
    initial_priors: Float[Tensor, "T K"]
    is_given: Bool[Tensor, "T 1"]


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
) -> dict[str, Tensor]:
    """Statistics ENTRY. best: the two largest scores of each query; heard: see `ask_neighbours`."""
    p = log_p.exp()
    rival = torch.where(logits >= best[..., :1], best[..., 1:], best[..., :1])
    near, wide, near_of_near = heard
    return {
        "nearness": 4 * (distance.amin(-1).unsqueeze(-1) - distance).clamp_min(-4),
        "log posterior": log_p.clamp_min(-12) / 4,
        "posterior": p,
        "lead": (logits - rival).clamp(-12, 12) / 4,
        "log plan": log_plan.clamp_min(-12) / 4,
        "plan": log_plan.exp(),
        "plan against posterior": (log_plan - log_p).clamp(-6, 6),
        "near": near,
        "log near": (near + 0.05).log(),
        "wide": wide,
        "log wide": (wide + 0.05).log(),
        "near of near": near_of_near,
        "log near of near": (near_of_near + 0.05).log(),
    }


def describe_queries(
    log_p: Float[Tensor, "T Q K"],
    distance: Float[Tensor, "T Q K"],
    best: Float[Tensor, "T Q 2"],
    density: Float[Tensor, "T Q"],
    n_way: int,
) -> dict[str, Tensor]:
    """Statistics QUERY."""
    return {
        "entropy": -(log_p.exp() * log_p).sum(-1) / math.log(n_way),
        "lead": (best[..., 0] - best[..., 1]).clamp_max(20),
        "density": density,
        "distance": log(distance.amin(-1)),
    }


def ask_neighbours(p: Float[Tensor, "T Q K"], scene: Scene) -> tuple[Tensor, Tensor, Tensor]:
    """Posteriors of the nearest rows, with a short and a long reach, and of those nearest to them."""
    n_rows = scene.support_hot.shape[1] + p.shape[1]
    own = 1 - scene.reach.sum(-1)  # where all rows are equally far, a row has its own answer only
    offset = n_rows * torch.arange(len(p), device=p.device).view(-1, 1, 1)

    def heard(of_queries: Tensor) -> Float[Tensor, "T Q 2 K"]:
        rows = torch.cat([scene.support_hot, of_queries], 1).flatten(0, 1)
        found = rows[(scene.neighbours + offset).flatten()].view(*scene.neighbours.shape, -1)
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


def unit_of_means(means: Float[Tensor, "T K D"]) -> Float[Tensor, "T 1 1"]:
    """The mean squared distance between the class means."""
    apart = 2 * (means - means.mean(1, keepdim=True)).square().sum((1, 2)) / (means.shape[1] - 1)
    # Means nearer than this would make rounding look like evidence, and gradients overflow.
    return apart.clamp_min(1e-3).view(-1, 1, 1)


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


def log(x: Tensor) -> Tensor:
    """Logarithm of a number that may be 0."""
    return x.clamp_min(1e-6).log()


def relative(priors: Float[Tensor, "T K"]) -> Float[Tensor, "T K"]:
    """Logarithms, 0 for balanced classes."""
    return priors.log() + math.log(priors.shape[1])
