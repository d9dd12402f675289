"""Features of images, computed once and cached.

The key of a cached feature is everything that determines it: the bytes of its image, the weights, the preprocessing,
the precision, the view and the averaging. When one of them changes, there is nothing under the new key, so that a stale
feature cannot be found (data/feature_store.py keeps them).
"""

import contextlib
import functools
import hashlib
import re
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from onelook.backbones import Backbone
from onelook.backbones.framing import Framing
from onelook.data.augment import N_DRAWS, Augmentation, augment
from onelook.data.feature_store import FeatureStore
from onelook.data.images import PREPROCESSING, ImageSet, Reading, Rejected, decode, image_batches, require_some
from onelook.data.listing import Listing
from onelook.data.passes import Passes
from onelook.errors import Checked, DataError, NonNegativeInt, SettingsError
from onelook.events import Progress
from onelook.tasks import Embeddings

COMPUTING = "computing features"
"""Stage of the work that is longest."""
BLOCK_BYTES = 1 << 28
"""Pixels that are decoded before their features are computed and saved, at most READ_AT_ONCE images."""
READ_AT_ONCE = 500
"""Image files of a batch, which is read by several threads. Features are saved for as many."""
CHUNK = 512
"""Images of one pass through a network, which may ask for fewer."""


@dataclass(frozen=True)
class Averaging(Checked):
    """Versions of an image whose features are averaged with those of the image itself.

    Yassir Bendou et al. EASY: Ensemble Augmented-Shot-Y-shaped Learning. J. Imaging 2022, arXiv:2201.09699. Departure:
    they average crops of the support images; here it is done to all images, so that a query is like what it is
    compared with. Features of unit length averaged no better on validation tasks (less than 0.1 points).
    """

    mirror: bool = False
    """Mirror the image, and each crop, left to right."""
    crops: NonNegativeInt = 0
    """Number of crops, moved at random by at most `crop_padding` pixels."""
    crop_padding: NonNegativeInt = 4

    def __str__(self) -> str:
        words = ["mirror"] * self.mirror + [f"crops:{self.crops}"] * (self.crops > 0)
        return "+".join(words) or "none"

    @property
    def n_versions(self) -> int:
        """Number of images that go through the network for one."""
        return (1 + self.mirror) * (1 + self.crops)


AVERAGE = "none"
"""Versions that are averaged where nobody says otherwise; the mirror image costs as much as another network and gives
less (docs/log.md)."""


def parse_averaging(text: str, allowed: Augmentation = Augmentation()) -> Averaging:
    """Read `none`, `mirror`, `crops:N` or `mirror+crops:N`. allowed: changes that leave the class as it is.

    >>> parse_averaging("mirror+crops:2").n_versions
    6
    """
    found = re.fullmatch(r"none|mirror|(?:mirror\+)?crops:([1-9]\d?)", text)
    if not found:
        raise SettingsError(
            f"An average is none, mirror, crops:N or mirror+crops:N, with N from 1 to 99, but got {text!r}."
        )
    mirror = text.startswith("mirror")
    if mirror and not allowed.flip:
        raise SettingsError("A mirrored character is another character, and not averaged; use crops:N, or none.")
    return Averaging(mirror, int(found[1] or 0), allowed.crop_padding)


