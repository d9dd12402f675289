"""The only reader and writer of models, training states and results.

A model is one safetensors file: the weights, and in its header everything else as JSON. No pickle is ever loaded.
"""

import json
import math
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

import torch
from safetensors import SafetensorError
from torch import Tensor

from onelook import backbones, methods
from onelook.backbones import Backbone
from onelook.backbones.efficientnet_lite import VARIANTS, load_efficientnet_lite
from onelook.backbones.hub import PREFIX
from onelook.backbones.joined import Joined
from onelook.backbones.pretrained import resolve
from onelook.errors import ArtifactError, SettingsError, UserError, describe_cause, unknown_name
from onelook.events import Notice, Progress
from onelook.files import digest, is_regular, parse_json, read_regular, read_tensors, write_atomically, write_tensors
from onelook.methods import EndToEnd, ImageMethod, Method

Module = TypeVar("Module", bound=torch.nn.Module)

FORMAT = 1
SMALL = "small"
"""Name of the network of SHIPPED_NETWORK."""
JOINED = {"lite": {"lite0": 1.0, "lite2": 1.0}, "small+lite0": {SMALL: 2.0, "lite0": 1.0}}
"""Networks of several, each with the length of its features; that of the small one was chosen on characters and digits
(docs/log.md)."""
PHOTOGRAPHS, DRAWINGS = "lite", "small+lite0"
"""Names of the networks that AUTO chooses between."""
BUILT_IN = (SMALL, *VARIANTS, *JOINED)
"""Names of networks that are in Onelook or in packages of weights."""
AUTO = "auto"
"""Name that stands for PHOTOGRAPHS or DRAWINGS, whichever suits the images (`estimators.choosing`)."""
SHIPPED_NETWORK = Path(__file__).parent / "backbones" / "weights" / "conv4-64.safetensors"
"""Small backbone that comes along; docs/network.md says what it is good for."""
SHIPPED_METHODS = {"glance": Path(__file__).parent / "methods" / "weights" / "glance.safetensors"}
"""Trained weights of methods that come along."""


KINDS = ("backbone", "method", "classifier", "state")
"""Kinds of files; the last is an unfinished training run."""


@dataclass(frozen=True)
class Artifact:
    """Tensors and their description."""

    kind: str
    """One of `KINDS`."""
    tensors: dict[str, Tensor]
    about: dict[str, Any] = field(default_factory=dict)
    """JSON: name and settings of the network, configuration of the run, history, provenance."""


def save(artifact: Artifact, path: Path) -> None:
    """Write a file atomically: whoever reads `path` finds the old content or the new. Raises StorageError."""
    header = {"format": str(FORMAT), "kind": artifact.kind, "about": json.dumps(artifact.about, sort_keys=True)}
    tensors = {name: x.detach().contiguous() for name, x in artifact.tensors.items()}
    write_tensors(path, tensors, header)


def load(path: Path, kind: str) -> Artifact:
    """Read a file. Raises ArtifactError for a missing, damaged or foreign one, or one of another kind."""
    if not is_regular(path):
        raise ArtifactError(f"There is no {kind} file {path}.")
    try:
        tensors, header = read_tensors(path)
        found = header.get("kind")
        if found is None:
            raise ArtifactError(f"{path} was not written by Onelook; expected a {kind} made by it.")
        if int(header.get("format", 0)) > FORMAT:
            raise ArtifactError(f"{path} has the newer format {header['format']}; update Onelook.")
        if found != kind:
            raise ArtifactError(f"{path} holds a {found}, but a {kind} is needed here.")
        about = parse_json(header.get("about", ""))
        _require_described(about)
    except (SafetensorError, OSError, ValueError) as error:  # ValueError: of the header
        reason = describe_cause(error)
        raise ArtifactError(f"{path} is no file of Onelook, or damaged ({reason}); make or copy it again.") from error
    return Artifact(kind, tensors, about)


DESCRIBED = {"name": str, "settings": dict, "config": dict, "history": list, "classes": list}
"""Parts of a description that not all kinds have, and their types."""


MEASURED = ("step", "loss", "accuracy", "ci95")
"""Numbers of each validation in the history of a training."""


def _require_described(about: Any) -> None:
    """Raise ValueError for a description that is no JSON object, or one with parts of other types."""
    if not isinstance(about, dict):
        raise ValueError("its description is not a JSON object")
    if wrong := [name for name, kind in DESCRIBED.items() if not isinstance(about.get(name, kind()), kind)]:
        raise ValueError(f"the {wrong[0]} in its description is of another type")
    history = about.get("history", [])
    if not all(isinstance(one, dict) and all(_is_number(one.get(key)) for key in MEASURED) for one in history):
        raise ValueError("the history in its description is not one of validations")


