"""Features in memory-mapped safetensors; images that come later make a file of their own."""

import contextlib
import functools
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from torch import Tensor

from onelook.files import digest, read_tensors, write_tensors

CHECKSUM = "crc32"
"""Key of the header of a file of features."""
Shard = tuple[UInt8[Tensor, "n 32"], Float[Tensor, "V n D"]]
"""Digests of images, and their features."""


class FeatureStore:
    """Cached features of one key: files of `features` (V, n, D) and the `digests` (n, 32) of their images.

    Without a cache folder they are held in memory.
    """

    def __init__(self, cache: Path | None, key: dict[str, Any], shape: tuple[int, int]) -> None:
        """key: whatever determines features of shape (V, D)."""
        folder = digest(json.dumps(key, sort_keys=True).encode()).hex()[:32]
        self.folder = None if cache is None else cache / "embeddings" / folder
        self.shape = shape
        self.held = [] if self.folder is None else _shards(self.folder, self.shape)

    def known(self) -> set[bytes]:
        return {bytes(row) for digests, _ in self.held for row in digests.numpy()}

    def find(self, digests: Sequence[bytes]) -> Float[Tensor, "V N D"]:
        """Features of known images, mapped from the file where one file holds exactly these."""
        wanted = _stack(digests)
        for held, features in self.held:
            if held.shape == wanted.shape and torch.equal(held, wanted):
                return features
        place = {bytes(row): i for i, row in enumerate(row for held, _ in self.held for row in held.numpy())}
        rows, start = torch.tensor([place[d] for d in digests], dtype=torch.long), 0
        found = torch.empty(self.shape[0], len(digests), self.shape[1])
        for held, features in self.held:  # one after the other: joined, they would be in memory once more
            own = torch.nonzero((start <= rows) & (rows < start + len(held))).squeeze(1)
            found[:, own] = features[:, rows[own] - start]
            start += len(held)
        return found

    def add(self, digests: list[bytes], features: Float[Tensor, "V R D"]) -> None:
        if not digests:
            return
        if self.folder is None:
            self.held.append((_stack(digests), features))
            return
        path = self.folder / f"{digest(*digests).hex()[:16]}.safetensors"
        keys = _stack(digests)
        write_tensors(path, {"features": features, "digests": keys}, {CHECKSUM: _sum_bytes(keys, features)})
        # Mapped from the file, so that not all are in memory, unless the disk does not keep what it is given.
        self.held.append(_read_shard(path, self.shape) or (keys, features))


def _shards(folder: Path, shape: tuple[int, int]) -> list[Shard]:
    """Files that hold features of `shape` (V, D); a damaged one is passed over, and so computed again."""
    found = (_read_shard(file, shape) for file in sorted(folder.glob("*.safetensors")))
    return [shard for shard in found if shard is not None]


def _read_shard(file: Path, shape: tuple[int, int]) -> Shard | None:
    with contextlib.suppress(SafetensorError, OSError, KeyError):
        tensors, header = read_tensors(file)
        digests, features = tensors["digests"], tensors["features"]
        is_whole = digests.dtype == torch.uint8 and digests.shape[1:] == (32,) and features.dtype == torch.float32
        is_whole &= features.shape == (shape[0], len(digests), shape[1])
        if is_whole and header[CHECKSUM] == _sum_bytes(digests, features):
            return digests, features
    return None


def _sum_bytes(*tensors: Tensor) -> str:
    """CRC-32 of the bytes of tensors, by which a bit that fell over is noticed."""
    return str(functools.reduce(lambda sum_, x: zlib.crc32(x.numpy().data, sum_), (x.contiguous() for x in tensors), 0))


def _stack(digests: Sequence[bytes]) -> UInt8[Tensor, "n 32"]:
    return torch.frombuffer(bytearray(b"".join(digests)), dtype=torch.uint8).view(-1, 32)
