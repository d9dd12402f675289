"""The guard: whether unlabelled queries help a task, judged from its support and its queries.

The labels of the queries are not known, so the evidence is indirect:
* *stability*: a method that has found the classes gives a query nearly the same posterior when it sees only half of the
  other queries; one that was misled by chance does not. Judged by every other query, since the others say the same
  (docs/log.md);
* *recognition*: where a class has more than one labelled example, each must be nearer to its own class than to the
  others when it is left out of the mean (leave-one-out); if the classes that were moved by the queries do worse at this
  than the inductive ones, the queries have misled them.

From these comes a trust between 0 and 1, and the answer is the mixture of both posteriors. A single query is no
evidence. More than MOST_CLASSES classes are more than the method was trained to tell apart; it can where half of the
labelled examples are recognised, each left out, and loses where they are not (docs/log.md). In both cases the answer
is exactly the inductive one. Of so many classes more stability is asked: with the few anchors a class that a large pool
of a thousand classes has, answers were stable to 0.73 and worse than the inductive ones, while of up to 400 classes
real queries were never below 0.8. Thresholds were chosen on validation tasks and made-up pools (docs/log.md).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from onelook import ops
from onelook.methods.leave_one_out import find_company
from onelook.tasks import Tasks

MOST_CLASSES = 100
"""Classes above which half of the labelled examples have to be recognised."""
FEW, MANY = (0.4, 0.6), (0.75, 0.8)
"""Stabilities up to which the trust is 0, and from which it is 1, for up to MOST_CLASSES classes and for more; in
between it is linear."""
NEAR = 1e-6
"""A trust this near to 0 or to 1 is rounded to it."""

Answer = Callable[[Tasks], Float[Tensor, "T Q K"]]
Count = tuple[Int[Tensor, "T"], Int[Tensor, "T"]]
"""How many labelled examples have others of their class, and how many are recognised by these."""


@dataclass(frozen=True)
class Verdict:
    """Judgement of the guard about each task."""

    trust: Float[Tensor, "T"]
    """Fraction of the transductive posterior in the answer."""
    stability: Float[Tensor, "T"]
    """Overlap of the posteriors of half of the queries with all of them and without the other half, 0 … 1."""
    agreement: Float[Tensor, "T"]
    """Fraction of queries that the inductive method puts into the same class."""
    recognition: Float[Tensor, "T"]
    """Fraction of labelled examples that the moved classes recognise by leave-one-out, less that of the inductive ones;
    NaN where no class has two."""

    def to(self, device: torch.device | str) -> "Verdict":
        """The verdict on another device."""
        return Verdict(*(one.to(device) for one in vars(self).values()))

    def messages(self) -> list[str]:
        """A sentence for each task: whether its unlabelled queries were used, and why."""
        return [_message(*numbers) for numbers in zip(*(one.tolist() for one in vars(self).values()), strict=True)]


def apply_guard(
    transductive: Answer, inductive: Answer, tasks: Tasks, recognise: Callable[[Tasks], Count]
) -> tuple[Float[Tensor, "T Q K"], Verdict]:
    """Logits of the mixture that the evidence supports, and the verdict behind it.

    recognise: counts the labelled examples that the inductive method recognises, each left out.
    """
    tasks = tasks.without_query_labels()
    hopeless, alone = settle(tasks, tasks.query.shape[1], recognise)
    if hopeless.all():
        return inductive(tasks), alone
    logits, verdict = weigh(transductive, inductive, tasks)
    if hopeless.any():
        logits = torch.where(hopeless.view(-1, 1, 1), inductive(tasks), logits)
        pairs = zip(vars(alone).values(), vars(verdict).values(), strict=True)
        verdict = Verdict(*(torch.where(hopeless, of_none, found) for of_none, found in pairs))
    return logits, verdict


def weigh(transductive: Answer, inductive: Answer, tasks: Tasks) -> tuple[Float[Tensor, "T Q K"], Verdict]:
    """Logits and verdict of `apply_guard` for tasks that are not settled."""
    together, single = transductive(tasks), inductive(tasks)
    p, q = together.softmax(-1), single.softmax(-1)
    half = _every_other(tasks)
    of_half = transductive(replace(tasks, query=tasks.query.gather(1, _like(half, tasks.query)))).softmax(-1)
    stability = torch.minimum(p.gather(1, _like(half, p)), of_half).sum(-1).mean(1)
    n, recognised = _recognise(tasks, torch.zeros_like(p))
    lost = recognised - _recognise(tasks, p)[1]
    recognition = (-lost).to(p.dtype) / n  # 0 / 0 is NaN, as documented
    unstable, stable = FEW if tasks.n_way <= MOST_CLASSES else MANY
    trust = (stability - unstable) / (stable - unstable)
    # The stability of certain answers is a ratio of counts and can be a threshold itself: rounding decides nothing.
    trust = torch.where(trust < NEAR, 0.0, torch.where(trust > 1 - NEAR, 1.0, trust))
    # More than two standard errors of a difference of counts, were each of the n examples a coin of its own:
    # 2 (n / 4 + n / 4)^1/2. In whole numbers, so that rounding decides nothing.
    misled = (lost > 0) & (lost.square() > 2 * n)
    trust = torch.where(misled, torch.zeros_like(trust), trust)
    agreement = (together.argmax(-1) == single.argmax(-1)).to(p.dtype).mean(1)
    weight = trust.view(-1, 1, 1)
    # Where the trust is 0 or 1 the logits themselves are the answer: a mixture has lost the smallest of them.
    mixed = (weight * p + (1 - weight) * q).clamp_min(torch.finfo(p.dtype).tiny).log()
    logits = torch.where(weight == 1, together, torch.where(weight == 0, single, mixed))
    return logits, Verdict(trust, stability, agreement, recognition)


def settle(tasks: Tasks, n_query: int, recognise: Callable[[Tasks], Count]) -> tuple[Bool[Tensor, "T"], Verdict]:
    """Tasks whose queries are not used, whatever they are, and the verdict on these. The queries are not read."""
    one, is_single = tasks.support.new_ones(len(tasks)), n_query == 1
    is_lost = one < 0
    if tasks.n_way > MOST_CLASSES:
        n, recognised = recognise(tasks)
        is_lost = (n == 0) | (2 * recognised < n)
    return is_lost | is_single, Verdict(0 * one, is_single * one, one, one * torch.nan)


def _every_other(tasks: Tasks) -> Int[Tensor, "T q"]:
    """Numbers of half of the queries, in an order that these themselves decide."""
    query = ops.normalise(tasks.query)
    centre = ops.class_means(ops.normalise(tasks.support), tasks.support_labels, tasks.n_way).mean(1, keepdim=True)
    return (query * centre).sum(-1).argsort(1)[:, ::2]


def _like(index: Int[Tensor, "T q"], x: Float[Tensor, "T Q D"]) -> Int[Tensor, "T q D"]:
    return index.unsqueeze(-1).expand(-1, -1, x.shape[-1])


def _recognise(tasks: Tasks, posterior: Float[Tensor, "T Q K"]) -> Count:
    """Examples count as recognised that are nearest to the mean of their class without them."""
    support, query = ops.normalise(tasks.support), ops.normalise(tasks.query)
    hot = ops.one_hot(tasks.support_labels, tasks.n_way, support.dtype)
    weights = ops.soft_class_means(support, tasks.support_labels, query, posterior)
    count = hot @ (hot.sum(1) + posterior.sum(1)).unsqueeze(-1)
    without = (count * (hot @ weights) - support) / (count - 1).clamp_min(0.5)
    own = (support - without).square().sum(-1, keepdim=True)
    distance = torch.where(hot > 0, own, ops.squared_distance(support, weights))
    tested = find_company(hot)
    return tested.sum(1), (tested & (distance.argmin(-1) == tasks.support_labels)).sum(1)


def _message(trust: float, stability: float, agreement: float, recognition: float) -> str:
    overlap = f"{100 * stability:.0f} % when half of them are held out"
    if trust == 1:
        changed = f"{100 * (1 - agreement):.0f} % of the answers changed"
        return f"The unlabelled images were used: predictions overlap by {overlap}, and {changed}."
    if trust > 0:
        return f"The unlabelled images were used in part: predictions overlap by only {overlap}."
    if stability == 1 and agreement == 1 and recognition != recognition:
        return "There is a single unlabelled image, so it was judged by the labelled examples alone."
    if stability == 0 and agreement == 1 and recognition != recognition:
        few = f"There are more than {MOST_CLASSES} classes, and of the examples fewer than half resemble their class"
        return f"{few}, so each image was judged by the labelled examples alone."
    # So stable, only the labelled examples can have decided; between the thresholds of FEW and MANY either can have.
    is_stable = stability > MANY[0]
    if is_stable or (stability > FEW[0] and -100 * recognition >= 1):
        fewer = f"{-100 * recognition:.0f} % fewer of the labelled examples are classified correctly"
        unsure = "" if is_stable else f", and predictions overlap by {overlap}"
        return f"The unlabelled images were not used: with them {fewer}{unsure}."
    return f"The unlabelled images were not used: predictions overlap by only {overlap}."
