"""Statistics that Glance reads: named numbers of entries, queries, classes and tasks that every feature network has.

The order of the names is the order in which the trained weights read them.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from onelook import ops
from onelook.methods.glance_scene import Opinion, Scene
from onelook.methods.glance_support import EVIDENCE
from onelook.methods.regression import weigh_queries

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


def stack(names: tuple[str, ...], statistics: dict[str, Tensor]) -> Tensor:
    """The statistics of these names along a new last axis."""
    return torch.stack([statistics[name] for name in names], -1)


def describe_task(
    distance: Float[Tensor, "T Q K"], opinion: Opinion, typical: Float[Tensor, "T 1"]
) -> dict[str, Float[Tensor, "T"]]:
    """Statistics SCALE that queries take part in. distance: from the class means; opinion: of the labelled examples."""
    least, (n_query, n_way) = distance.amin(-1), distance.shape[1:]
    return {
        "queries": typical.new_full((len(distance),), math.log(n_query * weigh_queries(n_query, n_way)[0]) / 4),
        "nearest": log(least.mean(1)),
        "margin": log((distance.mean(-1) - least).mean(1)),
        "ridge lead": opinion.lead.mean(1),
    }


def describe_evidence(
    logits: Float[Tensor, "T Q K"],
    p: Float[Tensor, "T Q K"],
    entropy: Float[Tensor, "T Q"],
    progress: float,
    scene: Scene,
) -> dict[str, Float[Tensor, "T"]]:
    """Statistics CONFIDENCE, but for those of the task: how far the posteriors are from the initial priors."""
    n_query, n_way = logits.shape[1:]
    plan = ops.sinkhorn(logits, n_query * scene.initial_priors, 3).exp()
    ratio = p.mean(1) * n_way
    off = (ratio - n_way * scene.initial_priors).square().mean(1)
    return {
        "off": log(off) / 2,
        "largest": ratio.amax(1).log(),
        "smallest": ratio.amin(1).clamp_min(1e-2).log(),
        "moved": (p - plan).abs().sum(-1).mean(1).clamp_min(1e-3).log(),
        "entropy": entropy.mean(1),
        "progress": torch.full_like(off, progress),
        "ease": scene.about["nearest"] - scene.about["margin"],
    }


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


def describe_classes(
    p: Float[Tensor, "T Q K"],
    distance: Float[Tensor, "T Q K"],
    log_priors: Float[Tensor, "T K"],
    estimated: Float[Tensor, "T K"],
    mass: Float[Tensor, "T K"],
    scene: Scene,
) -> dict[str, Float[Tensor, "T K"]]:
    """Statistics CLASS. estimated: class priors; mass: queries that the plan gives to each class."""
    return {
        "log prior": log_priors,
        "estimated": estimated * p.shape[2],
        "mass": relative(mass / p.shape[1]),
        "compactness": log((p * distance).sum(1) / (p.sum(1) + 1e-3)),
        "spread": scene.spread,
        "nearest": log(distance.amin(1)),
        "shots": scene.typical.log().expand_as(log_priors),
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
