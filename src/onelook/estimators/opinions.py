"""The second opinion about unlabelled rows, half and half with Glance's, in blocks where they are many."""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from onelook import ops
from onelook.estimators import calibration
from onelook.estimators.pool import SAMPLE, Answers, Pool, blocks_of, evenly, softmax
from onelook.methods.second_opinion import Ridge, second_opinion


def hear_second_opinion(
    rows: Float[Tensor, "S D"], labels: Int[Tensor, "S"], pool: Pool, logits: Answers, class_priors: Float[Tensor, "K"]
) -> Answers:
    """Logits half-way between these and those of a linear classifier, once it is as confident."""
    if not pool.is_large:
        _, query = next(pool.blocks())
        opinion = second_opinion(rows.float(), labels, query.float(), softmax(logits.values).float()).double()
    else:
        opinion = _ask_in_blocks(rows.float(), labels, pool, logits)
    own = Answers(opinion, None, opinion.shape[1]).sample()
    factor = math.exp(calibration.match_log_scale(0.0, own, _mean_confidence(logits)))
    for part in blocks_of(len(opinion)):
        other = (opinion[part] * factor).softmax(1).clamp_min(1e-12).log()
        opinion[part] = (logits.values[part].log_softmax(1) + other) / 2
    both = Answers(opinion, logits.candidates, logits.n_way)
    return both if class_priors.isnan().any() else _transport(both, class_priors)


def _mean_confidence(logits: Answers) -> float:
    parts = blocks_of(len(logits))
    return sum(float(softmax(logits.values[part]).amax(1).double().sum()) for part in parts) / len(logits)


def _ask_in_blocks(rows: Tensor, labels: Tensor, pool: Pool, logits: Answers) -> Float[Tensor, "Q C"]:
    def read() -> Iterator[tuple[slice, Tensor, Tensor]]:
        for part, x in pool.blocks():
            yield part, x, logits.block(part, softmax)

    opinion = torch.empty_like(logits.values)
    for part, found in Ridge.fit(rows, labels, logits.n_way, read).judge(read):
        if logits.candidates is not None:
            found = found.gather(1, logits.candidates[part].long())
        opinion[part] = found
    return opinion


def _transport(logits: Answers, class_priors: Float[Tensor, "K"]) -> Answers:
    """Logits moved towards the given class priors, by the potentials that they need on a sample of many."""
    n, n_way = len(logits), logits.n_way
    some = evenly(n, SAMPLE) if n > SAMPLE else slice(None)
    values = logits.values[some].log_softmax(1).double()
    if logits.candidates is not None:
        values = values.new_full((len(values), n_way), -50.0).scatter(1, logits.candidates[some].long(), values)
    mass = len(values) * class_priors[None]
    plan = ops.relaxed_sinkhorn(values[None], mass, 20, stiffness=n / (n + n_way))[0]
    if n <= SAMPLE and logits.candidates is None:
        return Answers(plan, None, n_way)
    moved = (plan - values)[0].to(logits.values)
    for part in blocks_of(n):
        logits.values[part] += moved if logits.candidates is None else moved[logits.candidates[part].long()]
    return logits
