"""Networks of transformers, of PyTorch and of ONNX, against what they give without us. All are tiny and random."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from helpers.networks import onnx_file
from onelook import backbones
from onelook.artifacts import backbone_artifact, load_network
from onelook.artifacts import save as save_artifact
from onelook.backbones import Backbone
from onelook.backbones.framing import Framing, read_preprocessing
from onelook.backbones.pretrained import load_folder, resolve
from onelook.backbones.wrapped import Wrapped
from onelook.data.embed import embed, embed_files
from onelook.data.images import decode, load
from onelook.data.listing import list_images
from onelook.errors import ArtifactError, SettingsError
from onelook.events import Notice, Progress, finish

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
CROPPED = {
    "image_processor_type": "BitImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": 36},
    "do_center_crop": True,
    "crop_size": {"height": 28, "width": 28},
    "resample": 3,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.48, 0.45, 0.40],
    "image_std": [0.22, 0.21, 0.25],
}
STRETCHED = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": 28, "width": 28},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
CONVNEXT = STRETCHED | {
    "image_processor_type": "ConvNextImageProcessor",
    "size": {"shortest_edge": 28},
    "crop_pct": 0.875,
    "resample": 3,
}


def photograph(width: int, height: int, seed: int = 0, kind: str = "PNG") -> bytes:
    """A smooth picture."""
    rough = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    image = Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def save(model: Any, folder: Path, processor: dict[str, Any]) -> Path:
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def vit(transformers: Any) -> tuple[Any, Callable[[Tensor], Tensor]]:
    model = transformers.ViTModel(transformers.ViTConfig(**SMALL, image_size=28, patch_size=14))
    return model, lambda x: model(pixel_values=x).last_hidden_state[:, 0]


def classifier(transformers: Any) -> tuple[Any, Callable[[Tensor], Tensor]]:
    """Whose file has no pooler, but a head."""
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**SMALL, image_size=28, patch_size=14))
    return model, lambda x: model.vit(pixel_values=x).last_hidden_state[:, 0]


def dinov2(transformers: Any) -> tuple[Any, Callable[[Tensor], Tensor]]:
    model = transformers.Dinov2Model(transformers.Dinov2Config(**SMALL, image_size=28, patch_size=14))
    return model, lambda x: model(pixel_values=x).pooler_output


def clip(transformers: Any) -> tuple[Any, Callable[[Tensor], Tensor]]:
    """With its half for texts, which is left."""
    config = transformers.CLIPConfig(
        vision_config={**SMALL, "image_size": 28, "patch_size": 14},
        projection_dim=24,
        text_config={**SMALL, "vocab_size": 20, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1},
    )
    model = transformers.CLIPModel(config)
    return model, lambda x: model.visual_projection(model.vision_model(pixel_values=x).pooler_output)


def siglip(transformers: Any) -> tuple[Any, Callable[[Tensor], Tensor]]:
    model = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**SMALL, image_size=28, patch_size=14))
    return model, lambda x: model(pixel_values=x).pooler_output


def convnext(transformers: Any) -> tuple[Any, Callable[[Tensor], Tensor]]:
    config = transformers.ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], patch_size=2)
    model = transformers.ConvNextModel(config)
    return model, lambda x: model(pixel_values=x).pooler_output


FAMILIES = [
    (vit, STRETCHED, 32),
    (classifier, STRETCHED, 32),
    (dinov2, CROPPED, 32),
    (clip, CROPPED, 24),
    (siglip, STRETCHED, 32),
    (convnext, CONVNEXT, 16),
]


@pytest.fixture
def transformers() -> Any:
    torch.manual_seed(0)
    return pytest.importorskip("transformers")


def prepared(content: bytes, processor: dict[str, Any]) -> Tensor:
    """What the model's own image processor, in Pillow, makes of an image."""
    processors = pytest.importorskip("transformers.models.auto.image_processing_auto")
    name = processor["image_processor_type"] + "Pil"
    own = processors.get_image_processor_class_from_name(name)(**processor)
    return own(Image.open(io.BytesIO(content)), return_tensors="pt")["pixel_values"]


@pytest.mark.parametrize(("make", "processor", "size"), FAMILIES)
def test_features_are_those_of_the_model_on_what_its_own_processor_prepares(
    make: Any, processor: dict[str, Any], size: int, transformers: Any, tmp_path: Path
) -> None:
    model, feature_of = make(transformers)
    network = load_folder(save(model.eval(), tmp_path / "model", processor))
    content = photograph(61, 47)
    own = torch.from_numpy(decode(content, network.image_size, 3, network.framing)).unsqueeze(0)
    with torch.inference_mode():
        expected = feature_of(prepared(content, processor))
        found = network(own)
    assert found.shape == (1, size) == (1, network.feature_size)
    # A pixel of 255 may be rounded otherwise; another crop or scale moves a feature a hundred times as far.
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02 * expected.std().item())
    with torch.inference_mode():
        other = network(torch.from_numpy(decode(photograph(61, 47, seed=1), 28, 3, network.framing)).unsqueeze(0))
    assert not torch.allclose(other, expected, rtol=0.02, atol=0.02 * expected.std().item())


