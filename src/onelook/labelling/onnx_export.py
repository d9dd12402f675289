"""Export: a saved classifier and its feature network as one ONNX file, from pixels to probabilities."""

import contextlib
import importlib
import importlib.util
import logging
import warnings
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from onelook.backbones import Backbone
from onelook.data.embed import parse_averaging
from onelook.errors import Checked, SettingsError, describe_cause
from onelook.estimators.classifier import FewShotClassifier
from onelook.estimators.head import ProbabilityHead
from onelook.events import Progress
from onelook.files import write_atomically
from onelook.labelling.model_card import NOT_INSIDE, VERSION, ModelCard
from onelook.labelling.saved import read_saved
from onelook.ops import normalise

OPSET = 18
"""Version of ONNX's operators: the first that resizes with antialiasing."""
TOLERANCE = 1e-4
"""Largest difference of a probability from that of the classifier in float32."""
N_TRIALS = 3
"""Test images, on which the file is compared with the classifier before it is written."""


@dataclass(frozen=True)
class ExportConfig(Checked):
    """The classifier to export.

    >>> ExportConfig(Path("model.safetensors")).offline
    False
    """

    classifier: Path
    """File of `onelook label --save` or `FewShotClassifier.save`, which names the feature network of its rows."""
    network: str | None = None
    """Feature network of the classifier, where it does not come with Onelook: a file, a folder or hf:NAME."""
    offline: bool = False
    """Download nothing."""


@dataclass(frozen=True)
class Exported:
    """Content of the two files, and what they say."""

    card: ModelCard
    model: bytes
    page: str


def export_classifier(config: ExportConfig, out: Path) -> Generator[Any, None, Exported]:
    """Write a classifier and its network as the ONNX file `out`, and its model card beside it.

    The graph takes pixels (`images`: uint8 N C H W, framed as the card says) and gives `probabilities` (N, K), those of
    `predict` in float32. Raises ArtifactError where the classifier cannot be used, SettingsError where it cannot be
    exported.
    """
    require_packages()
    yield Progress("exporting", 0, 3)
    saved = read_saved(config.classifier)
    average = parse_averaging(saved.average)
    if average.crops:
        raise SettingsError(
            f"{config.classifier} averages over crops, which are drawn by the bytes of each file, and cannot be "
            f"exported; make it again with --average mirror or none."
        )
    if (config.network or "").endswith(".onnx"):
        raise SettingsError(f"{config.network} is an ONNX file already, which torch cannot export; use that file.")
    network = yield from saved.load_network(config.network, config.offline)
    yield Progress("exporting", 1, 3)
    whole = PixelsToProbabilities(network, average.mirror, ProbabilityHead(saved.classifier)).eval()
    model = make_onnx(whole, saved.name)
    yield Progress("exporting", 2, 3)
    card = ModelCard.describe(saved, network, _measure_difference(model, whole, saved.classifier))
    exported = Exported(card, _describe(model, card), card.markdown(out.name))
    write_atomically(out, exported.model)
    write_atomically(out.parent / f"{out.stem}.md", exported.page.encode(errors="backslashreplace"))
    yield Progress("exporting", 3, 3)
    return exported


class PixelsToProbabilities(nn.Module):
    """Everything that happens to the pixels of an image until its probabilities are there."""

    def __init__(self, network: Backbone, mirror: bool, head: ProbabilityHead) -> None:
        super().__init__()
        self.network, self.mirror, self.head = network, mirror, head

    def forward(self, images: UInt8[Tensor, "N C H W"]) -> Float[Tensor, "N K"]:
        return self.head(self.features(images))  # type: ignore[no-any-return]

    def features(self, images: UInt8[Tensor, "N C H W"]) -> Float[Tensor, "N D"]:
        found = self.network(images)
        if self.mirror:
            found = (found + self.network(images.flip(-1))) / 2
        return normalise(found)


def make_onnx(whole: PixelsToProbabilities, name: str) -> Any:
    """ONNX model of the graph, for any number of images. name: of the network. Raises SettingsError."""
    network = whole.network
    images = torch.zeros(2, network.channels, network.image_size, network.image_size, dtype=torch.uint8)
    optimizer = importlib.import_module("onnxscript.optimizer")
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                whole,
                (images,),
                dynamo=True,
                opset_version=OPSET,
                input_names=["images"],
                output_names=["probabilities"],
                dynamic_shapes={"images": {0: torch.export.Dim("N")}},
                optimize=False,
                verbose=False,
            )
            assert program is not None
            # All constants, and not only small ones: ONNX Runtime refuses a convolution whose weights are padded.
            optimizer.optimize(program.model, input_size_limit=1 << 31, output_size_limit=1 << 31)
            return program.model_proto
    except Exception as error:  # whatever the exporter meets in a network has no common base
        raise SettingsError(f"torch cannot export the network {name} ({describe_cause(error)[:300]}).") from error


def require_packages() -> None:
    """Raise SettingsError where a package is missing."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(name) is None:
            raise SettingsError(f'An export needs the package {name}; pip install "onelook[onnx]".')


def _measure_difference(model: Any, whole: PixelsToProbabilities, classifier: FewShotClassifier) -> float:
    """Largest difference of a probability on test images. Raises SettingsError where it is more than rounding."""
    runtime = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    shape = (N_TRIALS, whole.network.channels, whole.network.image_size, whole.network.image_size)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    images[1:] = images[1:, :, :1]  # stripes, as networks of photographs hardly tell noise from noise
    (found,) = session.run(["probabilities"], {"images": images})
    with torch.inference_mode():
        expected = classifier.predict_proba(whole.features(torch.from_numpy(images)).numpy())
    difference = float(np.abs(found - expected).max())
    if not difference < TOLERANCE:
        raise SettingsError(
            f"The exported network gives other probabilities, by {difference:.1g}, and was not written; take a network "
            f"that comes with Onelook."
        )
    return difference


def _describe(model: Any, card: ModelCard) -> bytes:
    """Content of the file, with the metadata in it and without the traces of how it was made."""
    graph = model.graph
    for one in (*graph.node, *graph.input, *graph.output, *graph.initializer, graph, model):
        del one.metadata_props[:]
        one.doc_string = ""
    del graph.value_info[:]
    model.producer_name, model.producer_version = "onelook", VERSION
    model.doc_string = f"{card.preprocessing()} {NOT_INSIDE}"
    for key, value in card.metadata().items():
        model.metadata_props.add(key=key, value=value.encode(errors="backslashreplace").decode())
    return model.SerializeToString(deterministic=True)  # type: ignore[no-any-return]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep to itself what the exporter logs and warns of, such as packages that it does not need."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
