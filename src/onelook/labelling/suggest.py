"""Suggestions of the images to label next: batches that cover the pool, its doubtful images most of all.

The worth of a set B of labelled images is
    f(B) = sum_j (1 + n^2 d_j / 2) max_{i in B} s_ij,   s_ij = exp(-|x_i - x_j|^2 / r),
where d_j is the doubt about image j, 1 less the margin between its two most probable classes, n the number of labelled
images per class, x features of unit length and r the median squared distance of an image to its tenth neighbour. f is
facility location weighted by doubt: monotone and submodular, so choosing the image of the largest gain, one after the
other, comes within 1 - 1/e of the best batch (Nemhauser, Wolsey and Fisher 1978).

* Density: an image that resembles many doubtful ones gains most. With few labels nearly all images are doubtful and the
  choice is of typical ones, as it should be (Hacohen et al., ICML 2022, arXiv:2202.02794, who also show that plain
  uncertainty does worse than chance there); with more labels, doubt remains only between the classes.
* Diversity: what a chosen or labelled image covers gains nothing a second time. So classes with one example, whose
  images are far from all labelled ones, come first (Sener and Savarese, ICLR 2018, arXiv:1708.00489).
* Outliers: doubt about an image that resembles no other gains little, as s is small for all but itself.
* Caution: doubt by few labels is unreliable, and images between classes bias the class means; hence the 1 in the
  weight, which doubt outgrows as labels come in.

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
"""Extra weight of an image between two classes over a certain one, with one labelled image per class."""
NEIGHBOURS = 10
"""Rank of the neighbour whose distance says how far a label reaches."""
LARGEST_POOL = 10_000
"""Images considered, whose similarities take 400 MB; a larger pool is sampled at random."""
GROWTH = {"value": 0.67, "low": 0.48, "high": 1.49}
"""Gain in logit(accuracy) for each unit of log(number of labels): slopes of the 50 %, 2.5 % and 97.5 % quantiles over
simulated users, fitted by benchmarks/suggest.py."""
NEARLY_SURE, UNSURE = 0.9, 0.6
"""Largest probability from which an image is described as sure, and below which as unsure."""


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
    memory: int | None = None,
) -> tuple[Suggestion, ...]:
    """Choose the n images of the pool to label next, the most useful first; all of them where there are fewer.

    features, posterior: rows of the unlabelled images, the pool. labelled: features of the labelled images.
    seed: draws the part of a pool beyond LARGEST_POOL. memory: bytes, a quarter of which may hold similarities. The
        same arguments give the same answer.
    Raises DataError for features and posteriors that do not fit together, SettingsError for n < 1.

    >>> pool, posterior = torch.eye(3)[[0, 0, 0, 1, 1, 2]], torch.tensor([[0.5, 0.5]]).expand(6, 2)
    >>> for one in suggest(pool, posterior, 2, class_names=("cat", "dog")):
    ...     print(one.index, one.why)
    0 unsure: cat (50 %) or dog (50 %); 2 other images look like it and like nothing labelled so far
    3 unsure: cat (50 %) or dog (50 %); one other image looks like it and like nothing labelled so far
    """
    _require_match(features, posterior, n, labelled, class_names)
    rows, largest = torch.arange(len(features)), LARGEST_POOL
    if memory is not None:
        largest = min(largest, math.isqrt(memory // 16))
    if len(features) > largest:
        rows = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))[:largest]
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


def _require_match(
    features: Float[Tensor, "N D"],
    posterior: Float[Tensor, "rows K"],
    n: int,
    labelled: Float[Tensor, "S size"] | None,
    class_names: Sequence[str] | None,
) -> None:
    n_rows, size, n_posteriors, n_way = *features.shape, *posterior.shape
    if n < 1:
        raise SettingsError(f"At least one image must be suggested, but n is {n}.")
    if n_rows != n_posteriors:
        raise DataError(
            f"There are {n_rows} rows of features and {n_posteriors} of probabilities; give as many of both."
        )
    if labelled is not None and labelled.shape[1] != size:
        raise DataError(f"Labelled features have size {labelled.shape[1]}, the pool's {size}; use the same network.")
    if class_names is not None and len(class_names) != n_way:
        raise DataError(f"There are {len(class_names)} names for {n_way} classes; give one for each.")
    if not bool(features.isfinite().all() and posterior.isfinite().all()):
        raise DataError("Some features or probabilities are not finite numbers; leave those images out.")


def _doubt(posterior: Float[Tensor, "N K"]) -> Float[Tensor, "N"]:
    """1 less the margin between the two most probable classes, 0 to 1."""
    best = posterior.topk(min(2, posterior.shape[1]), 1).values
    return 1 - best[:, 0] + best[:, 1:].sum(1)


def _cover(
    x: Float[Tensor, "N D"], known: Float[Tensor, "S D"], weight: Float[Tensor, "N"], n: int
) -> tuple[list[int], list[int]]:
    """Rows chosen greedily, and the number of other rows that each covers better than all before."""
    if not len(x):
        return [], []
    # The only table of this size, in place: it is the largest thing here.
    distance, tenth = torch.empty(len(x), len(x)), torch.empty(len(x))
    for i in range(0, len(x), 512):
        distance[i : i + 512] = ops.squared_distance(x[None, i : i + 512], x[None])[0]
        tenth[i : i + 512] = distance[i : i + 512].kthvalue(min(NEIGHBOURS + 1, len(x)), dim=1).values
    reach = tenth.median().clamp_min(1e-12)
    similarity = distance.div_(-reach).exp_()
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
        # Within reach: s > 1 / e. The image itself does not count.
        n_covered.append(int(((similarity[i] > best) & (similarity[i] > math.exp(-1))).sum()) - int(best[i] < 1))
        best = torch.maximum(best, similarity[i])
    return chosen, n_covered


def _gains(
    similarity: Float[Tensor, "N N"], best: Float[Tensor, "N"], weight: Float[Tensor, "N"]
) -> Float[Tensor, "N"]:
    """Gains sum_j weight_j max(0, s_ij - best_j) for every i, in blocks that stay in the processor's cache."""
    gains = [(similarity[i : i + 512] - best).clamp_min_(0) @ weight for i in range(0, len(best), 512)]
    return torch.cat(gains)


def _why(posterior: Float[Tensor, "K"], resembling: int, names: Sequence[str]) -> str:
    """Phrase with the doubt about an image and the number of others that its label speaks for."""
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
