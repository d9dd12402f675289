"""The rows of the paper's comparison, and what is published for them.

Shell Xu Hu et al. Empirical Bayes Transductive Meta-Learning with Synthetic Gradients. ICLR 2020, arXiv:2004.12696,
table 1: sixteen baselines, counting methods with their networks. Here one network serves all, so that Gidaris et al.
2019 stands once. Added are variants that are asked for today (first-order MAML, ANIL, full context), the dynamic
generator with its attention, and SIB on the features of the strongest baseline.
"""

from dataclasses import dataclass

REFERENCE = "sib"
"""The row that all others are compared with."""


@dataclass(frozen=True)
class Row:
    title: str
    paper: str
    method: str
    """Request for the method, as a person would write it."""
    on: str
    """Kind of training data: "features" of the finished network, or "images", training the network too."""
    rotation: bool = False
    """Whether the network was also taught to tell turned images."""


ROWS: dict[str, Row] = {
    "sib": Row("SIB, K = 3", "Hu et al. 2020", "sib", "features"),
    "sib-0": Row("SIB, K = 0", "Hu et al. 2020", "feature-averaging", "features"),
    "sib-1": Row("SIB, K = 1", "Hu et al. 2020", "sib:n_steps=1", "features"),
    "sib-5": Row("SIB, K = 5", "Hu et al. 2020", "sib:n_steps=5", "features"),
    "matching": Row("Matching networks", "Vinyals et al. 2016", "matching:recipe=joint", "images"),
    "matching-fce": Row(
        "Matching networks, full context", "Vinyals et al. 2016", "matching:full_context=true:recipe=joint", "images"
    ),
    "maml": Row("MAML", "Finn et al. 2017", "maml", "images"),
    "fomaml": Row("MAML, first order", "Finn et al. 2017", "maml:order=1", "images"),
    "anil": Row("ANIL", "Raghu et al. 2020", "maml:adapt=head", "images"),
    "prototypical": Row(
        "Prototypical networks", "Snell et al. 2017", "prototypical:metric=cosine:recipe=joint", "images"
    ),
    "relation": Row("Relation networks", "Sung et al. 2018", "relation:recipe=joint", "images"),
    "gnn": Row("Graph network", "Garcia & Bruna 2018", "gnn:recipe=joint", "images"),
    "r2d2": Row("R2-D2", "Bertinetto et al. 2019", "r2d2:recipe=joint", "images"),
    "tpn": Row("TPN", "Liu et al. 2019", "tpn:recipe=joint", "images"),
    "cc-rot": Row(
        "Cosine classifier + rotation", "Gidaris et al. 2019", "feature-averaging", "features", rotation=True
    ),
    "tadam": Row("TADAM", "Oreshkin et al. 2018", "tadam", "images"),
    "snail": Row("SNAIL", "Mishra et al. 2018", "snail:recipe=joint", "images"),
    "metaoptnet-ridge": Row(
        "MetaOptNet, ridge",
        "Lee et al. 2019",
        "metaoptnet:head=ridge:unit_length=true:ridge=0.5:recipe=joint",
        "images",
    ),
    "metaoptnet-svm": Row(
        "MetaOptNet, SVM", "Lee et al. 2019", "metaoptnet:unit_length=true:C=10.0:recipe=joint", "images"
    ),
    "ctm": Row("CTM", "Li et al. 2019", "ctm:recipe=joint", "images"),
    "activations": Row("Parameters from activations", "Qiao et al. 2018", "activations:recipe=joint", "features"),
    "leo": Row("LEO", "Rusu et al. 2019", "leo:recipe=joint", "features"),
    "dynamic": Row("Dynamic few-shot, attention", "Gidaris & Komodakis 2018", "dynamic:recipe=joint", "features"),
    "sib-rot": Row("SIB, K = 3, on features with rotation", "Hu et al. 2020", "sib", "features", rotation=True),
}

