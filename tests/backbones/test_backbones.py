import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from onelook import backbones
from onelook.backbones import BACKBONES, Backbone
from onelook.backbones.conv4 import Conv4
from onelook.backbones.resnet12 import ResNet12
from onelook.backbones.wrn28 import WideResNet28
from onelook.errors import SettingsError


def shaken(backbone: Backbone) -> Backbone:
    """The network with statistics and gains as after some training; freshly built ones hide errors."""
    draw = torch.Generator().manual_seed(0)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            with torch.no_grad():
                module.running_mean.normal_(0, 0.3, generator=draw)
                module.running_var.uniform_(0.7, 1.5, generator=draw)
                module.weight.uniform_(0.7, 1.3, generator=draw)
                module.bias.normal_(0, 0.3, generator=draw)
    return backbone


def pixels(n: int, channels: int, image_size: int) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randint(256, (n, channels, image_size, image_size), dtype=torch.uint8, generator=draw)


def _each_network() -> Iterator[object]:
    for name in BACKBONES:
        for image_size, channels in ((28, 1), (32, 3), (84, 3)):
            marks = [pytest.mark.slow] if (name, image_size) == ("wrn-28-10", 84) else []
            yield pytest.param((name, channels, image_size), marks=marks, id=f"{name}-{image_size}px-{channels}ch")


@pytest.fixture(scope="module", params=_each_network())
def backbone(request: pytest.FixtureRequest) -> Backbone:
    name, channels, image_size = request.param
    return shaken(backbones.create(name, channels, image_size)).eval()


@torch.inference_mode()
def test_features_are_finite_and_of_the_declared_size(backbone: Backbone) -> None:
    features = backbone(pixels(2, backbone.channels, backbone.image_size))
    assert features.shape == (2, backbone.feature_size)
    assert features.dtype == torch.float32
    assert features.isfinite().all()


@torch.inference_mode()
def test_the_features_of_an_image_do_not_depend_on_its_neighbours(backbone: Backbone) -> None:
    images = pixels(2, backbone.channels, backbone.image_size)
    together = backbone(images)
    alone = torch.cat([backbone(images[:1]), backbone(images[1:])])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4 * float(alone.abs().max()))
    assert not torch.allclose(together[0], together[1], rtol=1e-2)


