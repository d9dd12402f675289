"""Features of the images of a review, in parts of growing size, so that the first answers come early."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onelook.artifacts import identify_network
from onelook.data.listing import Listing
from onelook.estimators.choosing import load_chosen
from onelook.events import Progress, relay
from onelook.labelling.features import embed_listing, match_vectors
from onelook.labelling.label import LabelConfig
from onelook.machine import Place
from onelook.server.relearning import Pool
from onelook.tasks import Embeddings

FIRST_PART = 256
"""Images whose features are computed first; each further part doubles what is there."""


@dataclass(frozen=True)
class Origin:
    """Event: the feature network that the features are from."""

    identity: dict[str, str]
    """See `identify_network`."""


def compute_pools(
    config: LabelConfig, place: Place, listing: Listing, given: Embeddings | None
) -> Generator[Any, None, Pool]:
    """Yield events and, after each part of the images, a `Pool` with all features so far; return the last one.

    given: features of the file `config.features`, in place of those of a network.
    """
    if given is not None and config.features is not None:
        embeddings, _ = yield from match_vectors(listing, config.folder, given, config.features)
        return _fill(listing, None, embeddings.items, embeddings.features.numpy())
    network, choice = yield from load_chosen(config.network, listing, config.offline)
    yield Origin(identify_network(network, choice.name, config.average))
    n, start = len(listing.names), 0
    order = np.random.default_rng(0).permutation(n)  # without a pattern: each part is like the whole
    pool: Pool | None = None
    while pool is None or start < n:
        if pool is not None:
            yield pool
        end = min(n, max(FIRST_PART, 2 * start))
        part = listing.take(sorted(order[start:end].tolist()))

        def count(event: Any, before: int = start) -> Any:
            return replace(event, done=before + event.done, total=n) if isinstance(event, Progress) else event

        embeddings, _ = yield from relay(embed_listing(part, network, config.average, place), count)
        pool = _fill(listing, pool, embeddings.items, embeddings.features.numpy())
        start = end
    return pool


def _fill(listing: Listing, pool: Pool | None, items: Sequence[str], features: np.ndarray) -> Pool:
    """The pool with the features of further images."""
    n, row_of = len(listing.names), {name: i for i, name in enumerate(listing.names)}
    whole = np.zeros((n, features.shape[1]), np.float32) if pool is None else pool.whole.copy()
    is_ready = np.zeros(n, bool) if pool is None else pool.is_ready.copy()
    rows = [row_of[name] for name in items]
    whole[rows], is_ready[rows] = features, True
    return Pool.of(whole, is_ready)
