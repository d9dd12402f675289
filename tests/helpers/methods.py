"""Tasks and methods for tests: random, small, in float64; and the cases of the contract, at least one a method."""

from dataclasses import replace
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from onelook import methods
from onelook.backbones.base import Backbone, Film
from onelook.backbones.conv4 import Conv4
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
    balanced: bool = False,
) -> Tasks:
    """Tasks with shots[k] labelled examples of class k, rows in random order, around class centres of length near 1.

    balanced: whether all classes have as many queries.
    """
    draw = torch.Generator().manual_seed(seed)
    n_way = len(shots)
    centres = torch.randn(n_tasks, n_way, feature_size, generator=draw, dtype=torch.float64) / feature_size**0.5

    def rows(labels: Tensor) -> Tensor:
        own = centres.gather(1, labels.unsqueeze(-1).expand(-1, -1, feature_size))
        return own + noise * torch.randn(own.shape, generator=draw, dtype=torch.float64) / feature_size**0.5

    ordered = torch.arange(n_way).repeat_interleave(torch.tensor(shots))
    support_labels = torch.stack([ordered[torch.randperm(len(ordered), generator=draw)] for _ in range(n_tasks)])
    if balanced:
        query_labels = torch.stack([torch.randperm(n_query, generator=draw) % n_way for _ in range(n_tasks)])
    else:
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


def takes_images(name: str) -> bool:
    return "backbone" in methods.list_settings(name)


def suited(name: str, tasks: Tasks) -> Tasks:
    """The tasks as the method of that name takes them: of features, or of images that a fixed linear map makes."""
    return as_images(tasks) if takes_images(name) else tasks


def as_images(tasks: Tasks) -> Tasks:
    """Each feature is how much an image of the network's size holds of a pattern of its own, around a mean grey."""
    patterns = _patterns(tasks.query.shape[-1])

    def images(features: Tensor) -> Tensor:
        return (127.5 + features @ patterns).unflatten(-1, (3, 16, 16))

    return replace(tasks, support=images(tasks.support), query=images(tasks.query))


def _patterns(n: int) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    coarse = torch.randn(n, 3, 4, 4, generator=draw, dtype=torch.float64)
    return 74 * coarse.repeat_interleave(4, 2).repeat_interleave(4, 3).flatten(1)


class PatternReader(Backbone):
    """A network as good as a trained one: it gives back ten times the features that `as_images` drew."""

    def __init__(self, feature_size: int) -> None:
        super().__init__(3, 16, feature_size)
        self.film_sizes = (feature_size,)
        self.reader = nn.Linear(3 * 16 * 16, feature_size, bias=False)
        with torch.no_grad():
            self.reader.weight.copy_(10 * self.pixel_std.flatten()[0] * torch.linalg.pinv(_patterns(feature_size)).T)

    def features(self, pixels: Tensor, film: Film | None = None) -> Tensor:
        read: Tensor = self.reader(pixels.flatten(1))
        return read if film is None else read * film[0][0] + film[0][1]


