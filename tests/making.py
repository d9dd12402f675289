"""Tasks and methods for tests: random, small, in float64."""

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from onelook import methods
from onelook.tasks import Tasks

N_CLASSES = 8
"""Training classes of the data set that random tasks are drawn from."""


def random_tasks(
    n_tasks: int = 3,
    shots: tuple[int, ...] = (1, 2, 3),
    n_query: int = 5,
    feature_size: int = 6,
    seed: int = 0,
    noise: float = 1.0,
) -> Tasks:
    """Tasks with shots[k] labelled examples of class k, rows in random order, around class centres of length near 1."""
    draw = torch.Generator().manual_seed(seed)
    n_way = len(shots)
    centres = torch.randn(n_tasks, n_way, feature_size, generator=draw, dtype=torch.float64) / feature_size**0.5

    def rows(labels: Tensor) -> Tensor:
        own = centres.gather(1, labels.unsqueeze(-1).expand(-1, -1, feature_size))
        return own + noise * torch.randn(own.shape, generator=draw, dtype=torch.float64) / feature_size**0.5

    ordered = torch.arange(n_way).repeat_interleave(torch.tensor(shots))
    support_labels = torch.stack([ordered[torch.randperm(len(ordered), generator=draw)] for _ in range(n_tasks)])
    query_labels = torch.randint(n_way, (n_tasks, n_query), generator=draw)
    classes = torch.stack([torch.randperm(N_CLASSES, generator=draw)[:n_way] for _ in range(n_tasks)])
    return Tasks(rows(support_labels), support_labels, rows(query_labels), n_way, query_labels, classes)


def training_classes(feature_size: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features (N, D) and labels (N) of all training classes, for `Method.prepare`."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(N_CLASSES).repeat_interleave(3)
    return torch.randn(len(labels), feature_size, generator=draw, dtype=torch.float64), labels


def tasks_of_any_shape(**fixed: Any) -> st.SearchStrategy[Tasks]:
    """Random tasks of random sizes, among them a single query and unequal shots."""
    shape = {
        "n_tasks": st.integers(1, 3),
        "shots": st.lists(st.integers(1, 3), min_size=2, max_size=4).map(tuple),
        "n_query": st.integers(1, 6),
        "feature_size": st.integers(2, 7),
        "seed": st.integers(0, 2**31),
    }
    return st.builds(random_tasks, **(shape | fixed))


def method_for(tasks: Tasks, name: str, seed: int | None = 0, **settings: Any) -> methods.Method:
    """The method in float64 for tasks of this size, the same one whenever it is asked for.

    Every parameter and buffer is moved off its initial value by `seed`, because ones and zeros hide errors (None:
    left as they are).
    """
    known = methods.parameters_of(name)
    given = {"feature_size": tasks.query.shape[-1], "n_way": tasks.n_way, "n_classes": N_CLASSES}
    sizes = {key: size for key, size in given.items() if key in known}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        method = methods.create(name, **(sizes | settings)).double()
    if seed is not None:
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for value in (*method.parameters(), *method.buffers()):
                value += 0.3 * torch.randn(value.shape, generator=draw, dtype=torch.float64)
    return method
