"""GNN: a graph network passes the labels of the support to one query.

Victor Garcia, Joan Bruna. Few-Shot Learning with Graph Neural Networks. ICLR 2018, arXiv:1711.04043.

Each query makes a graph of its own, complete, with the S support rows and the query as nodes: a support node holds its
feature beside its one-hot label, the query node its feature beside the uniform distribution (equation 5). In each
layer a small network gives every pair the weight phi(|x_i - x_j|), a softmax over the other nodes makes a row of the
adjacency A of it (equations 3 and 4), and the graph convolution x theta_I + A x theta_A gives new features
(equation 2), which are set beside the old ones. That of the last layer gives the K logits of the query node. This is
an inductive method for a fixed number of classes.

All graphs of a task are computed together, and what two support nodes are to one another before they have heard of a
query is computed once: the first linear map of phi is a sum over the blocks of features that the layers have added,
and only the newer blocks differ between queries. The last layer needs the query's row of A alone.

Departures from the paper:
* layer normalisation over each row in the place of batch normalisation, so that no query hears of another, and none
  inside phi, where it would take away how far two nodes are apart;
* phi begins with the signs that make nearer nodes weigh more, so the first graphs already are those of neighbours;
  from random signs, hundreds of steps pass before anything is learned;
* features are normalised in the same way and mapped to `width` numbers first, because those of a finished network are
  many and their lengths mean little; phi has two hidden layers where the paper has four, and fewer units. With the
  defaults a step on a processor takes a quarter of a second, for 8 tasks with 5 classes, 5 shots and 75 queries;
* no dropout.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from onelook import ops
from onelook.errors import PositiveInt, TwoOrMore
from onelook.methods.base import Method
from onelook.tasks import Tasks

_SLOPE = 0.01  # of the leaky ReLU below zero


class GraphNetwork(Method):
    """A graph network over the support and one query.

    >>> GraphNetwork(feature_size=64)(Tasks.random(n_tasks=2, n_way=5)).shape
    torch.Size([2, 15, 5])
    """

    feature_size: PositiveInt
    n_way: TwoOrMore = 5
    n_layers: PositiveInt = 3
    """Graph convolutions, the last of which gives the logits."""
    width: PositiveInt = 64
    """Numbers that a feature is mapped to before the first layer."""
    hidden: PositiveInt = 32
    """New features of a node in each layer but the last."""
    edge_hidden: PositiveInt = 16
    """Units in the hidden layers of phi."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.projection = nn.Linear(self.feature_size, self.width)
        sizes = [[self.width + self.n_way] + [self.hidden] * layer for layer in range(self.n_layers)]
        self.edges = nn.ModuleList([EdgeNetwork(blocks, self.edge_hidden) for blocks in sizes])
        self.of_itself = nn.ModuleList([nn.Linear(sum(blocks), self.hidden) for blocks in sizes[:-1]])
        self.of_others = nn.ModuleList([nn.Linear(sum(blocks), self.hidden, bias=False) for blocks in sizes[:-1]])
        self.norms = nn.ModuleList([nn.LayerNorm(self.hidden) for _ in sizes[:-1]])
        self.to_logits = nn.Linear(2 * sum(sizes[-1]), self.n_way)

    def forward(self, tasks: Tasks) -> Float[Tensor, "T Q K"]:
        self.require_n_way(tasks)
        support, query = self._nodes(tasks)
        for layer in range(self.n_layers - 1):
            new_support, new_query = self._convolve(layer, support, query)
            support, query = [*support, new_support], [*query, new_query]
        logits_TQ1S = self.edges[-1](query, support)
        read = logits_TQ1S.softmax(-1) @ _join(support)
        return self.to_logits(torch.cat([_join(query), read], -1)).squeeze(2)  # type: ignore[no-any-return]

    def _nodes(self, tasks: Tasks) -> tuple[list[Tensor], list[Tensor]]:
        """The first block of the support (T,1,S,·), of all queries alike, and of the queries (T,Q,1,·)."""
        support, query = (self.projection(functional.layer_norm(x, x.shape[-1:])) for x in (tasks.support, tasks.query))
        hot = ops.one_hot(tasks.support_labels, tasks.n_way, support.dtype)
        uniform = torch.full_like(query[..., :1], 1 / tasks.n_way).expand(-1, -1, tasks.n_way)
        return [torch.cat([support, hot], -1).unsqueeze(1)], [torch.cat([query, uniform], -1).unsqueeze(2)]

    def _convolve(self, layer: int, support: list[Tensor], query: list[Tensor]) -> tuple[Tensor, Tensor]:
        """New features of the support (T,Q,S,hidden) and of the queries (T,Q,1,hidden)."""
        among_TqSS = self.edges[layer](support, support)
        to_query_TQ1S = self.edges[layer](query, support)
        itself = torch.eye(among_TqSS.shape[-1], dtype=torch.bool, device=among_TqSS.device)
        among_TqSS = among_TqSS.masked_fill(itself, -math.inf)
        among_TQSS = among_TqSS.expand(-1, to_query_TQ1S.shape[1], -1, -1)
        adjacency_TQSn = torch.cat([among_TQSS, to_query_TQ1S.mT], -1).softmax(-1)
        support_nodes, query_nodes = _join(support), _join(query)
        of_others: nn.Module = self.of_others[layer]
        from_support, from_query = of_others(support_nodes), of_others(query_nodes)
        to_support = adjacency_TQSn[..., :-1] @ from_support + adjacency_TQSn[..., -1:] * from_query
        to_query = to_query_TQ1S.softmax(-1) @ from_support
        return (
            functional.leaky_relu(self.norms[layer](self.of_itself[layer](support_nodes) + to_support), _SLOPE),
            functional.leaky_relu(self.norms[layer](self.of_itself[layer](query_nodes) + to_query), _SLOPE),
        )


class EdgeNetwork(nn.Module):
    """phi of |x_i - x_j|, where x is given in the blocks of features that the layers have added.

    Blocks of support nodes have 1 or Q in the place of the queries: what does not depend on them is broadcast after
    the first map. The last map has no bias, which the softmax would take away.
    """

    def __init__(self, blocks: list[int], hidden: int) -> None:
        super().__init__()
        self.blocks = blocks
        self.first = nn.Linear(sum(blocks), hidden)
        middle, last = nn.Linear(hidden, hidden), nn.Linear(hidden, 1, bias=False)
        self.rest = nn.Sequential(nn.LeakyReLU(_SLOPE), middle, nn.LeakyReLU(_SLOPE), last)
        with torch.no_grad():
            self.first.weight.abs_()
            middle.weight.abs_()
            last.weight.abs_().neg_()

    def forward(self, rows: list[Tensor], columns: list[Tensor]) -> Tensor:
        """Blocks (T, 1 or Q, i, ·) and (T, 1 or Q, j, ·) to a number for each pair, (T, 1 or Q, i, j)."""
        total: Tensor = self.first.bias
        for row, column, weight in zip(rows, columns, torch.split(self.first.weight, self.blocks, 1), strict=True):
            total = total + (row.unsqueeze(3) - column.unsqueeze(2)).abs() @ weight.T
        return self.rest(total).squeeze(-1)  # type: ignore[no-any-return]


def _join(blocks: list[Tensor]) -> Tensor:
    """The blocks in one tensor; those that do not depend on the query are repeated for each."""
    n_query = max(block.shape[1] for block in blocks)
    return torch.cat([block.expand(-1, n_query, -1, -1) for block in blocks], -1)
