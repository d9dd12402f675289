"""Which feature network a person means."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

from onelook.artifacts import load_backbone
from onelook.backbones import Backbone
from onelook.backbones.hub import PREFIX
from onelook.backbones.pretrained import resolve
from onelook.events import Notice, Progress

SHIPPED = "onelook"
SHIPPED_NETWORK = Path(__file__).parent.parent / "weights" / "conv4-64.safetensors"
"""Comes along, small and without any other package; docs/network.md says what it is good for."""


def network_of(text: str, offline: bool = False) -> Generator[Notice | Progress, None, tuple[Backbone, dict[str, Any]]]:
    """The network in evaluation mode, and what is said of it; its `name` at least, as `load_backbone` has it.

    text: SHIPPED, a file of Onelook (model.safetensors), `hf:NAME`, a folder of transformers, or a file `*.onnx`.
    offline: take only what is on this machine.

    Raises ArtifactError, SettingsError, DownloadError, StorageError.
    """
    if text.startswith(PREFIX) or text.endswith(".onnx") or Path(text).expanduser().is_dir():
        backbone = yield from resolve(text, offline)
        return backbone, {"name": backbone.name}
    return load_backbone(SHIPPED_NETWORK if text == SHIPPED else Path(text).expanduser())
