"""Glyphs: characters of many scripts in many environments, the built-in data set that needs no download.

A class is one character. An item is that character in one font and one pose. The splits have no script in common, and
no two classes of any split look alike (data/scripts.py).

Every item is rendered in V environments, the views of the image set. An environment fixes what the images of one
occasion have in common: pose, colours, background, light, ghosts of other writing, blur, noise and haze. A task sees
all of its images in one environment, so that the images without a label tell it something about those with one.

Environment e of a split is a function of (seed, split, e), the pose of an item of (seed, character, item): more
environments, or more images per class, leave the earlier ones as they are.

Axes: V environments, N items, M masks, B items of a chunk, S = size, W = the side of a mask,
Z = 2S = the side of a tile.
"""

import hashlib
import importlib.util
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageFont
from torch import Tensor

from onelook.data.environments import Environment, draw_environment, pose_matrix
from onelook.data.images import ImageSet
from onelook.data.scripts import SCRIPTS, characters
from onelook.errors import Bound, Checked, DataError, NonNegativeFloat, NonNegativeInt, PositiveInt, unknown_name
from onelook.events import Progress

_DEJAVU = ("Sans", "Sans-Bold", "SansMono", "Serif", "Serif-Bold")
FONTS = (*(f"DejaVu{kind}" for kind in _DEJAVU), "STIXGeneral", "STIXGeneralBol")
CHUNK = 500
NONCHARACTER = "\U0010fffe"
"""Character of no font, which draws the sign for a missing one."""


@dataclass(frozen=True)
class GlyphsConfig(Checked):
    size: Annotated[int, Bound(">=", 16)] = 32
    """Height and width of an image in pixels, at least 16."""
    images_per_class: PositiveInt = 20
    """Items of each character: fonts and poses."""
    train_environments: PositiveInt = 16
    """Environments of the train split."""
    val_environments: PositiveInt = 12
    """Environments of the val split."""
    test_environments: PositiveInt = 12
    """Environments of the test split."""
    item_variation: NonNegativeFloat = 1.0
    """Variation of the pose between the items of a class; 0 leaves only the fonts."""
    environment_variation: NonNegativeFloat = 1.0
    """Strength of an environment's pose, light, ghosts, blur, noise and haze; 0 leaves colours and backgrounds."""
    seed: NonNegativeInt = 0


def load_glyphs(split: str, config: GlyphsConfig = GlyphsConfig()) -> Generator[Progress, None, ImageSet]:
    """Render a split. Pixels depend on nothing but the arguments and the version of the font renderer."""
    if split not in SCRIPTS:
        raise unknown_name("split of glyphs", split, SCRIPTS)
    classes = characters(split)
    environments = [
        draw_environment(
            np.random.default_rng([config.seed, list(SCRIPTS).index(split), e]),
            config.size,
            config.environment_variation,
        )
        for e in range(getattr(config, f"{split}_environments"))
    ]
    pixels = yield from render_characters([character for _, character in classes], environments, config)
    hashes = [hashlib.sha256() for _ in range(pixels.shape[1])]
    for view in pixels:
        for digest, image in zip(hashes, view.numpy(), strict=True):
            digest.update(image)
    class_names = tuple(f"{script}/U+{ord(character):04X} {character}" for script, character in classes)
    return ImageSet(
        pixels=pixels,
        labels=torch.arange(len(classes)).repeat_interleave(config.images_per_class),
        class_names=class_names,
        names=tuple(f"{name}/{item:02d}" for name in class_names for item in range(config.images_per_class)),
        digests=tuple(digest.digest() for digest in hashes),
        source=(
            f"glyphs/{split} ({len(environments)} environments of variation {config.environment_variation:g}, "
            f"{config.images_per_class} images a class of variation {config.item_variation:g}, "
            f"{config.size} pixels, seed {config.seed})"
        ),
    )


def render_characters(
    wanted: list[str], environments: list[Environment], config: GlyphsConfig
) -> Generator[Progress, None, UInt8[Tensor, "V N 3 S S"]]:
    """`images_per_class` items of each character, in each of the environments."""
    masks, masks_of_class = yield from _draw_masks(wanted, config.size)
    items = _draw_items(wanted, masks_of_class, config)
    n_items = len(items.mask)
    pixels = torch.empty(len(environments), n_items, 3, config.size, config.size, dtype=torch.uint8)
    for e, environment in enumerate(environments):
        yield Progress("rendering glyphs", e, len(environments))
        for start in range(0, n_items, CHUNK):
            chunk = slice(start, start + CHUNK)
            pixels[e, chunk] = _render(environment, masks, items[chunk])
    yield Progress("rendering glyphs", len(environments), len(environments))
    return pixels


