"""Images of the same classes in several domains, such as photographs, paintings, cartoons and sketches (PACS)."""

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from onelook.data.environments import draw_environment
from onelook.data.glyphs import GlyphsConfig, render_characters
from onelook.data.images import ImageSet, Reading, load
from onelook.data.listing import list_images
from onelook.data.scripts import characters
from onelook.errors import DataError, SettingsError
from onelook.events import Progress
from onelook.files import digest

Domains = dict[str, ImageSet]
"""Image sets by name, in alphabetical order. All have the same class names, in the same order."""


def read_domains(folder: Path, size: int, channels: int = 3) -> Generator[Reading, None, Domains]:
    """Read the images of `folder`/domain/class. Raises DataError."""
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}; give one that holds a folder for each domain.")
    places = sorted(place for place in folder.iterdir() if place.is_dir() and not place.name.startswith("."))
    if len(places) < 2:
        raise DataError(f"{folder} holds {len(places)} folders; expected two domains or more, with a folder per class.")
    listings = {place.name: list_images(place) for place in places}
    _require_same_classes({name: listing.class_names for name, listing in listings.items()}, str(folder))
    domains = {}
    for name, listing in listings.items():
        domains[name] = yield from load(listing, size, channels)
    return domains


def _require_same_classes(classes: dict[str, tuple[str, ...]], source: str) -> None:
    (first, expected), *others = classes.items()
    for name, found in others:
        if odd := sorted(set(found) ^ set(expected)):
            having, lacking = (name, first) if odd[0] in found else (first, name)
            odds = f"{having} has {odd[0]!r} and {lacking} has not ({len(odd)} such classes)"
            raise DataError(f"The domains of {source} must have the same classes, but {odds}; rename or remove it.")


@dataclass(frozen=True)
class GlyphDomainsConfig:
    n_domains: int = 4
    n_classes: int = 12
    """Characters of the Latin, Greek and Arabic scripts and digits."""
    images_per_class: int = 50
    """Images of a class in each domain."""
    size: int = 32
    item_variation: float = 1.0
    """Variation of the pose between the items of a class."""
    environment_variation: float = 1.0
    """Strength of a domain's pose, light, ghosts, blur, noise and haze; 0 leaves colours and backgrounds."""
    seed: int = 0


def glyph_domains(config: GlyphDomainsConfig = GlyphDomainsConfig()) -> Generator[Progress, None, Domains]:
    """Characters whose domain is one environment of glyphs: what PACS is to objects, without a download.

    No item is in two domains. Domain d is a function of (seed, d): more domains leave the earlier ones as they are.
    """
    known = [c for script, c in characters("train") if script in ("arabic", "digits", "greek", "latin")]
    if not 2 <= config.n_classes <= len(known) or config.n_domains < 2 or config.seed < 0:
        raise SettingsError(
            f"Glyph domains need 2 to {len(known)} classes, at least 2 domains and no negative seed, but got {config}."
        )
    wanted = sorted(np.random.default_rng(config.seed).permutation(known)[: config.n_classes].tolist())
    class_names = tuple(f"U+{ord(character):04X}" for character in wanted)
    names = tuple(f"{name}/{item:03d}" for name in class_names for item in range(config.images_per_class))
    domains = {}
    for d in range(config.n_domains):
        # The seed of the items of a domain is drawn too, so that no two domains share them.
        rng = np.random.default_rng([config.seed, d])
        items = GlyphsConfig(
            size=config.size,
            images_per_class=config.images_per_class,
            item_variation=config.item_variation,
            seed=int(rng.integers(2**31)),
        )
        environment = draw_environment(rng, config.size, config.environment_variation)
        pixels = yield from render_characters(wanted, [environment], items)
        domains[f"domain-{d:02d}"] = ImageSet(
            pixels=pixels,
            labels=torch.arange(len(wanted)).repeat_interleave(config.images_per_class),
            class_names=class_names,
            names=names,
            digests=tuple(digest(image.tobytes()) for image in pixels[0].numpy()),
            source=f"glyph domain {d} of {config}",
        )
    return domains
