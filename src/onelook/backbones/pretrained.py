"""Pretrained feature networks: those of `transformers`, by hub name or folder, and ONNX files.

Weights are read from safetensors alone, and no code that comes with a model is run. The settings of its image
processor are read as JSON, so that torchvision is not needed.
"""

import contextlib
import importlib
import json
import os
import warnings
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from onelook.backbones.base import Backbone
from onelook.backbones.framing import read_preprocessing
from onelook.backbones.hub import PREFIX, fetch, split_name
from onelook.backbones.onnx_file import load_onnx
from onelook.backbones.wrapped import Wrapped
from onelook.errors import ArtifactError, SettingsError, describe_cause, unknown_name
from onelook.events import Notice, Progress
from onelook.files import parse_json, read_regular

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Statistics of pixels from 0 to 1."""

_POOLINGS = ("pooler_output", "cls", "image_embeds", "mean")


@dataclass(frozen=True)
class _Family:
    """Class of transformers that holds the network of images, and the part of its output that is the feature."""

    model: str
    pooling: str
    without_pooler: bool = False
    """Files of classifiers have no pooler; one drawn at random must not be used."""


_FAMILIES = {
    "clip": _Family("CLIPVisionModelWithProjection", "image_embeds"),
    "clip_vision_model": _Family("CLIPVisionModelWithProjection", "image_embeds"),
    "siglip": _Family("SiglipVisionModel", "pooler_output"),
    "siglip_vision_model": _Family("SiglipVisionModel", "pooler_output"),
    "dinov2": _Family("AutoModel", "cls"),
    "dinov2_with_registers": _Family("AutoModel", "cls"),
    "dinov3_vit": _Family("AutoModel", "cls"),
    "vit": _Family("ViTModel", "cls", without_pooler=True),
    "deit": _Family("DeiTModel", "cls", without_pooler=True),
    "convnext": _Family("AutoModel", "pooler_output"),
    "convnextv2": _Family("AutoModel", "pooler_output"),
    "resnet": _Family("AutoModel", "pooler_output"),
    "swin": _Family("AutoModel", "pooler_output"),
}
"""Families by the `model_type` of config.json; others: the mean over the last states."""

_VOLATILE = ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures")
"""Keys of config.json that no feature depends on."""


def resolve(
    name: str,
    offline: bool = False,
    *,
    pooling: str | None = None,
    endpoint: str | None = None,
    cache: Path | None = None,
) -> Generator[Notice | Progress, None, Backbone]:
    """Load a network in evaluation mode: `hf:NAME` or `hf:NAME@REVISION`, a folder, or a file `*.onnx`.

    offline: download nothing.
    pooling: pooling of transformers' networks: pooler_output, cls, image_embeds or mean; None: usual for its family.
    endpoint, cache: those of a mirror of the hub.

    Raises SettingsError, ArtifactError, DownloadError, StorageError.
    """
    if name.startswith(PREFIX):
        repository, revision = split_name(name)
        folder = yield from fetch(repository, revision, offline, endpoint, cache)
        return load_folder(folder, pooling, name)
    path = Path(name).expanduser()
    if path.suffix == ".onnx":
        return (yield from _onnx(path))
    if path.is_dir():
        return load_folder(path, pooling)
    expected = "hf:NAME, a folder with config.json and model.safetensors, or a file that ends in .onnx"
    raise SettingsError(f"There is no feature network {name!r}: expected {expected}.")


def load_folder(folder: Path, pooling: str | None = None, name: str = "") -> Wrapped:
    """The network of images in a folder that `save_pretrained` wrote."""
    name = name or folder.name
    config = _read(folder, "config.json")
    settings = _processor(folder)
    if not [*folder.glob("model*.safetensors")]:
        raise ArtifactError(f"{folder} holds no model.safetensors; save the model again with safetensors.")
    family = _FAMILIES.get(str(config.get("model_type")), _Family("AutoModel", "mean"))
    pooling = pooling or family.pooling
    if pooling not in _POOLINGS:
        raise unknown_name("pooling", pooling, _POOLINGS)
    options: dict[str, Any] = (
        {"add_pooling_layer": False} if family.without_pooler and pooling != "pooler_output" else {}
    )
    if config.get("model_type") == "clip" and "projection_dim" in config:  # of both halves, said only for the whole
        options["projection_dim"] = config["projection_dim"]
    model = _model(folder, family.model, options, pooling, name)
    channels = int(getattr(model.config, "num_channels", 3))
    steps = read_preprocessing(settings, channels, f"The preprocessor_config.json of {name}")
    kept = {key: value for key, value in config.items() if key not in _VOLATILE}
    network = Wrapped(
        _Pooled(model, pooling),
        channels,
        steps.image_size,
        mean=[x / 255 for x in steps.mean],
        std=[x / 255 for x in steps.std],
        framing=steps.framing,
        identity=json.dumps(kept, sort_keys=True),
    )
    network.name = name
    return network


class _Pooled(nn.Module):
    """A model of transformers that gives one feature an image."""

    def __init__(self, model: nn.Module, pooling: str) -> None:
        super().__init__()
        self.model = model
        self.pooling = pooling

    def extra_repr(self) -> str:
        return self.pooling

    def forward(self, pixels: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D"]:
        output = self.model(pixel_values=pixels)
        if self.pooling in ("pooler_output", "image_embeds"):
            found = getattr(output, self.pooling, None)
            if found is None:
                raise SettingsError(
                    f"{type(self.model).__name__} gives no {self.pooling}; take another pooling: "
                    f"{', '.join(_POOLINGS)}."
                )
            return found.flatten(1)  # type: ignore[no-any-return]
        states = output.last_hidden_state
        if states.ndim == 4:
            return states.mean((2, 3))  # type: ignore[no-any-return]
        return states[:, 0] if self.pooling == "cls" else states.mean(1)  # type: ignore[no-any-return]


def _model(folder: Path, kind: str, options: dict[str, Any], pooling: str, name: str) -> nn.Module:
    """kind: the class of transformers. options: of its configuration, besides what the folder says."""
    transformers = library("transformers", "transformers")
    with _quiet(transformers):
        try:
            model, report = getattr(transformers, kind).from_pretrained(
                str(folder),
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                **options,
            )
        except Exception as error:  # what is wrong with a folder has no common base in transformers
            raise ArtifactError(
                f"{folder} cannot be loaded as a model of transformers ({_first_line(error)})."
            ) from error
    if getattr(model, "main_input_name", "") != "pixel_values":
        raise SettingsError(f"{name} is a {type(model).__name__}, which takes no images; take a model of images.")
    unused = ("pooler.",) if pooling in ("cls", "mean") else ()
    missing = [key for key in sorted(report["missing_keys"]) if not key.startswith(unused)]
    if missing:
        found = f"{folder} lacks weights of {name}, for example {missing[0]}, which would be drawn at random"
        raise ArtifactError(f"{found}; get the whole model, or take another pooling.")
    return model.float().eval()  # type: ignore[no-any-return]


def _onnx(path: Path) -> Generator[Notice, None, Wrapped]:
    """Load a file with the preprocessing that lies beside it, or else that of most networks."""
    library("onnxruntime", "onnx")
    beside = path.parent / "preprocessor_config.json"
    if beside.is_file():
        steps = read_preprocessing(_read(path.parent, beside.name), 3, str(beside))
        return load_onnx(
            path, [x / 255 for x in steps.mean], [x / 255 for x in steps.std], steps.image_size, steps.framing
        )
    network = load_onnx(path, IMAGENET_MEAN, IMAGENET_STD)
    yield Notice(
        f"{path.name} does not say how its images are prepared: their pixels, from 0 to 1, are centred and scaled by "
        "the mean and std of ImageNet; a preprocessor_config.json beside it would be followed."
    )
    return network


def _processor(folder: Path) -> dict[str, Any]:
    """Some models keep these settings inside those of text and images together."""
    whole = folder / "processor_config.json"
    if not (folder / "preprocessor_config.json").is_file() and whole.is_file():
        inner = _read(folder, whole.name).get("image_processor")
        if isinstance(inner, dict):
            return inner
    return _read(folder, "preprocessor_config.json")


def _read(folder: Path, name: str) -> dict[str, Any]:
    try:
        content = parse_json(read_regular(folder / name))
    except FileNotFoundError as error:
        raise ArtifactError(f"{folder} holds no {name}, which a model of transformers needs here.") from error
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{folder / name} cannot be read as JSON ({describe_cause(error)}).") from error
    if not isinstance(content, dict):
        raise ArtifactError(f"{folder / name} holds no JSON object.")
    return content


def library(name: str, extra: str) -> Any:
    """Import an optional library, without its telemetry. Raises SettingsError where it is not installed."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read once, when onnxruntime is imported
    try:
        return importlib.import_module(name)
    except ImportError as error:
        remedy = f"install it with pip install 'onelook[{extra}]'"
        raise SettingsError(f"This feature network needs {name}; {remedy}.") from error


@contextlib.contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Loading would print a bar and a report of the parts that are left out on purpose."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return next((line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()), type(error).__name__)
