"""iLPC: iterative label cleaning over a graph of nearest neighbours.

Michalis Lazarou, Tania Stathaki, Yannis Avrithis. Iterative Label Cleaning for Transductive and Semi-Supervised
Few-Shot Learning. ICCV 2021, arXiv:2012.07962.

The roots of the features are scaled to length 1, centred on the mean of the task and scaled to length 1 again. Support
and queries are linked to their nearest neighbours by W_ij = max(cosine, 0)^3, made symmetric and normalised to
S = D^(-1/2) W D^(-1/2). Then round after round, until no query is left:

1. Labels are propagated, (I - alpha S)^-1 Y, cut off at 0, divided by the sum of each query and raised to a power.
2. Where the classes are known to be balanced, Sinkhorn steps bring the columns to the number of queries that each class
   has left. The greatest entry is the label of a query for this round.
3. A linear classifier, which begins with the class means, descends the cross-entropy of these labels and those of the
   support. A query with a wrong label is learned late, so the mean of its loss over the steps is high. The three of
   the least loss in each class move to the support, with their labels.

The logit of a query is the logarithm of its row of step 2 in the round in which it moved.

Departures from the paper, and what is as in its code only:
* the classifier is not held as weights but as its scores of all rows, which the products of the rows are enough to
  update: the same numbers for fewer products, less the code's random first bias. It takes 100 steps of length 1 where
  the paper takes 1000 of 0.1, which goes as far along the same way in an eighth of the time; accuracies on validation
  classes differ by less than their intervals;
* the graph does not change as queries move to the support, so it is made and its system inverted once;
* a round that moves fewer queries than there are classes is the last: those that are left keep their labels of it (as
  in the code);
* a transport plan is a fixed number of Sinkhorn steps. A class that got more queries than its part has none left.
"""

from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from onelook import ops
from onelook.errors import Bound, PositiveFloat, PositiveInt
from onelook.methods.preprocessing import PreprocessedMethod, Transform
from onelook.tasks import Tasks

_FLOOR = 1e-6
"""Floor of a degree, an entry before its logarithm and the mass of a class, so that none is zero."""
_MOMENTUM, _DECAY = 0.9, 5e-4