def _draw_masks(wanted: list[str], size: int) -> Generator[Progress, None, tuple[Tensor, list[list[int]]]]:
    """All characters in all fonts that have them: soft masks (M, 1, W, W) in 0 … 1, and each character's indices."""
    side = size * 3 // 2
    fonts = [ImageFont.truetype(path, 2 * side, layout_engine=ImageFont.Layout.BASIC) for path in _font_paths()]
    missing = [_bitmap(font, NONCHARACTER) for font in fonts]
    masks: list[np.ndarray] = []
    masks_of_class: list[list[int]] = []
    for k, character in enumerate(wanted):
        if k % 100 == 0:
            yield Progress("drawing characters", k, len(wanted))
        bitmaps = [_bitmap(font, character) for font in fonts]
        drawn = [b for b, sign in zip(bitmaps, missing, strict=True) if b is not None and b != sign]
        if not drawn:
            raise DataError(f"No font of this matplotlib has U+{ord(character):04X}; install matplotlib 3.9 or newer.")
        masks_of_class.append(list(range(len(masks), len(masks) + len(drawn))))
        masks.extend(_centre(bitmap, side) for bitmap in drawn)
    yield Progress("drawing characters", len(wanted), len(wanted))
    hard = torch.from_numpy(np.stack(masks)).unsqueeze(1).float() / 255
    soft = _blur(hard, 1.0)
    # A hairline blurred stays below the one half where strokes are cut, and its image would be blank.
    return soft / soft.amax((1, 2, 3), keepdim=True), masks_of_class


def _font_paths() -> Iterator[str]:
    # The package is looked up and not imported: only its folder of fonts is wanted, and its import is slow.
    spec = importlib.util.find_spec("matplotlib")
    folder = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" if spec and spec.origin else None
    for font in FONTS:
        if folder is None or not (folder / f"{font}.ttf").is_file():
            raise DataError(
                f"Glyphs are drawn with the fonts that come with matplotlib, but {font} is not there; "
                'get them by `pip install "onelook[demo]"`.'
            )
        yield str(folder / f"{font}.ttf")


def _bitmap(font: ImageFont.FreeTypeFont, character: str) -> Image.Image | None:
    """The ink of a character, cropped; None for a blank."""
    left, top, right, bottom = font.getbbox(character)
    if right <= left or bottom <= top:
        return None
    core = font.getmask(character, mode="L")
    image = Image.frombytes("L", core.size, bytes(core))
    box = image.getbbox()
    return image.crop(box) if box else None