@dataclass(frozen=True)
class EmbedConfig:
    augmentation: Augmentation | None = None
    """None: every image as it is (in each of its environments)."""
    n_views: int = 1
    """Augmented views of every image."""
    seed: int = 0
    """Seed of the augmentations and crops, together with the image and the number of the view."""
    precision: str = "float32"
    """Number format of the network: float32 or bfloat16. Features are saved in float32."""
    average: Averaging = Averaging()
    """Versions of an image, or of each view of it, that are averaged into its feature."""
    memory: int | None = None
    """Bytes of which an eighth holds the pixels of a block; None: BLOCK_BYTES."""

    def count_at_once(self, network: Backbone) -> int:
        """Images of a block."""
        n_bytes = BLOCK_BYTES if self.memory is None else min(BLOCK_BYTES, self.memory // 8)
        return max(1, min(READ_AT_ONCE, n_bytes // (network.channels * network.image_size**2)))


def embed(
    images: ImageSet, backbone: Backbone, config: EmbedConfig = EmbedConfig(), cache: Path | None = None
) -> Generator[Progress, None, Embeddings]:
    """Compute the features of images, or find them in the folder `cache`. Raises DataError, StorageError."""
    expected = (backbone.channels, backbone.image_size, backbone.image_size)
    if tuple(images.pixels.shape[2:]) != expected:
        found = f"those of {images.source} are {tuple(images.pixels.shape[2:])}"
        raise DataError(f"The feature network takes images of {expected}, but {found}; load them at that size.")
    n_views = config.n_views if config.augmentation else len(images.pixels)
    store = _open_store(cache, backbone, config, n_views, images.framing)
    known = store.known()
    missing = [i for i, d in enumerate(images.digests) if d not in known]
    keys = [images.digests[i] for i in missing]
    with Passes(backbone) as passes:
        store.add(keys, (yield from _Block(images.pixels, keys, missing, passes, config).finish(0, 0)))
    views = store.find(images.digests)
    source = _source(images.source, config)
    return Embeddings(views, images.labels, images.class_names, images.names, source, images.environments)


def embed_files(
    listing: Listing, backbone: Backbone, config: EmbedConfig = EmbedConfig(), cache: Path | None = None
) -> Generator[Reading, None, Embeddings]:
    """Features of image files: those of `embed` after `load`.

    Each file is read once, and decoded where its content is not in the cache. At most BLOCK_BYTES of pixels wait for
    the network, while those before them are computed, and their features are saved when they are as many.
    """
    store = _open_store(cache, backbone, config, config.n_views if config.augmentation else 1, backbone.framing)
    known, waiting = store.known(), dict[bytes, np.ndarray]()

    def look(content: bytes) -> bytes:
        key = hashlib.sha256(content).digest()
        if key not in known and key not in waiting:
            waiting[key] = decode(content, backbone.image_size, backbone.channels, backbone.framing)
        return key

    found: list[bytes | Rejected] = []
    with Passes(backbone) as passes:
        blocks = _Blocks(store, passes, config)
        step = min(blocks.n_at_once, passes.n_wanted or blocks.n_at_once)
        for batch in image_batches(listing, look, step):
            found += batch
            n_unread = len(listing.names) - len(found)
            if not blocks.n_begun:  # then, the progress of the computation is that of the whole
                yield Progress("reading images", len(found), len(listing.names))
            yield from (one for one in batch if isinstance(one, Rejected))
            keys = [one for one in dict.fromkeys(batch) if isinstance(one, bytes) and one in waiting]
            yield from blocks.add(keys, [waiting.pop(key) for key in keys], n_unread)
            known.update(keys)
        yield from blocks.finish()
    good = [i for i, one in enumerate(found) if isinstance(one, bytes)]
    require_some(len(good), listing, [one for one in found if isinstance(one, Rejected)])
    views, kept = store.find([one for one in found if isinstance(one, bytes)]), listing.take(good)
    labels = torch.tensor(kept.labels, dtype=torch.long)
    return Embeddings(views, labels, listing.class_names, kept.names, _source(listing.source, config))


def _source(images: str, config: EmbedConfig) -> str:
    return images if config.average.n_versions == 1 else f"{images}, each the mean over {config.average}"


class _Block:
    """Features of some rows of images, under way. digests: those of the rows."""

    def __init__(
        self,
        pixels: UInt8[Tensor, "V N C H W"],
        digests: Sequence[bytes],
        rows: Sequence[int],
        passes: Passes,
        config: EmbedConfig,
    ) -> None:
        self.digests, self.network = list(digests), passes.network
        self.n_views = config.n_views if config.augmentation else len(pixels)
        self.parts = passes.cut(len(rows), min(CHUNK, self.network.images_per_pass))

        def compute(view: int, part: range) -> Float[Tensor, "R D"]:
            images = pixels[0 if config.augmentation else view, [rows[i] for i in part]].to(self.network.device)
            with torch.inference_mode(), precision(config.precision, self.network.device):
                versions = _versions(images, [digests[i] for i in part], view, config)
                first, *others = (self.network(x).float() for x in versions)
                mean: Tensor = sum(others, first) / config.average.n_versions
                return mean.cpu()

        views = range(self.n_views)
        self.results = passes.start([functools.partial(compute, view, part) for view in views for part in self.parts])

    def finish(self, n_before: int, n_after: int) -> Generator[Progress, None, Float[Tensor, "V R D"]]:
        """Wait for the features. The images before and after are counted in the progress only."""
        n_rows = len(self.digests)
        out = torch.empty(self.n_views, n_rows, self.network.feature_size)
        for view in range(self.n_views):
            for part in self.parts:
                out[view, part.start : part.stop] = next(self.results)
                done = self.n_views * n_before + view * n_rows + part.stop
                yield Progress(COMPUTING, done, self.n_views * (n_before + n_rows + n_after))
        return out


class _Blocks:
    """Blocks of images in turn, of which some are computed while more images are read."""

    def __init__(self, store: FeatureStore, passes: Passes, config: EmbedConfig) -> None:
        self.store, self.passes, self.config = store, passes, config
        self.n_at_once = config.count_at_once(passes.network)
        self.n_begun = self.n_done = self.n_unread = 0
        self._under_way = deque[_Block]()
        self._unsaved: list[tuple[list[bytes], Float[Tensor, "V R D"]]] = []

    def add(self, keys: list[bytes], pixels: list[np.ndarray], n_unread: int) -> Generator[Progress, None, None]:
        """Begin with the pixels of new images, and finish those before them. n_unread: images that come later."""
        self.n_begun, self.n_unread = self.n_begun + len(keys), n_unread
        if keys:
            stack = torch.from_numpy(np.stack(pixels))[None]
            self._under_way.append(_Block(stack, keys, range(len(keys)), self.passes, self.config))
        while len(self._under_way) > self.passes.n_ahead:
            yield from self._finish_one()

    def finish(self) -> Generator[Progress, None, None]:
        """Finish all, and save it."""
        while self._under_way:
            yield from self._finish_one()
        self._save()

    def _finish_one(self) -> Generator[Progress, None, None]:
        block = self._under_way.popleft()
        n_after = self.n_begun - self.n_done - len(block.digests) + self.n_unread
        features = yield from block.finish(self.n_done, n_after)
        self.n_done += len(block.digests)
        self._unsaved.append((block.digests, features))
        if sum(len(keys) for keys, _ in self._unsaved) >= self.n_at_once:
            self._save()

    def _save(self) -> None:
        if self._unsaved:
            keys, features = zip(*self._unsaved, strict=True)
            self.store.add([one for some in keys for one in some], torch.cat(features, 1))
        self._unsaved.clear()


def _versions(
    pixels: UInt8[Tensor, "N C H W"], digests: Sequence[bytes], view: int, config: EmbedConfig
) -> Iterator[Tensor]:
    """The pixels of each of the features that are averaged, in one view."""
    first = (
        pixels if config.augmentation is None else augment(pixels, config.augmentation, _draws(digests, view, config))
    )
    cropping = Augmentation(config.average.crop_padding, flip=False, jitter=0.0)
    for crop in range(1 + config.average.crops):
        moved = augment(first, cropping, _draws(digests, view, config, crop)) if crop else first
        yield moved
        if config.average.mirror:
            yield moved.flip(-1)


def _draws(digests: Sequence[bytes], view: int, config: EmbedConfig, *more: int) -> np.ndarray:
    # An image is augmented by its own bytes and not by its place, or the cache would depend on its neighbours.
    seeds = [[config.seed, view, int.from_bytes(key[:8], "little"), *more] for key in digests]
    return np.stack([np.random.default_rng(s).random(N_DRAWS) for s in seeds])


def precision(name: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """The context in which a network computes in `name`, float32 or bfloat16, on its device."""
    return torch.autocast(device.type, torch.bfloat16) if name == "bfloat16" else contextlib.nullcontext()


def _open_store(
    cache: Path | None, backbone: Backbone, config: EmbedConfig, n_views: int, framing: Framing | None
) -> FeatureStore:
    key = {
        "network": backbone.digest().hex(),
        "preprocessing": PREPROCESSING,
        "shape": [backbone.channels, backbone.image_size],
        "framing": framing and asdict(framing),
        "precision": config.precision,
        "n_views": n_views,
        "augmentation": config.augmentation and asdict(config.augmentation),
        "mirror": config.average.mirror,
        "crops": config.average.crops,
        # What decides nothing here must not part the features from those that are equal to them.
        "crop_padding": config.average.crop_padding if config.average.crops else None,
        "seed": config.seed if config.augmentation or config.average.crops else None,
    }
    return FeatureStore(cache, key, (n_views, backbone.feature_size))
