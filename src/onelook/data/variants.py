"""Variants of the features of one backbone, as other backbones might have made them of the same images.

A method that is meta-trained on the features of one network may learn what is true of that network alone: its number of
features, its axes, how its entries are distributed, and how well it separates the classes that it was trained on,
which is better than it will separate new ones. Variants differ in all of these and have the same classes.
Synthetic features (data/synthetic.py) vary more, but look less like those of images.

Axes: V views, N rows, D features, R features of the variant.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from onelook import ops
from onelook.errors import (
    Bound,
    Checked,
    DataError,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SettingsError,
)
from onelook.tasks import Embeddings

Change = Literal["none", "projection", "principal", "dropping"]
CHANGES: tuple[str, ...] = get_args(Change)


@dataclass(frozen=True)
class VariantConfig(Checked):
    change: Annotated[str, Bound("one of", CHANGES)] = "none"
    """Change of the axes: "none"; "projection", onto a random subspace in random axes; "principal", onto the axes in
    which the rows vary most; "dropping", to some of the features."""
    size: PositiveInt | None = None
    """Features where the axes are changed (None: as many as there are)."""
    power: PositiveFloat = 1.0
    """Signed power of each entry: below 1 large ones weigh less."""
    noise: NonNegativeFloat = 0.0
    """Fraction of the deviation of some other row from its class mean that is added to each row: classes spread as they
    do already, but further, as those of which a backbone has seen none."""
    seed: NonNegativeInt = 0


def variant(embeddings: Embeddings, config: VariantConfig) -> Embeddings:
    """The noise first, then the power, then the axes. Labels and the number of views stay."""
    rng = np.random.default_rng(config.seed)
    views = _spread(embeddings, config.noise, rng) if config.noise else embeddings.views
    if config.power != 1:
        views = views.sign() * views.abs() ** config.power
    return replace(embeddings, views=_project(views, config, rng), source=f"{embeddings.source}, changed: {config}")


def variants(embeddings: Embeddings, seed: int, n: int) -> list[Embeddings]:
    """`n` variants of all sorts. Variant i is a function of the features and (seed, i)."""
    configs = (random_variant(np.random.default_rng([seed, i]), embeddings.feature_size) for i in range(n))
    return [variant(embeddings, config) for config in configs]


def random_variant(rng: np.random.Generator, feature_size: int) -> VariantConfig:
    """A quarter of the features is left at least, and of few features 16; half of the variants have no noise added."""
    least = max(min(feature_size, 16), feature_size // 4)
    change = CHANGES[rng.integers(len(CHANGES))]
    return VariantConfig(
        change=change,
        size=None if change == "none" else int(rng.integers(least, feature_size + 1)),
        power=rng.uniform(0.4, 1),
        noise=rng.random() if rng.random() < 0.5 else 0.0,
        seed=int(rng.integers(2**31)),
    )


def _spread(embeddings: Embeddings, amount: float, rng: np.random.Generator) -> Float[Tensor, "V N D"]:
    """Each row with the deviation of another one, drawn at random, added; in all views that of the same row."""
    views, labels = embeddings.views, embeddings.labels
    labelled = (labels >= 0).nonzero()[:, 0]
    if len(labelled) < 2:
        raise DataError(f"Noise within classes needs 2 labelled rows, but {embeddings.source or 'the data'} has fewer.")
    n_classes = len(embeddings.class_names)
    means_VKD = torch.stack([ops.means_by_label(view[labelled], labels[labelled], n_classes) for view in views])
    deviation = views[:, labelled] - means_VKD[:, labels[labelled]]
    donor = torch.from_numpy(rng.integers(len(labelled), size=len(labels)))
    itself = labelled[donor] == torch.arange(len(labels))
    donor[itself] = (donor[itself] + 1) % len(labelled)
    noisy = views + amount * deviation[:, donor]
    # Features that end in a ReLU have no negative entries, however bad the network.
    return noisy.clamp(min=0) if bool((views >= 0).all()) else noisy


def _project(views: Float[Tensor, "V N D"], config: VariantConfig, rng: np.random.Generator) -> Float[Tensor, "V N R"]:
    size = views.shape[-1]
    kept = size if config.size is None else config.size
    if config.change == "none":
        return views
    if kept > size:
        raise SettingsError(f"A variant has no more features than it is made from: {kept} were asked for of {size}.")
    if config.change == "dropping":
        return views[..., torch.from_numpy(np.sort(rng.choice(size, kept, replace=False)))]
    if config.change == "projection":
        axes = torch.from_numpy(np.linalg.qr(rng.standard_normal((size, kept)))[0])
    else:
        # The mean is not taken away but projected too: networks have one.
        axes = torch.linalg.eigh(views.flatten(0, 1).double().T.cov(correction=0))[1].flip(1)[:, :kept]
    return views @ axes.to(views.dtype)