@pytest.mark.parametrize(("width", "height"), [(61, 47), (47, 61), (28, 28), (400, 31), (36, 90)])
@pytest.mark.parametrize("processor", [CROPPED, STRETCHED, CONVNEXT])
@pytest.mark.usefixtures("transformers")
def test_an_image_is_framed_as_by_the_model_s_own_processor(width: int, height: int, processor: dict[str, Any]) -> None:
    steps = read_preprocessing(processor, 3, "it")
    content = photograph(width, height)
    pixels = torch.from_numpy(decode(content, steps.image_size, 3, steps.framing))
    own = (pixels - torch.tensor(steps.mean)[:, None, None]) / torch.tensor(steps.std)[:, None, None]
    difference = (own - prepared(content, processor)[0]).abs() * torch.tensor(steps.std)[:, None, None]
    assert difference.max() <= 1.01


@pytest.mark.usefixtures("transformers")
def test_a_large_jpeg_decoded_at_a_fraction_is_nearly_what_the_processor_makes_of_all_of_it() -> None:
    processor = CROPPED | {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}
    steps = read_preprocessing(processor, 3, "it")
    content = photograph(1600, 1200, kind="JPEG")
    pixels = torch.from_numpy(decode(content, steps.image_size, 3, steps.framing)).float()
    scale, mean = torch.tensor(steps.std)[:, None, None], torch.tensor(steps.mean)[:, None, None]
    # At the size itself instead of twice of it, this would be 0.3 of 255.
    assert (pixels - (prepared(content, processor)[0] * scale + mean)).abs().mean() < 0.2


def test_the_digest_tells_weights_preprocessing_pooling_and_settings_apart(transformers: Any, tmp_path: Path) -> None:
    model, _ = dinov2(transformers)
    folder = save(model, tmp_path / "a", CROPPED)
    same = save(model, tmp_path / "b", CROPPED)
    wider = save(model, tmp_path / "c", CROPPED | {"size": {"shortest_edge": 40}})
    darker = save(model, tmp_path / "d", CROPPED | {"image_mean": [0.5, 0.5, 0.5]})
    other = save(dinov2(transformers)[0], tmp_path / "e", CROPPED)
    config = json.loads((same / "config.json").read_text())
    (same / "config.json").write_text(json.dumps(config | {"transformers_version": "0"}))
    sharper = save(model, tmp_path / "f", CROPPED)
    (sharper / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
    digests = [load_folder(one).digest() for one in (folder, wider, darker, other, sharper)]
    digests.append(load_folder(folder, "mean").digest())
    assert len(set(digests)) == 6
    assert load_folder(same).digest() == digests[0]


def test_half_precision_weights_are_used_in_full_precision(transformers: Any, tmp_path: Path) -> None:
    model, _ = dinov2(transformers)
    network = load_folder(save(model.bfloat16(), tmp_path / "model", CROPPED))
    assert all(p.dtype == torch.float32 for p in network.parameters())


def test_a_folder_without_safetensors_is_refused(transformers: Any, tmp_path: Path) -> None:
    folder = save(vit(transformers)[0], tmp_path / "model", STRETCHED)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ArtifactError, match=r"holds no model\.safetensors; save the model again"):
        load_folder(folder)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_a_folder_that_lacks_a_description_is_refused(name: str, transformers: Any, tmp_path: Path) -> None:
    folder = save(vit(transformers)[0], tmp_path / "model", STRETCHED)
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=f"holds no {name}"):
        load_folder(folder)


def test_weights_that_would_be_drawn_at_random_are_refused(transformers: Any, tmp_path: Path) -> None:
    folder = save(classifier(transformers)[0], tmp_path / "model", STRETCHED)
    with pytest.raises(ArtifactError, match=r"lacks weights of model, for example pooler.*drawn at random"):
        load_folder(folder, "pooler_output")


def test_a_network_that_draws_at_random_is_refused(transformers: Any, tmp_path: Path) -> None:
    config = transformers.ViTMAEConfig(**SMALL, image_size=28, patch_size=7)
    folder = save(transformers.ViTMAEModel(config), tmp_path / "model", STRETCHED)
    with pytest.raises(SettingsError, match="gives other features each time"):
        load_folder(folder)