PUBLISHED: dict[str, dict[tuple[str, str], tuple[float, float]]] = {
    "sib": {
        ("mini-imagenet", "conv4-64"): (58.0, 70.7),
        ("cifar-fs", "conv4-64"): (68.7, 77.1),
        ("mini-imagenet", "wrn-28-10"): (69.6, 78.9),
        ("cifar-fs", "wrn-28-10"): (78.4, 85.3),
    },
    "sib-0": {
        ("mini-imagenet", "conv4-64"): (50.0, 67.0),
        ("cifar-fs", "conv4-64"): (59.2, 75.4),
        ("mini-imagenet", "wrn-28-10"): (60.6, 77.5),
        ("cifar-fs", "wrn-28-10"): (70.0, 83.5),
    },
    "sib-1": {("mini-imagenet", "wrn-28-10"): (67.3, 78.8), ("cifar-fs", "wrn-28-10"): (76.8, 84.9)},
    "sib-5": {("mini-imagenet", "wrn-28-10"): (70.0, 79.2), ("cifar-fs", "wrn-28-10"): (80.0, 85.3)},
    "matching": {("mini-imagenet", "conv4-64"): (44.2, 57.0)},
    "maml": {("mini-imagenet", "conv4-64"): (48.7, 63.1), ("cifar-fs", "conv4-64"): (58.9, 71.5)},
    "prototypical": {("mini-imagenet", "conv4-64"): (49.4, 68.2), ("cifar-fs", "conv4-64"): (55.5, 72.0)},
    "relation": {("mini-imagenet", "conv4-64"): (50.4, 65.3), ("cifar-fs", "conv4-64"): (55.0, 69.3)},
    "gnn": {("mini-imagenet", "conv4-64"): (50.3, 66.4), ("cifar-fs", "conv4-64"): (61.9, 75.3)},
    "r2d2": {("mini-imagenet", "conv4-64"): (49.5, 65.4), ("cifar-fs", "conv4-64"): (62.3, 77.4)},
    "tpn": {("mini-imagenet", "conv4-64"): (55.5, 69.9)},
    "cc-rot": {
        ("mini-imagenet", "conv4-64"): (54.8, 71.9),
        ("cifar-fs", "conv4-64"): (63.5, 79.8),
        ("mini-imagenet", "wrn-28-10"): (62.9, 79.9),
        ("cifar-fs", "wrn-28-10"): (73.6, 86.1),
    },
    "tadam": {("mini-imagenet", "resnet12"): (58.5, 76.7)},
    "snail": {("mini-imagenet", "resnet12"): (55.7, 68.9)},
    "metaoptnet-ridge": {("mini-imagenet", "resnet12"): (61.4, 77.9), ("cifar-fs", "resnet12"): (72.6, 84.3)},
    "metaoptnet-svm": {("mini-imagenet", "resnet12"): (62.6, 78.6), ("cifar-fs", "resnet12"): (72.0, 84.2)},
    "ctm": {("mini-imagenet", "resnet18"): (64.1, 80.5)},
    "activations": {("mini-imagenet", "wrn-28-10"): (59.6, 73.7)},
    "leo": {("mini-imagenet", "wrn-28-10"): (61.8, 77.6)},
}
"""Row -> data and network -> 1-shot and 5-shot accuracy, as the article lists them."""


def published(row: str, data: str, network: str, shot: int) -> float | None:
    """The article's figure for a row, where it has one for this data, network and shot."""
    found = PUBLISHED.get(row, {}).get((data, network))
    return None if found is None or shot not in (1, 5) else found[shot == 5]


def published_elsewhere(row: str, data: str, network: str) -> str:
    """Published figures for other data or networks, in words, where there are none for these."""
    known = PUBLISHED.get(row, {})
    if (data, network) in known:
        return ""
    return "; ".join(f"{d}, {n}: {one} / {five}" for (d, n), (one, five) in known.items())
