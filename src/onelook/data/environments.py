"""Environments: common properties of the images of one occasion, drawn at random.

Colours are drawn in Oklab (Björn Ottosson, A perceptual color space for image processing, 2020,
bottosson.github.io/posts/oklab), so that a contrast is as strong in one hue as in another.
Axes: S = the side of an image in pixels, Z = 2S = the side of a tile.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

CONES_OF_AB = np.array([[0.3963377774, 0.2158037573], [-0.1055613458, -0.0638541728], [-0.0894841775, -1.2914855480]])
RGB_OF_CONES = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


@dataclass(frozen=True)
class Environment:
    """Common properties of the images of one occasion. Colours are sRGB, 0 … 1; lengths are fractions of the side."""

    pose: Float[Tensor, "2 2"]
    background: Float[Tensor, "3 Z Z"]
    """A tile without seams; an image has a window of it."""
    noise: Float[Tensor, "3 Z Z"]
    ink: Float[Tensor, "2 3 1 1"]
    """The colour at the lit end of the image and at the other end."""
    light: Float[Tensor, "2"]
    """Unit vector towards the light, (x, y)."""
    ramp: float
    """How much brighter the lit end is."""
    relief: float
    """How much the edges of a stroke catch the light."""
    shadow: float
    """How dark the shadow of the glyph is."""
    ghost: float
    """How strongly other writing shines through."""
    blur: float
    haze: float
    """How much of every pixel is `air`."""
    air: Float[Tensor, "3 1 1"]


def draw_environment(rng: np.random.Generator, size: int, variation: float) -> Environment:
    """Draw an environment. size: S in pixels. variation: strength of all but colours and background."""
    rotation, shear, *log_scale = rng.uniform(-1, 1, 4) * variation
    lightness = rng.uniform(0.12, 0.95)
    contrast = rng.uniform(0.28, 0.6)
    brighter = lightness < 0.35 or (lightness < 0.7 and rng.random() < 0.5)
    hue = rng.uniform(0, 2 * math.pi)
    ink_hue = hue + rng.uniform(0.25, 1.75) * math.pi
    ink_lightness = min(max(lightness + (contrast if brighter else -contrast), 0.05), 0.98)
    grounds = [_colour(lightness + d, rng.uniform(0.01, 0.11), hue + rng.normal(0, 0.4)) for d in (-0.07, 0.07)]
    inks = [_colour(ink_lightness + d, rng.uniform(0.02, 0.16), ink_hue + rng.normal(0, 0.3)) for d in (0.05, -0.05)]
    texture = _texture(rng, 2 * size)
    angle = rng.uniform(0, 2 * math.pi)
    ramp, relief, shadow, ghost, haze = rng.random(5) * variation * (0.35, 0.35, 0.5, 0.45, 0.4)
    blur = variation * rng.uniform(0, 0.025)
    noise = rng.standard_normal((3, 2 * size, 2 * size)) * variation * rng.uniform(0, 0.06)
    return Environment(
        pose=_tensor(pose_matrix(0.42 * rotation, 0.25 * shear, 0.18 * np.array(log_scale))),
        background=_tensor(grounds[0] + (grounds[1] - grounds[0]) * texture),
        noise=_tensor(noise),
        ink=_tensor(np.stack(inks)),
        light=_tensor(np.array([math.cos(angle), math.sin(angle)])),
        ramp=ramp,
        relief=relief,
        shadow=shadow,
        ghost=ghost,
        blur=blur,
        haze=haze,
        air=_tensor(_colour(rng.uniform(0.3, 0.9), 0.05, rng.uniform(0, 2 * math.pi))),
    )


def _texture(rng: np.random.Generator, side: int) -> np.ndarray:
    """A (side, side) tile without seams, about -0.5 … 1.5: clouds, fibres, stripes, a weave or dots."""
    kind = rng.integers(5)
    y, x = np.meshgrid(np.arange(side) / side, np.arange(side) / side, indexing="ij")
    fy, fx = np.meshgrid(np.fft.fftfreq(side, 1 / side), np.fft.fftfreq(side, 1 / side), indexing="ij")
    stretch = rng.uniform(3, 8) if kind == 1 else 1.0
    spectrum = (1 + fx**2 + (fy / stretch) ** 2) ** (-rng.uniform(0.6, 1.3))
    clouds = np.fft.ifft2(np.fft.fft2(rng.standard_normal((side, side))) * spectrum).real
    clouds = (clouds - clouds.mean()) / clouds.std()
    # Whole waves to a tile, or its seams would show.
    u, v = rng.integers(3, 9, 2) * rng.choice([-1, 1], 2)
    warp = rng.uniform(0, 0.25) * clouds
    wave, other = np.sin(2 * np.pi * (u * x + v * y) + warp), np.sin(2 * np.pi * (v * x - u * y) + warp)
    pattern = (clouds, clouds, wave, np.sign(wave * other), 2.0 * (wave + other > 1.1))[kind]
    texture: np.ndarray = 0.5 + rng.uniform(0.2, 0.5) * (0.8 * pattern + 0.4 * clouds)
    return texture


def _colour(lightness: float, chroma: float, hue: float) -> np.ndarray:
    """sRGB (3, 1, 1) of an Oklab colour, where equal steps look equal; out of gamut is clipped."""
    a, b = chroma * math.cos(hue), chroma * math.sin(hue)
    linear = np.clip(RGB_OF_CONES @ (lightness + CONES_OF_AB @ (a, b)) ** 3, 0, 1)
    srgb: np.ndarray = np.where(linear < 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return srgb.reshape(3, 1, 1)


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(array, dtype=np.float32))


def pose_matrix(rotation: float, shear: float, log_scale: np.ndarray) -> np.ndarray:
    """The (2, 2) map from the image to the mask; rotation in radians, log_scale along x and y."""
    cos, sin = math.cos(rotation), math.sin(rotation)
    pose: np.ndarray = (
        np.array([[cos, -sin], [sin, cos]]) @ np.array([[1, shear], [0, 1]]) @ np.diag(np.exp(-log_scale))
    )
    return pose
