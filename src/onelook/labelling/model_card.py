"""Model card of an exported classifier: what whoever runs the file has to know, and nothing of Onelook's code."""

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from string import Template
from typing import Any

from onelook.artifacts import comes_along
from onelook.backbones import Backbone
from onelook.backbones.framing import Framing
from onelook.backbones.hub import KNOWN, PREFIX
from onelook.estimators.calibration import AccuracyEstimate
from onelook.labelling.saved import Saved

VERSION = version("onelook")
NOT_INSIDE = (
    "The file judges each image by itself: what the unlabelled images gave each other (`onelook label`) is "
    "in it only as far as they moved class means and class priors, and neither unknown images (`--unknown-rate`) nor "
    "sets of classes (`predict_set`) can be told by it."
)
"""Sentence on everything of a classifier that is not exported."""
_PAGE = Template("""# $title

An image classifier of $n_classes classes as one ONNX file, made by Onelook $version.

| class | labelled examples | expected accuracy |
| --- | ---: | ---: |
$classes

**Expected accuracy** $accuracy on images like those that it was made with, with a 95 % interval, judged by the
labelled examples that were left out in turn. $guard

**Network** $network (licence: $licence).

**Input** `images`: uint8, N × $channels × $size × $size, 0 to 255, $order. Before: $steps
Nothing else is to be done to the pixels; centring, scaling and any other size are inside the file.

**Output** `probabilities`: float32, N × $n_classes, in the order of the table, which is `classes` in the metadata.
They differed by $difference at most from those of the classifier in float32 on test images.

**Not inside** $not_inside

```python
import json

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def frame(path):
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("$mode")
$frame
    return np.asarray(image).reshape($size, $size, -1).transpose(2, 0, 1)


paths = ["photograph.jpg"]
session = onnxruntime.InferenceSession($file)
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
for path in paths:
    (probabilities,) = session.run(["probabilities"], {"images": frame(path)[None]})
    print(path, classes[probabilities[0].argmax()], probabilities[0].max())
```
""")
_MIDDLE = "    image = ImageOps.fit(image, ($size, $size), Image.Resampling.BICUBIC)"
_CUT = """    across, down = $sides
    left, top = (across - $size) // 2, (down - $size) // 2
    x, y = image.width / across, image.height / down
    box = (left * x, top * y, min((left + $size) * x, image.width), min((top + $size) * y, image.height))
    image = image.resize(($size, $size), Image.Resampling.$filter, box)"""
_SHORTER = "($resize * image.width // min(image.size), $resize * image.height // min(image.size))"


@dataclass(frozen=True)
class ModelCard:
    """Facts about an exported classifier."""

    classes: tuple[Any, ...]
    shots: tuple[int, ...]
    """Labelled examples of each class."""
    accuracy: AccuracyEstimate
    guard: str
    """Whether unlabelled images helped, as a sentence."""
    network: str
    digest: str
    average: str
    licence: str
    channels: int
    size: int
    framing: Framing | None
    difference: float
    """Largest difference of a probability from that of the classifier, as measured when the file was made."""

    @classmethod
    def describe(cls, saved: Saved, network: Backbone, difference: float) -> "ModelCard":
        classifier = saved.classifier
        estimate = classifier.estimate_accuracy()
        return cls(
            classes=tuple(classifier.classes_.tolist()),
            shots=tuple(map(int, classifier._support.shots)),
            accuracy=estimate,
            guard=classifier.guard_,
            network=saved.name,
            digest=saved.digest,
            average=saved.average,
            licence=_licence(saved.name),
            channels=network.channels,
            size=network.image_size,
            framing=network.framing,
            difference=difference,
        )

    def preprocessing(self) -> str:
        """Sentence on everything that is done to an image file before its pixels are given to the model."""
        colours = "RGB" if self.channels == 3 else "one channel of grey"
        start = f"upright (EXIF), transparent parts on white, {colours}"
        size = f"{self.size} × {self.size}"
        if self.framing is None:
            return f"{start}; the middle square, scaled to {size} by an antialiased bicubic filter (Pillow's)."
        how = f"scaled by an antialiased {self.framing.resample} filter (Pillow's)"
        if self.framing.stretch:
            return f"{start}; stretched to {self.framing.resize} × {self.framing.resize}, {how}, its middle {size}."
        return f"{start}; the shorter side {self.framing.resize} pixels, {how}, and the middle {size} of that."

    def metadata(self) -> dict[str, str]:
        """Metadata of the ONNX file: words as they are, all else as JSON."""
        accuracy = asdict(self.accuracy.accuracy)
        frame = {"size": self.size, "channels": self.channels, "framing": self.framing and asdict(self.framing)}
        return {
            "classes": json.dumps(self.classes),
            "expected_accuracy": json.dumps(accuracy),
            "labelled_examples": json.dumps(self.shots),
            "network": self.network,
            "network_digest": self.digest,
            "average": self.average,
            "licence": self.licence,
            "preprocessing": self.preprocessing(),
            "preprocessing_json": json.dumps(frame),
            "limits": NOT_INSIDE,
            "onelook_version": VERSION,
        }

    def markdown(self, name: str) -> str:
        """The card as a page, with an example that runs. name: of the ONNX file."""
        return _PAGE.substitute(
            title=_cell(name),
            file=json.dumps(name),
            version=VERSION,
            n_classes=len(self.classes),
            classes="\n".join(self._rows()),
            accuracy=self.accuracy.accuracy,
            guard=self.guard,
            network=_cell(self.network),
            licence=_cell(self.licence),
            channels=self.channels,
            size=self.size,
            order="red, green, blue" if self.channels == 3 else "grey",
            mode="RGB" if self.channels == 3 else "L",
            steps=self.preprocessing(),
            difference=f"{self.difference:.0e}",
            not_inside=NOT_INSIDE,
            frame=self._code(),
        )

    def _rows(self) -> Iterable[str]:
        for name, n in zip(self.classes, self.shots, strict=True):
            yield f"| {_cell(name)} | {n} | {100 * self.accuracy.per_class[name]:.0f} % |"

    def _code(self) -> str:
        if self.framing is None:
            return Template(_MIDDLE).substitute(size=self.size)
        sides = Template(_SHORTER).substitute(resize=self.framing.resize)
        if self.framing.stretch:
            sides = f"({self.framing.resize}, {self.framing.resize})"
        return Template(_CUT).substitute(size=self.size, sides=sides, filter=self.framing.resample.upper())


def _licence(network: str) -> str:
    if comes_along(network):
        return "Apache-2.0"
    name = network.removeprefix(PREFIX)
    return KNOWN[name].licence if name in KNOWN else "that of its maker, which Onelook does not know"


def _cell(label: Any) -> str:
    """A word that cannot break the page that it stands in."""
    text = str(label).replace("&", "&amp;").replace("<", "&lt;")
    return " ".join(re.sub(r"([\\|`*_\[\]])", r"\\\1", text).split())
