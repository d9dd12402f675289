"""A feature network in an ONNX file, run by onnxruntime."""

import hashlib
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from onelook.backbones.framing import Framing
from onelook.backbones.wrapped import Wrapped
from onelook.errors import ArtifactError, SettingsError
from onelook.files import digest


def load_onnx(
    path: Path,
    mean: float | Sequence[float],
    std: float | Sequence[float],
    image_size: int | None = None,
    framing: Framing | None = None,
) -> Wrapped:
    """Load a file whose input is N × C × H × W in float32, and its first output N × D, or maps that are averaged.

    mean, std: statistics of pixels from 0 to 1: (x - mean) / std is what the file gets.
    image_size: used where the file leaves it open.
    framing: how an image file becomes that square; None: its middle square, resized.

    Raises ArtifactError for a file that cannot be read, SettingsError for one that takes or gives something else.
    """
    module = _OnnxModule(path, image_size)
    identity = _hash(path).hex()
    return Wrapped(module, module.channels, module.side, mean=mean, std=std, framing=framing, identity=identity)


class _OnnxModule(nn.Module):
    def __init__(self, path: Path, image_size: int | None) -> None:
        super().__init__()
        self.name = path.name
        self._session = _session(path)
        self._count, self.channels, self.side = _input(self._session, path, image_size)
        self._input, self._output = self._session.get_inputs()[0].name, self._session.get_outputs()[0].name

    def forward(self, pixels: Float[Tensor, "N C H W"]) -> Tensor:
        n, count = len(pixels), self._count or max(len(pixels), 1)
        # A file that fixes the number of its images gets so many, the last of them blank.
        padded = functional.pad(pixels, (0, 0, 0, 0, 0, 0, 0, -n % count))
        return torch.cat([self._run(chunk) for chunk in torch.split(padded, count)])[:n].to(pixels.device)

    def _run(self, pixels: Tensor) -> Tensor:
        array = np.ascontiguousarray(pixels.detach().cpu().float().numpy())
        try:
            first = self._session.run([self._output], {self._input: array})[0]
        except Exception as error:  # onnxruntime's errors have no public base
            reason = " ".join(str(error).split())
            raise SettingsError(f"{self.name} does not take images of {array.shape[1:]} ({reason}).") from error
        output = torch.from_numpy(np.asarray(first, dtype=np.float32))
        if output.ndim not in (2, 4) or len(output) != len(array):
            found = f"for {len(array)} images it is {tuple(output.shape)}"
            raise SettingsError(f"The first output of {self.name} must be (N, D) or (N, D, H, W), but {found}.")
        return output


def _session(path: Path) -> Any:
    if not path.is_file():
        raise ArtifactError(f"There is no file {path}.")
    onnxruntime = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no public base
        raise ArtifactError(f"{path} cannot be read as an ONNX file ({' '.join(str(error).split())}).") from error


def _input(session: Any, path: Path, image_size: int | None) -> tuple[int | None, int, int]:
    """The number of images if the file fixes it, the channels, and the sides."""
    inputs = session.get_inputs()
    shape = inputs[0].shape if inputs else []
    if len(inputs) != 1 or len(shape) != 4 or inputs[0].type != "tensor(float)":
        found = ", ".join(f"{x.name} {x.type} {x.shape}" for x in inputs)
        raise SettingsError(f"{path} must have one input N × C × H × W of float32, but has {found or 'none'}.")
    count, channels, height, width = (x if isinstance(x, int) and x > 0 else None for x in shape)
    side = height or width or image_size or 224
    if {height or side, width or side, image_size or side} != {side}:
        found = f"{shape[2]} × {shape[3]} pixels"
        raise SettingsError(f"{path} takes images of {found}, but squares of {image_size or 'one size'} are needed.")
    return count, channels or 3, side


def _hash(path: Path) -> bytes:
    """SHA-256 of the file and of those that hold its weights (`x.onnx.data`, `x.onnx_data`)."""
    beside = sorted(f for f in path.parent.iterdir() if f.name.startswith((f"{path.name}.data", f"{path.name}_data")))
    parts: list[bytes] = []
    for file in (path, *beside):
        with file.open("rb") as stream:
            parts += [file.name[len(path.name) :].encode(), hashlib.file_digest(stream, "sha256").digest()]
    return digest(*parts)