def tiny_network() -> Backbone:
    """Always of the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Conv4(3, 16, widths=(4, 4, 4, 4))


def method_for(tasks: Tasks, name: str, seed: int | None = 0, **settings: Any) -> methods.Method:
    """The method in float64 for tasks of this size, the same one whenever it is asked for.

    Every parameter and buffer is moved off its initial value by `seed`, because ones and zeros hide errors (None:
    left as they are).
    """
    known = methods.list_settings(name)
    given = {"feature_size": tasks.query.shape[-1], "n_way": tasks.n_way, "n_classes": N_CLASSES}
    sizes: dict[str, Any] = {key: size for key, size in given.items() if key in known}
    if takes_images(name):
        sizes["backbone"] = tiny_network()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        method = methods.create(name, **(sizes | settings)).double()
    return method if seed is None else shaken(method, seed)


def shaken(method: methods.Method, seed: int) -> methods.Method:
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in (*method.parameters(), *method.buffers()):
            if value.is_floating_point():  # but not the counters of normalisation layers
                value += 0.3 * torch.randn(value.shape, generator=draw, dtype=torch.float64)
        for key, value in method.named_buffers():
            if key.endswith("running_var"):
                value.clamp_(min=0.2)
    return method


CASES: list[tuple[str, dict[str, Any]]] = [
    ("activations", {}),
    ("activations", {"hidden": 4}),
    ("bd-cspn", {}),
    ("bd-cspn", {"scale": 3.0, "transform": "none"}),
    ("bms", {"scale": 20.0, "n_steps": 5, "n_sinkhorn": 8}),
    ("bms", {"balanced": False, "n_steps": 5, "n_sinkhorn": 8}),
    ("bms", {"balanced": False, "scale": 4.0, "n_steps": 2, "n_sinkhorn": 3, "transform": "cl2n"}),
    ("alpha-tim", {"n_iterations": 8}),
    ("alpha-tim", {"n_iterations": 8, "alpha": 1.5, "marginal_weight": 0.5, "transform": "root", "start": "logistic"}),
    ("ctm", {}),
    ("ctm", {"metric": "cosine"}),
    ("dynamic", {}),
    ("dynamic", {"attention_scale": 3.0}),
    ("em-dirichlet", {"n_iterations": 3}),
    ("em-dirichlet", {"temperature": 30.0, "n_iterations": 3}),
    ("em-dirichlet", {"temperature": 10.0, "class_weight": 0.5, "n_iterations": 3, "transform": "cl2n"}),
    ("feature-averaging", {}),
    ("glance", {"width": 8, "n_steps": 3}),
    ("glance", {"guard": False, "n_steps": 2, "width": 8, "n_layers": 1, "n_neighbours": 3}),
    ("gnn", {"n_layers": 2, "width": 64, "hidden": 16, "edge_hidden": 16}),
    ("gnn", {"n_layers": 1, "width": 32, "edge_hidden": 16}),
    ("laplacian-logistic", {"n_neighbours": 3}),
    ("laplacianshot", {}),
    ("laplacianshot", {"smoothness": 0.3, "n_neighbours": 2, "n_steps": 4, "rectify": False, "transform": "l2n"}),
    ("ilpc", {}),
    ("ilpc", {"n_moved": 1, "n_neighbours": 3, "alpha": 0.5, "n_steps": 10, "step_size": 0.5, "transform": "l2n"}),
    ("ilpc", {"n_moved": 1, "balanced": False, "power": 1.0, "n_steps": 20, "transform": "cl2n"}),
    ("label-spreading", {}),
    ("label-spreading", {"n_neighbours": 2, "alpha": 0.5, "gamma": 3.0, "transform": "cl2n"}),
    ("leo", {"latent_size": 16}),
    ("leo", {"latent_size": 8, "latent_steps": 2, "tuning_steps": 1}),
    ("logistic-regression", {}),
    ("logistic-regression", {"C": 10.0, "transform": "cl2n"}),
    ("logistic-regression", {"C": 0.5, "transform": "none"}),
    ("logistic-regression", {"tune": True}),
    ("maml", {}),
    ("maml", {"n_steps": 2, "step_size": 0.05}),
    ("maml", {"order": 1}),
    ("maml", {"adapt": "head"}),
    ("maml", {"adapt": "head", "order": 1, "step_size": 0.2}),
    ("map-proportions", {}),
    ("map-proportions", {"scale": 4.0, "prior": 1.0, "step_size": 0.5, "n_steps": 5, "transform": "cl2n"}),
    ("matching", {}),
    ("matching", {"full_context": True}),
    ("matching", {"full_context": True, "n_reads": 1, "lstm_size": 16, "initial_scale": 5.0}),
    ("metaoptnet", {}),
    ("metaoptnet", {"C": 2.0, "unit_length": True}),
    ("metaoptnet", {"head": "ridge", "ridge": 0.5}),
    ("paddle", {"n_iterations": 10}),
    ("paddle", {"n_iterations": 10, "min_max": True, "temperature": 1.0, "transform": "none"}),
    ("paddle", {"n_iterations": 5, "class_weight": 0.5, "temperature": 15.0, "transform": "cl2n"}),
    ("prototypical", {}),
    ("prototypical", {"transform": "l2n"}),
    ("prototypical", {"transform": "cl2n"}),
    ("prototypical", {"transform": "root"}),
    ("prototypical", {"transform": "root-centred"}),
    ("prototypical", {"metric": "cosine"}),
    ("prototypical", {"metric": "cosine", "transform": "cl2n"}),
    ("pt-map", {"n_steps": 5, "n_sinkhorn": 8}),
    ("pt-map", {"scale": 4.0, "step_size": 0.5, "n_steps": 3, "n_sinkhorn": 3, "transform": "cl2n"}),
    ("protolp", {"n_steps": 10}),
    ("protolp", {"n_steps": 5, "dimensions": 5, "smoothness": 0.3, "transform": "l2n"}),
    ("protolp", {"n_steps": 5, "balanced": False, "step_size": 0.5, "propagated_part": 0.9}),
    ("r2d2", {}),
    ("r2d2", {"initial_ridge": 0.1, "unit_length": False}),
    ("relation", {}),
    ("relation", {"hidden": 3, "loss_kind": "cross-entropy"}),
    ("ridge", {}),
    ("sib", {}),
    ("sib", {"n_steps": 2, "step_size": 2e-3, "prior_weight": 0.3}),
    ("sib-inductive", {}),
    ("sib-inductive", {"n_steps": 2, "step_size": 0.3, "prior_weight": 0.3, "learn_step": False}),
    ("snail", {"filters": 16, "max_support": 8}),
    ("snail", {"filters": 16, "max_support": 2}),
    ("soft-kmeans", {}),
    ("soft-kmeans", {"scale": 2.0, "n_steps": 3, "transform": "l2n"}),
    ("tadam", {}),
    ("tadam", {"metric_scale": 0.5, "penalty": 0.0}),
    ("tim", {"n_iterations": 10}),
    ("tim", {"solver": "gd", "n_iterations": 8}),
    ("tim", {"n_iterations": 5, "marginal_weight": 0.5, "start": "logistic", "transform": "cl2n"}),
    ("tpn", {}),
    ("tpn", {"n_neighbours": 2, "alpha": 0.6, "even_classes": False}),
    ("transductive-fine-tuning", {}),
    ("transductive-fine-tuning", {"n_steps": 4, "step_size": 0.05, "scale": 3.0, "transform": "cl2n"}),
    ("transductive-fine-tuning", {"n_steps": 3, "entropy_weight": 0.2, "transform": "none"}),
    ("unem", {}),
]
