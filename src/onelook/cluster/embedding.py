"""Features of images by Ray Data: shards are read and decoded by tasks, and computed and written by workers.

Ray Data starts no more of the one than the others can take and its shared memory can hold, and does again what a lost
process has not finished.
"""

import functools
import hashlib
from collections.abc import Generator, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from onelook.artifacts import BUILT_IN, load_network
from onelook.backbones import Backbone
from onelook.backbones.framing import Framing
from onelook.cluster.session import Cluster, Session, connect
from onelook.cluster.shards import Found, Part, divide, find_shards, read_features, write_features
from onelook.cluster.source import Images, open_images
from onelook.data.addresses import Store, settle
from onelook.data.embed import EmbedConfig, embed, parse_averaging
from onelook.data.formats import identify
from onelook.data.images import PREPROCESSING, ImageSet, Rejected, decode, each_image
from onelook.data.listing import Listing
from onelook.data.tables import parse_path, path_cell
from onelook.errors import ArtifactError, DataError, plural, quote_name
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
        file = Path(name).expanduser()
        network_name = settle(file) if name not in BUILT_IN and file.exists() else name
        return cls(network_name, network.digest().hex(), offline, shape, network.framing, *told)

    @property
    def key(self) -> dict[str, Any]:
        """All that the features of an image depend on, but for the image."""
        left_out = ("network", "offline", "device")
        return {name: value for name, value in asdict(self).items() if name not in left_out}


@dataclass
class Embedded:
    """Numbers of the images of some shards."""

    n_images: int = 0
    n_unreadable: int = 0
    example: str = ""
    """One of these, and why."""

    def add(self, row: dict[str, Any]) -> None:
        """Count a row of `Compute`."""
        self.n_images += row["n"]
        self.n_unreadable += row["n_unreadable"]
        self.example = self.example or row["example"]


def embed_images(
    images: Images, parts: list[Part], found: Found, task: Task, out: Store, session: Session
) -> Generator[Progress, None, Embedded]:
    """Write the shards of the features. Of those that were found, only images that could not be got are asked for."""
    missing, made = found.missing(parts), Embedded()
    n_before, total = len(images.names) - sum(len(part.names) for part in missing), len(images.names)
    yield Progress("computing features", n_before, total)
    if missing:
        data = _plan(missing, found.refused, images.store, task, out, session)
        try:
            with session.own_errors():
                for row in data.iter_rows():
                    made.add(row)
                    yield Progress("computing features", n_before + made.n_images, total)
        except session.lost as error:
            raise session.give_up() from error
    return made


def write_embeddings(
    data: str, network: str, average: str, place: Place, cluster: Cluster, out: Store
) -> Generator[Any, None, tuple[list[Part], Embedded]]:
    """Write the features of the images of a folder, a table or an address: the work of `onelook embed --ray`.

    Returns the shards, and what became of the images of those that were not there. Raises DataError.
    """
    images, out = open_images(data).images, Store(settle(out.place))
    loaded, _ = yield from load_network(network)
    task = Task.of(loaded, network, False, average, place)
    parts = divide(images.names, images.stamps, task.key, cluster.shard_size)
    found, made = find_shards(out, parts), Embedded()
    if found.old:
        raise DataError(
            f"{out.place} holds {plural(len(found.old), 'shard')} of other images or other settings, for example "
            f"{found.old[0]}; remove them, or give another folder."
        )
    if found.missing(parts):
        with connect(cluster, task.device) as session:
            made = yield from embed_images(images, parts, found, task, out, session)
    if made.n_unreadable == len(images.names):
        raise DataError(f"None of the {plural(len(images.names), 'image')} of {data} can be read: {made.example}.")
    return parts, made


