"""SNAIL: a task read as a sequence, by causal attention and causal convolution in turn.

Nikhil Mishra, Mostafa Rohaninejad, Xi Chen, Pieter Abbeel. A Simple Neural Attentive Meta-Learner. ICLR 2018,
arXiv:1707.03141.

The sequence holds the support rows, each a feature beside its one-hot label, and at its end one query without a label.
A block of dilated convolutions (TC) lets each position see further back the more layers it has, a block of attention
lets it look at any position before it; the features that a block finds are set beside those it was given (section 3,
figure 2). Attention, TC, attention, TC, attention and a linear map give the K logits at the query's position. This is
an inductive method for a fixed number of classes, and the order in which the support is read matters.

Nothing in the sequence depends on what comes after it, so the support's part is the same for all queries of a task: it
is computed once, and each query adds a single position.

Departures from the paper:
* the sizes are given by `filters`, and those of the attention blocks keep the paper's ratios to it. The paper's value
  is 128; the default of 32 takes a tenth of a second for a step on a processor, for 8 tasks with 5 classes, 5 shots
  and 75 queries;
* features are normalised over each row first, because the lengths of those of a finished network mean little;
* the number of layers of a TC block is set by `max_support` and not by the task, so that one set of weights reads
  tasks of any size; beyond that many rows, only attention reaches back;
* dilations begin at 1, so that each row sees the one before it; the paper's pseudocode begins at 2;
* the keys have no bias, which the softmax would take away.
"""

import math
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from onelook import ops
from onelook.errors import Bound, PositiveInt, TwoOrMore
from onelook.methods.base import Method
from onelook.tasks import Tasks


class SNAIL(Method):
    """A task read as a sequence by attention and causal convolution.

    >>> SNAIL(feature_size=64)(Tasks.random(n_tasks=2, n_way=5)).shape
    torch.Size([2, 15, 5])
    """

    ordered_support = True
    feature_size: PositiveInt
    n_way: TwoOrMore = 5
    filters: Annotated[int, Bound(">=", 4)] = 32
    """New features of each convolution."""
    max_support: PositiveInt = 25
    """Support rows that the convolutions of a block reach back to from the query."""

    def __post_init__(self) -> None:
        super().__post_init__()
        size = self.feature_size + self.n_way
        blocks: list[Block] = []
        for attention in (self.filters // 4, self.filters, 2 * self.filters):
            if blocks:
                blocks.append(TemporalBlock(size, self.filters, self.max_support + 1))
                size = blocks[-1].size
            blocks.append(AttentionBlock(size, 2 * attention, attention))
            size = blocks[-1].size
        self.blocks = nn.ModuleList(blocks)
        self.to_logits = nn.Linear(size, self.n_way)

    def forward(self, tasks: Tasks) -> Float[Tensor, "T Q K"]:
        self.require_n_way(tasks)
        support, query = (functional.layer_norm(x, x.shape[-1:]) for x in (tasks.support, tasks.query))
        support = torch.cat([support, ops.one_hot(tasks.support_labels, tasks.n_way, support.dtype)], -1)
        query = functional.pad(query, (0, tasks.n_way))
        for block in self.blocks:
            support, query = block(support, query)
        return self.to_logits(query)  # type: ignore[no-any-return]


Rows = tuple[Float[Tensor, "T S E"], Float[Tensor, "T Q E"]]
"""Support and queries, with new features."""


class Block(nn.Module):
    """A map from T sequences of S rows, and Q rows each of which may come last, to the same with more features.

    Row i of the support sees rows 0 … i of it, a query sees the whole support and itself.
    """

    size: int
    """Features of its output."""

    def forward(self, support: Float[Tensor, "T S C"], query: Float[Tensor, "T Q C"]) -> Rows:
        raise NotImplementedError


class AttentionBlock(Block):
    """One head of scaled dot products (figure 2b); what is read is set beside the input."""

    def __init__(self, size: int, key_size: int, value_size: int) -> None:
        super().__init__()
        self.size = size + value_size
        self.key_size = key_size
        self.to_query = nn.Linear(size, key_size)
        self.to_key = nn.Linear(size, key_size, bias=False)
        self.to_value = nn.Linear(size, value_size)

    def forward(self, support: Float[Tensor, "T S C"], query: Float[Tensor, "T Q C"]) -> Rows:
        n_support = support.shape[1]
        rows = torch.cat([support, query], 1)
        asked, key, value = self.to_query(rows) / math.sqrt(self.key_size), self.to_key(rows), self.to_value(rows)
        logits_TRS = asked @ key[:, :n_support].mT
        later = torch.ones(n_support, n_support, dtype=torch.bool, device=rows.device).triu(1)
        weight_TSS = logits_TRS[:, :n_support].masked_fill(later, -math.inf).softmax(-1)
        of_itself_TQ1 = (asked * key)[:, n_support:].sum(-1, keepdim=True)
        weight_TQs = torch.cat([logits_TRS[:, n_support:], of_itself_TQ1], -1).softmax(-1)
        of_support, of_query = value[:, :n_support], value[:, n_support:]
        read = weight_TQs[..., :-1] @ of_support + weight_TQs[..., -1:] * of_query
        return torch.cat([support, weight_TSS @ of_support], -1), torch.cat([query, read], -1)


class TemporalBlock(Block):
    """Dense blocks of dilation 1, 2, 4, … (figure 2a), enough of them to reach back over `length` rows."""

    def __init__(self, size: int, filters: int, length: int) -> None:
        super().__init__()
        n_layers = (length - 1).bit_length()  # ceil(log2(length))
        self.layers = nn.ModuleList([DenseBlock(size + i * filters, filters, 2**i) for i in range(n_layers)])
        self.size = size + n_layers * filters

    def forward(self, support: Float[Tensor, "T S C"], query: Float[Tensor, "T Q C"]) -> Rows:
        for layer in self.layers:
            support, query = layer(support, query)
        return support, query


class DenseBlock(Block):
    """A causal convolution of two taps with a gate; what it finds is set beside the input.

    Before the first row the sequence is zero.
    """

    def __init__(self, size: int, filters: int, dilation: int) -> None:
        super().__init__()
        self.size = size + filters
        self.dilation = dilation
        self.taps = nn.Linear(2 * size, 2 * filters)
        """Maps the row `dilation` back and the row itself to the features and their gates."""

    def forward(self, support: Float[Tensor, "T S C"], query: Float[Tensor, "T Q C"]) -> Rows:
        n_support, size = support.shape[1:]
        weight: Tensor = self.taps.weight
        # One row for each position of the sequence, of which the last is that of every query.
        back = functional.pad(support @ weight[:, :size].mT, (0, 0, self.dilation, 0))[:, : n_support + 1]
        here = functional.linear(torch.cat([support, query], 1), weight[:, size:], self.taps.bias)
        mixed = here + torch.cat([back[:, :-1], back[:, -1:].expand(-1, query.shape[1], -1)], 1)
        found, gate = mixed.chunk(2, -1)
        new = found.tanh() * gate.sigmoid()
        return torch.cat([support, new[:, :n_support]], -1), torch.cat([query, new[:, n_support:]], -1)