def read_kind(path: Path) -> str:
    """The kind of a file of Onelook; "model" for any other file, which `load` will refuse."""
    try:
        kind = read_tensors(path)[1].get("kind")
    except (SafetensorError, OSError):
        kind = None
    return kind if kind in KINDS else "model"


CLASSIFIER = "classifier."
"""Key prefix of the pretraining classifier's tensors."""


def backbone_artifact(
    backbone: Backbone, name: str, about: dict[str, Any], classifier: torch.nn.Module | None = None
) -> Artifact:
    """The file of a backbone, with the classifier of its training classes for those that learn from it."""
    settings = {"channels": backbone.channels, "image_size": backbone.image_size}
    tensors = dict(backbone.state_dict())
    if classifier is not None:
        tensors |= {CLASSIFIER + name: x for name, x in classifier.state_dict().items()}
    return Artifact("backbone", tensors, {"name": name, "settings": settings, **about})


def load_backbone(path: Path) -> tuple[Backbone, dict[str, Any]]:
    """Load a backbone in evaluation mode, with its description."""
    artifact = load(path, "backbone")
    own = {name: x for name, x in artifact.tensors.items() if not name.startswith(CLASSIFIER)}
    backbone = _build(backbones.create, replace(artifact, tensors=own), path)
    return backbone.eval(), artifact.about


def method_artifact(method: Method, about: dict[str, Any]) -> Artifact:
    core = method.head if isinstance(method, EndToEnd) else method
    named: dict[str, Any] = {"name": methods.find_name(core), "settings": core.settings()}
    if isinstance(method, ImageMethod):  # its weights are among the tensors
        named["backbone"] = backbones.read_settings(method.backbone)
    return Artifact("method", dict(method.state_dict()), {**named, **about})


def load_method(path: Path) -> tuple[Method, dict[str, Any]]:
    """Load a method in evaluation mode, with its description."""
    artifact = load(path, "method")
    method = _build(_create_method, artifact, path, backbone=artifact.about.get("backbone"))
    return method.eval(), artifact.about


def _create_method(name: str, backbone: dict[str, Any] | None, **settings: Any) -> Method:
    """Build a method; backbone: the settings of the backbone that it owns; None: it takes features."""
    if backbone is None:
        return methods.create(name, **settings)
    network = backbones.create(**backbone)
    if "backbone" in methods.list_settings(name):
        return methods.create(name, backbone=network, **settings)
    return EndToEnd(network, methods.create(name, **settings))


def _build(create: Callable[..., Module], artifact: Artifact, path: Path, **more: Any) -> Module:
    try:
        name, settings = artifact.about["name"], artifact.about["settings"]
        with torch.device("meta"):  # a file may ask for a module of any size, which takes no memory there
            sketch = create(name, **more, **settings).state_dict()
        if {key: x.shape for key, x in sketch.items()} != {key: x.shape for key, x in artifact.tensors.items()}:
            raise ArtifactError(f"The weights in {path} do not fit its {name}; make the file again.")
        module = create(name, **more, **settings)
    except ArtifactError:
        raise
    except (LookupError, TypeError, ArithmeticError, ValueError, RuntimeError, UserError) as error:
        found = f"{path} describes no {artifact.kind} that this Onelook knows ({_brief(error)})"
        raise ArtifactError(f"{found}; update Onelook, or make the file again.") from error
    if wrong := [key for key, x in artifact.tensors.items() if x.is_floating_point() and not x.isfinite().all()]:
        raise ArtifactError(f"{path} has weights that are not finite, {wrong[0]} first; make the file again.")
    module.load_state_dict(artifact.tensors)
    return module


def _brief(error: BaseException) -> str:
    return describe_cause(error) if isinstance(error, UserError) else "its description is incomplete"


def save_results(records: list[dict[str, Any]], path: Path) -> None:
    """Write result records as a JSON list, one record a line so that a difference shows which changed."""
    lines = ",\n".join(json.dumps(record, sort_keys=False) for record in records)
    write_atomically(path, f"[\n{lines}\n]\n".encode())


