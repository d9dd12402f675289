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

DOUBT = 0.5
"""How much more an image counts between two classes than one that is certain, by one labelled image a class."""
NEIGHBOURS = 10
"""The distance to this neighbour says how far a label reaches."""
LARGEST_POOL = 10_000
"""Images that are looked at; of a larger pool a random part, drawn by the seed. Their similarities take 400 MB."""
LOGIT = {"low": (-0.81, 0.48), "mean": (0.05, 0.67), "high": (1.31, 1.49)}
"""The 2.5 %, 50 % and 97.5 % quantiles of logit(accuracy) - logit(mean confidence): a constant, and a slope by the
logarithm of the factor by which the labels grow. Fitted by benchmarks/suggest.py."""
NEARLY_SURE, UNSURE = 0.9, 0.6
"""The greatest probability above which an image counts as sure, and below which it counts as unsure."""


@dataclass(frozen=True)
class Suggestion:
    """An image to label next."""

    index: int
    """Its row in the pool."""
    why: str
    """For a person, in words."""


@dataclass(frozen=True)
class Estimate:
    """An accuracy that was not measured, in percent, and the ends of an interval for it."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.0f} % ({self.low:.0f} to {self.high:.0f})"

    def shares(self) -> dict[str, float]:
        """The same from 0 to 1, as JSON has them."""
        return {name: value / 100 for name, value in vars(self).items()}


def suggest(
    features: Float[Tensor, "N D"],
    posterior: Float[Tensor, "rows K"],
    n: int,
    labelled: Float[Tensor, "S size"] | None = None,
    class_names: Sequence[str] | None = None,
    seed: int = 0,
) -> tuple[Suggestion, ...]:
    """The n images of the pool to label next, the most useful first; all of them where there are fewer.

    features, posterior: of the images without a label, the pool. labelled: features of the images that have one.
    seed: draws the part of a pool that is too large to be looked at whole. The same arguments give the same answer.
    Raises DataError for features and posteriors that do not fit together, SettingsError for n < 1.
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


def expected_accuracy(posterior: Float[Tensor, "N K"], n_labelled: int, n_more: int = 0) -> Estimate:
    """How many of the images without a label are given the right one, now or after `n_more` suggested labels more.

    No label is checked for it. It takes Glance at its word, the mean of its largest probabilities, and corrects that by
    what became of such words for simulated users on validation data: the median, and an interval that held 95 of 100
    of them. Of users of a data set that had no part in the fit it held 83 to 97 (docs/log.md), so that with images of
    another kind it may be too narrow. It is about images whose class is among those that have labels.
    Raises DataError for an empty pool, SettingsError for counts that are none.
    """
    if not len(posterior):
        raise DataError("There is no image without a label, so there is no accuracy to estimate.")
    word = torch.logit(posterior.amax(1).double().mean().clamp(0.02, 0.98)).item()
    now = {name: 100 / (1 + math.exp(-(word + constant))) for name, (constant, _) in LOGIT.items()}
    return after_more(Estimate(**now), n_labelled, n_more)


def after_more(now: Estimate, n_labelled: int, n_more: int) -> Estimate:
    """What an estimate becomes with `n_more` suggested labels more: each end moves as it did for the simulated users.

    The upper end moves furthest and the lower one least, in logits, so that the interval there grows; an end at 0 or
    100 stays.
    """
    if n_labelled < 1 or n_more < 0:
        raise SettingsError(f"An estimate needs n_labelled >= 1 and n_more >= 0, but got {n_labelled} and {n_more}.")
    growth = math.log((n_labelled + n_more) / n_labelled)
    before = torch.tensor([vars(now)[name] for name in LOGIT], dtype=torch.float64) / 100
    slopes = torch.tensor([slope for _, slope in LOGIT.values()], dtype=torch.float64)
    after = 100 * (before.logit() + slopes * growth).sigmoid()
    return Estimate(**dict(zip(LOGIT, after.tolist(), strict=True)))


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
