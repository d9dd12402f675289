"""Hartford et al., ICML 2018, one entry of the table at a time; columns are weighted means, rows weighted sums."""

import math

import numpy as np
from torch import nn

from onelook.methods.exchangeable import ExchangeableLayer, ExchangeableNetwork

Table = list[list[np.ndarray]]
"""A vector for each query and class."""


def linear(layer: nn.Linear, x: np.ndarray) -> np.ndarray:
    y = layer.weight.detach().numpy() @ x
    return y if layer.bias is None else y + layer.bias.detach().numpy()


def gelu(x: np.ndarray) -> np.ndarray:
    return np.array([a * (1 + math.erf(a / math.sqrt(2))) / 2 for a in x.tolist()])


def layer_outputs(layer: ExchangeableLayer, x: Table, share: np.ndarray) -> Table:
    """share: how far each query belongs to each class (Q, K)."""
    n_query, n_way = share.shape
    row = [sum(share[i, k] * x[i][k] for k in range(n_way)) for i in range(n_query)]
    column = [
        sum(share[i, k] * x[i][k] for i in range(n_query)) / (sum(share[i, k] for i in range(n_query)) + 1e-3)
        for k in range(n_way)
    ]
    task = sum(column) / n_way
    return [
        [
            linear(layer.entry, x[i][k])
            + linear(layer.of_query, row[i])
            + linear(layer.of_class, column[k])
            + linear(layer.of_task, task)
            for k in range(n_way)
        ]
        for i in range(n_query)
    ]


def outputs(
    network: ExchangeableNetwork,
    entries: Table,
    queries: list[np.ndarray],
    classes: list[np.ndarray],
    task: np.ndarray,
    share: np.ndarray,
) -> np.ndarray:
    """Of one task, (Q, K, outputs)."""
    n_query, n_way = share.shape
    x = [
        [
            gelu(
                linear(network.entry, entries[i][k])
                + linear(network.of_query, queries[i])
                + linear(network.of_class, classes[k])
                + linear(network.of_task, task)
            )
            for k in range(n_way)
        ]
        for i in range(n_query)
    ]
    for layer in network.layers:
        more = layer_outputs(layer, x, share)  # type: ignore[arg-type]
        x = [[x[i][k] + gelu(more[i][k]) for k in range(n_way)] for i in range(n_query)]
    return np.array([[linear(network.out, x[i][k]) for k in range(n_way)] for i in range(n_query)])
