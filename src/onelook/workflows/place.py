"""Where a job finds and keeps things, and what the machine computes in."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from onelook.files import cache_home


@dataclass(frozen=True)
class Place:
    """Where things are and what the machine can do."""

    cache: Path = field(default_factory=cache_home)
    home: Path | None = None
    """Of the standard data sets; None: $ONELOOK_DATA or the user's cache folder."""
    precision: str = field(default_factory=lambda: best_precision())


def best_precision() -> str:
    """bfloat16 where the processor computes in it, else float32."""
    return "bfloat16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "float32"