def _plan(
    parts: list[Part], refused: dict[str, tuple[str, ...]], source: Store, task: Task, out: Store, session: Session
) -> Any:
    data = session.data
    items = [
        {
            "file": one.file,
            "start": one.start,
            "cells": [path_cell(name) for name in one.names],
            "wanted": [path_cell(name) for name in refused.get(one.file, one.names)],
            "is_there": one.file in refused,
        }
        for one in parts
    ]
    workers = data.ActorPoolStrategy(size=session.n_workers)
    on_gpu = {"num_gpus": 1} if session.n_gpus else {"num_cpus": 1}
    read = data.from_items(items, override_num_blocks=len(items)).map(Read(source, task), num_cpus=1)
    return read.map(Compute, fn_constructor_args=(task, out), compute=workers, **on_gpu)


def _parse_names(cells: Iterable[Any]) -> tuple[str, ...]:
    return tuple(parse_path(str(cell)) for cell in cells)


@dataclass(frozen=True)
class Read:
    """Reads and decodes the images of a shard."""

    store: Store
    task: Task

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        names = _parse_names(row["wanted"])
        (channels, size), framing = self.task.shape, self.task.framing
        got = set[str]()

        def read(name: str) -> bytes:
            content = self.store.read(name)
            kind = identify(content)
            if not kind.package or kind.readable:  # what lacks its package here may be read once there is one
                got.add(name)
            return content

        def look(content: bytes) -> tuple[bytes, np.ndarray]:
            return hashlib.sha256(content).digest(), decode(content, size, channels, framing)

        listing = Listing(names, (-1,) * len(names), (), self.store.place, read, self.store.measure)
        found = finish(each_image(listing, look, "reading images"))
        good = [i for i, one in enumerate(found) if not isinstance(one, Rejected)]
        results = [one for one in found if not isinstance(one, Rejected)]
        pixels = [one[1] for one in results]
        errors = {one.name: one.reason for one in found if isinstance(one, Rejected)}
        return row | {
            "good": np.array(good, dtype=np.int64),
            "digests": b"".join(one[0] for one in results),
            "pixels": np.stack(pixels) if pixels else np.zeros((0, channels, size, size), dtype=np.uint8),
            "errors": [errors.get(name, "") for name in names],
            "refused": [name in errors and name not in got for name in names],
        }


class Compute:
    """Computes the features of shards by a network, and writes them."""

    def __init__(self, task: Task, out: Store) -> None:
        self.task, self.out = task, out
        self.config = EmbedConfig(precision=task.precision, average=parse_averaging(task.average))

    @functools.cached_property
    def network(self) -> Backbone:
        """The network, loaded with the first shard: an error before would pass for the loss of the process."""
        network = finish(load_network(self.task.network, self.task.offline))[0]
        if network.digest().hex() != self.task.digest:
            raise ArtifactError(
                f"{self.task.network} has other weights on one of the machines; put the same file on all."
            )
        return network.to(Place(device=self.task.device).device)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        part, wanted = Part(row["file"], row["start"], _parse_names(row["cells"])), _parse_names(row["wanted"])
        names = tuple(wanted[i] for i in row["good"])
        vectors, errors = read_features(self.out, part) if row["is_there"] else ({}, {})
        if names:
            digests = tuple(row["digests"][32 * i : 32 * (i + 1)] for i in range(len(names)))
            pixels, labels = torch.from_numpy(np.array(row["pixels"]))[None], torch.full((len(names),), -1)
            images = ImageSet(pixels, labels, (), names, digests, part.file, framing=self.task.framing)
            features = finish(embed(images, self.network, self.config)).features.numpy()
            vectors |= dict(zip(names, features, strict=True))
        new = {name: why for name, why in zip(wanted, row["errors"], strict=True) if why}
        errors = {name: why for name, why in errors.items() if name not in wanted} | new
        refused = [name for name, is_refused in zip(wanted, row["refused"], strict=True) if is_refused]
        write_features(self.out, part, vectors, errors, refused if refused or row["is_there"] else None)
        example = next((f"{quote_name(name)}: {why}" for name, why in new.items()), "")
        return {"n": len(part.names), "n_unreadable": len(errors), "example": example}
