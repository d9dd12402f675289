"""Features of images, computed once and kept.

A feature is kept under everything that determines it: the bytes of its image, the weights, the preprocessing, the
precision and the view. Where one of them changes, there is nothing under the new key, so a stale feature cannot be
found. Features lie in memory-mapped safetensors; images added to a data set later make a file of their own.
"""

import contextlib
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from onelook.backbones import Backbone
from onelook.data.augment import N_DRAWS, Augmentation, augment
from onelook.data.images import PREPROCESSING, ImageSet
from onelook.errors import DataError
from onelook.events import Progress
from onelook.files import digest, replacing
from onelook.tasks import Embeddings

CHUNK = 512
"""Images in one pass through the network: about 100 MB of activations for Conv-4 at 32 pixels."""


@dataclass(frozen=True)
class EmbedConfig:
    augmentation: Augmentation | None = None
    """None: every image as it is (in each of its environments)."""
    n_views: int = 1
    """R, the augmented views of every image."""
    seed: int = 0
    """Decides the augmentations, together with the image and the number of the view."""
    precision: str = "float32"
    """What the network computes in: float32 or bfloat16. Features are kept in float32."""


def embed(
    images: ImageSet, backbone: Backbone, config: EmbedConfig = EmbedConfig(), cache: Path | None = None
) -> Generator[Progress, None, Embeddings]:
    """The features of `images`, from `cache` (a folder) as far as they are there. Raises DataError, StorageError."""
    expected = (backbone.channels, backbone.image_size, backbone.image_size)
    if tuple(images.pixels.shape[2:]) != expected:
        raise DataError(f"The feature network takes images of {expected}, but those of {images.source} are "
                        f"{tuple(images.pixels.shape[2:])}; load them at that size.")  # fmt: skip
    store = None if cache is None else _Store(cache / "embeddings" / _key(images, backbone, config))
    views = store.find(images.digests) if store else None
    if views is None:
        known = store.known() if store else set()
        missing = [i for i, d in enumerate(images.digests) if d not in known]
        fresh = yield from _compute(images, missing, backbone, config)
        if store:
            store.add([images.digests[i] for i in missing], fresh)
            views = store.find(images.digests)
        views = fresh if views is None else views
    names = images.class_names
    return Embeddings(views, images.labels, names, images.names, images.source, images.environments)


def _key(images: ImageSet, backbone: Backbone, config: EmbedConfig) -> str:
    """All that determines a feature, except the image."""
    augmented = f"{config.augmentation}, {config.n_views} views, seed {config.seed}" if config.augmentation else ""
    views = augmented or f"{len(images.pixels)} environments"
    shape = tuple(images.pixels.shape[2:])
    return digest(backbone.digest(), f"{PREPROCESSING} {shape}; {config.precision}; {views}".encode()).hex()[:32]


def _compute(
    images: ImageSet, rows: list[int], backbone: Backbone, config: EmbedConfig
) -> Generator[Progress, None, Float[Tensor, "V R D"]]:
    n_views = config.n_views if config.augmentation else len(images.pixels)
    out = torch.empty(n_views, len(rows), backbone.feature_size)
    training = backbone.training
    backbone.eval()
    for view in range(n_views):
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            pixels = _pixels(images, chunk, view, config)
            with torch.inference_mode(), precision(config.precision):
                out[view, start : start + CHUNK] = backbone(pixels).float()
            yield Progress("computing features", view * len(rows) + start + len(chunk), n_views * len(rows))
    backbone.train(training)
    return out


def _pixels(images: ImageSet, rows: list[int], view: int, config: EmbedConfig) -> Tensor:
    if config.augmentation is None:
        return images.pixels[view, rows]
    # An image is augmented by its own bytes and not by its place, or the cache would depend on its neighbours.
    seeds = [[config.seed, view, int.from_bytes(images.digests[i][:8], "little")] for i in rows]
    draws = np.stack([np.random.default_rng(s).random(N_DRAWS) for s in seeds])
    return augment(images.pixels[0, rows], config.augmentation, draws)


def precision(name: str) -> contextlib.AbstractContextManager[object]:
    """The context in which a network computes in `name`: float32 or bfloat16."""
    return torch.autocast("cpu", torch.bfloat16) if name == "bfloat16" else contextlib.nullcontext()


class _Store:
    """The features of one key: files of `features` (V, n, D) and the `digests` (n, 32) of their images."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, digests: tuple[bytes, ...]) -> Float[Tensor, "V N D"] | None:
        """All of them, mapped from the file where one file holds exactly these; None where one is missing."""
        wanted = _stack(digests)
        shards = self._shards()
        for file, held in shards:
            if held.shape == wanted.shape and bool((held == wanted).all()):
                return _read(file, "features")
        where = {bytes(row): (f, i) for f, (_, held) in enumerate(shards) for i, row in enumerate(held.numpy())}
        if not all(d in where for d in digests):
            return None
        features = [_read(file, "features") for file, _ in shards]
        offsets = np.cumsum([0, *(f.shape[1] for f in features)])
        places = torch.tensor([int(offsets[f]) + i for f, i in (where[d] for d in digests)])
        return torch.cat(features, 1)[:, places]

    def known(self) -> set[bytes]:
        return {bytes(row) for _, shard in self._shards() for row in shard.numpy()}

    def add(self, digests: list[bytes], features: Float[Tensor, "V R D"]) -> None:
        with replacing(self.folder / f"{digest(*digests).hex()[:16]}.safetensors") as temporary:
            save_file({"features": features, "digests": _stack(digests)}, temporary)

    def _shards(self) -> list[tuple[Path, UInt8[Tensor, "n 32"]]]:
        files = sorted(self.folder.glob("*.safetensors")) if self.folder.is_dir() else []
        shards = []
        for file in files:
            with contextlib.suppress(SafetensorError, OSError):  # a damaged file is computed again
                shards.append((file, _read(file, "digests")))
        return shards


def _read(file: Path, name: str) -> Tensor:
    with safe_open(file, framework="pt") as content:
        return content.get_tensor(name)  # type: ignore[no-any-return]


def _stack(digests: tuple[bytes, ...] | list[bytes]) -> UInt8[Tensor, "n 32"]:
    return torch.frombuffer(bytearray(b"".join(digests)), dtype=torch.uint8).view(-1, 32)