class ILPC(PreprocessedMethod):
    """Label propagation that moves the cleanest queries to the support, round after round.

    >>> ILPC(feature_size=64)(Tasks.random(n_tasks=2, n_way=5)).shape
    torch.Size([2, 15, 5])
    """

    transductive = assumes_balanced_queries = True
    balanced: bool = True
    """Whether all classes are given as many queries."""
    n_neighbours: PositiveInt = 20
    """k, the edges that each row chooses."""
    alpha: Annotated[float, Bound(">", 0), Bound("<", 1)] = 0.8
    """Fraction of a row's score that comes from its neighbours and not from its own label."""
    power: PositiveFloat = 3.0
    """Exponent of the propagated scores, before they are balanced."""
    n_moved: PositiveInt = 3
    """Queries of each class that move to the support in a round."""
    n_steps: PositiveInt = 100
    """Steps of the classifier."""
    step_size: PositiveFloat = 1.0
    n_sinkhorn: PositiveInt = 20
    """Scalings of a transport plan."""
    transform: Transform = "root"
    """Transform before the features are centred on the mean of the task."""

    def forward(self, tasks: Tasks) -> Float[Tensor, "T Q K"]:
        tasks = self.preprocess(tasks)
        n_support, n_way = tasks.support.shape[1], tasks.n_way
        rows = torch.cat([tasks.support, tasks.query], 1)
        rows = ops.normalise(rows - rows.mean(1, keepdim=True))
        gram_TRR = rows @ rows.mT
        inverse_TRR = self.propagation(gram_TRR)
        support_TSK = ops.one_hot(tasks.support_labels, n_way, rows.dtype)
        left_TQ = torch.ones(tasks.query.shape[:2], dtype=torch.bool, device=rows.device)
        labels_TQ = torch.zeros_like(left_TQ, dtype=torch.long)
        answer_TQK = rows.new_zeros(*left_TQ.shape, n_way)
        while bool(left_TQ.any()):
            own_TQK = ops.one_hot(labels_TQ, n_way, rows.dtype) * ~left_TQ.unsqueeze(-1)
            spread_TRK = inverse_TRR @ torch.cat([support_TSK, own_TQK], 1)
            log_p_TQK = self.balance(spread_TRK[:, n_support:], own_TQK.sum(1), left_TQ)
            answer_TQK = torch.where(left_TQ.unsqueeze(-1), log_p_TQK, answer_TQK)
            labels_TQ = answer_TQK.argmax(-1)
            target_TQK = ops.one_hot(labels_TQ, n_way, rows.dtype)
            loss_TR = self.losses(
                gram_TRR, torch.cat([support_TSK, own_TQK], 1), torch.cat([support_TSK, target_TQK], 1)
            )
            moved_TQ = self.cleanest(loss_TR[:, n_support:], labels_TQ, left_TQ)
            last_T1 = moved_TQ.sum(1, keepdim=True) < n_way
            left_TQ = left_TQ & ~moved_TQ & ~last_T1
        return answer_TQK

    def propagation(self, gram: Float[Tensor, "T R R"]) -> Float[Tensor, "T R R"]:
        """(I - alpha S)^-1."""
        chosen_TRR = ops.nearest_others(gram, min(self.n_neighbours, gram.shape[1] - 1))
        edge_TRR = torch.where(chosen_TRR, gram.clamp_min(0) ** 3, 0.0)
        weight_TRR = edge_TRR + edge_TRR.mT
        root_TR = weight_TRR.sum(-1).clamp_min(_FLOOR).sqrt()
        graph_TRR = weight_TRR / (root_TR.unsqueeze(2) * root_TR.unsqueeze(1))
        identity = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
        inverse: Tensor = torch.linalg.inv(identity - self.alpha * graph_TRR)
        return inverse

    def balance(
        self, spread: Float[Tensor, "T Q K"], taken: Float[Tensor, "T K"], left: Bool[Tensor, "T Q"]
    ) -> Float[Tensor, "T Q K"]:
        """Step 2: the logarithms, of which only the rows that are left mean anything."""
        log_p = self.power * functional.normalize(spread.clamp_min(0), p=1.0, dim=-1).add(_FLOOR).log()
        if not self.balanced:
            return log_p.log_softmax(-1)
        mass_TK = (ops.balanced_mass(spread) - taken).clamp_min(_FLOOR)
        return ops.sinkhorn(log_p, mass_TK, self.n_sinkhorn, left)

    @torch.no_grad()
    def losses(
        self, gram: Float[Tensor, "T R R"], known: Float[Tensor, "T R K"], target: Float[Tensor, "T R K"]
    ) -> Float[Tensor, "T R"]:
        """Step 3: of each row, the cross-entropy of its target, in the mean of the classifier's path.

        known: the support as it stands, whose class means the classifier begins with.

        Stochastic gradient descent with momentum moves weights and biases along X^T g, 1^T g, so that the scores move
        along (X X^T + 1) g, the scores of the decay of the weights being the scores themselves.
        """
        kernel_TRR = (gram + 1) / gram.shape[1]
        # <x, m_k> / |m_k| for the sum m_k of the rows of class k: a mean of length 1 is a sum of length 1.
        along_TRK = gram @ known
        length_T1K = (known * along_TRK).sum(1, keepdim=True).clamp_min(_FLOOR).sqrt()
        score_TRK = along_TRK / length_T1K
        speed_TRK = torch.zeros_like(score_TRK)
        total_TR = torch.zeros_like(score_TRK[..., 0])
        for _ in range(self.n_steps):
            log_p_TRK = score_TRK.log_softmax(-1)
            total_TR = total_TR - (log_p_TRK * target).sum(-1)
            pull_TRK = kernel_TRR @ (log_p_TRK.exp() - target)
            speed_TRK = _MOMENTUM * speed_TRK + pull_TRK + _DECAY * score_TRK
            score_TRK = score_TRK - self.step_size * speed_TRK
        return total_TR / self.n_steps

    def cleanest(
        self, loss: Float[Tensor, "T Q"], labels: Int[Tensor, "T Q"], left: Bool[Tensor, "T Q"]
    ) -> Bool[Tensor, "T Q"]:
        """The queries of the least loss among those that are left with the same label."""
        rivals_TQQ = (labels.unsqueeze(2) == labels.unsqueeze(1)) & left.unsqueeze(1)
        better_TQ = (rivals_TQQ & (loss.unsqueeze(1) < loss.unsqueeze(2))).sum(2)
        return left & (better_TQ < self.n_moved)
