"""The cosine classifier of the training classes, and a trained one as the teacher of another.

Geoffrey Hinton, Oriol Vinyals, Jeff Dean. Distilling the Knowledge in a Neural Network. 2015, arXiv:1503.02531. From a
network of the same kind: Tommaso Furlanello, Zachary Lipton, Michael Tschannen, Laurent Itti, Anima Anandkumar.
Born-Again Neural Networks. ICML 2018, arXiv:1805.04770. For few-shot learning: Yonglong Tian, Yue Wang, Dilip Krishnan,
Joshua Tenenbaum, Phillip Isola. Rethinking Few-Shot Image Classification: a Good Embedding Is All You Need? ECCV 2020,
arXiv:2003.11539.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional

from onelook import ops
from onelook.artifacts import CLASSIFIER, load, load_backbone
from onelook.backbones import Backbone
from onelook.data.embed import precision
from onelook.errors import ArtifactError, Checked, Fraction, PositiveFloat, SettingsError
from onelook.files import digest


class CosineClassifier(nn.Module):
    """Scaled cosines between a feature and a weight for each class."""

    def __init__(self, feature_size: int, n_classes: int, generator: torch.Generator) -> None:
        super().__init__()
        weight = torch.randn(n_classes, feature_size, generator=generator)
        self.weight = nn.Parameter(weight * (2 / feature_size) ** 0.5)
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, features: Tensor) -> Tensor:
        return self.scale * ops.normalise(features) @ ops.normalise(self.weight).T


@dataclass(frozen=True)
class Distillation(Checked):
    """Weight and temperature of a teacher's answers."""

    weight: Fraction = 0.5
    """Weight of the divergence from the teacher's answers; the rest is that of the cross-entropy."""
    temperature: PositiveFloat = 4.0
    """Divisor of the scores of both, so that the small probabilities count."""

    def loss(
        self, logits: Float[Tensor, "N C"], labels: Int[Tensor, "N"], taught: Float[Tensor, "N C"]
    ) -> Float[Tensor, ""]:
        """taught: the logits of the teacher."""
        divergence = functional.kl_div(
            (logits / self.temperature).log_softmax(-1),
            (taught / self.temperature).log_softmax(-1),
            reduction="batchmean",
            log_target=True,
        )
        # The square keeps the gradient of one size at all temperatures (Hinton et al., section 2).
        own = functional.cross_entropy(logits, labels)
        return (1 - self.weight) * own + self.weight * self.temperature**2 * divergence


class Teacher:
    """A pretrained backbone with its classifier, which answers and does not learn."""

    def __init__(self, backbone: Backbone, classifier: CosineClassifier) -> None:
        self.backbone = backbone.eval().requires_grad_(False)
        self.classifier = classifier.requires_grad_(False)

    @torch.no_grad()
    def logits(self, pixels: Shaped[Tensor, "N C H W"], compute: str) -> Float[Tensor, "N K"]:
        self.backbone.to(pixels.device)
        self.classifier.to(pixels.device)
        with precision(compute, pixels.device):
            features = self.backbone(pixels)
        return self.classifier(features.float())  # type: ignore[no-any-return]

    def require(self, backbone: Backbone, n_classes: int) -> None:
        """Raises SettingsError where its pupil has other images or classes."""
        own, pupil = ((b.channels, b.image_size, b.image_size) for b in (self.backbone, backbone))
        if own != pupil or len(self.classifier.weight) != n_classes:
            known = f"The teacher knows {len(self.classifier.weight)} classes of images of {own}"
            raise SettingsError(f"{known}, but these are {n_classes} of {pupil}; take one pretrained on the same data.")

    def digest(self) -> str:
        weights = self.classifier.weight.detach().cpu().contiguous().numpy().tobytes()
        return digest(self.backbone.digest(), weights, repr(self.classifier.scale.item()).encode()).hex()[:16]


def load_teacher(path: Path) -> Teacher:
    """Raises ArtifactError for a file that holds no pretrained network, or one without its classifier."""
    backbone, _ = load_backbone(path)
    tensors = load(path, "backbone").tensors
    weights = {name.removeprefix(CLASSIFIER): x for name, x in tensors.items() if name.startswith(CLASSIFIER)}
    if not weights:
        raise ArtifactError(
            f"{path} holds a backbone without its classifier; remove it and run the `onelook pretrain` that made it "
            "once more, which is quick where its state is still there."
        )
    try:
        classifier = CosineClassifier(backbone.feature_size, len(weights["weight"]), torch.Generator())
        classifier.load_state_dict(weights)
    except (KeyError, TypeError, RuntimeError) as error:
        raise ArtifactError(f"The classifier in {path} does not fit its network; make the file again.") from error
    return Teacher(backbone, classifier)