def load_results(path: Path) -> list[dict[str, Any]]:
    """Read what `save_results` wrote. Raises ArtifactError."""
    try:
        records = parse_json(read_regular(path))
    except (OSError, ValueError) as error:
        reason = describe_cause(error)
        raise ArtifactError(f"{path} cannot be read as a results file ({reason}); give another file.") from error
    if not isinstance(records, list) or not all(isinstance(r, dict) and _is_number(r.get("accuracy")) for r in records):
        raise ArtifactError(f"{path} is not a results file: expected a JSON list of records with an accuracy.")
    return records


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def require_feature_size(method: Method, feature_size: int, what: str) -> None:
    """Raises SettingsError where a method was made for features of another size."""
    own = getattr(method, "feature_size", feature_size)
    if own != feature_size:
        raise SettingsError(
            f"{what} takes features of size {own}, but these have {feature_size}; "
            f"use the feature network it was trained with, or train it again."
        )


def comes_along(name: str) -> bool:
    """Whether a network of that name is part of Onelook or of its packages: loading it reads no other file."""
    return name in BUILT_IN


IDENTITY = ("name", "digest", "average")
"""Keys of the identity of features; the last says which versions of an image were averaged."""


def identify_network(network: Backbone, name: str, average: str) -> dict[str, str]:
    """Identity of the features of a network, as `FewShotClassifier.save` writes it. name: for `load_network`."""
    return dict(zip(IDENTITY, (name, network.digest().hex(), average), strict=True))


def is_identity(found: Any) -> TypeGuard[dict[str, str]]:
    """Whether this, which may be from a file of somebody else, is as `identify_network` makes it."""
    return isinstance(found, dict) and all(isinstance(found.get(key), str) for key in IDENTITY)


def load_network(
    text: str, offline: bool = False
) -> Generator[Notice | Progress, None, tuple[Backbone, dict[str, Any]]]:
    """Load a backbone in evaluation mode, with its description, which has its `name` at least.

    text: a name of BUILT_IN, a file of Onelook (model.safetensors), `hf:NAME`, a folder of transformers, or a file
        `*.onnx`.
    offline: download nothing.

    Raises ArtifactError, SettingsError, DownloadError, StorageError.

    >>> from onelook.events import finish
    >>> backbone, about = finish(load_network("small"))
    >>> about["name"], backbone.feature_size
    ('conv4-64', 256)
    """
    # A folder that is called like a network of ours does not take its place.
    is_ours = text in BUILT_IN or text == AUTO
    if not is_ours and (text.startswith(PREFIX) or text.endswith(".onnx") or Path(text).expanduser().is_dir()):
        backbone = yield from resolve(text, offline)
        return backbone, {"name": backbone.name}
    if text == AUTO:
        raise SettingsError(f"{AUTO} chooses a network for images, of which there are none here; name a network.")
    if text in JOINED:
        networks = []
        for name in JOINED[text]:
            networks.append((yield from load_network(name))[0])
        return Joined(networks, tuple(JOINED[text].values())).eval(), {"name": text}
    if text in VARIANTS:
        return load_efficientnet_lite(text), {"name": text}
    file = SHIPPED_NETWORK if text == SMALL else Path(text).expanduser()
    if not file.exists() and Path(text).name == text and not file.suffix:
        raise unknown_name("feature network or file", text, BUILT_IN)
    return load_backbone(file)


def load_shipped(name: str, **settings: Any) -> Method:
    """Load a method with the weights that come with the package.

    Raises SettingsError for a name without such weights, and for settings that they do not fit.

    >>> load_shipped("glance").transductive
    True
    """
    if name not in SHIPPED_METHODS:
        raise unknown_name("method with weights of its own", name, SHIPPED_METHODS)
    return with_settings(load_method(SHIPPED_METHODS[name])[0], name, settings)


def identify_shipped(name: str) -> list[Any]:
    """Version and weights of a method that ships, for the keys of figures that depend on it."""
    return [methods.METHODS[name].version, digest(SHIPPED_METHODS[name].read_bytes()).hex()[:16]]


def with_settings(method: Method, label: str, settings: dict[str, Any]) -> Method:
    """A copy of a method with other settings. Raises SettingsError where its weights do not fit them."""
    if not settings:
        return method
    again = methods.create(methods.find_name(method), **(method.settings() | settings))
    try:
        again.load_state_dict(method.state_dict())
    except RuntimeError as error:
        own = ", ".join(f"{key}={getattr(method, key)}" for key in settings)
        sentence = f"The trained weights of {label} were made for {own}; leave that as it is, or train others"
        raise SettingsError(f"{sentence} (`onelook train`).") from error
    return again.eval()
