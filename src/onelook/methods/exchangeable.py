"""Networks over a table of queries and classes that do not care in which order either stands.

Jason Hartford, Devon Graham, Kevin Leyton-Brown, Siamak Ravanbakhsh. Deep Models of Interactions Across Sets.
ICML 2018, arXiv:1803.02879. Each layer sees of an entry itself and the means over its column, its row and the table;
here the means are weighted by how far a query belongs to a class, so that with a hundred classes a column's mean is
still that of its members.
"""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from onelook import ops

BLOCK = 2**16
"""Entries that are computed at once where no gradient is wanted."""


class ExchangeableLayer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.entry = nn.Linear(width, width)
        self.of_query = nn.Linear(width, width, bias=False)
        self.of_class = nn.Linear(width, width, bias=False)
        self.of_task = nn.Linear(width, width, bias=False)

    def forward(
        self, x: Float[Tensor, "T Q K H"], posterior: Float[Tensor, "T Q K"], column_weight: Float[Tensor, "T Q K"]
    ) -> Float[Tensor, "T Q K H"]:
        return self.shifted(x, posterior, self.shift(x, column_weight).unsqueeze(1))

    def shift(self, x: Float[Tensor, "T Q K H"], column_weight: Float[Tensor, "T Q K"]) -> Float[Tensor, "T K H"]:
        """Sum that the columns and the table add to each entry."""
        column_TKH = torch.einsum("tqk,tqkh->tkh", column_weight, x)
        shift: Tensor = self.of_class(column_TKH) + self.of_task(column_TKH.mean(1, keepdim=True))
        return shift

    def shifted(
        self, x: Float[Tensor, "T Q K H"], posterior: Float[Tensor, "T Q K"], shift: Float[Tensor, "T q K H"]
    ) -> Float[Tensor, "T Q K H"]:
        """The layer where that is known."""
        row_TQ1H = posterior.unsqueeze(2) @ x
        # In place: with thousands of queries and a hundred classes, another copy costs more than the sum.
        return _add_to_entries(self.entry, x, self.of_query(row_TQ1H), shift)


class ExchangeableNetwork(nn.Module):
    """Maps statistics of entries, queries, classes and the task to `n_out` numbers an entry, at first all zero."""

    def __init__(
        self, n_entry: int, n_query: int, n_class: int, n_task: int, width: int, n_layers: int, n_out: int
    ) -> None:
        super().__init__()
        self.entry = nn.Linear(n_entry, width)
        self.of_query = nn.Linear(n_query, width, bias=False)
        self.of_class = nn.Linear(n_class, width, bias=False)
        self.of_task = nn.Linear(n_task, width, bias=False)
        self.layers = nn.ModuleList(ExchangeableLayer(width) for _ in range(n_layers))
        self.out = nn.Linear(width, n_out)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self,
        entries: Float[Tensor, "T Q K E"],
        queries: Float[Tensor, "T Q R"],
        classes: Float[Tensor, "T K C"],
        task: Float[Tensor, "T G"],
        posterior: Float[Tensor, "T Q K"],
    ) -> Float[Tensor, "T Q K O"]:
        """posterior: how far each query belongs to each class; rows add up to 1."""
        return self.trace(entries, queries, classes, task, posterior)[0]

    def trace(
        self,
        entries: Float[Tensor, "T Q K E"],
        queries: Float[Tensor, "T Q R"],
        classes: Float[Tensor, "T K C"],
        task: Float[Tensor, "T G"],
        posterior: Float[Tensor, "T Q K"],
    ) -> tuple[Float[Tensor, "T Q K O"], list[Float[Tensor, "T K H"]]]:
        """The answer, and what the classes and the task add to each entry in each layer."""
        column_weight = posterior / (posterior.sum(1, keepdim=True) + 1e-3)
        shifts = [self.of_class(classes) + self.of_task(task).unsqueeze(1)]
        is_trained = torch.is_grad_enabled() and (entries.requires_grad or self.out.weight.requires_grad)
        blocks = None if is_trained else _blocks(posterior)
        x = _compute(lambda part: self._begin(entries[:, part], queries[:, part], shifts[0].unsqueeze(1)), blocks)
        for layer in self._exchanging():
            shifts.append(layer.shift(x, column_weight))
            x = _compute(partial(_exchange, layer, x, posterior, shifts[-1].unsqueeze(1)), blocks, x)
        return _compute(lambda part: self.out(x[:, part]), blocks), shifts

    def follow(
        self,
        entries: Float[Tensor, "T Q K E"],
        queries: Float[Tensor, "T Q R"],
        posterior: Float[Tensor, "T Q K"],
        shifts: list[Float[Tensor, "T q K H"]],
    ) -> Float[Tensor, "T Q K O"]:
        """The answer for queries that take no part in the columns, whose shifts `trace` has found."""
        x = self._begin(entries, queries, shifts[0])
        for layer, shift in zip(self._exchanging(), shifts[1:], strict=True):
            x = _exchange(layer, x, posterior, shift, slice(None))
        return self.out(x)  # type: ignore[no-any-return]

    def _exchanging(self) -> "list[ExchangeableLayer]":
        return [layer for layer in self.layers if isinstance(layer, ExchangeableLayer)]

    def _begin(self, entries: Tensor, queries: Tensor, shift: Float[Tensor, "T q K H"]) -> Float[Tensor, "T Q K H"]:
        return functional.gelu(_add_to_entries(self.entry, entries, self.of_query(queries).unsqueeze(2), shift))


def _exchange(layer: ExchangeableLayer, x: Tensor, posterior: Tensor, shift: Tensor, part: slice) -> Tensor:
    return functional.gelu(layer.shifted(x[:, part], posterior[:, part], shift)).add_(x[:, part])


def _blocks(posterior: Float[Tensor, "T Q K"]) -> list[slice] | None:
    """Blocks of queries; None: all are few enough."""
    n_tasks, n_query, n_way = posterior.shape
    size = max(BLOCK // (n_tasks * n_way), 1)
    return list(ops.blocks(n_query, size)) if n_query > 2 * size else None


def _compute(
    make: Callable[[slice], Tensor], blocks: list[slice] | None, onto: Tensor | None = None
) -> Float[Tensor, "T Q K H"]:
    """Make a table of all queries, in blocks whose tables stay small, onto one that is not needed any more."""
    if blocks is None:
        return make(slice(None))
    for part in blocks:
        made = make(part)
        if onto is None:
            onto = made.new_empty(len(made), blocks[-1].stop, *made.shape[2:])
        onto[:, part] = made
    assert onto is not None
    return onto


def _add_to_entries(
    layer: nn.Linear, x: Float[Tensor, "T Q K E"], of_query: Float[Tensor, "T Q 1 H"], shift: Float[Tensor, "T q K H"]
) -> Float[Tensor, "T Q K H"]:
    """A layer of the entries, with what queries and classes add; its bias goes with the smaller of these tables."""
    return functional.linear(x, layer.weight).add_(of_query + layer.bias).add_(shift)
