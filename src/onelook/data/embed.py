"""Features of images, computed once and cached.

The key of a cached feature is everything that determines it: the bytes of its image, the weights, the preprocessing,
the precision, the view and the averaging. When one of them changes, there is nothing under the new key, so that a stale
feature cannot be found. Features lie in memory-mapped safetensors; images that come later make a file of their own.
"""

import contextlib
import functools
import hashlib
import json
import re
import zlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from torch import Tensor

from onelook.backbones import Backbone
from onelook.backbones.framing import Framing
from onelook.data.augment import N_DRAWS, Augmentation, augment
from onelook.data.images import PREPROCESSING, ImageSet, Reading, Rejected, decode, image_batches, require_some
from onelook.data.listing import Listing
from onelook.errors import Checked, DataError, NonNegativeInt, SettingsError
from onelook.events import Progress
from onelook.files import digest, read_tensors, write_tensors
from onelook.tasks import Embeddings

BLOCK_BYTES = 1 << 28
"""Pixels that are decoded before their features are computed and saved: 1,783 colour images of 224 pixels."""
READ_AT_ONCE = 500
"""Image files of a batch, which is read by several threads."""
CHECKSUM = "crc32"
"""Key of the header of a file of features."""
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


def embed(
    images: ImageSet, backbone: Backbone, config: EmbedConfig = EmbedConfig(), cache: Path | None = None
) -> Generator[Progress, None, Embeddings]:
    """Compute the features of images, or find them in the folder `cache`. Raises DataError, StorageError."""
    expected = (backbone.channels, backbone.image_size, backbone.image_size)
    if tuple(images.pixels.shape[2:]) != expected:
        found = f"those of {images.source} are {tuple(images.pixels.shape[2:])}"
        raise DataError(f"The feature network takes images of {expected}, but {found}; load them at that size.")
    n_views = config.n_views if config.augmentation else len(images.pixels)
    store = _Store(cache, backbone, config, n_views, images.framing)
    known = store.known()
    missing = [i for i, d in enumerate(images.digests) if d not in known]
    fresh = yield from _compute(images.pixels, images.digests, missing, backbone, config)
    store.add([images.digests[i] for i in missing], fresh)
    views = store.find(images.digests)
    source = _source(images.source, config)
    return Embeddings(views, images.labels, images.class_names, images.names, source, images.environments)