@torch.inference_mode()
def test_pixels_may_be_bytes_or_floating(backbone: Backbone) -> None:
    images = pixels(1, backbone.channels, backbone.image_size)
    assert torch.equal(backbone(images), backbone(images.float()))


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("image_size", [16, 28, 42, 43, 64, 80, 84, 105, 224, 256])
def test_the_declared_size_of_the_features_is_the_real_one_at_every_image_size(name: str, image_size: int) -> None:
    with torch.device("meta"):  # shapes without the arithmetic
        backbone = backbones.create(name, image_size=image_size)
        features = backbone(torch.empty(2, 3, image_size, image_size, dtype=torch.uint8))
    assert features.shape == (2, backbone.feature_size)


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.usefixtures("narrow_networks")
def test_the_parts_of_a_network_are_the_network_and_maps_may_be_changed_before_each(name: str) -> None:
    network = shaken(backbones.create(name, image_size=16)).eval()
    images = pixels(3, 3, 16)
    with torch.inference_mode():
        expected = network(images)
        n_parts = len(network.parts())
        assert n_parts == 4
        for place in range(n_parts):
            assert torch.equal(network(images, change=(place, lambda x: x)), expected)
            swapped = network(images, change=(place, lambda x: x.flip(0)))
            torch.testing.assert_close(swapped, expected.flip(0), rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
            halved = network(images, change=(place, lambda x: x / 2))
            assert not torch.allclose(halved, expected)


def test_a_network_that_is_not_cut_into_parts_is_one() -> None:
    class Sums(Backbone):
        def features(self, pixels: Tensor) -> Tensor:
            return pixels.sum((2, 3))

    network, images = Sums(3, 16, 3), pixels(2, 3, 16)
    assert len(network.parts()) == 1
    assert torch.equal(network(images, change=(0, lambda x: x * 2)), 2 * network(images))


def conv4_size(channels: int, widths: tuple[int, ...]) -> int:
    inputs = (channels, *widths[:-1])
    return sum(9 * i * o + 2 * o for i, o in zip(inputs, widths, strict=True))  # 3×3 without bias; gain and shift


def resnet12_size(channels: int) -> int:
    widths = (channels, 64, 160, 320, 640)
    return sum(9 * i * o + 2 * 9 * o * o + i * o + 4 * 2 * o for i, o in itertools.pairwise(widths))


def wrn_size(channels: int) -> int:
    widths = (16, 160, 320, 640)
    size = 9 * channels * 16 + 2 * 640
    for i, o in itertools.pairwise(widths):
        size += 2 * i + 9 * i * o + 2 * o + 9 * o * o + i * o
        size += 3 * (2 * 9 * o * o + 2 * 2 * o)
    return size


@pytest.mark.parametrize("channels", [1, 3])
def test_the_networks_have_as_many_parameters_as_their_papers_say(channels: int) -> None:
    expected = {
        "conv4-64": conv4_size(channels, (64, 64, 64, 64)),
        "conv4-128": conv4_size(channels, (64, 64, 128, 128)),
        "resnet12": resnet12_size(channels),
        "wrn-28-10": wrn_size(channels),
    }
    with torch.device("meta"):
        found = {name: sum(p.numel() for p in backbones.create(name, channels).parameters()) for name in BACKBONES}
    assert found == expected


def test_the_formulas_give_the_published_sizes() -> None:
    # Conv-4 as commonly coded has 64 biases more in each convolution, which its batch normalisation takes out again.
    assert conv4_size(3, (64, 64, 64, 64)) + 4 * 64 == 113_088
    assert resnet12_size(3) == 12_424_320
    assert wrn_size(3) + 640 * 10 + 10 == 36_479_194  # of Zagoruyko & Komodakis, with their ten classes


def published_conv4(network: Conv4, x: Tensor, last_relu: bool) -> Tensor:
    for i, block in enumerate(network.blocks):
        assert isinstance(block, nn.Sequential)
        x = block[1](block[0](x))
        if i < 3 or last_relu:
            x = functional.relu(x)
        x = functional.max_pool2d(x, 2)
    return x.flatten(1)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("last_relu", [True, False])
def test_conv4_is_exactly_the_published_convolution_normalisation_relu_pooling(last_relu: bool, training: bool) -> None:
    network = shaken(Conv4(3, 32, last_relu=last_relu)).train(training)
    assert isinstance(network, Conv4)
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    x = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(network.features(x), published_conv4(network, x, last_relu))


def test_resnet12_is_the_published_block_with_activation_before_pooling() -> None:
    network = shaken(ResNet12(3, 32)).eval()
    state = network.state_dict()
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = x
    for block in range(4):
        shortcut = functional.conv2d(expected, state[f"blocks.{block}.shortcut.0.weight"])
        shortcut = _normalised(shortcut, state, f"blocks.{block}.shortcut.1")
        for layer in (0, 3, 6):
            expected = functional.conv2d(expected, state[f"blocks.{block}.path.{layer}.weight"], padding=1)
            expected = _normalised(expected, state, f"blocks.{block}.path.{layer + 1}")
            expected = expected + shortcut if layer == 6 else expected
            expected = torch.where(expected > 0, expected, 0.1 * expected)
        expected = functional.max_pool2d(expected, 2)
    expected = functional.adaptive_avg_pool2d(expected, 1).flatten(1)
    with torch.no_grad():
        torch.testing.assert_close(network.features(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("image_size", [32, pytest.param(84, marks=pytest.mark.slow)])
def test_wrn_is_the_published_pre_activation_network(image_size: int) -> None:
    network = shaken(WideResNet28(3, image_size)).eval()
    state = network.state_dict()
    first_stride = 2 if image_size > 42 else 1
    x = torch.randn(1, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    expected = functional.conv2d(x, state["stem.weight"], padding=1)
    for group, group_stride in enumerate((first_stride, 2, 2)):
        for block in range(4):
            # sib.md 3.2: a change of width shares the activated input between both paths; conv1 carries the stride.
            at, stride = f"groups.{group}.{block}", group_stride if block == 0 else 1
            active = functional.relu(_normalised(expected, state, f"{at}.norm1"))
            path = functional.conv2d(active, state[f"{at}.conv1.weight"], stride=stride, padding=1)
            path = functional.relu(_normalised(path, state, f"{at}.norm2"))
            path = functional.conv2d(path, state[f"{at}.conv2.weight"], padding=1)
            if block == 0:
                expected = functional.conv2d(active, state[f"{at}.shortcut.weight"], stride=stride)
            expected = expected + path
    expected = functional.relu(_normalised(expected, state, "norm"))
    side = image_size // 4 // first_stride + (1 if image_size == 84 else 0)
    assert expected.shape == (1, 640, side, side)
    with torch.no_grad():
        found = network.features(x)
    assert (found >= 0).all()
    torch.testing.assert_close(found, expected.mean((2, 3)), rtol=1e-4, atol=1e-4 * float(expected.mean((2, 3)).max()))


def _normalised(x: Tensor, state: dict[str, Tensor], layer: str) -> Tensor:
    def of(name: str) -> Tensor:
        return state[f"{layer}.{name}"].view(1, -1, 1, 1)

    return (x - of("running_mean")) / (of("running_var") + 1e-5).sqrt() * of("weight") + of("bias")


@pytest.mark.parametrize("name", ["resnet12", "wrn-28-10"])
def test_convolutions_start_with_the_variance_that_keeps_the_gradient(name: str) -> None:
    # sib.md 3.2: N(0, 2 / (kh kw out)).
    for key, weight in backbones.create(name).state_dict().items():
        if weight.dim() == 4 and weight.numel() > 10_000:
            outputs, _, height, width = weight.shape
            assert float(weight.std()) == pytest.approx((2 / (height * width * outputs)) ** 0.5, rel=0.05), key


@pytest.mark.usefixtures("narrow_networks")
def test_every_parameter_of_every_network_gets_a_gradient() -> None:
    for name in BACKBONES:
        backbone = backbones.create(name, image_size=16)
        backbone(pixels(2, 3, 16)).square().sum().backward()
        assert not [key for key, value in backbone.named_parameters() if value.grad is None or not value.grad.any()]


def test_an_unknown_network_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(SettingsError, match="'conv-4-64'; did you mean 'conv4-64'"):
        backbones.create("conv-4-64")


@pytest.mark.parametrize(("channels", "image_size"), [(3, 15), (3, 257), (3, 0), (2, 32), (4, 32)])
def test_impossible_images_are_refused_with_what_was_found(channels: int, image_size: int) -> None:
    with pytest.raises(SettingsError, match=f"got {channels} channels and {image_size} pixels"):
        backbones.create("conv4-64", channels, image_size)


@pytest.mark.parametrize("name", BACKBONES)
def test_settings_and_weights_are_all_it_takes_to_build_a_network_again(name: str) -> None:
    with torch.device("meta"):
        backbone = backbones.create(name, 1, 28)
        again = backbones.create(**backbones.read_settings(backbone))
    assert backbones.read_settings(again) == {"name": name, "channels": 1, "image_size": 28}
    assert again.feature_size == backbone.feature_size
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in backbone.state_dict().items()}
