"""A finished network as the teacher of another."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from helpers.features import one_sentence, random_images
from onelook import artifacts, backbones
from onelook.artifacts import Artifact, backbone_artifact, load_backbone
from onelook.data.augment import Augmentation
from onelook.errors import ArtifactError, SettingsError
from onelook.train.mixup import Mixture, Mixup
from onelook.train.pretraining import PretrainConfig, Pretraining
from onelook.train.teacher import Distillation, Teacher, load_teacher

SIZE = 8


def objective(teacher: Teacher | None = None, seed: int = 0, **kept: Any) -> Pretraining:
    config = PretrainConfig(3, SIZE, Augmentation(crop_padding=1), precision="float32", seed=seed, **kept)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = backbones.create("conv4-64", 3, 16)
    return Pretraining("conv4-64", backbone, random_images(5, 5), random_images(5, 16, seed=1), config, teacher)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Of a network that has seen a few images, with its classifier."""
    made = objective(seed=3)
    with torch.no_grad():
        made.loss(0)
    artifacts.save(made.artifact({"config": {}}), tmp_path / "teacher.safetensors")
    return tmp_path / "teacher.safetensors"


def logits(seed: int, n: int = 6, n_classes: int = 4) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(n, n_classes, generator=draw, dtype=torch.float64)


LABELS = torch.tensor([0, 3, 1, 1, 2, 0])

# ------------------------------------------------------------------------------------------------------------ the loss


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_loss_is_the_weighted_mean_of_cross_entropy_and_divergence(temperature: float) -> None:
    own, taught = logits(0), logits(1)
    p, q = (taught / temperature).softmax(-1), (own / temperature).softmax(-1)
    divergence = (p * (p / q).log()).sum(-1).mean()
    expected = 0.7 * functional.cross_entropy(own, LABELS) + 0.3 * temperature**2 * divergence
    torch.testing.assert_close(Distillation(0.3, temperature).loss(own, LABELS, taught), expected)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_who_answers_as_the_teacher_has_nothing_to_learn_from_it(temperature: float) -> None:
    own = logits(0).requires_grad_()
    loss = Distillation(1.0, temperature).loss(own, LABELS, own.detach() + 5)  # a constant says nothing
    (gradient,) = torch.autograd.grad(loss, own)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert gradient.abs().max() < 1e-12


def test_a_teacher_without_weight_changes_nothing(file: Path) -> None:
    for step in range(2):
        plain = objective().loss(step)
        assert torch.equal(objective(load_teacher(file), teacher_weight=0.0).loss(step), plain)
        assert not torch.allclose(objective(load_teacher(file)).loss(step), plain)


