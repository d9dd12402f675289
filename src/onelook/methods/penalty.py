"""The penalty of ridge regression that suits a task, judged by its labelled examples, each left out.

Rows with noise in all directions ask for a large penalty, classes that differ by little in a few directions for a small
one; between the two lie up to 6 points of accuracy (docs/log.md). The evidence for a penalty is how well the opinions
about the examples that are left out correlate with their labels. Their squared error, the usual measure, would prefer
a small penalty, since a large one makes all opinions smaller, which changes no answer. Few examples say little: the
penalty is the geometric mean of a grid, weighted by the evidence and a prior.

Axes: T tasks, S labelled examples, D features, K classes.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from onelook.methods.leave_one_out import find_company
from onelook.methods.regression import RIDGE, equalise, standardise

FACTOR, POWERS = 4.0, range(-3, 5)
"""RIDGE times these powers of the factor are the grid."""
LARGE = 2**20
"""Numbers in the rows of all examples above which they are judged in single precision, in half of the time."""
SPREAD = 1.0
"""Prior standard deviation of the logarithm of the penalty; 1.5 and 2 gain no more and lose more (docs/log.md)."""


@torch.no_grad()
def judge_penalty(
    rows: Float[Tensor, "T S D"], weight: Float[Tensor, "T S"], hot: Float[Tensor, "T S K"]
) -> Float[Tensor, "T 1 1"]:
    """The penalty for `Regression.fit` on rows with these weights and labels; RIDGE where no class has two examples.

    With n examples that can be left out and correlation c, the evidence is (1 - c^2)^-n, that of a linear model with
    noise of unknown variance but for its power (n / 2 would hold for one class).

    >>> rows, labels = torch.randn(1, 40, 8, generator=torch.manual_seed(0)), torch.arange(40) % 2
    >>> bool(judge_penalty(rows, torch.ones(1, 40), torch.eye(2)[labels][None]) > RIDGE)
    True
    """
    company = find_company(hot)
    if not company.any():
        return rows.new_full((len(rows), 1, 1), RIDGE)
    if rows.dtype == torch.float64 and rows.numel() > LARGE:
        return judge_penalty(rows.float(), weight.float(), hot.float()).double()
    root = weight.sqrt().unsqueeze(-1)
    spectrum, basis = _decompose(root * standardise(rows)[0])
    y, shots = root * hot, hot.sum(1, keepdim=True)
    tested = company.unsqueeze(-1)
    right = tested * (hot - 1 / hot.shape[2])
    logs = math.log(FACTOR) * torch.arange(POWERS.start, POWERS.stop, dtype=rows.dtype, device=rows.device)
    shrink_TMP = 1 / (spectrum.unsqueeze(-1) + RIDGE * logs.exp())
    rest_TSP, projected, correlations = 1 - basis.square() @ shrink_TMP, basis.mT @ y, []
    for shrink_TM, rest_TS in zip(shrink_TMP.unbind(-1), rest_TSP.unbind(-1), strict=True):
        error = (y - basis @ (shrink_TM.unsqueeze(-1) * projected)) / rest_TS.clamp_min(1e-4).unsqueeze(-1)
        opinion = tested * equalise(hot - error / root, hot, shots)
        opinion = opinion - opinion.mean(-1, keepdim=True)
        length = opinion.square().sum((1, 2)) * right.square().sum((1, 2))
        correlations.append((opinion * right).sum((1, 2)) / length.clamp_min(1e-12).sqrt())
    unexplained = (1 - torch.stack(correlations, 1).clamp_min(0).square()).clamp_min(1e-4)
    evidence = -company.sum(1, keepdim=True) * unexplained.log() - (logs / SPREAD).square() / 2
    found = (evidence.softmax(1) @ logs).view(-1, 1, 1)
    # Glance was trained with RIDGE alone, and loses a little by penalties far above it (docs/log.md).
    return RIDGE * torch.where(found > 0, found / 2, found).exp()


def _decompose(rows: Float[Tensor, "T S E"]) -> tuple[Float[Tensor, "T M"], Float[Tensor, "T S M"]]:
    """Eigenvalues s and a basis B with rows A for which A (A'A + p)^-1 A' = B (s + p)^-1 B' for every p > 0."""
    if rows.shape[1] <= rows.shape[2]:
        spectrum, axes = torch.linalg.eigh(rows @ rows.mT)
        return spectrum.clamp_min(0), axes * spectrum.clamp_min(0).sqrt().unsqueeze(1)
    spectrum, axes = torch.linalg.eigh(rows.mT @ rows)
    return spectrum.clamp_min(0), rows @ axes
