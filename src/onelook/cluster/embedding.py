"""Features of images by Ray Data: shards are read and decoded by tasks, and computed and written by workers.

Ray Data starts no more of the one than the others can take and its shared memory can hold, and does again what a lost
process has not finished.
"""

import hashlib
from collections.abc import Generator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from onelook.artifacts import load_network
from onelook.backbones import Backbone
from onelook.backbones.framing import Framing
from onelook.cluster.session import Cluster, Session, connect
from onelook.cluster.shards import Part, divide, find_finished, write_features
from onelook.cluster.source import Images, open_images
from onelook.data.addresses import Store
from onelook.data.embed import EmbedConfig, embed, parse_averaging
from onelook.data.images import PREPROCESSING, ImageSet, Rejected, decode, each_image
from onelook.data.listing import Listing
from onelook.data.tables import parse_path, path_cell
from onelook.errors import ArtifactError
from onelook.events import Progress, finish
from onelook.machine import Place


@dataclass(frozen=True)
class Task:
    """The features that are asked for, as a worker is told."""

    network: str
    """Name or file, for `load_network`."""
    digest: str
    """Digest of its weights."""
    offline: bool
    shape: tuple[int, int]
    """Channels and height of images."""
    framing: Framing | None
    average: str
    precision: str
    device: str
    """Device of the workers: auto, or the kind that all have."""
    version: str = field(default=PREPROCESSING)

    @classmethod
    def of(cls, network: Backbone, name: str, offline: bool, average: str, place: Place) -> "Task":
        """The task for a network that is loaded here."""
        shape = network.channels, network.image_size
        told = average, place.precision, place.asked
        return cls(name, network.digest().hex(), offline, shape, network.framing, *told)

    @property
    def key(self) -> dict[str, Any]:
        """All that the features of an image depend on, but for the image."""
        left_out = ("network", "offline", "device")
        return {name: value for name, value in asdict(self).items() if name not in left_out}


def embed_images(
    images: Images, parts: list[Part], task: Task, out: Store, session: Session
) -> Generator[Progress, None, None]:
    """Write the shards of the features. Those that are there are not made again."""
    finished = find_finished(out, parts)
    missing = [part for part in parts if part.file not in finished]
    done, total = len(images.names) - sum(len(part.names) for part in missing), len(images.names)
    yield Progress("computing features", done, total)
    if missing:
        data = _plan(missing, images.store, task, out, session)
        with session.own_errors():
            for row in data.iter_rows():
                done += row["n"]
                yield Progress("computing features", done, total)


def write_embeddings(
    data: str, network: str, average: str, place: Place, cluster: Cluster, out: Store
) -> Generator[Any, None, list[Part]]:
    """Write the features of the images of a folder, a table or an address: the work of `onelook embed --ray`."""
    images = open_images(data).images
    loaded, _ = yield from load_network(network)
    task = Task.of(loaded, network, False, average, place)
    parts = divide(images.names, images.stamps, task.key, cluster.shard_size)
    if len(find_finished(out, parts)) < len(parts):
        with connect(cluster, task.device) as session:
            yield from embed_images(images, parts, task, out, session)
    return parts


def _plan(parts: list[Part], source: Store, task: Task, out: Store, session: Session) -> Any:
    data = session.data
    items = [{"file": one.file, "start": one.start, "cells": [path_cell(name) for name in one.names]} for one in parts]
    workers = data.ActorPoolStrategy(size=session.n_workers)
    on_gpu = {"num_gpus": 1} if session.n_gpus else {"num_cpus": 1}
    read = data.from_items(items, override_num_blocks=len(items)).map(Read(source, task), num_cpus=1)
    return read.map(Compute, fn_constructor_args=(task, out), compute=workers, **on_gpu)


def _read_part(row: dict[str, Any]) -> Part:
    return Part(row["file"], row["start"], tuple(parse_path(str(cell)) for cell in row["cells"]))


@dataclass(frozen=True)
class Read:
    """Reads and decodes the images of a shard."""

    store: Store
    task: Task

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        part = _read_part(row)
        (channels, size), framing = self.task.shape, self.task.framing

        def look(content: bytes) -> tuple[bytes, np.ndarray]:
            return hashlib.sha256(content).digest(), decode(content, size, channels, framing)

        listing = Listing(part.names, (-1,) * len(part.names), (), self.store.place, self.store.read)
        found = finish(each_image(listing, look, "reading images"))
        good = [i for i, one in enumerate(found) if not isinstance(one, Rejected)]
        results = [one for one in found if not isinstance(one, Rejected)]
        pixels = [one[1] for one in results]
        errors = {one.name: one.reason for one in found if isinstance(one, Rejected)}
        return row | {
            "good": np.array(good, dtype=np.int64),
            "digests": b"".join(one[0] for one in results),
            "pixels": np.stack(pixels) if pixels else np.zeros((0, channels, size, size), dtype=np.uint8),
            "errors": [errors.get(name, "") for name in part.names],
        }


class Compute:
    """Computes the features of shards by a network, and writes them."""

    def __init__(self, task: Task, out: Store) -> None:
        self.task, self.out = task, out
        self.network = finish(load_network(task.network, task.offline))[0]
        if self.network.digest().hex() != task.digest:
            raise ArtifactError(f"{task.network} has other weights on one of the machines; put the same file on all.")
        self.network.to(Place(device=task.device).device)
        self.config = EmbedConfig(precision=task.precision, average=parse_averaging(task.average))

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        part = _read_part(row)
        names = tuple(part.names[i] for i in row["good"])
        vectors: dict[str, np.ndarray] = {}
        if names:
            digests = tuple(row["digests"][32 * i : 32 * (i + 1)] for i in range(len(names)))
            pixels, labels = torch.from_numpy(np.array(row["pixels"]))[None], torch.full((len(names),), -1)
            images = ImageSet(pixels, labels, (), names, digests, part.file, framing=self.task.framing)
            features = finish(embed(images, self.network, self.config)).features.numpy()
            vectors = dict(zip(names, features, strict=True))
        errors = {name: why for name, why in zip(part.names, row["errors"], strict=True) if why}
        write_features(self.out, part, vectors, errors)
        return {"n": len(part.names)}
