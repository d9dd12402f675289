"""A feature network in an ONNX file, run by onnxruntime."""

import hashlib
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from onelook.backbones.base import Backbone, Film
from onelook.backbones.framing import Framing
from onelook.backbones.wrapped import IMAGES_PER_PASS, probe, set_statistics
from onelook.errors import ArtifactError, SettingsError
from onelook.files import digest


class OnnxNetwork(Backbone):
    """Its input is N × C × H × W in float32, its first output N × D, or maps N × D × H × W that are averaged.

    mean, std: of pixels from 0 to 1: (x - mean) / std is what the file gets.
    image_size: where the file leaves it open.
    framing: how an image file becomes that square; None: its middle square, resized.

    Raises ArtifactError for a file that cannot be read, SettingsError for one that takes or gives something else.
    """

    def __init__(
        self,
        path: Path,
        mean: float | Sequence[float],
        std: float | Sequence[float],
        image_size: int | None = None,
        framing: Framing | None = None,
    ) -> None:
        session = _session(path)
        count, channels, side = _input(session, path, image_size)
        super().__init__(channels, side, 0)
        set_statistics(self, mean, std)
        self.name = path.name
        self.framing = framing
        self.images_per_pass = IMAGES_PER_PASS
        self._session = session
        self._input, self._output = session.get_inputs()[0].name, session.get_outputs()[0].name
        self._count = count
        self._content = _content(path)
        self.training = False
        self.feature_size = probe(self)

    def features(self, pixels: Float[Tensor, "N C H W"], film: Film | None = None) -> Float[Tensor, "N D"]:
        if film is not None:
            raise SettingsError(f"{self.name} has no modulated blocks; take conv4-64 or resnet12.")
        n, count = len(pixels), self._count or max(len(pixels), 1)
        # A file that fixes the number of its images gets so many, the last of them blank.
        padded = functional.pad(pixels, (0, 0, 0, 0, 0, 0, 0, -n % count))
        chunks = [self._run(chunk) for chunk in padded.tensor_split(list(range(count, len(padded), count)))]
        return torch.cat(chunks)[:n]

    def _run(self, pixels: Tensor) -> Tensor:
        array = np.ascontiguousarray(pixels.detach().cpu().float().numpy())
        try:
            first = self._session.run([self._output], {self._input: array})[0]
        except Exception as error:  # onnxruntime's errors have no public base
            raise SettingsError(
                f"{self.name} does not take images of {tuple(array.shape[1:])} ({' '.join(str(error).split())})."
            ) from error
        output = torch.from_numpy(np.asarray(first, dtype=np.float32))
        if output.ndim == 4:
            output = output.mean((2, 3))
        if output.ndim != 2 or len(output) != len(array):
            raise SettingsError(
                f"The first output of {self.name} must be (N, D) or (N, D, H, W), but for "
                f"{len(array)} images it is {tuple(output.shape)}."
            )
        return output

    def digest(self) -> bytes:
        """SHA-256 of the file, of the weights beside it, and of the preprocessing."""
        words = f"{self.channels} {self.image_size}; {self.framing}"
        return digest(super().digest(), self._content, words.encode())


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
        raise SettingsError(
            f"{path} takes images of {shape[2]} × {shape[3]} pixels, but squares of "
            f"{image_size or 'one size'} are needed."
        )
    return count, channels or 3, side


def _content(path: Path) -> bytes:
    """SHA-256 of the file and of those in which it keeps its weights (`x.onnx.data`, `x.onnx_data`)."""
    beside = sorted(f for f in path.parent.iterdir() if f.name.startswith((f"{path.name}.data", f"{path.name}_data")))
    parts: list[bytes] = []
    for file in (path, *beside):
        with file.open("rb") as stream:
            parts += [file.name[len(path.name) :].encode(), hashlib.file_digest(stream, "sha256").digest()]
    return digest(*parts)
