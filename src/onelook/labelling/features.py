"""Features of the images of a folder, computed by a network or given in a file."""

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from onelook.backbones import Backbone
from onelook.data.embed import COMPUTING, EmbedConfig, embed_files, parse_averaging
from onelook.data.forecast import announce
from onelook.data.images import Rejected
from onelook.data.listing import Listing
from onelook.errors import DataError, plural, quote_name
from onelook.events import Notice, relay
from onelook.labelling.labels import find_names
from onelook.labelling.suggest import LARGEST_POOL
from onelook.machine import Place, parse_memory
from onelook.ops import normalise
from onelook.tasks import Embeddings


def embed_listing(
    listing: Listing, network: Backbone, average: str, place: Place
) -> Generator[Any, None, tuple[Embeddings, tuple[Rejected, ...]]]:
    """Features, of length 1, of the images that can be read, and the images that cannot."""
    network.to(place.device)
    memory = parse_memory(place.memory)
    config = EmbedConfig(precision=place.precision, average=parse_averaging(average), memory=memory)
    rejected: list[Rejected] = []

    def note(event: Any) -> Any:
        if isinstance(event, Rejected):
            rejected.append(event)
        return event

    work = relay(embed_files(listing, network, config, place.cache), note)
    embeddings = yield from announce(work, COMPUTING, *_foresee(len(listing.names), network.feature_size))
    return replace(embeddings, views=normalise(embeddings.views)), tuple(rejected)


def _foresee(n: int, size: int) -> tuple[float, int]:
    """Duration, in images, and bytes of labels, suggestions and page of n images: measured (benchmarks/folder.py)."""
    n_compared = min(n, LARGEST_POOL)
    return min(n, 2_000) + n / 25, 4 * n_compared**2 + n * (12 * size + 4_000)


def foresee_results(n: int) -> tuple[float, int]:
    """Seconds and bytes of predictions, suggestions and page of n images whose labels are known, also measured."""
    return 2 + n / 10_000, 4 * min(n, LARGEST_POOL) ** 2 + 4_000 * n


def match_vectors(
    listing: Listing, folder: Path, vectors: Embeddings, file: Path
) -> Generator[Notice, None, tuple[Embeddings, tuple[Rejected, ...]]]:
    """Vectors of a file (`read_vectors`), at length 1, for the images that they name, and the images without any.

    Raises DataError where an image has two, or none has one.
    """
    rows: dict[str, int] = {}
    strays = []
    for i, meant in enumerate(find_names(folder, listing.names, file, vectors.items)):
        if len(meant) != 1:
            strays.append(vectors.items[i])
        elif rows.setdefault(meant[0], i) != i:
            raise DataError(f"{file} has two rows for {quote_name(meant[0])}; keep one of them.")
    if not rows:
        raise DataError(
            f"{file} has no row for any of the {plural(len(listing.names), 'image')} of {folder}, but "
            f"{quote_name(vectors.items[0])}, for example; name images as they lie in that folder."
        )
    without = [name for name in listing.names if name not in rows]
    missing = {"rows without an image": strays, "images without a row, which are left out": without}
    parts = [f"{what} {len(names)} ({quote_name(names[0])} first)" for what, names in missing.items() if names]
    yield Notice(", ".join([f"{file}: rows {len(vectors.items)} of {vectors.feature_size} numbers", *parts]) + ".")
    named = listing.take([i for i, name in enumerate(listing.names) if name in rows])
    views = normalise(vectors.views[:, [rows[name] for name in named.names]])
    labels = torch.tensor(named.labels, dtype=torch.long)
    found = Embeddings(views, labels, listing.class_names, named.names, str(file))
    return found, tuple(Rejected(name, f"{file.name} has no row for it") for name in without)
