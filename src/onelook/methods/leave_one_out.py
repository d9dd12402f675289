"""The regularisation that suits a task, by leaving out one of its labelled examples at a time.

A row that is the only one of its class does not count: leaving it out removes the class, and no classifier of the other
rows can answer right, however it is regularised. Where no class has two rows, nothing is known, and the first candidate
is taken.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

GRID = tuple(10 ** (step / 2) for step in range(-4, 5))
"""Candidates, 0.01 to 100."""


def list_candidates(default: float, tune: bool = True) -> tuple[float, ...]:
    """The default, and, where there is something to tune, the others of the grid."""
    return tuple(dict.fromkeys((default, *GRID))) if tune else (default,)


def find_company(target: Float[Tensor, "T S K"]) -> Bool[Tensor, "T S"]:
    """Whether a row, of one-hot label `target`, has another row of its class."""
    return (target @ target.sum(1).unsqueeze(-1)).squeeze(-1) > 1.5


def choose(losses: list[Float[Tensor, "T S"]], target: Float[Tensor, "T S K"]) -> Int[Tensor, "T"]:
    """Number of the candidate of the least loss in each task, the first of equals."""
    company = find_company(target)
    total_LT = torch.stack([loss.masked_fill(~company, 0.0).sum(1) for loss in losses])
    return total_LT.nan_to_num(nan=torch.inf).argmin(0)
