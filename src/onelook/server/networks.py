"""Feature networks of a server: only those that its owner allows, each loaded once."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float32

from onelook.artifacts import BUILT_IN, identify_network, load_network
from onelook.backbones import Backbone
from onelook.data.embed import EmbedConfig, embed_files, parse_averaging
from onelook.data.images import Rejected
from onelook.data.listing import Listing
from onelook.errors import ArtifactError, DataError, SettingsError
from onelook.events import relay
from onelook.labelling.folder import UNLABELLED
from onelook.machine import Place
from onelook.ops import normalise
from onelook.server.work import Work

CACHED_BYTES = 256 * 2**20
"""Features that are held in memory, so that an image that comes again is not computed again."""


@dataclass(frozen=True)
class Picture:
    """An image file that a client sent."""

    name: str
    content: bytes


@dataclass(frozen=True)
class Embedded:
    """Features of pictures."""

    features: Float32[np.ndarray, "N D"]
    """Rows of unit length of the pictures that could be read."""
    rows: tuple[int, ...]
    """Where these stand among all pictures."""
    rejected: tuple[Rejected, ...]


@dataclass
class Networks:
    """Networks by name. A client, or a classifier that a client names, can choose among `names` and no others."""

    default: str
    place: Place
    offline: bool = True
    _loaded: dict[str, Backbone] = field(default_factory=dict, init=False)
    _features: "OrderedDict[tuple[str, bytes], np.ndarray]" = field(default_factory=OrderedDict, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([self.default, *BUILT_IN]))

    def load(self, name: str) -> Work[Backbone]:
        """Load a network. Raises SettingsError for one that is not allowed."""
        if name not in self.names:
            raise SettingsError(
                f"This server knows the networks {', '.join(self.names)}, and no network {name!r}; its owner names "
                f"another with --network."
            )
        if name not in self._loaded:
            network, _ = yield from load_network(name, self.offline)
            self._loaded[name] = network.to(self.place.device)
        return self._loaded[name]

    def identify(self, name: str, average: str) -> Work[dict[str, str]]:
        """Identity of a network, as `FewShotClassifier.save` writes it."""
        parse_averaging(average)
        network = yield from self.load(name)
        return identify_network(network, name, average)

    def embed(self, pictures: Sequence[Picture], identity: dict[str, str]) -> Work[Embedded]:
        """Features of pictures, equal to those of `onelook label` for the same files.

        identity: see `identify`. Raises ArtifactError where the network of that name is another one now, DataError
        where no picture can be read.
        """
        network = yield from self.load(identity["name"])
        if network.digest().hex() != identity["digest"]:
            raise ArtifactError(
                f"The classifier was made with another network of the name {identity['name']}; make it again."
            )
        keys = [("/".join(identity.values()), hashlib.sha256(one.content).digest()) for one in pictures]
        with self._lock:
            known = {key: self._features[key] for key in keys if key in self._features}
        missing = list({key: i for i, key in enumerate(keys) if key not in known}.values())
        rejected = yield from self._compute(pictures, keys, missing, network, identity["average"], known)
        rows = tuple(i for i, key in enumerate(keys) if key in known)
        if not rows:
            raise DataError(f"None of the images can be read; {rejected[0].name}, for example: {rejected[0].reason}.")
        self._remember(known)
        return Embedded(np.stack([known[keys[i]] for i in rows]), rows, rejected)

    def _compute(
        self,
        pictures: Sequence[Picture],
        keys: Sequence[tuple[str, bytes]],
        missing: Sequence[int],
        network: Backbone,
        average: str,
        known: dict[tuple[str, bytes], np.ndarray],
    ) -> Work[tuple[Rejected, ...]]:
        """Add the features of the missing pictures to the known ones; return those that cannot be read."""
        rejected: dict[int, str] = {}

        def note(event: Any) -> Any:
            if not isinstance(event, Rejected):
                return event
            rejected[int(event.name)] = event.reason
            return None

        if missing:
            names = tuple(map(str, missing))
            listing = Listing(
                names, (UNLABELLED,) * len(names), (), "the request", lambda name: pictures[int(name)].content
            )
            config = EmbedConfig(precision=self.place.precision, average=parse_averaging(average))
            try:
                found = yield from relay(embed_files(listing, network, config), note)
            except DataError:  # none can be read
                found = None
            if found is not None:
                known |= dict(zip((keys[int(i)] for i in found.items), normalise(found.features).numpy(), strict=True))
        reasons = {keys[i]: reason for i, reason in rejected.items()}
        return tuple(
            Rejected(one.name, reasons[key]) for one, key in zip(pictures, keys, strict=True) if key in reasons
        )

    def _remember(self, found: dict[tuple[str, bytes], np.ndarray]) -> None:
        with self._lock:
            for key, row in found.items():
                self._features[key] = row
                self._features.move_to_end(key)
            size = next(iter(found.values())).nbytes
            while len(self._features) * size > CACHED_BYTES:
                self._features.popitem(last=False)