def embed_files(
    listing: Listing, backbone: Backbone, config: EmbedConfig = EmbedConfig(), cache: Path | None = None
) -> Generator[Reading, None, Embeddings]:
    """Features of image files: those of `embed` after `load`.

    Each file is read once, and decoded where its content is not in the cache. At most BLOCK_BYTES of pixels wait for
    the network, and the features of a block are saved before the next one is read.
    """
    store = _Store(cache, backbone, config, config.n_views if config.augmentation else 1, backbone.framing)
    known, waiting = store.known(), dict[bytes, np.ndarray]()

    def look(content: bytes) -> bytes:
        key = hashlib.sha256(content).digest()
        if key not in known and key not in waiting:
            waiting[key] = decode(content, backbone.image_size, backbone.channels, backbone.framing)
        return key

    found: list[bytes | Rejected] = []
    block = max(1, BLOCK_BYTES // (backbone.channels * backbone.image_size**2))
    n_computed, step = 0, min(block, READ_AT_ONCE)
    for batch in image_batches(listing, look, step):
        found += batch
        n_unread = len(listing.names) - len(found)
        yield Progress("reading images", len(found), len(listing.names))
        yield from (one for one in batch if isinstance(one, Rejected))
        if waiting and (n_unread == 0 or len(waiting) + step > block):
            keys = [one for one in dict.fromkeys(found) if isinstance(one, bytes) and one in waiting]
            pixels = torch.from_numpy(np.stack([waiting.pop(key) for key in keys]))[None]
            rows = range(len(keys))
            store.add(keys, (yield from _compute(pixels, keys, rows, backbone, config, n_computed, n_unread)))
            known.update(keys)
            n_computed += len(keys)
    good = [i for i, one in enumerate(found) if isinstance(one, bytes)]
    require_some(len(good), listing, [one for one in found if isinstance(one, Rejected)])
    views, kept = store.find([one for one in found if isinstance(one, bytes)]), listing.take(good)
    labels = torch.tensor(kept.labels, dtype=torch.long)
    return Embeddings(views, labels, listing.class_names, kept.names, _source(listing.source, config))


def _source(images: str, config: EmbedConfig) -> str:
    return images if config.average.n_versions == 1 else f"{images}, each the mean over {config.average}"


def _compute(
    pixels: UInt8[Tensor, "V N C H W"],
    digests: Sequence[bytes],
    rows: Sequence[int],
    backbone: Backbone,
    config: EmbedConfig,
    n_before: int = 0,
    n_after: int = 0,
) -> Generator[Progress, None, Float[Tensor, "V R D"]]:
    """Features of some rows of the images, by the digests of these; the others are counted in the progress only."""
    n_views = config.n_views if config.augmentation else len(pixels)
    out = torch.empty(n_views, len(rows), backbone.feature_size)
    total = n_views * (n_before + len(rows) + n_after)
    step = min(CHUNK, backbone.images_per_pass)
    training = backbone.training
    backbone.eval()
    try:
        for view in range(n_views):
            for start in range(0, len(rows), step):
                chunk = list(rows[start : start + step])
                images = pixels[0 if config.augmentation else view, chunk]
                with torch.inference_mode(), precision(config.precision):
                    versions = _versions(images, [digests[i] for i in chunk], view, config)
                    first, *others = (backbone(x).float() for x in versions)
                    out[view, start : start + step] = sum(others, first) / config.average.n_versions
                done = n_views * n_before + view * len(rows) + start + len(chunk)
                yield Progress("computing features", done, total)
    finally:  # also where the work is stopped
        backbone.train(training)
    return out


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


def precision(name: str) -> contextlib.AbstractContextManager[object]:
    """The context in which a network computes in `name`: float32 or bfloat16."""
    return torch.autocast("cpu", torch.bfloat16) if name == "bfloat16" else contextlib.nullcontext()


class _Store:
    """Cached features of one key: files of `features` (V, n, D) and the `digests` (n, 32) of their images.

    Without a cache folder they are held in memory.
    """

    def __init__(
        self, cache: Path | None, backbone: Backbone, config: EmbedConfig, n_views: int, framing: Framing | None
    ) -> None:
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
        self.folder = (
            None
            if cache is None
            else cache / "embeddings" / digest(json.dumps(key, sort_keys=True).encode()).hex()[:32]
        )
        self.shape = (n_views, backbone.feature_size)
        self.held = [] if self.folder is None else _shards(self.folder, self.shape)

    def known(self) -> set[bytes]:
        return {bytes(row) for digests, _ in self.held for row in digests.numpy()}

    def find(self, digests: Sequence[bytes]) -> Float[Tensor, "V N D"]:
        """Features of known images, mapped from the file where one file holds exactly these."""
        wanted = _stack(digests)
        for held, features in self.held:
            if held.shape == wanted.shape and torch.equal(held, wanted):
                return features
        rows = [bytes(row) for held, _ in self.held for row in held.numpy()]
        place = {row: i for i, row in enumerate(rows)}
        return torch.cat([features for _, features in self.held], 1)[:, [place[d] for d in digests]]

    def add(self, digests: list[bytes], features: Float[Tensor, "V R D"]) -> None:
        if not digests:
            return
        if self.folder is None:
            self.held.append((_stack(digests), features))
            return
        path = self.folder / f"{digest(*digests).hex()[:16]}.safetensors"
        keys = _stack(digests)
        write_tensors(path, {"features": features, "digests": keys}, {CHECKSUM: _sum_bytes(keys, features)})
        self.held = _shards(self.folder, self.shape)
        if not any(torch.equal(held, keys) for held, _ in self.held):  # a disk that does not keep what it is given
            self.held.append((keys, features))


def _shards(folder: Path, shape: tuple[int, int]) -> list[tuple[UInt8[Tensor, "n 32"], Float[Tensor, "V n D"]]]:
    """Files that hold features of `shape` (V, D); a damaged one is passed over, and so computed again."""
    shards = []
    for file in sorted(folder.glob("*.safetensors")):
        with contextlib.suppress(SafetensorError, OSError, KeyError):
            tensors, header = read_tensors(file)
            digests, features = tensors["digests"], tensors["features"]
            is_whole = digests.dtype == torch.uint8 and digests.shape[1:] == (32,) and features.dtype == torch.float32
            is_whole &= features.shape == (shape[0], len(digests), shape[1])
            if is_whole and header[CHECKSUM] == _sum_bytes(digests, features):
                shards.append((digests, features))
    return shards


def _sum_bytes(*tensors: Tensor) -> str:
    """CRC-32 of the bytes of tensors, by which a bit that fell over is noticed."""
    return str(functools.reduce(lambda sum_, x: zlib.crc32(x.numpy().data, sum_), (x.contiguous() for x in tensors), 0))


def _stack(digests: Sequence[bytes]) -> UInt8[Tensor, "n 32"]:
    return torch.frombuffer(bytearray(b"".join(digests)), dtype=torch.uint8).view(-1, 32)