def test_a_model_of_texts_is_refused(transformers: Any, tmp_path: Path) -> None:
    model = transformers.BertModel(transformers.BertConfig(**SMALL, vocab_size=20))
    folder = save(model, tmp_path / "model", STRETCHED)
    with pytest.raises(SettingsError, match="BertModel, which takes no images"):
        load_folder(folder)


def test_code_beside_a_model_is_not_run(transformers: Any, tmp_path: Path) -> None:
    folder = save(vit(transformers)[0], tmp_path / "model", STRETCHED)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "novelty", "auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.OwnModel"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"import pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).touch()")
    with pytest.raises(ArtifactError, match="cannot be loaded as a model of transformers"):
        load_folder(folder)
    assert not (tmp_path / "ran").exists()


def test_what_cannot_be_prepared_is_refused() -> None:
    for wrong in (
        {"do_resize": False},
        {"do_pad": True},
        {"size": {"height": 28, "width": 30}},
        {"resample": 9},
        {"image_mean": [0.5]},
        {"size": {"longest_edge": 28}},
    ):
        with pytest.raises(SettingsError, match=r"It asks for a preprocessing that Onelook cannot do \(.+\)"):
            read_preprocessing(STRETCHED | wrong, 3, "It")


def test_a_single_number_is_the_shorter_side_or_both_as_its_processor_has_it() -> None:
    old_clip = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 224, "crop_size": 224, "do_center_crop": True}
    old_vit = {"feature_extractor_type": "ViTFeatureExtractor", "size": 224, "resample": 2}
    numbers = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    assert read_preprocessing(old_clip | numbers, 3, "it").framing == Framing(224)
    assert read_preprocessing(old_vit | numbers, 3, "it").framing == Framing(224, True, "bilinear")


