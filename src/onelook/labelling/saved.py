"""Saved classifiers that judge images, and the feature networks that they name."""

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onelook.artifacts import comes_along, is_identity, load_network
from onelook.backbones import Backbone
from onelook.data.embed import parse_averaging
from onelook.errors import ArtifactError, list_names
from onelook.estimators.classifier import FewShotClassifier


@dataclass(frozen=True)
class Saved:
    """A classifier and the identity of the network that made its rows."""

    classifier: FewShotClassifier
    file: Path
    name: str
    digest: str
    average: str

    def load_network(self, given: str | None, offline: bool) -> Generator[Any, None, Backbone]:
        """Load the network that made the rows: one that comes along, or the one `given` by name.

        A file from somebody else could name a download, or any file on this machine. Raises ArtifactError for another
        network, and the errors of `load_network`.
        """
        name = given or self.name
        if given is None and not comes_along(name):
            raise ArtifactError(
                f"{self.file} was made with the feature network {list_names([name])}, which does not come with "
                f"Onelook; if you trust that network, name it with --network."
            )
        network, _ = yield from load_network(name, offline)
        if (digest := network.digest().hex()) != self.digest:
            raise ArtifactError(
                f"{self.file} was made with the feature network {list_names([self.name])} of digest "
                f"{list_names([self.digest[:16]])}, but {name} has the digest {digest[:16]}; give that network with "
                f"--network, or make the classifier again with this one."
            )
        if network.feature_size != self.classifier.n_features_in_:
            raise ArtifactError(
                f"{self.file} holds features of size {self.classifier.n_features_in_}, but those of its "
                f"network have {network.feature_size}; make the file again."
            )
        return network


def read_saved(file: Path) -> Saved:
    """Read a classifier that says which network its rows are from. Raises ArtifactError for any other file."""
    classifier = FewShotClassifier.load(file)
    identity = classifier.network_
    if identity is None:
        raise ArtifactError(
            f"{file} does not say which feature network its rows are from, so that it cannot judge "
            f"images; save it by `onelook label --save` without --features, or name the network in "
            f"FewShotClassifier.save."
        )
    if not is_identity(identity):
        raise ArtifactError(
            f"{file} needs the name, digest and average of its feature network, but says {list_names([identity])}; "
            f"save it with the network_ of ImageFeatures."
        )
    parse_averaging(identity["average"])  # now, and not after a network was loaded
    return Saved(classifier, file, identity["name"], identity["digest"], identity["average"])
