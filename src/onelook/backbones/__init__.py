"""Feature networks (backbones): one file per family, one line each in BACKBONES."""

from collections.abc import Callable
from functools import partial
from typing import Any

from onelook.backbones.base import Backbone as Backbone
from onelook.backbones.conv4 import Conv4
from onelook.backbones.resnet12 import ResNet12
from onelook.backbones.wrn28 import WideResNet28
from onelook.errors import SettingsError, unknown_name

BACKBONES: dict[str, Callable[..., Backbone]] = {
    "conv4-64": Conv4,
    "conv4-128": partial(Conv4, widths=(64, 64, 128, 128), last_relu=False),
    "resnet12": ResNet12,
    "wrn-28-10": WideResNet28,
}


def create(name: str, channels: int = 3, image_size: int = 32) -> Backbone:
    """Build an untrained backbone for images of `channels` × `image_size` × `image_size`.

    >>> create("conv4-64", image_size=32).feature_size
    256
    """
    if name not in BACKBONES:
        raise unknown_name("feature network", name, BACKBONES)
    if channels not in (1, 3) or not 16 <= image_size <= 256:
        found = f"{channels} channels and {image_size} pixels"
        raise SettingsError(f"Images have 1 or 3 channels and 16 to 256 pixels here, but got {found}.")
    backbone = BACKBONES[name](channels=channels, image_size=image_size)
    backbone.name = name
    return backbone


def read_settings(backbone: Backbone) -> dict[str, Any]:
    """Settings with which `create` builds the network again, without its weights."""
    return {"name": backbone.name, "channels": backbone.channels, "image_size": backbone.image_size}
