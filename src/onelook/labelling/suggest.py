"""Which images to label next, in batches: uncertain ones that speak for many others, and none twice over.

A batch covers the pool, and most of all the doubt in it. An image that is labelled is taken to settle those that look
like it, so that the worth of the set B of labelled images is
    f(B) = sum_j (1 + n^2 d_j / 2) max_{i in B} s_ij,   s_ij = exp(-|x_i - x_j|^2 / r),
d_j being the doubt about image j, 1 less the margin between its two most probable classes, n the labelled images a
class, x features of length 1 and r the middle squared distance from an image to its tenth neighbour. f is facility
location, weighted by doubt: monotone and submodular, so that choosing the image of the largest gain, one after the
other, comes within 1 - 1/e of the best batch (Nemhauser, Wolsey and Fisher 1978).

* Density: an image that looks like many doubtful ones gains most. With few labels nearly all images are doubtful and
  the choice is of typical ones, as is right then (Hacohen et al., ICML 2022, arXiv:2202.02794, who also show that
  plain uncertainty does worse than chance there); as labels come in, doubt is left only between the classes.
* Diversity: what a chosen or labelled image covers gains nothing a second time. So classes with one example, whose
  images are far from all that is labelled, come first (Sener and Savarese, ICLR 2018, arXiv:1708.00489).
* Doubt about something that no other image resembles (an outlier) gains little: its s is small for all but itself.
* The 1 is the guard. Doubt by few labels says little, and images at the borders have other means than the classes; so
  it begins as half of what an image counts for, and grows as labels come in.

The rule was chosen on validation data (benchmarks/suggest.py, docs/log.md).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from onelook import ops
from onelook.errors import DataError, SettingsError
from onelook.scoring import Estimate

DOUBT = 0.5
"""How much more an image counts between two classes than one that is certain, by one labelled image a class."""
NEIGHBOURS = 10
"""The distance to this neighbour says how far a label reaches."""
LARGEST_POOL = 10_000
"""Images that are looked at; of a larger pool a random part, drawn by the seed. Their similarities take 400 MB."""
GROWTH = {"value": 0.67, "low": 0.48, "high": 1.49}
"""Gain in logit(accuracy) for each unit of log(number of labels): slopes of the 50 %, 2.5 % and 97.5 % quantiles over
simulated users, fitted by benchmarks/suggest.py."""
NEARLY_SURE, UNSURE = 0.9, 0.6
"""The greatest probability above which an image counts as sure, and below which it counts as unsure."""


@dataclass(frozen=True)
class Suggestion:
    """An image to label next."""

    index: int
    """Row of the image in the pool."""
    why: str
    """Reason, as a phrase for a person."""


def suggest(
    features: Float[Tensor, "N D"],
    posterior: Float[Tensor, "rows K"],
    n: int,
    labelled: Float[Tensor, "S size"] | None = None,
    class_names: Sequence[str] | None = None,
    seed: int = 0,
) -> tuple[Suggestion, ...]:
    """Choose the n images of the pool to label next, the most useful first; all of them where there are fewer.

    features, posterior: rows of the unlabelled images, the pool. labelled: features of the labelled images.
    seed: draws the part of a pool beyond LARGEST_POOL. The same arguments give the same answer.
    Raises DataError for features and posteriors that do not fit together, SettingsError for n < 1.

    >>> pool, posterior = torch.eye(3)[[0, 0, 0, 1, 1, 2]], torch.tensor([[0.5, 0.5]]).expand(6, 2)
    >>> for one in suggest(pool, posterior, 2, class_names=("cat", "dog")):
    ...     print(one.index, one.why)
    0 unsure: cat (50 %) or dog (50 %); 2 other images look like it and like nothing labelled so far
    3 unsure: cat (50 %) or dog (50 %); one other image looks like it and like nothing labelled so far
    """
    _check(features, posterior, n, labelled, class_names)
    rows = torch.arange(len(features))
    if len(features) > LARGEST_POOL:
        rows = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))[:LARGEST_POOL]
    with torch.no_grad():
        x, p = ops.normalise(features[rows].float()).cpu(), posterior[rows].float().cpu()
        known = x[:0] if labelled is None else ops.normalise(labelled.float()).cpu()
        a_class = max(len(known) / p.shape[1], 1)
        chosen, n_covered = _cover(x, known, 1 + DOUBT * a_class**2 * _doubt(p), n)
    names = class_names or [f"class {k}" for k in range(posterior.shape[1])]
    return tuple(
        Suggestion(int(rows[i]), _why(p[i], resembling, names)) for i, resembling in zip(chosen, n_covered, strict=True)
    )


def after_more(now: Estimate, n_labelled: int, n_more: int) -> Estimate:
    """Extrapolate an estimated accuracy to `n_more` more suggested labels, as it rose for the simulated users.

    The upper end rises most and the lower one least, in logits, so that the interval widens; an end at 0 or 1 stays.
    Raises SettingsError for n_labelled < 1 or n_more < 0.

    >>> print(after_more(Estimate(0.8, 0.6, 0.9), n_labelled=10, n_more=10))
    86 % (68 to 96)
    """
    if n_labelled < 1 or n_more < 0:
        raise SettingsError(f"An estimate needs n_labelled >= 1 and n_more >= 0, but got {n_labelled} and {n_more}.")
    growth = math.log((n_labelled + n_more) / n_labelled)
    before = torch.tensor([getattr(now, name) for name in GROWTH], dtype=torch.float64)
    after = (before.logit() + growth * torch.tensor(list(GROWTH.values()), dtype=torch.float64)).sigmoid()
    return Estimate(**dict(zip(GROWTH, after.tolist(), strict=True)))


def _check(
    features: Float[Tensor, "N D"],
    posterior: Float[Tensor, "rows K"],
    n: int,
    labelled: Float[Tensor, "S size"] | None,
    class_names: Sequence[str] | None,
) -> None:
    if n < 1:
        raise SettingsError(f"At least one image has to be suggested, but n is {n}.")
    if len(features) != len(posterior):
        raise DataError(
            f"There are {len(features)} rows of features and {len(posterior)} of probabilities; "
            f"each image needs one of each."
        )
    if labelled is not None and labelled.shape[1] != features.shape[1]:
        raise DataError(
            f"Labelled features have {labelled.shape[1]} numbers and those of the pool "
            f"{features.shape[1]}; use the same network for both."
        )
    if class_names is not None and len(class_names) != posterior.shape[1]:
        raise DataError(f"There are {len(class_names)} names for {posterior.shape[1]} classes; give one for each.")
    if not bool(features.isfinite().all() and posterior.isfinite().all()):
        raise DataError("Some features or probabilities are not finite numbers; leave those images out.")


def _doubt(posterior: Float[Tensor, "N K"]) -> Float[Tensor, "N"]:
    """1 less the margin between the two most probable classes, 0 … 1."""
    best = posterior.topk(min(2, posterior.shape[1]), 1).values
    return 1 - best[:, 0] + best[:, 1:].sum(1)


def _cover(
    x: Float[Tensor, "N D"], known: Float[Tensor, "S D"], weight: Float[Tensor, "N"], n: int
) -> tuple[list[int], list[int]]:
    """The rows chosen, greedily, and how many rows each covers better than all before."""
    if not len(x):
        return [], []
    distance = ops.squared_distance(x[None], x[None])[0]
    reach = distance.kthvalue(min(NEIGHBOURS + 1, len(x)), dim=1).values.median().clamp_min(1e-12)
    similarity = distance.div_(-reach).exp_()  # in place: it is the largest thing here
    best = torch.zeros(len(x))
    if len(known):
        best = (-ops.squared_distance(x[None], known[None])[0].amin(1) / reach).exp()
    open_rows = torch.ones(len(x), dtype=torch.bool)
    chosen, n_covered = [], []
    for _ in range(min(n, len(x))):
        gain = _gains(similarity, best, weight).masked_fill(~open_rows, -1)
        i = int(gain.argmax())  # the first of equals
        open_rows[i] = False
        chosen.append(i)
        # Within reach: s > 1 / e. Without the image itself.
        n_covered.append(int(((similarity[i] > best) & (similarity[i] > math.exp(-1))).sum()) - int(best[i] < 1))
        best = torch.maximum(best, similarity[i])
    return chosen, n_covered


def _gains(
    similarity: Float[Tensor, "N N"], best: Float[Tensor, "N"], weight: Float[Tensor, "N"]
) -> Float[Tensor, "N"]:
    """sum_j weight_j max(0, s_ij - best_j) for every i, in blocks that stay in the cache."""
    gains = [(similarity[i : i + 512] - best).clamp_min_(0) @ weight for i in range(0, len(best), 512)]
    return torch.cat(gains)


def _why(posterior: Float[Tensor, "K"], resembling: int, names: Sequence[str]) -> str:
    """What is not known about the image, and for how many others its label will speak."""
    order = posterior.argsort(descending=True, stable=True).tolist()
    first, percent = names[order[0]], f"{100 * float(posterior[order[0]]):.0f} %"
    if len(order) == 1 or posterior[order[0]] >= NEARLY_SURE:
        doubt = f"taken for {first} ({percent})"
    elif posterior[order[0]] >= UNSURE:
        doubt = f"perhaps {first} ({percent}), perhaps {names[order[1]]}"
    else:
        doubt = f"unsure: {first} ({percent}) or {names[order[1]]} ({100 * float(posterior[order[1]]):.0f} %)"
    if resembling < 1:
        return f"{doubt}; no other unlabelled image is much like it"
    others = "one other image" if resembling == 1 else f"{resembling} other images"
    return f"{doubt}; {others} look{'s' if resembling == 1 else ''} like it and like nothing labelled so far"