def _centre(bitmap: Image.Image, side: int) -> np.ndarray:
    """Scaled so that the longer side fills 0.68 of the square, which leaves room to turn."""
    scale = 0.68 * side / max(bitmap.size)
    small = bitmap.resize([max(1, round(length * scale)) for length in bitmap.size], Image.Resampling.LANCZOS)
    square = Image.new("L", (side, side))
    square.paste(small, ((side - small.width) // 2, (side - small.height) // 2))
    return np.asarray(square)


@dataclass(frozen=True)
class _Items:
    """Properties of items that are the same in every environment."""

    mask: Int[Tensor, "B"]
    pose: Float[Tensor, "B 2 2"]
    """Maps the coordinates of the posed glyph to those of its mask."""
    shift: Float[Tensor, "B 2"]
    """Shift in halves of the image's side."""
    weight: Float[Tensor, "B"]
    """Summand of the soft mask before it is cut at one half: strokes get bolder or lighter."""
    exposure: Float[Tensor, "B"]
    warp: Float[Tensor, "B 2 5 5"]
    """Displacement of a coarse grid of points, as in handwriting; in halves of the image's side."""
    ghost: Int[Tensor, "B"]
    """The mask of another character, which shines through from the back of the page."""
    ghost_map: Float[Tensor, "B 2 3"]
    """Maps the coordinates of the image to those of the ghost's mask."""
    window: Float[Tensor, "B 4"]
    """Place of the image in the tiles of background and of noise, 0 … 1."""

    def __getitem__(self, rows: slice) -> "_Items":
        return _Items(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def _draw_items(wanted: list[str], masks_of_class: list[list[int]], config: GlyphsConfig) -> _Items:
    n_masks = masks_of_class[-1][-1] + 1
    drawn = [
        _draw_item(np.random.default_rng([config.seed, ord(character), item]), masks, n_masks, config.item_variation)
        for character, masks in zip(wanted, masks_of_class, strict=True)
        for item in range(config.images_per_class)
    ]
    columns = {name: torch.from_numpy(np.array([item[name] for item in drawn])) for name in drawn[0]}
    return _Items(**{name: c.float() if c.is_floating_point() else c for name, c in columns.items()})


def _draw_item(rng: np.random.Generator, masks: list[int], n_masks: int, variation: float) -> dict[str, Any]:
    # Clipped, so that no item leaves the image and no hairline vanishes.
    rotation, shear, width, height, right, down, weight, exposure, *warp = (
        np.clip(rng.standard_normal(8 + 2 * 5 * 5), -2, 2) * variation
    )
    return {
        "mask": masks[rng.integers(len(masks))],
        "pose": pose_matrix(0.23 * rotation, 0.19 * shear, 0.13 * np.array([width, height])),
        "shift": 0.1 * np.array([right, down]),
        "weight": 0.06 + 0.1 * weight,
        "exposure": 1 + 0.05 * exposure,
        "warp": 0.075 * np.reshape(warp, (2, 5, 5)),
        "ghost": rng.integers(n_masks),
        "ghost_map": np.c_[pose_matrix(rng.uniform(-3, 3), 0.0, np.log([1.5, 1.5])), rng.uniform(-0.7, 0.7, 2)],
        "window": rng.random(4),
    }


def _render(scene: Environment, masks: Float[Tensor, "M 1 W W"], items: _Items) -> UInt8[Tensor, "B 3 S S"]:
    size = scene.background.shape[-1] // 2
    to_mask = items.pose @ scene.pose
    theta = torch.cat([to_mask, -to_mask @ items.shift.unsqueeze(-1)], -1)
    warp = F.interpolate(items.warp, (size, size), mode="bicubic", align_corners=True).movedim(1, -1)
    ink = _strokes(masks[items.mask], theta, warp, items.weight)
    ghost = _strokes(masks[items.ghost], items.ghost_map, warp, items.weight)

    line = (torch.arange(size) + 0.5) / size * 2 - 1
    towards_light = scene.light[0] * line + scene.light[1] * line.unsqueeze(-1)  # S S
    height = _blur(ink, 0.03 * size)
    away = [round(-0.07 * size * float(part)) for part in scene.light]
    shadow = torch.roll(height, (away[1], away[0]), (2, 3))
    slope_y, slope_x = torch.gradient(height, dim=(2, 3))
    # A slope that rises away from the light faces it.
    lit_edge = -(slope_x * scene.light[0] + slope_y * scene.light[1]) * (size / 8)

    ground = _windows(scene.background, items.window[:, :2], size) * (1 - scene.shadow * shadow)
    colour = torch.lerp(scene.ink[1], scene.ink[0], (towards_light + 1) / 2) + scene.relief * lit_edge
    ground = torch.lerp(ground, colour, scene.ghost * ghost)
    image = torch.lerp(ground, colour, ink) * (1 + scene.ramp * towards_light)
    image = torch.lerp(image * items.exposure.view(-1, 1, 1, 1), scene.air, scene.haze)
    image = _blur(image, scene.blur * size) + _windows(scene.noise, items.window[:, 2:], size)
    return (image.clamp(0, 1) * 255).round().to(torch.uint8)


def _strokes(
    soft: Float[Tensor, "B 1 W W"],
    to_mask: Float[Tensor, "B 2 3"],
    warp: Float[Tensor, "B S S 2"],
    weight: Float[Tensor, "B"],
) -> Float[Tensor, "B 1 S S"]:
    """How much ink there is at each pixel of an image, 0 … 1."""
    grid = F.affine_grid(to_mask, [len(soft), 1, *warp.shape[1:3]], align_corners=False) + warp
    cut = F.grid_sample(soft, grid, align_corners=False) - 0.5 + weight.view(-1, 1, 1, 1)
    return (2 * cut + 0.5).clamp(0, 1)


def _windows(tile: Float[Tensor, "3 Z Z"], corner: Float[Tensor, "B 2"], size: int) -> Float[Tensor, "B 3 S S"]:
    rows, columns = ((corner * 2 * size).long().unsqueeze(-1) + torch.arange(size)).remainder(2 * size).unbind(1)
    return tile[:, rows.unsqueeze(-1), columns.unsqueeze(-2)].transpose(0, 1)


def _blur(images: Float[Tensor, "B C S S"], sigma: float) -> Float[Tensor, "B C S S"]:
    """Gaussian blur, sigma in pixels, as one matrix for rows and for columns; at the rim the weights are scaled up."""
    if sigma < 0.1:
        return images
    place = torch.arange(images.shape[-1], dtype=torch.float32)
    kernel = torch.exp(-((place - place.unsqueeze(-1)) ** 2) / (2 * sigma**2))
    kernel = kernel / kernel.sum(-1, keepdim=True)
    return kernel @ images @ kernel.mT
