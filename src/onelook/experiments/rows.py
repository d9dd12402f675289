"""The rows of the paper's comparison, and what is published for them.

Shell Xu Hu et al. Empirical Bayes Transductive Meta-Learning with Synthetic Gradients. ICLR 2020, arXiv:2004.12696,
table 1: sixteen baselines, counting methods with their networks. Here one network serves all, so that Gidaris et al.
2019 stands once. Added are variants that are asked for today (first-order MAML, ANIL, full context),
the dynamic generator with its attention, and SIB on the features of the strongest baseline.
"""

from dataclasses import dataclass

REFERENCE = "sib"
"""The row that all others are compared with."""


@dataclass(frozen=True)
class Row:
    title: str
    paper: str
    method: str
    """As a person would request it."""
    on: str
    """What it learns on: "features" of the finished network, or "images", training the network too."""
    published: tuple[float, float] | None = None
    """1-shot and 5-shot on CIFAR-FS with Conv-4-64, where the article has them."""
    elsewhere: str = ""
    """What the article has instead."""
    rotation: bool = False
    """Whether the network was also taught to tell turned images."""


ROWS: dict[str, Row] = {
    "sib": Row("SIB, K = 3", "Hu et al. 2020", "sib", "features", (68.7, 77.1)),
    "sib-0": Row("SIB, K = 0", "Hu et al. 2020", "feature-averaging", "features", (59.2, 75.4)),
    "sib-1": Row("SIB, K = 1", "Hu et al. 2020", "sib:n_steps=1", "features"),
    "sib-5": Row("SIB, K = 5", "Hu et al. 2020", "sib:n_steps=5", "features"),
    "matching": Row(
        "Matching networks",
        "Vinyals et al. 2016",
        "matching:recipe=joint",
        "images",
        elsewhere="mini-ImageNet 44.2 / 57",
    ),
    "matching-fce": Row(
        "Matching networks, full context", "Vinyals et al. 2016", "matching:full_context=true:recipe=joint", "images"
    ),
    "maml": Row("MAML", "Finn et al. 2017", "maml", "images", (58.9, 71.5)),
    "fomaml": Row("MAML, first order", "Finn et al. 2017", "maml:order=1", "images"),
    "anil": Row("ANIL", "Raghu et al. 2020", "maml:adapt=head", "images"),
    "prototypical": Row(
        "Prototypical networks", "Snell et al. 2017", "prototypical:metric=cosine:recipe=joint", "images", (55.5, 72.0)
    ),
    "relation": Row("Relation networks", "Sung et al. 2018", "relation:recipe=joint", "images", (55.0, 69.3)),
    "gnn": Row("Graph network", "Garcia & Bruna 2018", "gnn:recipe=joint", "images", (61.9, 75.3)),
    "r2d2": Row("R2-D2", "Bertinetto et al. 2019", "r2d2:recipe=joint", "images", (62.3, 77.4)),
    "tpn": Row("TPN", "Liu et al. 2019", "tpn:recipe=joint", "images", elsewhere="mini-ImageNet 55.5 / 69.9"),
    "cc-rot": Row(
        "Cosine classifier + rotation",
        "Gidaris et al. 2019",
        "feature-averaging",
        "features",
        (63.5, 79.8),
        "WRN-28-10: 73.6 / 86.1",
        rotation=True,
    ),
    "tadam": Row("TADAM", "Oreshkin et al. 2018", "tadam", "images", elsewhere="mini-ImageNet, ResNet-12: 58.5 / 76.7"),
    "snail": Row(
        "SNAIL", "Mishra et al. 2018", "snail:recipe=joint", "images", elsewhere="mini-ImageNet, ResNet-12: 55.7 / 68.9"
    ),
    "metaoptnet-ridge": Row(
        "MetaOptNet, ridge",
        "Lee et al. 2019",
        "metaoptnet:head=ridge:unit_length=true:ridge=0.5:recipe=joint",
        "images",
        elsewhere="ResNet-12: 72.6 / 84.3",
    ),
    "metaoptnet-svm": Row(
        "MetaOptNet, SVM",
        "Lee et al. 2019",
        "metaoptnet:unit_length=true:C=10.0:recipe=joint",
        "images",
        elsewhere="ResNet-12: 72.0 / 84.2",
    ),
    "ctm": Row(
        "CTM", "Li et al. 2019", "ctm:recipe=joint", "images", elsewhere="mini-ImageNet, ResNet-18: 64.1 / 80.5"
    ),
    "activations": Row(
        "Parameters from activations",
        "Qiao et al. 2018",
        "activations:recipe=joint",
        "features",
        elsewhere="mini-ImageNet, WRN-28-10: 59.6 / 73.7",
    ),
    "leo": Row(
        "LEO", "Rusu et al. 2019", "leo:recipe=joint", "features", elsewhere="mini-ImageNet, WRN-28-10: 61.8 / 77.6"
    ),
    "dynamic": Row(
        "Dynamic few-shot, attention",
        "Gidaris & Komodakis 2018",
        "dynamic:recipe=joint",
        "features",
        elsewhere="mini-ImageNet, Conv-4-128: 56.0 / 73.0",
    ),
    "sib-rot": Row("SIB, K = 3, on features with rotation", "Hu et al. 2020", "sib", "features", rotation=True),
}
