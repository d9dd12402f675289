"""Feature maps for the methods that want them: D features are C channels of side × side cells, in this order."""

import math

from torch import nn

from onelook.errors import SettingsError


def map_shape(feature_size: int, channels: int) -> tuple[int, int]:
    """(channels, side) of the square maps; 0 channels: every feature is its own channel, a map of one cell."""
    channels = channels or feature_size
    side = math.isqrt(feature_size // channels) if channels > 0 else 0
    if feature_size < 1 or channels < 1 or channels * side * side != feature_size:
        raise SettingsError(
            f"Features must be square maps of that many channels, but got feature_size={feature_size}, "
            f"channels={channels}; channels=0 takes every feature for a channel."
        )
    return channels, side


def convolution(n_in: int, n_out: int, side: int) -> nn.Conv2d:
    """3 x 3 with padding; the padding around a single cell would leave only the middle weight in use."""
    return nn.Conv2d(n_in, n_out, 3, padding=1) if side > 1 else nn.Conv2d(n_in, n_out, 1)