class Counting(nn.Module):
    """Means of the channels; and it counts the images that it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0
        self.scale = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        return x.mean((2, 3)) * self.scale.float()


def test_any_module_becomes_a_network_of_its_own_statistics() -> None:
    network = Wrapped(Counting(), image_size=20, mean=0.5, std=(0.1, 0.2, 0.5))
    assert network.feature_size == 3
    white = torch.full((2, 3, 20, 20), 255, dtype=torch.uint8)
    torch.testing.assert_close(network(white), torch.tensor([[5.0, 2.5, 1.0]]).expand(2, -1))


def test_a_module_that_gives_no_features_is_refused() -> None:
    for module in (nn.Flatten(0), nn.Conv2d(1, 4, 3), nn.LSTM(20, 3)):
        with pytest.raises(SettingsError):
            Wrapped(module, image_size=20, mean=0.5, std=0.5)
    with pytest.raises(SettingsError, match="features of size 3, not 4"):
        Wrapped(Counting(), image_size=20, feature_size=4, mean=0.5, std=0.5)
    with pytest.raises(SettingsError, match=r"above 0"):
        Wrapped(Counting(), image_size=20, mean=0.5, std=0.0)


def test_photographs_are_framed_embedded_and_kept(tmp_path: Path) -> None:
    for i in range(4):
        path = tmp_path / "data" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photograph(50 + 9 * i, 40, seed=i))
    module = Counting()
    network = Wrapped(module, image_size=20, mean=0.0, std=1.0, framing=Framing(20, stretch=True))
    plain = Wrapped(module, image_size=20, mean=0.0, std=1.0)
    listing = list_images(tmp_path / "data")
    module.seen = 0
    framed = finish(embed_files(listing, network, cache=tmp_path / "cache"))
    assert module.seen == 4
    again = finish(embed_files(listing, network, cache=tmp_path / "cache"))
    assert module.seen == 4
    torch.testing.assert_close(again.views, framed.views, rtol=0, atol=0)
    with torch.inference_mode():
        own = [network(torch.from_numpy(decode(listing.read(n), 20, 3, network.framing))[None]) for n in listing.names]
    torch.testing.assert_close(framed.views[0], torch.cat(own))
    squares = finish(embed_files(listing, plain, cache=tmp_path / "cache"))
    assert not torch.allclose(squares.views, framed.views)
    # Pixels that were framed otherwise are not taken for these, though network and files are the same.
    images = finish(load(listing, 20, 3))
    torch.testing.assert_close(finish(embed(images, network, cache=tmp_path / "cache")).views, squares.views)


def test_features_of_many_images_are_kept_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onelook.data.embed.BLOCK_BYTES", 2 * 3 * 20 * 20)
    for i in range(5):
        path = tmp_path / "data" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photograph(50, 40, seed=i) if i != 1 else b"no image")
    module = Counting()
    network = Wrapped(module, image_size=20, mean=0.0, std=1.0)
    listing = list_images(tmp_path / "data")
    module.seen = 0
    work = embed_files(listing, network, cache=tmp_path / "cache")
    computed = [event for event in work if isinstance(event, Progress) and event.stage == "computing features"]
    assert [(event.done, event.total) for event in computed] == [(2, 5), (3, 4), (4, 4)]
    assert module.seen == 4
    for file in (tmp_path / "cache").rglob("*.safetensors"):
        file.unlink()
    module.seen = 0
    work = embed_files(listing, network, cache=tmp_path / "cache")
    while module.seen < 3:  # the first block is kept by then
        next(work)
    work.close()
    module.seen = 0
    done = finish(embed_files(listing, network, cache=tmp_path / "cache"))
    assert module.seen == 2
    assert len(done.labels) == 4
    torch.testing.assert_close(done.views, finish(embed_files(listing, network)).views)


def images(n: int) -> Tensor:
    return torch.randint(256, (n, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("count", ["N", 1, 2])
def test_an_onnx_file_gives_its_own_features_however_many_images_it_takes(count: int | str, tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "means.onnx", count)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(STRETCHED | {"size": {"height": 20, "width": 20}}))
    network = finish(resolve(str(path)))
    expected = (images(5) / 255 - 0.5).div(0.5).mean((2, 3)) * torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(network(images(5)), expected)
    assert (network.feature_size, network.image_size, network.channels) == (3, 20, 3)


def test_an_onnx_file_that_does_not_tell_its_preprocessing_is_taken_with_a_notice(tmp_path: Path) -> None:
    events = resolve(str(onnx_file(tmp_path / "means.onnx")))
    notice = next(events)
    assert isinstance(notice, Notice)
    assert "mean and std of ImageNet" in notice.text
    network = finish(events)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = ((images(2) / 255).mean((2, 3)) - mean) / std * torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(network(images(2)), expected, rtol=1e-4, atol=1e-4)


def test_the_digest_of_an_onnx_file_is_that_of_its_bytes_and_of_the_weights_beside_it(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "means.onnx")
    first = finish(resolve(str(path))).digest()
    assert finish(resolve(str(path))).digest() == first
    (tmp_path / "means.onnx.data").write_bytes(b"weights")
    assert finish(resolve(str(path))).digest() != first
    (tmp_path / "means.onnx.data").unlink()
    other = onnx_file(tmp_path / "other.onnx", count=2)
    assert finish(resolve(str(other))).digest() != first


@pytest.mark.parametrize("name", ["small", "lite0"])
def test_a_folder_that_is_called_like_a_network_of_ours_does_not_take_its_place(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, _ = finish(load_network(name))
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    assert finish(load_network(name))[0].digest() == plain.digest()


def test_a_damaged_or_missing_onnx_file_is_told(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "means.onnx")
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(ArtifactError, match="cannot be read as an ONNX file"):
        finish(resolve(str(path)))
    with pytest.raises(ArtifactError, match="There is no file"):
        finish(resolve(str(tmp_path / "none.onnx")))


def test_a_text_chooses_the_network(transformers: Any, tmp_path: Path) -> None:
    folder = save(vit(transformers)[0], tmp_path / "mine", STRETCHED)
    network, about = finish(load_network(str(folder)))
    assert isinstance(network, Backbone)
    assert about == {"name": "mine"}
    own = backbones.create("conv4-64", image_size=16)
    save_artifact(backbone_artifact(own, "conv4-64", {}), tmp_path / "own.safetensors")
    network, about = finish(load_network(str(tmp_path / "own.safetensors")))
    assert network.digest() == own.digest()
    assert about["name"] == "conv4-64"
    with pytest.raises(ArtifactError, match="There is no backbone file"):
        finish(load_network(str(tmp_path / "model.safetensors")))
    with pytest.raises(SettingsError, match="expected hf:NAME, a folder"):
        finish(resolve("conv4"))


@pytest.mark.parametrize(
    ("library", "extra"),
    [("onnxruntime", "onnx"), ("transformers", "transformers"), ("huggingface_hub", "transformers")],
)
def test_a_library_that_is_not_installed_is_named_with_its_extra(
    library: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "preprocessor_config.json").write_text("{}")
    (tmp_path / "model.safetensors").touch()
    name = {"onnxruntime": "x.onnx", "transformers": str(tmp_path), "huggingface_hub": "hf:a/b"}[library]
    with pytest.raises(SettingsError, match=rf"needs? {library}; install it with pip install 'onelook\[{extra}\]'"):
        finish(load_network(name, offline=True))