def test_at_great_temperature_the_gradient_is_that_of_the_centred_scores() -> None:
    """Hinton et al. 2015, equation 4."""
    own, taught = logits(0).requires_grad_(), logits(1)
    (gradient,) = torch.autograd.grad(Distillation(1.0, 1e4).loss(own, LABELS, taught), own)
    difference = own.detach() - taught
    expected = (difference - difference.mean(-1, keepdim=True)) / 4 / 6  # classes, images
    torch.testing.assert_close(gradient, expected, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("settings", [(-0.1, 4.0), (1.1, 4.0), (0.5, 0.0), (0.5, -1.0), (0.5, float("inf"))])
def test_impossible_settings_are_refused(settings: tuple[float, float]) -> None:
    with pytest.raises(SettingsError) as error:
        PretrainConfig(teacher_weight=settings[0], temperature=settings[1])
    wrong = settings[1] if 0 <= settings[0] <= 1 else settings[0]
    assert f"but is {wrong}" in one_sentence(error.value)


# --------------------------------------------------------------------------------------------------------- the teacher


def test_a_network_is_kept_with_its_classifier_and_comes_back_without_it(file: Path) -> None:
    made = objective(seed=3)
    with torch.no_grad():
        made.loss(0)
    backbone, _ = load_backbone(file)
    assert backbone.digest() == made.backbone.digest()
    teacher = load_teacher(file)
    images = random_images(5, 5).pixels[0]
    made.module.eval()
    with torch.no_grad():
        expected = made.classifier(made.backbone(images))
    assert torch.equal(teacher.logits(images, "float32"), expected)


def test_the_teacher_sees_the_same_augmented_upright_images_and_stays_as_it_is(file: Path) -> None:
    teacher = load_teacher(file)
    before = teacher.digest()
    made = objective(teacher, rotation_weight=0.5, rotations=3)
    seen: dict[str, Tensor] = {}
    made.backbone.register_forward_hook(lambda _, given, __: seen.update(pupil=given[0]))
    teacher.backbone.register_forward_hook(lambda _, given, __: seen.update(teacher=given[0]))
    made.module.train()
    made.loss(0).backward()
    assert torch.equal(seen["teacher"], seen["pupil"][:SIZE])
    assert not teacher.backbone.training
    assert teacher.digest() == before
    assert all(p.grad is None for p in (*teacher.backbone.parameters(), *teacher.classifier.parameters()))
    assert not [name for name in made.module.state_dict() if "teacher" in name]


def test_taught_by_itself_a_network_stays_where_it_is(file: Path) -> None:
    made = objective(load_teacher(file), teacher_weight=1.0, temperature=1.0)
    made.backbone.load_state_dict(load_teacher(file).backbone.state_dict())
    made.classifier.load_state_dict(load_teacher(file).classifier.state_dict())
    made.module.eval()  # in training it would normalise by other statistics
    loss = made.loss(0)
    loss.backward()
    assert abs(loss.item()) < 1e-6
    assert all(p.grad is None or p.grad.abs().max() < 1e-5 for p in made.module.parameters())


def test_blended_images_are_taught_by_the_answers_to_both(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    partners, config = torch.tensor([3, 0, 7, 1, 2, 6, 5, 4]), Distillation()
    made = objective(load_teacher(file))
    seen: list[Tensor] = []
    made.backbone.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    monkeypatch.setattr(Mixup, "draw", lambda *_: Mixture(0, 0.3, partners))
    loss = made.loss(0)
    own = made.classifier(made.backbone(0.3 * seen[0] + 0.7 * seen[0][partners]))
    taught = load_teacher(file).logits(seen[0], "float32")
    labels = made.labels[torch.from_numpy(made._order[1][:SIZE])]
    expected = 0.3 * config.loss(own, labels, taught) + 0.7 * config.loss(own, labels[partners], taught[partners])
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


def test_the_identity_of_a_teacher_is_that_of_its_network_and_classifier(file: Path) -> None:
    found = {load_teacher(file).digest()}
    for name, change in (("blocks.0.0.weight", 1.0), ("classifier.weight", 1.0), ("classifier.scale", 1.0)):
        artifact = artifacts.load(file, "backbone")
        tensors = artifact.tensors | {name: artifact.tensors[name] + change}
        artifacts.save(Artifact("backbone", tensors, artifact.about), file.with_name("other.safetensors"))
        found.add(load_teacher(file.with_name("other.safetensors")).digest())
    assert load_teacher(file).digest() in found
    assert len(found) == 4


# -------------------------------------------------------------------------------------------------------------- errors


def test_a_network_without_its_classifier_is_refused_with_what_to_do(tmp_path: Path) -> None:
    artifacts.save(backbone_artifact(objective().backbone, "conv4-64", {}), tmp_path / "old.safetensors")
    load_backbone(tmp_path / "old.safetensors")
    with pytest.raises(ArtifactError) as error:
        load_teacher(tmp_path / "old.safetensors")
    assert "old.safetensors holds a backbone without its classifier; remove it" in one_sentence(error.value)


@pytest.mark.parametrize(
    "change", [{"weight": torch.ones(5, 3)}, {"weight": torch.tensor(1.0)}, {"more": torch.ones(2)}]
)
def test_a_classifier_that_does_not_fit_is_refused(change: dict[str, Tensor], file: Path) -> None:
    artifact = artifacts.load(file, "backbone")
    tensors = artifact.tensors | {f"classifier.{name}": x for name, x in change.items()}
    artifacts.save(Artifact("backbone", tensors, artifact.about), file.with_name("other.safetensors"))
    with pytest.raises(ArtifactError, match=r"other.safetensors does not fit its network"):
        load_teacher(file.with_name("other.safetensors"))


def test_a_teacher_of_other_classes_or_images_is_refused_with_both(file: Path) -> None:
    teacher = load_teacher(file)
    with pytest.raises(SettingsError, match=r"knows 5 classes of images of \(3, 16, 16\), but these are 6 of"):
        teacher.require(backbones.create("conv4-64", 3, 16), 6)
    with pytest.raises(SettingsError, match=r"but these are 5 of \(1, 28, 28\); take one"):
        teacher.require(backbones.create("resnet12", 1, 28), 5)
    teacher.require(backbones.create("resnet12", 3, 16), 5)  # another network may be the pupil
